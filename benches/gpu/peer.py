"""Training steps of PyTorch, Transformers and PEFT (bitsandbytes for nf4, and Liger with --liger) on random weights.

Takes the cases of `gpu_step`, shape:weights:dtype:rank:targets:batch:length:save, and prints one JSON line each.
"""
import gc
import json
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model

from shapes import model as random_model

LINEARS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "g": "gate_proj", "u": "up_proj", "d": "down_proj"}


def quantised(model):
    """The linears of the blocks in NF4 with double quantisation."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    new = Linear4bit(linear.in_features, linear.out_features, bias=False, device="meta",
                                     compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4")
                    new.weight = Params4bit(linear.weight.detach().cpu(), requires_grad=False, quant_type="nf4",
                                            compress_statistics=True)
                    setattr(part, name, new.cuda())
    model.is_loaded_in_4bit = True
    gc.collect()
    torch.cuda.empty_cache()


def run(case, peer):
    shape, stored, dtype, rank, targets, batch, length, save = case.split(":")
    model = random_model(shape, dtype, use_cache=False)
    vocab = model.config.vocab_size
    if stored == "nf4":
        quantised(model)
    model.requires_grad_(False)
    chosen = LINEARS.values() if targets == "all" else [LINEARS[letter] for letter in targets]
    model = get_peft_model(model, LoraConfig(r=int(rank), lora_alpha=2 * int(rank), lora_dropout=0.05,
                                             target_modules=list(chosen), task_type="CAUSAL_LM"))
    if save == "layer":
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for step in range(13):
        tokens = torch.randint(0, vocab, (int(batch), int(length)), device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        if step >= 3:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {"peer": peer, "case": case, "tok_s": round(int(batch) * int(length) / median), "ms": round(median * 1e3, 1),
            "ms_min": round(min(seconds) * 1e3, 1), "ms_max": round(max(seconds) * 1e3, 1),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}


def main():
    peer, cases = "PEFT", sys.argv[1:]
    if cases[:1] == ["--liger"]:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
        peer, cases = "PEFT, Liger", cases[1:]
    for case in cases:
        try:
            print(json.dumps(run(case, peer)), flush=True)
        except (ImportError, RuntimeError) as error:
            print(json.dumps({"peer": peer, "case": case, "error": str(error).splitlines()[0][:100]}), flush=True)
        gc.collect()
        torch.cuda.empty_cache()


main()
