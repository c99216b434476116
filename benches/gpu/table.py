"""Tables in Markdown from the JSON lines of one sitting: table.py FOLDER, which has peer*.json, own.json, score.json."""
import json
import pathlib
import statistics
import sys

folder = pathlib.Path(sys.argv[1])


def rows(name):
    path = folder / name
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.startswith("{")]


def step(row):
    return f"{row['tok_s']:,} | {row['ms']} ({row['ms_min']}–{row['ms_max']}) | {row['peak_gib']}"


peers = {}
for row in rows("peer_plain.json") + rows("peer_liger.json"):
    peers.setdefault(row["case"], {})[row["peer"]] = row
print("Training steps: medians of 10 after 3, least and greatest in brackets. The ratio is to the faster peer.\n")
print("| case | harness tokens/s | step ms | GiB | MFU | PEFT tokens/s | step ms | GiB | with Liger | step ms | GiB | ratio |")
print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
for own in rows("own.json"):
    if "tok_s" not in own:
        print(f"| {own['case']} | {own.get('error')} |" + " |" * 10)
        continue
    cells, best = [], 0
    for name in ("PEFT", "PEFT, Liger"):
        peer = peers.get(own["case"], {}).get(name, {"error": "not run"})
        cells.append(step(peer) if "tok_s" in peer else f"{peer['error']} | | ")
        best = max(best, peer.get("tok_s", 0))
    ratio = f"{own['tok_s'] / best:.2f}" if best else ""
    mfu = f"{own['mfu'] * 100:.1f} %"
    print(f"| {own['case']} | {step(own)} | {mfu} | {' | '.join(cells)} | {ratio} |")


def scores(name):
    """By shape: seconds for all of MMLU (median, least, greatest), questions a second; and of generation, new tokens a second."""
    found = {}
    for row in rows(name):
        kept = found.setdefault(row["model"], {"mmlu": [], "new": None})
        if "full_mmlu_s" in row:
            kept["mmlu"].append(row["full_mmlu_s"])
        kept["new"] = row.get("new_tok_s", kept["new"])
    return found


own, peer = scores("score.json"), scores("peer_score.json")
if own:
    print("\nScoring (MMLU, five examples, 14,042 questions) and greedy generation of 32 x (900 + 128), bf16.\n")
    print("| shape | harness s | Hugging Face back end s | times | harness new tokens/s | Hugging Face new tokens/s | times |")
    print("|---|---:|---:|---:|---:|---:|---:|")
for shape, ours in own.items():
    theirs = peer.get(shape, {"mmlu": [], "new": None})
    cells = []
    for a, b, slower in ((ours["mmlu"], theirs["mmlu"], True), (ours["new"], theirs["new"], False)):
        a, b = (statistics.median(x) if isinstance(x, list) and x else x or None for x in (a, b))
        ratio = (b / a if slower else a / b) if a and b else None
        cells += [f"{a:,.1f}" if a else "", f"{b:,.1f}" if b else "not run", f"{ratio:.1f}" if ratio else ""]
    print(f"| {shape} | {' | '.join(cells)} |")
