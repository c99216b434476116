"""Training of all parameters over several GPUs with PyTorch's fully_shard or DDP, f32 parameters and AdamW, bf16 compute:

    torchrun --nproc-per-node N peer_dist.py {fsdp|ddp} SHAPE BATCH LENGTH

prints one JSON line with tokens a second of all GPUs and the memory of one.
"""
import json
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist

from shapes import model as random_model

mode, shape, batch, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl")
torch.manual_seed(0)
model = random_model(shape, "fp32", use_cache=False)
vocab = model.config.vocab_size
model.train()
if mode == "fsdp":
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    net = model
else:
    net = torch.nn.parallel.DistributedDataParallel(model, device_ids=[torch.cuda.current_device()])
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)
seconds = []
for step in range(13):
    tokens = torch.randint(0, vocab, (batch, length), device="cuda")
    if step == 3:
        torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    dist.barrier()
    start = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16, enabled=mode == "ddp"):
        loss = net(input_ids=tokens, labels=tokens).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    dist.barrier()
    if step >= 3:
        seconds.append(time.perf_counter() - start)
if dist.get_rank() == 0:
    median, ranks = statistics.median(seconds), dist.get_world_size()
    print(json.dumps({"peer": f"PyTorch {mode}", "shape": shape, "ranks": ranks, "batch": batch, "length": length,
                      "tok_s": round(ranks * batch * length / median), "ms": round(median * 1e3, 1),
                      "ms_min": round(min(seconds) * 1e3, 1), "ms_max": round(max(seconds) * 1e3, 1),
                      "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}), flush=True)
dist.destroy_process_group()
