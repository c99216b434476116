"""lm-eval's clients against a server: lm_eval_client.py URL MODEL TOKENIZER TASKS. Prints the results as JSON.

TASKS is a folder of task definitions whose data lie beside them. Texts are scored and continued through /completions, with
the tokenizer of the folder TOKENIZER; the task toy_answer is answered through /chat/completions as well.
"""

import json
import os
import sys

import lm_eval
from lm_eval.tasks import TaskManager


def main(url, model, tokenizer, tasks):
    os.chdir(tasks)
    manager = TaskManager(include_path=tasks, include_defaults=False)
    common = {"model": model, "num_concurrent": 4, "max_retries": 1, "max_length": 256}

    def results(client, address, names, chat, **arguments):
        evaluated = lm_eval.simple_evaluate(
            model=client,
            model_args={**common, "base_url": url + address, **arguments},
            tasks=names,
            task_manager=manager,
            bootstrap_iters=0,
            apply_chat_template=chat,
            log_samples=False,
        )
        return evaluated["results"]

    completions = results(
        "local-completions",
        "/completions",
        ["toy_choice", "toy_answer", "toy_text"],
        False,
        tokenizer=tokenizer,
        tokenizer_backend="huggingface",
        add_bos_token=True,
    )
    chat = results("local-chat-completions", "/chat/completions", ["toy_answer"], True)
    print(json.dumps({"completions": completions, "chat": chat}))


main(*sys.argv[1:])
