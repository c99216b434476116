#!/usr/bin/env bash
# Training over 1, 2, 4 and 8 GPUs: replicated (DDP) and sharded (FSDP), in the sizes that published reports use. Prints the tables in
# Markdown and draws throughput, epoch time and memory against GPUs into OUT (target/scaling); numbers of GPUs that are not there
# are predicted. With --cpu a tiny model runs over the same ranks as processes on the processor, which needs no GPU.
#   usage: benches/gpu/scaling.sh [--cpu] [case ...]      SCALING and TABLES name programs built before
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-target/scaling}; mkdir -p "$out"
cpu=(); if [ "${1:-}" = --cpu ]; then cpu=(--cpu); shift; fi
steps=${STEPS:-13}
features=(--features nccl); if [ ${#cpu[@]} -gt 0 ]; then features=(); fi
if [ -z "${SCALING:-}" ]; then
  cargo build --release --locked -p harness-training "${features[@]}" --bench scaling --message-format json > "$out/build.json"
  SCALING=$(grep -o '"executable":"[^"]*/scaling-[^"]*"' "$out/build.json" | tail -1 | cut -d'"' -f4)
fi
worlds=(1 2 4 8)
if [ ${#cpu[@]} -eq 0 ]; then
  found=$(nvidia-smi --list-gpus | wc -l)
  worlds=(); for n in 1 2 4 8; do if [ "$n" -le "$found" ]; then worlds+=("$n"); fi; done
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sort | uniq -c
fi
# NVLink multicast can put a shared host's GPUs out of service.
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
cases=("$@")
if [ ${#cases[@]} -eq 0 ]; then
  for n in "${worlds[@]}"; do
    if [ ${#cpu[@]} -gt 0 ]; then
      cases+=(tiny:none:fp32:8:qvo:2:64:lean:ddp:"$n" tiny:nf4:fp32:8:all:2:64:layer:fsdp:"$n" tiny:none:fp16:8:qvo:2:64:lean:fsdp:"$n")
      cases+=(tiny:none:fp32:0:full:2:64:lean:ddp:"$n" tiny:none:fp32:0:full:2:64:lean:fsdp:"$n")
      continue
    fi
    cases+=(1b:none:fp16:8:qvo:24:512:lean:ddp:"$n" 1b:none:fp32:8:qvo:24:512:lean:fsdp:"$n")
    # DDP against FSDP in fp16; Llama-2-7B with 4-bit and 16-bit bases.
    cases+=(1b:none:fp16:8:qvo:24:512:lean:fsdp:"$n")
    cases+=(7b:nf4:bf16:8:all:4:512:layer:ddp:"$n" 7b:none:bf16:8:all:4:512:layer:fsdp:"$n")
    # All parameters.
    cases+=(1b:none:bf16:0:full:24:512:lean:ddp:"$n" 1b:none:bf16:0:full:24:512:lean:fsdp:"$n")
  done
fi
# A case that fails is named in the tables; the others are still wanted.
"$SCALING" "${cpu[@]}" --steps "$steps" "${cases[@]}" | tee "$out/scaling.jsonl" || true
if [ -z "${TABLES:-}" ]; then
  cargo run --release --locked -p harness-reports --example scaling_tables -- "$out/scaling.jsonl" "$out" | tee "$out/scaling.md"
else
  "$TABLES" "$out/scaling.jsonl" "$out" | tee "$out/scaling.md"
fi
