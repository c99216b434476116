"""Reads what `harness run --lm-eval-output DIR` wrote with lm-eval's own functions, and computes its values again.

    python tests/tools/lm_eval_reads.py DIR [--table]

Needs lm_eval (0.4.13). For every run in DIR: the results file is found as lm-eval finds the newest one, its tables are
made by `make_table`, every task has the samples file that lm-eval looks for, the hashes of each line are those of its
content, and the logged values of all documents aggregate to the value of the results file. Exits with 1 where they do not.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

from lm_eval.api import metrics  # noqa: F401  (fills the registry)
from lm_eval.api.registry import get_aggregation, get_metric_aggregation
from lm_eval.utils import (
    get_file_datetime,
    get_file_task_name,
    get_latest_filename,
    get_results_filenames,
    get_sample_results_filenames,
    handle_non_serializable,
    hash_string,
    make_table,
    weighted_f1_score,
)


def aggregation(config, metric):
    """lm-eval's function for a metric, as the saved definition names it, else its own for the name."""
    for entry in config.get("metric_list") or []:
        name = entry.get("aggregation")
        if entry["metric"] == metric and isinstance(name, str):
            if name.endswith("weighted_f1_score"):
                return weighted_f1_score
            return get_aggregation("mean" if "." in name else name)
    return get_metric_aggregation(metric) or get_aggregation("mean")


def flat(values):
    """Lists of truth values, one a part of a document, are taken together; documents without a value are left out."""
    values = [value for value in values if value is not None]
    if values and isinstance(values[0], list) and all(isinstance(part, bool) for part in values[0]):
        return [part for value in values for part in value]
    return [tuple(value) if isinstance(value, list) else value for value in values]


def check_samples(path, config, entry, problems):
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    values = defaultdict(list)
    for line in lines:
        first = line["arguments"]["gen_args_0"]["arg_0"]
        hashes = {
            "doc_hash": hash_string(
                json.dumps(line["doc"], indent=2, default=handle_non_serializable, ensure_ascii=False)
            ),
            "prompt_hash": hash_string(first),
            "target_hash": hash_string(str(line["target"])),
        }
        for key, expected in hashes.items():
            if line[key] != expected:
                problems.append(f"{path.name}: document {line['doc_id']}: {key}")
        for metric in line["metrics"]:
            values[metric, line["filter"]].append(line[metric])
    for (metric, name), of_documents in values.items():
        expected = entry[f"{metric},{name}"]
        found = aggregation(config, metric)(flat(of_documents))
        if not math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12):
            problems.append(f"{path.name}: {metric},{name}: {found} from the samples, {expected} in the results")
    return len(lines), len(values)


def check(folder, table):
    names = [str(path) for path in folder.iterdir()]
    results_file = Path(get_latest_filename(get_results_filenames(names)))
    results = json.loads(results_file.read_text(encoding="utf-8"))
    tables = [make_table(results)]
    if results.get("groups"):
        tables.append(make_table(results, "groups"))
    if table:
        print("\n".join(tables))
    samples = {
        get_file_task_name(Path(name).name): Path(name)
        for name in get_sample_results_filenames(names)
        if get_file_datetime(Path(name).name) == get_file_datetime(results_file.name).removesuffix(".json")
    }
    problems, lines, values = [], 0, 0
    for task, config in results["configs"].items():
        if task not in samples:
            problems.append(f"{results_file.name}: no samples of {task}")
            continue
        more = check_samples(samples[task], config, results["results"][task], problems)
        lines, values = lines + more[0], values + more[1]
    rows = sum(text.count("\n") for text in tables)
    print(f"{results_file.parent.name}: {len(results['configs'])} tasks, {lines} documents, {values} values, {rows} rows of tables")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", action="store_true", help="print lm-eval's tables")
    arguments = parser.parse_args()
    folders = sorted({path.parent for path in arguments.folder.rglob("results_*.json")})
    problems = [problem for folder in folders for problem in check(folder, arguments.table)]
    if not folders:
        problems.append(f"{arguments.folder}: no results_*.json")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
