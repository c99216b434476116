#!/usr/bin/env python3
"""Measures loading and generation on the processor, in turn with llama.cpp, and prints one table.

usage: run.py MODEL.gguf [PEER_FOLDER]     (README.md says what is measured)
environment: BENCH (the built benchmark, else `cargo bench`), ROUNDS (5), THREADS (all cores), NEW_TOKENS (128), OUT
"""
import json, os, statistics, subprocess, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def measure(command, folder, threads):
    """All figures of one run by name, with the peak of memory."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "THREADS": str(threads)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))} failed")
    figures = {"memory_mib": usage.ru_maxrss / 1024}
    for line in filter(lambda line: line.startswith("{"), text.splitlines()):
        found = json.loads(line)
        sequences = found.pop("sequences", None)
        figures |= {f"{name} {sequences}" if sequences else name: value for name, value in found.items()}
    return figures


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    model, new = Path(sys.argv[1]).resolve(), os.environ.get("NEW_TOKENS", "128")
    rounds, threads = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("THREADS", os.cpu_count()))
    bench = os.environ.get("BENCH")
    ours = [Path(bench).resolve()] if bench else "cargo bench -q -p harness-engine --bench cpu_generate --".split()
    programs = {"harness": (ours + [model, new], HERE)}
    if len(sys.argv) == 3:
        programs["llama.cpp"] = (["node", HERE / "peer.mjs", model, new], Path(sys.argv[2]))
    runs = {name: [] for name in programs}
    for _ in range(rounds):
        for name, (command, folder) in programs.items():
            runs[name].append(measure(command, folder, threads))
            if "OUT" in os.environ:
                with open(os.environ["OUT"], "a") as log:
                    log.write(json.dumps({"program": name, **runs[name][-1]}) + "\n")
    rows = {
        "decoding, 1 sequence, tokens/s": "decode_tok_s 1",
        "decoding, 8 sequences, tokens/s": "decode_tok_s 8",
        "prompt, 1 sequence, tokens/s": "prompt_tok_s 1",
        "prompts, 8 sequences, tokens/s": "prompt_tok_s 8",
        "loading, s": "load_s",
        "peak memory, MiB": "memory_mib",
    }
    print(f"{model.name}, {threads} threads, {rounds} rounds: medians (minimum to maximum)\n")
    print("| | " + " | ".join(programs) + (" | ratio, by round |" if len(programs) > 1 else " |"))
    print("|---|" + "---:|" * (len(programs) + (len(programs) > 1)))

    def cell(values):
        digits = 2 if max(values) < 10 else 1 if max(values) < 100 else 0
        middle, least, most = (f"{x:,.{digits}f}" for x in (statistics.median(values), min(values), max(values)))
        return f"{middle} ({least} to {most})"

    for title, key in rows.items():
        columns = [[run[key] for run in runs[name]] for name in programs]
        ratio = [cell([a / b for a, b in zip(*columns)])] if len(columns) > 1 else []
        print(f"| {title} | " + " | ".join([cell(values) for values in columns] + ratio) + " |")


main()
