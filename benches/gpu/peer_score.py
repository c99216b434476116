"""Scoring and greedy generation as lm-evaluation-harness asks the Hugging Face back end for them, on random bf16 weights.

MMLU with five examples: each of 14,042 questions is one row of 735 tokens, its subject's examples included, logits are
computed at every position, and the four answers are read off the last one. The rate of five batches of 32 stands for all.
Takes names of shapes and prints JSON lines with the fields of `gpu_score`.
"""
import gc
import json
import statistics
import sys
import time

import torch

from shapes import model as random_model

QUESTIONS, LENGTH, ROWS = 14042, 735, 32


def timed(f):
    torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def run(shape):
    model = random_model(shape, "bf16").eval()
    vocab = model.config.vocab_size
    rows = torch.randint(0, vocab, (ROWS, LENGTH), device="cuda")

    def score():
        logits = model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits
        return torch.log_softmax(logits, -1, dtype=torch.float32)[:, -1].cpu()

    for _ in range(2):
        score()
    batch = statistics.median(timed(score) for _ in range(5))
    print(json.dumps({"model": shape, "full_mmlu_s": round(QUESTIONS / ROWS * batch, 1), "docs_s": round(ROWS / batch)}),
          flush=True)
    prompts = torch.randint(0, vocab, (ROWS, 900), device="cuda")

    def generate(new):
        model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, min_new_tokens=new,
                       do_sample=False, pad_token_id=0, eos_token_id=None)

    generate(8)
    seconds = timed(lambda: generate(128))
    print(json.dumps({"model": shape, "generate": "32x(900+128)", "seconds": round(seconds, 2),
                      "new_tok_s": round(ROWS * 128 / seconds)}), flush=True)


for shape in sys.argv[1:]:
    try:
        run(shape)
    except RuntimeError as error:
        print(json.dumps({"model": shape, "error": str(error).splitlines()[0][:100]}), flush=True)
    gc.collect()
    torch.cuda.empty_cache()
