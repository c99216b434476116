//! Metrics, aggregations and standard errors against vectors of lm-eval.

use std::collections::BTreeSet;

use harness_metrics::{
    Answer, Bleu, ChoiceAnswers, Chrf, Classification, ExactMatch, ExactMatchOptions, Gold, Matthews, Metric, Reads,
    StandardError, Statistic, Ter, brier_score, byte_perplexity_stats, confusion_stats, lm_eval, mean_stats,
    perplexity_stats, softmax, token_perplexity_stats, word_count,
};
use harness_test_support::{Case, close, float, vectors};
use serde_json::{Map, Value};

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| float(number).unwrap()).collect()
}

fn check(case: &Case, name: &str, found: f64, expected: &Value) {
    let expected = float(expected).unwrap();
    assert!(close(found, expected, 1e-9), "{}: {name}: {found}, expected {expected}", case.id);
}

#[test]
fn exact_match_options() {
    let Some(cases) = vectors("exact_match_options") else { return };
    let mut checked = 0;
    for case in &cases {
        let options: Map<String, Value> = case
            .input
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "prediction" | "reference"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let options: ExactMatchOptions = serde_json::from_value(Value::Object(options)).unwrap();
        let text = |name: &str| case.input[name].as_str().unwrap();
        let equal = ExactMatch::new(options).unwrap().matches(text("prediction"), &[text("reference")]).unwrap();
        check(case, "exact_match", f64::from(u8::from(equal)), &case.expected);
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn multiple_choice() {
    let Some(cases) = vectors("mc_process_results") else { return };
    let (mut checked, mut missing) = (0, 0);
    for case in &cases {
        let choices = strings(&case.input["choices"]);
        let greedy: Vec<bool> =
            case.input["is_greedy"].as_array().unwrap().iter().map(|g| g.as_bool().unwrap()).collect();
        let loglikelihoods = floats(&case.input["lls"]);
        let gold = Gold::from_value(&case.input["gold"], &choices);
        let answers = ChoiceAnswers {
            choices: &choices,
            loglikelihoods: &loglikelihoods,
            is_greedy: &greedy,
            unconditional: None,
            gold: &gold,
            classes: choices.len(),
        };
        let stats = |name: &str| {
            let scorer = Metric::of(name).unwrap().configure(Reads::Choices, &Value::Null).unwrap();
            scorer.stats(&Answer::Choices(&answers)).unwrap().unwrap()
        };
        for name in ["acc", "acc_norm", "acc_bytes", "exact_match"] {
            check(case, name, stats(name)[0], &case.expected[name]);
        }
        check(case, "predicted", answers.predicted().unwrap() as f64, &case.expected["f1"][1]);
        let expected_gold = match &gold {
            Gold::One(index) => *index as f64,
            _ => -100.0,
        };
        check(case, "gold", expected_gold, &case.expected["f1"][0]);
        for (found, expected) in
            softmax(&loglikelihoods).iter().zip(case.expected["brier_score"][1].as_array().unwrap())
        {
            check(case, "probabilities", *found, expected);
        }
        assert_eq!(stats("brier_score") == [0.0, 0.0], gold.is_missing(), "{}", case.id);
        missing += usize::from(gold.is_missing());
        checked += 1;
    }
    assert_eq!(checked, cases.len());
    assert!(missing < checked);
}

#[test]
fn word_and_byte_counts() {
    let Some(cases) = vectors("word_byte_counts") else { return };
    let mut checked = 0;
    for case in &cases {
        let text = case.input["text"].as_str().unwrap();
        check(case, "words", word_count(text) as f64, &case.expected["words"]);
        check(case, "bytes", byte_perplexity_stats(0.0, text)[1], &case.expected["bytes"]);
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn aggregations_and_standard_errors() {
    let Some(cases) = vectors("lmeval_metrics") else { return };
    let mut seen = BTreeSet::new();
    for case in &cases {
        let function = case.input["fn"].as_str().unwrap();
        match function {
            "mean_stderr" => check_mean(case),
            "aggregate" => check_group(case),
            "perplexity" => check_perplexity(case),
            "weighted_perplexity/bits_per_byte" => check_weighted(case),
            "f1/mcc" => check_classes(case),
            "brier_score" => check_brier(case),
            "bootstrap_stderr" => check_bootstrap(case),
            "bleu/chrf/ter aggregate + bootstrap_stderr(100)" => check_corpus_bootstrap(case),
            other => panic!("{}: unknown function {other}", case.id),
        }
        seen.insert(function.to_owned());
    }
    assert!(!seen.is_empty());
}

fn check_mean(case: &Case) {
    let values = floats(&case.input["x"]);
    let sums = Statistic::Mean.sum(values.iter().map(|&value| mean_stats(value)));
    check(case, "mean", Statistic::Mean.value(&sums), &case.expected["mean"]);
    check(case, "nanmean", lm_eval::nanmean(&values), &case.expected["mean"]);
    check(case, "stderr", lm_eval::mean_stderr(&values).unwrap(), &case.expected["stderr"]);
    check(case, "median", lm_eval::median(&values), &case.expected["median"]);
}

fn check_group(case: &Case) {
    let values = floats(&case.input["metrics"]);
    let stderrs: Vec<Option<f64>> = floats(&case.input["stderrs"]).into_iter().map(Some).collect();
    let sizes: Vec<usize> = floats(&case.input["sizes"]).into_iter().map(|size| size as usize).collect();
    check(case, "weighted", lm_eval::aggregate_subtasks(&values, &sizes, true), &case.expected["weighted"]);
    check(case, "unweighted", lm_eval::aggregate_subtasks(&values, &sizes, false), &case.expected["unweighted"]);
    check(case, "pooled_stderr", lm_eval::pooled_stderr(&stderrs, &sizes).unwrap(), &case.expected["pooled_stderr"]);
}

fn check_perplexity(case: &Case) {
    let sums = Statistic::Perplexity.sum(floats(&case.input["items"]).into_iter().map(perplexity_stats));
    check(case, "perplexity", Statistic::Perplexity.value(&sums), &case.expected);
}

fn check_weighted(case: &Case) {
    let items: Vec<Vec<f64>> = case.input["items"].as_array().unwrap().iter().map(floats).collect();
    let sums = Statistic::Perplexity.sum(items.iter().map(|item| token_perplexity_stats(item[0], item[1] as usize)));
    check(case, "weighted_perplexity", Statistic::Perplexity.value(&sums), &case.expected["weighted_perplexity"]);
    check(case, "bits_per_byte", Statistic::BitsPerByte.value(&sums), &case.expected["bits_per_byte"]);
}

fn check_classes(case: &Case) {
    let pairs: Vec<Vec<f64>> = case.input["items"].as_array().unwrap().iter().map(floats).collect();
    let documents = pairs.iter().map(|pair| confusion_stats(2, pair[0] as usize, Some(pair[1] as usize)));
    let f1 = Classification::binary_f1().statistic();
    let sums = f1.sum(documents);
    check(case, "f1", f1.value(&sums), &case.expected["f1"]);
    check(case, "mcc", Statistic::Matthews(Matthews { classes: 2 }).value(&sums), &case.expected["mcc"]);
}

fn check_brier(case: &Case) {
    let items = case.input["items"].as_array().unwrap();
    let scores = items.iter().map(|item| brier_score(&floats(&item[1]), item[0].as_u64().unwrap() as usize));
    let sums = Statistic::Mean.sum(scores.map(mean_stats));
    check(case, "brier_score", Statistic::Mean.value(&sums), &case.expected);
}

fn check_bootstrap(case: &Case) {
    let values = floats(&case.input["x"]);
    let iterations = case.input["iters"].as_u64().unwrap() as usize;
    let found = match case.input["stat"].as_str().unwrap() {
        "perplexity" => {
            let documents: Vec<Vec<f64>> = values.iter().map(|&value| perplexity_stats(value)).collect();
            lm_eval::bootstrap_stderr_of_sums(&Statistic::Perplexity, &documents, iterations)
        }
        "median" => lm_eval::bootstrap_stderr(values.len(), iterations, |drawn| {
            lm_eval::median(&drawn.iter().map(|&i| values[i]).collect::<Vec<_>>())
        }),
        other => panic!("{}: unknown statistic {other}", case.id),
    };
    check(case, "stderr", found.unwrap(), &case.expected);
}

fn check_corpus_bootstrap(case: &Case) {
    let items: Vec<Vec<String>> = case.input["items_ref_pred"].as_array().unwrap().iter().map(strings).collect();
    let (bleu, chrf, ter) = (Bleu::default(), Chrf::default(), Ter::default());
    let of = |stats: &dyn Fn(&str, &str) -> Vec<f64>| -> Vec<Vec<f64>> {
        items.iter().map(|item| stats(&item[1], &item[0])).collect()
    };
    for (name, statistic, documents) in [
        ("bleu", bleu.statistic(), of(&|hypothesis, reference| bleu.stats(hypothesis, &[reference]))),
        ("chrf", chrf.statistic(), of(&|hypothesis, reference| chrf.stats(hypothesis, &[reference]))),
        ("ter", ter.statistic(), of(&|hypothesis, reference| ter.stats(hypothesis, &[reference]))),
    ] {
        check(case, name, statistic.value(&statistic.sum(&documents)), &case.expected[name]);
        let scorer = Metric::of(name).unwrap().configure(Reads::Text, &Value::Null).unwrap();
        let StandardError::Bootstrap { most: iterations } = scorer.standard_error() else { panic!("{name}") };
        let found = lm_eval::bootstrap_stderr_of_sums(&statistic, &documents, iterations).unwrap();
        if let Some(expected) = case.expected.get(format!("{name}_stderr")) {
            check(case, "stderr", found, expected);
        }
    }
}
