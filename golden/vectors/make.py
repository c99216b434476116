"""Makes metrics.json: inputs of this project's own, expected values from the reference implementations.

    pip install sacrebleu==2.6.0 rouge-score scipy statsmodels
    python golden/vectors/make.py > golden/vectors/metrics.json
"""

import importlib.metadata
import json
import math

import sacrebleu
from rouge_score import rouge_scorer
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

HYPOTHESES = [
    "On Friday Suven sold 2 spoons in Faistad.",
    "the miller ground nine sacks of rye before noon",
    "Nobody knew, at first, who had opened the gate!",
    "Éva paid 3,50 for the bread & went home.",
    "rain",
    "",
    "A letter came; it said: \"come at once\".",
]
REFERENCES = [
    "On Friday Suven sold two spoons at Faistad.",
    "before noon the miller had ground nine sacks of rye",
    "At first nobody knew who had opened the gate.",
    "Éva paid 3.50 for bread and went home.",
    "It rained all day.",
    "The page was empty.",
    "A letter came. It said \"come at once\".",
]
A = [0.31, 0.52, 0.48, 0.9, 0.11, 0.67, 0.33, 0.5, 0.72, 0.28, 0.64, 0.41]
B = [0.35, 0.5, 0.55, 0.93, 0.2, 0.61, 0.47, 0.58, 0.7, 0.39, 0.71, 0.4]
P = [0.001, 0.04, 0.03, 0.2, 0.012, 0.8]


def main():
    cases = []

    def add(metric, given, expected, tolerance=1e-9):
        cases.append({"metric": metric, "input": given, "expected": expected, "tolerance": tolerance})

    texts = {"hypotheses": HYPOTHESES, "references": REFERENCES}
    refs = [REFERENCES]
    for tokenizer in ["13a", "intl", "char", "none"]:
        bleu = sacrebleu.corpus_bleu(HYPOTHESES, refs, tokenize=tokenizer)
        add("bleu", {**texts, "tokenizer": tokenizer}, bleu.score)
    add("chrf", {**texts, "word_order": 0}, sacrebleu.corpus_chrf(HYPOTHESES, refs).score)
    add("chrf", {**texts, "word_order": 2}, sacrebleu.corpus_chrf(HYPOTHESES, refs, word_order=2).score)
    add("ter", texts, sacrebleu.corpus_ter(HYPOTHESES, refs).score)
    for stem in [False, True]:
        scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem)
        for hypothesis, reference in zip(HYPOTHESES, REFERENCES):
            score = scorer.score(reference, hypothesis)
            add("rouge", {"hypothesis": hypothesis, "reference": reference, "stemmer": stem},
                [score[name].fmeasure for name in ["rouge1", "rouge2", "rougeL"]])
    for b, c in [(0, 0), (3, 11), (10, 10), (40, 71), (0, 6)]:
        add("mcnemar", {"only_a": b, "only_b": c}, float(mcnemar([[5, b], [c, 5]], exact=True).pvalue))
    for k, n in [(0, 20), (13, 40), (100, 100), (311, 1000)]:
        add("wilson", {"successes": k, "n": n, "confidence": 0.95},
            [float(x) for x in proportion_confint(k, n, 0.05, "wilson")])
    for method, name in [("holm", "holm"), ("fdr_bh", "bh"), ("fdr_by", "by"), ("bonferroni", "bonferroni")]:
        add("correction", {"p": P, "method": name}, [float(p) for p in multipletests(P, 0.05, method)[1]])
    paired = stats.ttest_rel(B, A)
    add("paired_t", {"a": A, "b": B}, float(paired.pvalue))
    d = [y - x for x, y in zip(A, B)]
    mean, error = sum(d) / len(d), stats.sem(d)
    for margin in [0.05, 0.1]:
        upper = stats.t.sf((mean + margin) / error, len(d) - 1)
        lower = stats.t.sf((margin - mean) / error, len(d) - 1)
        add("tost", {"a": A, "b": B, "margin": margin}, float(max(upper, lower)))
    for p in [1e-6, 0.025, 0.5, 0.8]:
        add("normal_quantile", {"p": p}, float(stats.norm.ppf(p)))
        add("t_quantile", {"p": p, "df": 7.0}, float(stats.t.ppf(p, 7)))
    # Closed forms.
    add("perplexity", {"logprobs": [-12.5, -3.25, -40.0], "counts": [10, 2, 31]}, math.exp(55.75 / 43))
    versions = {name: importlib.metadata.version(name) for name in ["sacrebleu", "rouge-score", "scipy", "statsmodels"]}
    print(json.dumps({"versions": versions, "cases": cases}, indent=1, ensure_ascii=False))


main()
