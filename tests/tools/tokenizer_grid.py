"""Asks transformers which special tokens it puts around a text, and which ones it knows, for every way of saying so.

Usage: python tokenizer_grid.py > crates/engine/tests/fixtures/tokenizers/grid.json    (recorded with transformers 5.24)
"""

import itertools
import json
import os
import shutil
import sys
import tempfile

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
from transformers import AutoTokenizer, __version__  # noqa: E402

VOCABULARY = {"<s>": 0, "</s>": 1, "a": 2, "<pad>": 3, "b": 4, "<|endoftext|>": 5, "<x>": 6, "<cls>": 7, "<sep>": 8,
              " ": 9, "▁": 10, "<unk>": 11}
TEXTS = ["ab", "a</s>b<x>a<y>b<s>"]
# CodeLlama's class gives the unknown token for what the vocabulary lacks, whatever the file says.
KNOWN = ["ab", "a</s>ba<s>"]
SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


def token(id, content, special=True):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special}


def template(before, after):
    special = lambda name: {"SpecialToken": {"id": name, "type_id": 0}}
    single = [special(n) for n in before] + [{"Sequence": {"id": "A", "type_id": 0}}] + [special(n) for n in after]
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [VOCABULARY[n]], "tokens": [n]} for n in before + after}}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
POSTS = {
    "none": None,
    "plain": template([], []),
    "bos": template(["<s>"], []),
    "eos": template([], ["</s>"]),
    "both": template(["<s>"], ["</s>"]),
    "bytes": BYTES,
    "sequence": {"type": "Sequence", "processors": [BYTES, template(["<s>"], [])]},
    "sequence of bytes": {"type": "Sequence", "processors": [BYTES]},
    "roberta": {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "trim_offsets": True,
                "add_prefix_space": False},
}


def tokenizer_file(post, added, pre):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": pre, "post_processor": POSTS[post], "decoder": None,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": VOCABULARY, "merges": []}}


