"""One table from the JSON lines of `peer.py` and `gpu_step`: python3 table.py PEER_LOG OWN_LOG."""
import json
import sys


def lines(path):
    found = {}
    for line in open(path):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row.get("case")] = row
    return found


peers, own = lines(sys.argv[1]), lines(sys.argv[2])
print("| case | harness tok/s (ms, min-max) | MFU | GiB | peer tok/s (ms, min-max) | GiB | ratio |")
print("|---|---|---|---|---|---|---|")
for case, row in own.items():
    peer = peers.get(case, {})
    if "tok_s" not in row:
        print(f"| {case} | {row.get('error')} | | | | | |")
        continue
    span = lambda r: f"{r['tok_s']:,} ({r['ms']}, {r['ms_min']}-{r['ms_max']})"
    other = span(peer) if "tok_s" in peer else peer.get("error", "not run")
    ratio = f"{row['tok_s'] / peer['tok_s']:.2f}" if "tok_s" in peer else ""
    print(f"| {case} | {span(row)} | {row['mfu']:.3f} | {row['peak_gib']} | {other} | {peer.get('peak_gib', '')} | {ratio} |")
