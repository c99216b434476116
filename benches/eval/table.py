#!/usr/bin/env python3
"""Turns the folder that run.sh wrote into one table: medians and spreads, ratios, and the floor. Standard library only."""

import json
import pathlib
import re
import statistics
import sys

EVALUATION = re.compile(
    r"^evaluate .*: ([\d,]+) requests?, .* a second; (\d+) token positions computed, (\d+) asked for .*\(([\d.]+) s\)$",
    re.M,
)
THROUGHPUT = re.compile(r"thrpt:\s+\[\S+ \S+ ([\d.]+) ([KMGT])elem/s")
UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def ours(folder):
    """Figures of one run of `harness run`."""
    text = (folder / "stderr").read_text()
    found = EVALUATION.search(text)
    if not found:
        sys.exit(f"{folder / 'stderr'}: no line 'evaluate NAME: N requests, ... (S s)'; found:\n{text}")
    documents = requests = right = scored = 0
    for file in sorted((folder / "samples").glob("samples_*.jsonl")):
        for line in file.read_text(encoding="utf-8").split("\n"):
            if not line:
                continue
            document = json.loads(line)
            documents += 1
            requests += len(document["requests"])
            places = set()  # one a position whose logits are needed, however many requests share it
            for request, response in zip(document["requests"], document["responses"]):
                tokens = response["output"]["token_ids"]
                places |= {(request["context"], tuple(tokens[:count])) for count in range(len(tokens))}
            scored += len(places)
            right += sum(score["stats"][0] for score in document["scores"] if score["key"]["metric"] == "acc")
    return {
        "seconds": float(found[4]),
        "documents": documents,
        "requests": requests,
        "computed": int(found[2]),
        "asked": int(found[3]),
        "scored": scored,
        "acc": right / documents,
    }


def theirs(folder):
    """Figures of one run of lm-eval."""
    figures = json.loads((folder / "peer.json").read_text())
    return {**figures, "seconds": figures["answer_s"]}


def spread(values, digits=1):
    """`median (least-greatest)`."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f}-{most:.{digits}f})" if len(values) > 1 else f"{middle:.{digits}f}"


def floor_flops(config, run):
    """FLOPs that `run` cannot do without, in blocks, head and attention.

    Blocks: 2 x their parameters a computed token. Head: 2 x hidden x vocabulary a position whose logits are needed.
    Attention: 4 x query width x layers a pair of query and key, every computed token seeing half of the mean request.
    """
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    query, key = heads * width, (config.get("num_key_value_heads") or heads) * width
    parameters = layers * (2 * hidden * query + 2 * hidden * key + 3 * hidden * inner)
    keys = run["asked"] / run["requests"] / 2
    blocks = 2 * parameters * run["computed"]
    head = 2 * hidden * config["vocab_size"] * run["scored"]
    return blocks, head, 4 * query * layers * keys * run["computed"]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: table.py OUT, the folder that run.sh wrote")
    out = pathlib.Path(sys.argv[1])
    rounds = sorted((path for path in out.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    rates = []
    for one in rounds:
        found = THROUGHPUT.search((one / "gemm").read_text())
        if not found:
            sys.exit(f"{one / 'gemm'}: no throughput of the benchmark here")
        rates.append(float(found[1]) * UNITS[found[2]])
    config = json.loads((out / "model_config.json").read_text())
    runs = {}  # task -> who -> figures, one a round
    for one in rounds:
        for folder in sorted(one.glob("*/*")):
            if (folder / "wall").exists():
                figures = ours(folder) if folder.name == "harness" else theirs(folder)
                figures["wall"] = float((folder / "wall").read_text())
                runs.setdefault(folder.parent.name, {}).setdefault(folder.name, []).append(figures)

    print("Medians (least-greatest) of", len(rounds), "rounds. Load before each round:", end=" ")
    print(", ".join((one / "loadavg").read_text().split()[0] for one in rounds if (one / "loadavg").exists()))
    print()
    print("| task | who | documents | requests | acc | answering s | documents/s | requests/s | tokens asked | tokens computed"
          " | computed/s | whole process s | peer's time / ours |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for task, who in runs.items():
        base = [run["seconds"] for run in who["harness"]]
        for name in sorted(who, key=lambda name: (name != "harness", name)):
            many = who[name]
            one = many[0]
            each = [run["seconds"] for run in many]
            per = lambda key: [run[key] / run["seconds"] for run in many]
            ratio = "1" if name == "harness" else spread([t / o for t, o in zip(each, base)], 2)
            print(f"| {task} | {name} | {one['documents']} | {one['requests']} | {one['acc']:.4f} | {spread(each)} |"
                  f" {spread(per('documents'), 2)} | {spread(per('requests'))} | {one['asked']} | {one['computed']} |"
                  f" {spread(per('computed'), 0)} | {spread([run['wall'] for run in many])} | {ratio} |")
    rate = statistics.median(rates)
    print(f"\nFloor, at the {spread([r / 1e9 for r in rates])} GFLOP/s of `gemm/packed f32/512x576x1536` in the same rounds:\n")
    for task, who in runs.items():
        run = who["harness"][0]
        blocks, head, attention = floor_flops(config, run)
        total = blocks + head + attention
        seconds = statistics.median(run["seconds"] for run in who["harness"])
        print(f"- {task}: {blocks / 1e9:.0f} GFLOP in the blocks ({run['computed']} tokens) + {head / 1e9:.0f} in the head"
              f" ({run['scored']} positions) + {attention / 1e9:.0f} in attention = {total / 1e9:.0f} GFLOP ="
              f" {total / rate:.1f} s; measured {seconds:.1f} s, of which the floor is {100 * total / rate / seconds:.0f} %")


main()