def ask(case):
    folder = tempfile.mkdtemp()
    files = {"tokenizer.json": tokenizer_file(case["post"], case.get("added", [token(0, "<s>")]), case.get("pre"))}
    files["tokenizer_config.json"] = case["config"]
    files.update(case.get("files", {}))
    if case.get("model"):
        files["config.json"] = {"model_type": case["model"]}
    for name, content in files.items():
        with open(os.path.join(folder, name), "w") as file:
            json.dump(content, file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = [tokenizer(text).input_ids for text in case.get("texts", TEXTS)]
        inside = sorted({id for line in ids for id in line})
        special = [id for id in inside if id in tokenizer.added_tokens_decoder and tokenizer.added_tokens_decoder[id].special]
        roles = [getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")]
        return {"ids": ids, "special": special, "roles": roles}
    finally:
        shutil.rmtree(folder)


def cases():
    roles = {"bos_token": "<s>", "eos_token": "</s>"}
    flags = {"absent": {}, "true": True, "false": False, "null": None}
    for post, bos, eos in itertools.product(POSTS, flags, flags):
        config = dict(roles)
        for key, flag in (("add_bos_token", bos), ("add_eos_token", eos)):
            if flag != "absent":
                config[key] = flags[flag]
        yield {"post": post, "config": config, "model": "llama"}
    classes = ["PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "GPT2TokenizerFast", "Qwen2Tokenizer",
               "GPTNeoXTokenizerFast", "GPTNeoXTokenizer", "CodeLlamaTokenizerFast", "BloomTokenizerFast", "NobodysTokenizer"]
    for name, model, post in itertools.product(classes, ["llama", "mistral", "qwen2", "qwen3", None], ["none", "bos", "sequence"]):
        pre = {"pre": SPACES} if "Llama" in name else {}
        pre.update({"texts": KNOWN} if "Code" in name else {})
        yield {"post": post, "config": {**roles, "tokenizer_class": name}, "model": model, **pre}
    for name, flag in itertools.product(["LlamaTokenizer", "GPTNeoXTokenizer", "CodeLlamaTokenizer"], [True, False, None]):
        yield {"post": "both", "config": {**roles, "tokenizer_class": name, "add_bos_token": flag, "add_eos_token": flag},
               "model": "llama", "pre": SPACES if "Llama" in name else None, "texts": KNOWN}
    for name in ["LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer", None]:
        pre = {"pre": SPACES} if name == "LlamaTokenizer" else {}
        yield {"post": "none", "config": {"tokenizer_class": name} if name else {}, "model": "llama", **pre}
    # Special tokens that tokenizer.json does not list.
    named = {"content": "</s>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    decoder = lambda content, special: {"content": content, "lstrip": False, "rstrip": False, "single_word": False,
                                        "normalized": False, "special": special}
    both = {"bos_token": "<s>", "eos_token": "</s>"}
    for config, files in [
        ({}, {}),
        ({"eos_token": "</s>"}, {}),
        ({"eos_token": {"__type": "AddedToken", **named}}, {}),
        ({"eos_token": "<y>"}, {}),
        ({"pad_token": "<y>", "eos_token": "</s>"}, {}),
        ({"sep_token": "<x>", "mask_token": "<y>"}, {}),
        ({"added_tokens_decoder": {"1": decoder("</s>", True), "6": decoder("<x>", False)}}, {}),
        ({"added_tokens_decoder": {"12": decoder("<y>", True)}, "eos_token": "<y>"}, {}),
        ({"added_tokens_decoder": {"6": decoder("<x>", False)}, "eos_token": "<x>"}, {}),
        ({"added_tokens_decoder": {"0": decoder("<s>", False)}, **both}, {}),
        ({"additional_special_tokens": ["<x>", "<y>"]}, {}),
        ({"extra_special_tokens": ["<x>", "<y>"]}, {}),
        ({"extra_special_tokens": {"image_token": "<y>"}}, {}),
        ({"image_token": "<y>"}, {}),
        ({}, {"special_tokens_map.json": {"eos_token": "</s>", "bos_token": "<s>"}}),
        ({}, {"special_tokens_map.json": {"eos_token": named, "additional_special_tokens": ["<x>"]}}),
        ({"eos_token": "</s>"}, {"special_tokens_map.json": {"eos_token": "<x>"}}),
        ({"eos_token": "</s>", "added_tokens_decoder": {"1": decoder("</s>", True)}},
         {"special_tokens_map.json": {"eos_token": "<x>", "pad_token": "<pad>"}}),
        ({"eos_token": "</s>"}, {"added_tokens.json": {"<y>": 12, "</s>": 1}}),
        ({"eos_token": "</s>", "added_tokens_decoder": {"1": decoder("</s>", True)}}, {"added_tokens.json": {"<y>": 12}}),
        ({"eos_token": None, "bos_token": None}, {}),
        ({"bos_token": "</s>", "add_bos_token": True}, {}),
    ]:
        for post in ["none", "bos"]:
            yield {"post": post, "config": config, "files": files, "model": "llama"}
    for strips in [True, False]:
        listed = {**token(6, "<x>"), "lstrip": not strips}
        config = {"added_tokens_decoder": {"6": {**decoder("<x>", True), "lstrip": strips}}}
        yield {"post": "none", "config": config, "added": [listed], "model": "llama", "texts": ["b <x>a"]}
    yield {"post": "none", "config": both, "added": [token(0, "<s>", False), token(1, "</s>", False)], "model": "llama"}
    yield {"post": "none", "config": {}, "added": [token(0, "<s>", False), token(1, "</s>", False)], "model": "llama"}


def main():
    found = []
    for case in cases():
        try:
            found.append({**case, **ask(case)})
        except Exception as error:
            print(f"{case}: {error!r}", file=sys.stderr)
    print(json.dumps({"transformers": __version__, "vocabulary": VOCABULARY, "posts": POSTS, "texts": TEXTS}, ensure_ascii=False)[:-1], end="")
    print(', "cases": [')
    print(",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in found))
    print("]}")


if __name__ == "__main__":
    main()
