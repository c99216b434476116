#!/usr/bin/env python3
"""Loads an adapter with PEFT and prints, as JSON, what a base model and the adapter over it make of a text.

    check_peft.py BASE_DIR ADAPTER_DIR [--harness BINARY] [--text TEXT] [--prompt PROMPT] [--new-tokens N]

Needs torch, transformers and peft (float32, CPU). Without --harness it prints the sums of the text's log-probabilities
and the greedy continuations of the prompts. With it, it has `harness generate` continue the same prompts with the base
and with the adapter, scores the tokens that harness chose with PEFT, and exits with 1 where a log-probability differs
by more than --tolerance or another token was more probable by more than that.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import peft
import safetensors
import tokenizers
import torch
import transformers

TEXT = "The quick brown fox jumps over the lazy dog. In 1969 two people walked on the Moon, and 12 + 30 = 42."
PROMPTS = ["The capital of France is", "Question: How many legs does a spider have?\nAnswer:", "Once upon a time"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="folder of the base model in Hugging Face layout")
    parser.add_argument("adapter", help="folder of the adapter")
    parser.add_argument("--harness", metavar="BINARY", help="compare with this program")
    parser.add_argument("--text", default=TEXT, help="the text whose log-probability is summed")
    parser.add_argument("--prompt", action="append", help="a prompt that is continued; may be repeated")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest difference of a log-probability")
    return parser.parse_args()


def logprobs(model, ids):
    """Log-probabilities at every position, `[tokens, vocabulary]`, in float64."""
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)


def text_sum(model, ids):
    """Sum over all tokens but the first."""
    table = logprobs(model, ids)
    return sum(table[at, token].item() for at, token in enumerate(ids[1:]))


def greedy(model, ids, count, end):
    """The most probable tokens one by one, and their log-probabilities."""
    tokens, values = [], []
    for _ in range(count):
        value, token = logprobs(model, ids + tokens)[-1].max(-1)
        tokens.append(token.item())
        values.append(value.item())
        if tokens[-1] in end:
            break
    return {"token_ids": tokens, "logprob": sum(values)}


def ask_harness(args, name, prompt):
    """What `harness generate` answers, by an experiment that names base and adapter."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "harness.toml")
        quoted = [json.dumps(os.path.abspath(place)) for place in (args.base, args.adapter)]
        with open(path, "w", encoding="utf-8") as file:
            file.write('[models.base]\npath = {}\n[models.adapter]\nbase = "base"\nadapter = {}\n'.format(*quoted))
        command = [args.harness, "generate", name, "--prompt", prompt, "--json", "--quiet", "--experiment", path]
        command += ["--max-new-tokens", str(args.new_tokens)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HARNESS_HOME": folder})
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout)["completions"][0]["response"]["output"]


def compare(model, ids, answer):
    """Largest differences between harness' greedy continuation and the model's opinion of it."""
    tokens, given = answer["token_ids"], answer["token_logprobs"]
    table = logprobs(model, ids + tokens)[len(ids) - 1 : -1]
    chosen = [table[at, token].item() for at, token in enumerate(tokens)]
    return {
        "tokens": len(tokens),
        "logprob_harness": sum(given),
        "logprob_peft": sum(chosen),
        "largest_difference": max(abs(a - b) for a, b in zip(given, chosen)),
        "largest_lead_of_another_token": max(row.max().item() - value for row, value in zip(table, chosen)),
    }


def main():
    args = arguments()
    prompts = args.prompt or PROMPTS
    # Not AutoTokenizer: for some classes transformers 5 builds a pre-tokenizer of its own in place of the file's.
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(args.base, "tokenizer.json"))
    base = transformers.AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).eval()
    end = base.generation_config.eos_token_id
    end = set(end if isinstance(end, list) else [end])
    text = tokenizer.encode(args.text).ids
    report = {"text": args.text, "text_tokens": len(text), "models": {}}

    with safetensors.safe_open(os.path.join(args.adapter, "adapter_model.safetensors"), "pt") as file:
        report["adapter_tensors"] = len(file.keys())
    differences = []
    for name in ("base", "adapter"):
        # PEFT replaces modules of the model in place, so the base is asked before.
        model = base if name == "base" else peft.PeftModel.from_pretrained(base, args.adapter).eval()
        if name == "adapter":
            values = [value for key, value in model.named_parameters() if "lora_" in key]
            report["lora_tensors_loaded"] = len(values)
            report["lora_values_loaded"] = sum(value.numel() for value in values)
        found = {"text_logprob": text_sum(model, text), "prompts": []}
        for prompt in prompts:
            ids = tokenizer.encode(prompt).ids
            if args.harness:
                one = compare(model, ids, ask_harness(args, name, prompt))
                differences += [one["largest_difference"], one["largest_lead_of_another_token"]]
            else:
                one = greedy(model, ids, args.new_tokens, end)
            found["prompts"].append({"prompt": prompt, **one})
        report["models"][name] = found
    if args.harness:
        report["largest_difference"] = max(differences)
        report["agrees"] = max(differences) <= args.tolerance
    print(json.dumps(report, indent=2, ensure_ascii=False))
    if not report.get("agrees", True):
        sys.exit(f"harness and PEFT differ by {max(differences):.2e}, more than {args.tolerance:.0e}")


main()
