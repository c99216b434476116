"""Shapes of the models that the peers build with random weights, by the names that `gpu_step` and `gpu_score` give them."""
import torch
from transformers import LlamaConfig, LlamaForCausalLM

# hidden, intermediate, layers, query heads, key and value heads, vocabulary, tied head
SHAPES = {
    "7b": (4096, 11008, 32, 32, 32, 32000, False),
    "1b": (2048, 8192, 16, 32, 8, 128256, True),
    "135m": (576, 1536, 30, 9, 3, 49152, True),
}
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def model(shape, dtype, **options):
    """A Llama of this shape on the GPU."""
    hidden, inner, layers, heads, kv, vocab, tied = SHAPES[shape]
    config = LlamaConfig(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                         num_key_value_heads=kv, vocab_size=vocab, tie_word_embeddings=tied,
                         max_position_embeddings=4096, attn_implementation="sdpa", **options)
    torch.set_default_dtype(TYPES[dtype])
    with torch.device("cuda"):
        made = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return made
