"""Sums of log-probabilities of texts with the log-softmax in float64, beside what `harness` and torch's float32 say.

    harness run MODEL --tasks wikitext --limit 3 --data-dir DATA --lm-eval-output OUT
    python tests/tools/wikitext_float64.py MODEL OUT

Needs torch, transformers and lm_eval (0.4.13). MODEL is a folder in Hugging Face layout. The texts and harness's sums are
those of the samples files in OUT whose requests are whole texts. The logits are torch's in float32, computed once; the two
log-softmaxes differ in the type of their sums alone. docs/lm-eval-parity.md cites the table.
"""

import argparse
import json
from pathlib import Path

import torch
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import AutoModelForCausalLM, AutoTokenizer

ROWS = 256
"""Rows of logits that are widened at a time."""


def samples(folder):
    """Text and harness's sum of each document."""
    for file in sorted(Path(folder).rglob("samples_*.jsonl")):
        for line in file.read_text().splitlines():
            sample = json.loads(line)
            (request,) = sample["arguments"].values()
            if "arg_1" not in request:
                [[found]] = sample["resps"]
                yield request["arg_0"], float(found[0] if isinstance(found, list) else found)


@torch.inference_mode()
def sums(model, tokenizer, text):
    """Number of tokens, and the sums in float64 and in float32."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    length = model.config.max_position_embeddings
    windows = get_rolling_token_windows(tokens, prefix, max_seq_len=length, context_len=1)
    wide = narrow = 0.0
    for context, scored in map(make_disjoint_window, windows):
        given = torch.tensor([(context + scored)[:-1]])
        logits = model(given).logits[0, -len(scored):]
        targets = torch.tensor(scored)
        taken = torch.log_softmax(logits, -1).gather(-1, targets[:, None])
        narrow += taken.sum().item()
        for rows, these in zip(logits.split(ROWS), targets.split(ROWS)):
            wide += torch.log_softmax(rows.double(), -1).gather(-1, these[:, None]).sum().item()
    return len(tokens), wide, narrow


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model")
    arguments.add_argument("out")
    arguments = arguments.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    print(f"{'tokens':>7} {'harness':>14} {'float64':>14} {'difference':>11} {'float32':>14}")
    for text, found in samples(arguments.out):
        count, wide, narrow = sums(model, tokenizer, text)
        print(f"{count:>7} {found:>14.5f} {wide:>14.5f} {abs(found - wide):>11.4f} {narrow:>14.5f}", flush=True)


if __name__ == "__main__":
    main()
