#!/usr/bin/env python3
"""Runs one task with lm-evaluation-harness on a local model and local data, and prints one JSON object of its figures.

The clock runs around the answering of the requests only (`LM.loglikelihood`: tokenisation, forward passes, sums), not
around imports, the task index, loading or metrics. Tasks are lm-eval's own; only the loading of their data is replaced,
by files DATA_DIR/NAME/SPLIT.jsonl or .jsonl.zst (NAME: mmlu, arc_easy, arc_challenge).
"""

import argparse
import json
import os
import resource
import subprocess
import time

# Each data set of the hub that the tasks name: its folder (by configuration), and the column that holds the configuration.
SOURCES = {
    "cais/mmlu": lambda name: ("mmlu", "subject", name),
    "hails/mmlu_no_train": lambda name: ("mmlu", "subject", name),
    "allenai/ai2_arc": lambda name: ({"ARC-Easy": "arc_easy", "ARC-Challenge": "arc_challenge"}[name], None, None),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder in Hugging Face layout")
    parser.add_argument("data", help="folder of data sets")
    parser.add_argument("--task", required=True)
    parser.add_argument("--limit", type=int, required=True, help="documents of each task")
    parser.add_argument("--fewshot", type=int, default=None, help="examples before each question")
    parser.add_argument("--batch", type=int, default=1, help="sequences in one forward pass")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--calls", help="write every request's token ids, log-probability and greediness into this file")
    return parser.parse_args()


def read_rows(stem):
    """The rows of a JSON Lines file, packed or not; None if there is no such file."""
    if os.path.exists(stem + ".jsonl"):
        with open(stem + ".jsonl", encoding="utf-8") as file:
            text = file.read()
    elif os.path.exists(stem + ".jsonl.zst"):
        text = subprocess.run(["zstd", "-dcq", stem + ".jsonl.zst"], check=True, capture_output=True).stdout.decode()
    else:
        return None
    return [json.loads(line) for line in text.split("\n") if line]


def local_data(folder):
    """A stand-in for `datasets.load_dataset` that knows the data sets in SOURCES."""
    import datasets

    cache = {}

    def load(path, name=None, **_):
        if path not in SOURCES:
            raise SystemExit(f"{path}: no local files are known for this data set; known are {', '.join(SOURCES)}")
        place, column, wanted = SOURCES[path](name)
        splits = {}
        for split in ("train", "validation", "dev", "test"):
            stem = os.path.join(folder, place, split)
            if stem not in cache:
                cache[stem] = read_rows(stem)
            rows = cache[stem]
            if rows is not None:
                chosen = rows if column is None else [row for row in rows if row[column] == wanted]
                splits[split] = datasets.Dataset.from_list(chosen)
        if not splits:
            raise SystemExit(f"{os.path.join(folder, place)}: no SPLIT.jsonl or SPLIT.jsonl.zst here")
        return datasets.DatasetDict(splits)

    return load


def main():
    args = arguments()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    begin = time.perf_counter()
    import datasets

    datasets.load_dataset = local_data(args.data)
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(args.threads)
    imported = time.perf_counter()
    model = HFLM(pretrained=args.model, dtype="float32", device="cpu", batch_size=args.batch)
    loaded = time.perf_counter()

    figures = {"answer_s": 0.0, "requests": 0, "asked": 0, "computed": 0, "scored": 0}
    calls = []
    loglikelihood, score, forward = model.loglikelihood, model._loglikelihood_tokens, model._model_call

    def timed(requests, *rest, **more):
        start = time.perf_counter()
        answers = loglikelihood(requests, *rest, **more)
        figures["answer_s"] += time.perf_counter() - start
        figures["requests"] += len(requests)
        return answers

    def counted(requests, *rest, **more):
        answers = score(requests, *rest, **more)
        for (_, context, continuation), (logprob, greedy) in zip(requests, answers):
            figures["asked"] += len(context) + len(continuation) - 1
            figures["scored"] += len(continuation)
            if args.calls:
                calls.append({"context": context, "continuation": continuation, "logprob": logprob, "greedy": greedy})
        return answers

    def passed(inputs, *rest, **more):
        figures["computed"] += inputs.numel()
        return forward(inputs, *rest, **more)

    model.loglikelihood, model._loglikelihood_tokens, model._model_call = timed, counted, passed
    results = lm_eval.simple_evaluate(
        model=model, tasks=[args.task], num_fewshot=args.fewshot, limit=args.limit, bootstrap_iters=0
    )
    if args.calls:
        with open(args.calls, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(call) + "\n" for call in calls)
    scores = results["results"][args.task]
    figures.update(
        task=args.task,
        batch=args.batch,
        threads=args.threads,
        documents=sum(len(samples) for samples in results["samples"].values()),
        acc=scores.get("acc,none"),
        acc_norm=scores.get("acc_norm,none"),
        import_s=imported - begin,
        load_s=loaded - imported,
        total_s=time.perf_counter() - begin,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        versions={"lm_eval": lm_eval.__version__, "torch": torch.__version__, "datasets": datasets.__version__},
    )
    print(json.dumps(figures))


main()
