//! BLEU against vectors of sacreBLEU, TensorFlow's NMT script and nltk.

use harness_metrics::{Bleu, BleuFormula, BleuTokenizer, HfBleu, NltkBleu, Smoothing, Statistic};
use harness_test_support::{Case, close, float, vectors};
use serde_json::Value;

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| float(number).unwrap()).collect()
}

/// References by stream (`[k][i]`, null where missing) as references by document.
fn by_document(streams: &Value) -> Vec<Vec<String>> {
    let streams = streams.as_array().unwrap();
    (0..streams[0].as_array().unwrap().len())
        .map(|i| streams.iter().filter_map(|stream| stream[i].as_str().map(str::to_owned)).collect())
        .collect()
}

fn reference_count(references: &[Vec<String>]) -> Option<usize> {
    let count = references[0].len();
    references.iter().all(|references| references.len() == count).then_some(count)
}

fn settings(value: &Value) -> Bleu {
    let mut bleu = Bleu::default();
    let method = value["smooth_method"].as_str().unwrap_or("exp");
    bleu.formula.smoothing = Smoothing::from_name(method, float(&value["smooth_value"])).unwrap();
    for (name, value) in value.as_object().unwrap() {
        match name.as_str() {
            "tokenize" => bleu.tokenizer = value.as_str().unwrap().parse().unwrap(),
            "lowercase" => bleu.lowercase = value.as_bool().unwrap(),
            "effective_order" => bleu.formula.effective_order = value.as_bool().unwrap(),
            "max_ngram_order" => bleu.formula.max_order = value.as_u64().unwrap() as usize,
            "smooth_method" | "smooth_value" => {}
            _ => panic!("unknown setting {name}"),
        }
    }
    bleu
}

fn check(case: &Case, name: &str, found: &[f64], expected: &[f64]) {
    let equal = found.len() == expected.len() && found.iter().zip(expected).all(|(&a, &b)| close(a, b, 1e-9));
    assert!(equal, "{}: {name}: {found:?}, expected {expected:?}", case.id);
}

fn check_score(case: &Case, score: &harness_metrics::BleuScore) {
    for (name, found) in [("counts", &score.counts), ("totals", &score.totals), ("precisions", &score.precisions)] {
        check(case, name, found, &floats(&case.expected[name]));
    }
    for (name, found) in
        [("score", score.score), ("bp", score.bp), ("sys_len", score.sys_len), ("ref_len", score.ref_len)]
    {
        check(case, name, &[found], &[float(&case.expected[name]).unwrap()]);
    }
}

