#!/usr/bin/env bash
# Measures `harness run`, in turn with lm-evaluation-harness if its Python is given, and prints one table.
#   usage: run.sh MODEL_DIR DATA_DIR [LM_EVAL_PYTHON]
# Environment: HARNESS (binary), KERNELS (kernel benchmark, built), OUT (folder for logs and records), ROUNDS, THREADS, TASKS, MMLU_LIMIT, ARC_LIMIT,
# MMLU_BATCHES and ARC_BATCHES (batch sizes of the peer). README.md says what is measured.
set -euo pipefail
die() { echo "run.sh: $*" >&2; exit 2; }
[ $# -eq 2 ] || [ $# -eq 3 ] || die "usage: run.sh MODEL_DIR DATA_DIR [LM_EVAL_PYTHON]"
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../.." && pwd)
[ -f "$1/config.json" ] || die "$1: no config.json here; expected a model in Hugging Face layout"
[ -d "$2" ] || die "$2: no such folder; expected the folder of data sets (mmlu/, arc_easy/)"
model=$(cd "$1" && pwd); data=$(cd "$2" && pwd); peer=${3:-}
[ -z "$peer" ] || peer=$(command -v "$peer") || die "$3: no such program; expected a Python that has lm_eval"
case $peer in '' | /*) ;; *) peer=$PWD/$peer ;; esac
harness=${HARNESS:-$root/target/release/harness}
[ -x "$harness" ] || die "$harness: no such program; run 'cargo build --release' or set HARNESS"
harness=$(cd "$(dirname "$harness")" && pwd)/$(basename "$harness")
threads=${THREADS:-$(nproc)}; rounds=${ROUNDS:-3}; tasks=${TASKS:-mmlu arc_easy}
mmlu_limit=${MMLU_LIMIT:-2}; arc_limit=${ARC_LIMIT:-200}
mmlu_batches=${MMLU_BATCHES:-1}; arc_batches=${ARC_BATCHES:-8}
out=${OUT:-$(mktemp -d)}; mkdir -p "$out"; out=$(cd "$out" && pwd)
[ -z "$(ls -A "$out")" ] || die "$out: not empty; every measurement begins in an empty folder"
export RAYON_NUM_THREADS=$threads

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f\n", b - a }'; }

gemm() { # FILE: the rate of matrix products, for the floor
  local bench=(cargo bench -q -p harness-kernels --bench kernels --)
  [ -z "${KERNELS:-}" ] || bench=("$KERNELS" --bench)
  (cd "$root" && "${bench[@]}" "gemm/packed f32/512x576x1536" --warm-up-time 1 --measurement-time 3) > "$1" 2>&1 ||
    die "the kernel benchmark failed; see $1"
}

ours() { # FOLDER TASK LIMIT: with an empty store, outside of any experiment
  mkdir -p "$1/work"; local start; start=$(now)
  (cd "$1/work" && HARNESS_HOME=$1/home "$harness" run "$model" --tasks "$2" --limit "$3" --data-dir "$data" --out "$1/samples") \
    > "$1/stdout" 2> "$1/stderr" || { cat "$1/stderr" >&2; die "harness failed; see $1"; }
  since "$start" > "$1/wall"; rm -rf "$1/home" "$1/work"
}

theirs() { # FOLDER TASK LIMIT BATCH FEWSHOT
  mkdir -p "$1"; local start; start=$(now)
  "$peer" "$here/peer.py" "$model" "$data" --task "$2" --limit "$3" --batch "$4" --threads "$threads" --fewshot "$5" \
    > "$1/stdout" 2> "$1/stderr" || { tail -20 "$1/stderr" >&2; die "lm_eval failed; see $1"; }
  tail -n 1 "$1/stdout" > "$1/peer.json"; since "$start" > "$1/wall"
}

echo "$model; $threads threads; $rounds rounds; logs in $out" >&2
cp "$model/config.json" "$out/model_config.json"
[ -n "${KERNELS:-}" ] || (cd "$root" && cargo bench -q -p harness-kernels --bench kernels --no-run)
for round in $(seq "$rounds"); do
  mkdir -p "$out/$round"; cat /proc/loadavg > "$out/$round/loadavg" 2> /dev/null || true
  gemm "$out/$round/gemm"
  for task in $tasks; do
    case $task in
      mmlu) limit=$mmlu_limit; batches=$mmlu_batches; fewshot=5 ;;
      arc_easy) limit=$arc_limit; batches=$arc_batches; fewshot=0 ;;
      *) die "$task: expected mmlu or arc_easy in TASKS" ;;
    esac
    ours "$out/$round/$task/harness" "$task" "$limit"
    echo "round $round $task: $(grep '^evaluate ' "$out/$round/$task/harness/stderr" || true)" >&2
    [ -n "$peer" ] || continue
    for batch in $batches; do
      theirs "$out/$round/$task/lm-eval-batch-$batch" "$task" "$limit" "$batch" "$fewshot"
      echo "round $round $task: lm-eval, batch $batch: $(cat "$out/$round/$task/lm-eval-batch-$batch/wall") s with start" >&2
    done
  done
done
python3 "$here/table.py" "$out"
