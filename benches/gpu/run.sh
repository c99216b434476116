#!/usr/bin/env bash
# Training steps on one NVIDIA GPU against PyTorch + PEFT on the same machine, the peer first; then scoring and generation.
# Prints one table and leaves the JSON lines in OUT.
#   usage: benches/gpu/run.sh PYTHON [case ...]      PYTHON has torch, transformers and peft (bitsandbytes, liger-kernel)
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:?usage: benches/gpu/run.sh PYTHON [case ...]}; shift
out=${OUT:-target/gpu}; mkdir -p "$out"
cases=("$@")
if [ ${#cases[@]} -eq 0 ]; then
  cases=(7b:nf4:bf16:8:all:4:512:layer 7b:nf4:bf16:32:all:4:1024:layer 7b:none:bf16:8:all:4:512:layer
    7b:none:bf16:8:all:4:512:lean 1b:none:fp32:8:qvo:20:512:lean 1b:none:bf16:8:qvo:20:512:lean
    135m:none:bf16:8:all:16:512:lean 135m:none:bf16:8:all:64:512:lean)
fi
build=(cargo build --release --locked --workspace --features cuda --bench gpu_step --bench gpu_score --message-format json)
"${build[@]}" > "$out/build.json"
find_bench() { "$python" -c "
import json, sys
rows = [json.loads(line) for line in open('$out/build.json')]
print([r['executable'] for r in rows if r.get('executable') and r['target']['name'] == '$1'][-1])"; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$python" benches/gpu/peer.py "${cases[@]}" > "$out/peer.json" 2> "$out/peer.err"
"$(find_bench gpu_step)" "${cases[@]}" > "$out/own.json"
"$python" benches/gpu/table.py "$out/peer.json" "$out/own.json"
"$(find_bench gpu_score)" --bench | tee "$out/score.json"
