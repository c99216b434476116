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


# Sequences, prompt and new tokens, and how many tokens all prompts begin with.
GENERATIONS = [("32x(900+128)", 0), ("32x(900+128)", 880), ("256x(900+128)", 0)]


def scores(name):
    """By shape: seconds for all of MMLU (median of some), and by generation new tokens a second."""
    found = {}
    for row in rows(name):
        kept = found.setdefault(row["model"], {"mmlu": [], "new": {}})
        if "full_mmlu_s" in row:
            kept["mmlu"].append(row["full_mmlu_s"])
        if "new_tok_s" in row:
            kept["new"][row["generate"], row.get("shared", 0)] = row["new_tok_s"]
    return found


def pair(ours, theirs, slower):
    """Two figures and how many times the first is the better one."""
    ratio = (theirs / ours if slower else ours / theirs) if ours and theirs else None
    return [f"{ours:,.1f}" if ours else "", f"{theirs:,.1f}" if theirs else "not run", f"{ratio:.1f}" if ratio else ""]


own, peer = scores("score.json"), scores("peer_score.json")
if own:
    print("\nScoring (MMLU, five examples, 14,042 questions) and greedy generation in new tokens a second, bf16.\n")
    titles = ["shape", "MMLU s", "Hugging Face back end s", "times"]
    for sequences, shared in GENERATIONS:
        titles += [sequences + (f", {shared} shared" if shared else ""), "Hugging Face", "times"]
    print(f"| {' | '.join(titles)} |")
    print("|---" + "|---:" * (len(titles) - 1) + "|")
for shape, ours in own.items():
    theirs = peer.get(shape, {"mmlu": [], "new": {}})
    median = [statistics.median(side["mmlu"]) if side["mmlu"] else None for side in (ours, theirs)]
    cells = pair(*median, slower=True)
    for generation in GENERATIONS:
        cells += pair(ours["new"].get(generation), theirs["new"].get(generation), slower=False)
    print(f"| {shape} | {' | '.join(cells)} |")
