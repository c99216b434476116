#!/usr/bin/env bash
# Training steps, scoring and generation on one NVIDIA GPU against PyTorch on the same machine, the peer first. Prints its tables in
# Markdown and leaves them and the JSON lines in OUT (target/gpu).
#   usage: benches/gpu/run.sh PYTHON [case ...]      PYTHON has torch, transformers and peft, and bitsandbytes and liger-kernel
#                                                    if those rows are wanted; with cases, only their training steps are measured
#   STEP and SCORE name the programs gpu_step and gpu_score where they have been built before
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:?usage: benches/gpu/run.sh PYTHON [case ...]}; shift
out=${OUT:-target/gpu}; mkdir -p "$out"
"$python" -c 'import torch, transformers, peft; assert torch.cuda.is_available(), "PyTorch sees no GPU"'
cases=("$@")
if [ ${#cases[@]} -eq 0 ]; then
  cases=(7b:nf4:bf16:8:all:4:512:layer 7b:nf4:bf16:32:all:4:1024:layer 7b:none:bf16:8:all:4:512:layer
    7b:none:bf16:8:all:4:512:lean 1b:none:fp32:8:qvo:20:512:lean 1b:none:bf16:8:qvo:20:512:lean
    1b:none:fp16:8:qvo:20:512:lean 135m:none:bf16:8:all:16:512:lean 135m:none:bf16:8:all:64:512:lean)
  shapes=(135m 1b 7b)
fi
if [ -z "${STEP:-}" ] || [ -z "${SCORE:-}" ]; then
  cargo build --release --locked --workspace --features cuda --bench gpu_step --bench gpu_score --message-format json > "$out/build.json"
  built() { grep -o "\"executable\":\"[^\"]*/$1-[^\"]*\"" "$out/build.json" | tail -1 | cut -d'"' -f4; }
  STEP=$(built gpu_step) SCORE=$(built gpu_score)
fi
rm -f "$out"/{peer_plain,peer_liger,own,peer_score,score}.json
{
  nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader
  "$python" -c 'import importlib.metadata as m
for name in ("torch", "transformers", "peft", "bitsandbytes", "liger-kernel"):
    try: print(name, m.version(name))
    except m.PackageNotFoundError: print(name, "is not installed")'
  echo
} | tee "$out/machine.txt"
"$python" benches/gpu/peer.py "${cases[@]}" > "$out/peer_plain.json" 2> "$out/peer.err"
if "$python" -c 'import liger_kernel' 2> /dev/null; then
  "$python" benches/gpu/peer.py --liger "${cases[@]}" > "$out/peer_liger.json" 2>> "$out/peer.err"
fi
"$STEP" "${cases[@]}" > "$out/own.json"
if [ -n "${shapes:-}" ]; then
  "$python" benches/gpu/peer_score.py "${shapes[@]}" > "$out/peer_score.json" 2>> "$out/peer.err"
  "$SCORE" "${shapes[@]}" > "$out/score.json"
fi
"$python" benches/gpu/table.py "$out" | tee "$out/tables.md"
