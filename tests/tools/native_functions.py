"""What the Python functions of lm-eval's task files give, for the functions that tasks/src/native computes.

    python tests/tools/native_functions.py > tasks/tests/data/native.json

Needs lm_eval (0.4.13) with its task files, datasets and scikit-learn. A case is the folder of the task files, the function,
the rows it is given, and what it makes of them: rows (process_docs), a value a row (doc_to_*), or a number (aggregations).
"""

import importlib.util
import json
import random
from pathlib import Path

import lm_eval
from datasets import Dataset

TASKS = Path(lm_eval.__file__).parent / "tasks"


def function(folder, name):
    """A function of a folder, as its task files name it."""
    module, attribute = name.split(".")
    spec = importlib.util.spec_from_file_location(f"{folder}/{module}", TASKS / folder / f"{module}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, attribute)


def rewritten(folder, name, rows):
    return {"folder": folder, "function": name, "rows": rows, "documents": list(function(folder, name)(Dataset.from_list(rows)))}


def valued(folder, name, rows):
    return {"folder": folder, "function": name, "rows": rows, "values": [function(folder, name)(row) for row in rows]}


def scores(rng, items, classes, right):
    """Pairs of gold and prediction, of which about this share are equal."""
    golds = [rng.randrange(classes) for _ in range(items)]
    return [[gold, gold if rng.random() < right else rng.randrange(classes)] for gold in golds]


def main():
    rng = random.Random(7)
    cases = []
    for items, classes, right in [(1, 2, 1.0), (5, 2, 0.5), (40, 3, 0.6), (200, 7, 0.3), (300, 40, 0.8), (25, 3, 0.0)]:
        pairs = scores(rng, items, classes, right)
        value = function("afrobench/sib/prompt_1", "utils.weighted_f1_score")([tuple(pair) for pair in pairs])
        case = {"folder": "afrobench/sib/prompt_1", "function": "utils.weighted_f1_score"}
        cases.append(case | {"classes": classes, "pairs": pairs, "value": float(value)})
    for folder, name, column, values in [
        ("global_mmlu/full/pl", "utils.process_virology", "subject", ["virology", "anatomy", "Virology", "virology"]),
        ("global_mmlu/default/ar", "utils.process_social_sciences", "subject_category", ["Social Sciences", "STEM"]),
        ("include/default/Albanian", "utils.process_arts_humanities", "domain", ["Arts & Humanities", "STEM"]),
        ("include/few_shot_en/Dutch", "utils.process_stem", "domain", ["Arts & Humanities", "STEM"]),
        ("openai-mmmlu/default", "utils.process_virology", "Subject",
         ["virology", "virology_test.csv_sw-KE.csv", "virology_test-1.csv", "virology_dev.csv", "anatomy_test.csv"]),
        ("llama3/instruct/mmlu_th", "utils.process_docs_virology", "subtask_name",
         ["mmlu_th_chat.virology", "mmlu_de_chat.virology", "virology", "mmlu_th_chat.anatomy"]),
        ("mmlu_pro", "utils.process_computer_science", "category", ["computer science", "computer_science", "law"]),
    ]:
        cases.append(rewritten(folder, name, [{"n": n, column: value} for n, value in enumerate(values)]))
    arc = {"id": "1", "instruction": " What [title] is  it [x] ? ", "option_a": " a [b]c ", "option_b": "", "option_c": None,
           "option_d": "d [title] e", "option_e": "e", "answer": "D"}
    cases.append(rewritten("okapi/arc_multilingual", "utils.process_docs", [arc, arc | {"answer": "A", "option_c": "c"}]))
    hellaswag = {"activity_label": "Dach", "ctx_a": "Ein Mann [title] sitzt", "ctx_b": "er REIßT [step] auf", "label": " 1",
                 "endings": ["mit  Papier.", " [header] dreht"]}
    cases.append(rewritten("okapi/hellaswag_multilingual", "utils.process_docs", [hellaswag]))
    bigbench = [{"multiple_choice_targets": targets} for targets in (["x", "y"], [], ["z"])]
    cases.append(rewritten("bigbench", "utils.filter_multiple_choice", bigbench))
    exams = [(0, ["a", "b", "c", "d"]), (-1, ["a", "b", "c", "d"]), (3, ["", "", "", ""]), (3, ["", "", "", "d"]), (4, ["a"])]
    exams = [{"answer": answer, "candidates": candidates} for answer, candidates in exams]
    cases.append(rewritten("eus_exams", "utils.process_docs", exams))
    sr = {"choice1": "a", "choice2": None, "choice3": "", "choice4": " d", "answer": " B "}
    cases += [rewritten(f"mmlusr/{part}", "utils.process_docs", [sr, sr | {"answer": None}])
              for part in ("answer_only", "question_only", "question_and_answer")]
    tm = {"question": "Q", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "C"}
    cases.append(rewritten("tmmluplus/default", "utils.process_docs", [tm, tm | {"answer": "A"}]))
    labels = [{"label": label} for label in range(3)]
    folders = [f"afrixnli/{kind}/prompt_{n}" for kind in ("direct", "translate") for n in range(1, 6)]
    folders += ["afrixnli/anli prompt/en-direct", "afrixnli/anli prompt/translate"]
    cases += [valued(folder, "utils.doc_to_target", labels) for folder in folders]
    pro = [{"question": "Q?", "options": [" a ", "b\n"], "cot_content": "A: Let's think step by step. It is a. A: Let's"},
           {"question": " Q", "options": [str(n) for n in range(10)], "cot_content": "None"}]
    cases += [valued(folder, f"utils.{name}", pro) for folder in ("mmlu_pro", "mmlu-pro-plus")
              for name in ("doc_to_text", "fewshot_to_text", "fewshot_to_target")]
    print("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]")


if __name__ == "__main__":
    main()
