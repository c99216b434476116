#!/usr/bin/env python3
"""Writes the seeds that are not text: a model of four numbers a token, as safetensors and as GGUF, and compressed rows."""

import json
import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
WIDTH = 4
TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "c", "Ġ", "Ġa", "Ġb", "ab", "1", "2"]
SHAPES = {
    "model.embed_tokens": (12, WIDTH), "lm_head": (12, WIDTH), "model.norm": (WIDTH,),
    "self_attn.q_proj": (4, WIDTH), "self_attn.k_proj": (2, WIDTH), "self_attn.v_proj": (2, WIDTH),
    "self_attn.o_proj": (WIDTH, 4), "mlp.gate_proj": (4, WIDTH), "mlp.up_proj": (4, WIDTH),
    "mlp.down_proj": (WIDTH, 4), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
}
GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm",
    "self_attn.q_proj": "blk.0.attn_q", "self_attn.k_proj": "blk.0.attn_k", "self_attn.v_proj": "blk.0.attn_v",
    "self_attn.o_proj": "blk.0.attn_output", "mlp.gate_proj": "blk.0.ffn_gate", "mlp.up_proj": "blk.0.ffn_up",
    "mlp.down_proj": "blk.0.ffn_down", "input_layernorm": "blk.0.attn_norm",
    "post_attention_layernorm": "blk.0.ffn_norm",
}


def values(name, shape):
    count = shape[0] * (shape[1] if len(shape) == 2 else 1)
    return [1.0 if len(shape) == 1 else ((i * 7 + len(name)) % 11 - 5) / 8 for i in range(count)]


def write(name, data):
    path = CORPUS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def safetensors(kind, pack):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, shape in SHAPES.items():
        full = name if name.startswith(("model.", "lm_head")) else "model.layers.0." + name
        packed = pack(values(name, shape))
        header[full + ".weight"] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def f32(numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


def bf16(numbers):
    return b"".join(struct.pack("<f", number)[2:] for number in numbers)


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    if isinstance(item, bool):
        return struct.pack("<I?", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + string(item)
    kind = struct.unpack("<I", value(item[0])[:4])[0]
    return struct.pack("<IIQ", 9, kind, len(item)) + b"".join(value(part)[4:] for part in item)


def gguf(tokenizer):
    metadata = {
        "general.architecture": "llama", "general.alignment": 32, "llama.context_length": 32,
        "llama.embedding_length": WIDTH, "llama.block_count": 1, "llama.feed_forward_length": 4,
        "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1, "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, **tokenizer, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    infos, data = b"", b""
    for name, shape in SHAPES.items():
        infos += string(GGUF_NAMES[name] + ".weight") + struct.pack("<I", len(shape))
        infos += b"".join(struct.pack("<Q", size) for size in reversed(shape)) + struct.pack("<IQ", 0, len(data))
        data += f32(values(name, shape))
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(SHAPES), len(metadata))
    head += b"".join(string(key) + value(item) for key, item in metadata.items()) + infos
    return head + b"\0" * (-len(head) % 32) + data


def zstd(data):
    """One raw block (RFC 8878): the decoder reads it, and mutations of it are mutations of the rows."""
    return b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)]) + struct.pack("<I", len(data) << 3 | 1)[:3] + data


BPE = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": TOKENS,
       "tokenizer.ggml.token_type": [2, 3, 3] + [1] * 9, "tokenizer.ggml.merges": ["Ġ a", "Ġ b", "a b"]}
PIECES = [token.replace("Ġ", "▁") for token in TOKENS[:10]] + ["<0x0A>", "<0x20>"]
SENTENCEPIECE = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": PIECES,
                 "tokenizer.ggml.scores": [-float(i) for i in range(12)],
                 "tokenizer.ggml.token_type": [2, 3, 3] + [1] * 7 + [6, 6]}
write("safetensors/llama.safetensors", safetensors("F32", f32))
write("safetensors/bf16.safetensors", safetensors("BF16", bf16))
write("gguf/bpe.gguf", gguf(BPE))
write("gguf/sentencepiece.gguf", gguf(SENTENCEPIECE))
write("jsonl/rows.zst", zstd(b'{"question": "2 + 3?", "answer": 5}\n{"question": "caf\xc3\xa9", "answer": null}\n'))
for name, frame in {"data": b"\0\1" + struct.pack("<Q", 5) + b"bytes", "abort": b"\1\0" + struct.pack("<Q", 5) + b"ended",
                    "end": b"\2\0" + bytes(8) + b"\3\0" + bytes(8)}.items():
    write(f"frames/{name}.bin", b"f" + frame)
MARK = b"harness ranks 1\n"
HELLO = b'{"nonce":"%s","hello":{"version":"0.1.0","world":2,"rank":1,"wish":{"Places":{"port":29500}}}}' % (b"0" * 64)
write("frames/greeting.bin", b"g" + MARK + struct.pack("<I", len(HELLO)) + bytes(32) + HELLO)
write("frames/sealed.bin", b"s" + HELLO)
write("frames/welcome.bin", b"w" + MARK + bytes(64))