#[test]
fn tokenizers() {
    let Some(cases) = vectors("bleu_tokenizers") else { return };
    let mut checked = 0;
    for case in &cases {
        let tokenizer: BleuTokenizer = case.input["tokenize"].as_str().unwrap().parse().unwrap();
        let found = tokenizer.tokenize(case.input["text"].as_str().unwrap());
        assert_eq!(found, case.expected["tokenized"].as_str().unwrap(), "{}", case.id);
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn corpus() {
    let Some(cases) = vectors("bleu_corpus") else { return };
    let mut checked = 0;
    for case in &cases {
        let bleu = settings(&case.input["settings"]);
        let (hypotheses, references) = (strings(&case.input["hypotheses"]), by_document(&case.input["references"]));
        check_score(case, &bleu.corpus(&hypotheses, &references));
        let signature = bleu.signature(reference_count(&references));
        assert_eq!(signature, case.expected["signature"].as_str().unwrap(), "{}", case.id);
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn sentence() {
    let Some(cases) = vectors("bleu_sentence") else { return };
    let mut checked = 0;
    for case in &cases {
        let bleu = settings(&case.input["settings"]);
        let hypothesis = case.input["hypothesis"].as_str().unwrap();
        check_score(case, &bleu.sentence_score(hypothesis, &strings(&case.input["references"])));
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn from_counts() {
    let Some(cases) = vectors("bleu_from_counts") else { return };
    let mut checked = 0;
    for case in &cases {
        let input = &case.input;
        let formula = BleuFormula {
            smoothing: Smoothing::from_name(input["smooth_method"].as_str().unwrap(), float(&input["smooth_value"]))
                .unwrap(),
            max_order: input["correct"].as_array().unwrap().len(),
            effective_order: input["effective_order"].as_bool().unwrap(),
        };
        let mut sums = vec![float(&input["sys_len"]).unwrap(), float(&input["ref_len"]).unwrap()];
        sums.extend(floats(&input["correct"]));
        sums.extend(floats(&input["total"]));
        let score = formula.score(&sums);
        check(case, "score", &[score.score], &[float(&case.expected["score"]).unwrap()]);
        check(case, "value", &[Statistic::Bleu(formula).value(&sums)], &[score.score]);
        check(case, "bp", &[score.bp], &[float(&case.expected["bp"]).unwrap()]);
        check(case, "precisions", &score.precisions, &floats(&case.expected["precisions"]));
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn hugging_face_and_nltk() {
    let Some(cases) = vectors("bleu_hf_evaluate_and_nltk") else { return };
    let (mut checked, mut values) = (0, 0);
    for case in &cases {
        let predictions = strings(&case.input["predictions"]);
        let references: Vec<Vec<String>> = case.input["references"].as_array().unwrap().iter().map(strings).collect();
        for (name, expected) in case.expected.as_object().unwrap() {
            if name.starts_with("hf_evaluate_bleu") {
                check_hugging_face(case, name, &predictions, &references, expected);
            } else {
                check_nltk(case, name, &predictions, &references, float(expected).unwrap());
            }
            values += 1;
        }
        checked += 1;
    }
    assert_eq!(checked, cases.len());
    assert!(values >= 2 * checked);
}

fn check_hugging_face(case: &Case, name: &str, predictions: &[String], references: &[Vec<String>], expected: &Value) {
    let max_order = name.rsplit('=').next().unwrap().parse().unwrap();
    let bleu = HfBleu { max_order, smooth: name.contains("smooth=True") };
    let documents: Vec<Vec<f64>> = predictions.iter().zip(references).map(|(p, r)| bleu.stats(p, r)).collect();
    let sums = bleu.statistic().sum(&documents);
    let score = bleu.score(&sums);
    if expected.get("error").is_some() {
        assert!(score.bleu.is_nan(), "{}: {name}: {}, expected a division by zero", case.id, score.bleu);
        return;
    }
    check(case, name, &[bleu.statistic().value(&sums)], &[float(&expected["bleu"]).unwrap()]);
    check(case, name, &score.precisions, &floats(&expected["precisions"]));
    for (field, found) in [
        ("brevity_penalty", score.brevity_penalty),
        ("length_ratio", score.length_ratio),
        ("translation_length", score.translation_length),
        ("reference_length", score.reference_length),
    ] {
        check(case, field, &[found], &[float(&expected[field]).unwrap()]);
    }
}

fn check_nltk(case: &Case, name: &str, predictions: &[String], references: &[Vec<String>], expected: f64) {
    let (scope, method) = name.split_once(' ').unwrap();
    let bleu = NltkBleu { smoothing: method.parse().unwrap(), ..NltkBleu::default() };
    let documents = if scope == "nltk_sentence_bleu_first" { 1 } else { predictions.len() };
    let cut = |text: &String| BleuTokenizer::V13a.tokenize(text).into_owned();
    let stats: Vec<Vec<f64>> = (0..documents)
        .map(|i| {
            let prediction = cut(&predictions[i]);
            let references: Vec<String> = references[i].iter().map(cut).collect();
            let words: Vec<Vec<&str>> = references.iter().map(|text| text.split_whitespace().collect()).collect();
            bleu.stats(&prediction.split_whitespace().collect::<Vec<_>>(), &words)
        })
        .collect();
    let found = bleu.statistic().value(&bleu.statistic().sum(&stats));
    check(case, name, &[found], &[expected]);
}
