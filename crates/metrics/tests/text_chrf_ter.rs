//! chrF and TER against vectors of sacreBLEU.

use harness_metrics::{Chrf, Ter};
use harness_test_support::{Case, close, float, vectors};
use serde_json::Value;

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// References by stream (`[k][i]`, null where missing) as references by document.
fn by_document(streams: &Value) -> Vec<Vec<String>> {
    let streams = streams.as_array().unwrap();
    (0..streams[0].as_array().unwrap().len())
        .map(|i| streams.iter().filter_map(|stream| stream[i].as_str().map(str::to_owned)).collect())
        .collect()
}

fn chrf_settings(value: &Value) -> Chrf {
    let mut chrf = Chrf::default();
    for (name, value) in value.as_object().unwrap() {
        match name.as_str() {
            "char_order" => chrf.formula.char_order = value.as_u64().unwrap() as usize,
            "word_order" => chrf.formula.word_order = value.as_u64().unwrap() as usize,
            "beta" => chrf.formula.beta = value.as_f64().unwrap(),
            "eps_smoothing" => chrf.formula.eps_smoothing = value.as_bool().unwrap(),
            "lowercase" => chrf.lowercase = value.as_bool().unwrap(),
            "whitespace" => chrf.whitespace = value.as_bool().unwrap(),
            _ => panic!("unknown setting {name}"),
        }
    }
    chrf
}

fn ter_settings(value: &Value) -> Ter {
    let mut ter = Ter::default();
    for (name, value) in value.as_object().unwrap() {
        match name.as_str() {
            "normalized" => ter.normalized = value.as_bool().unwrap(),
            "no_punct" => ter.no_punct = value.as_bool().unwrap(),
            "case_sensitive" => ter.case_sensitive = value.as_bool().unwrap(),
            _ => panic!("unknown setting {name}"),
        }
    }
    ter
}

fn check(case: &Case, name: &str, found: f64) {
    let expected = float(&case.expected[name]).unwrap();
    assert!(close(found, expected, 1e-9), "{}: {name}: {found}, expected {expected}", case.id);
}

fn check_signature(case: &Case, references: &[Vec<String>], signature: impl Fn(Option<usize>) -> String) {
    let Some(expected) = case.expected["signature"].as_str() else { return };
    let count = references[0].len();
    let count = references.iter().all(|references| references.len() == count).then_some(count);
    assert_eq!(signature(count), expected, "{}", case.id);
}

#[test]
fn chrf() {
    let Some(cases) = vectors("chrf") else { return };
    let mut checked = 0;
    for case in &cases {
        let chrf = chrf_settings(&case.input["settings"]);
        if case.input.get("hypotheses").is_some() {
            let references = by_document(&case.input["references"]);
            check(case, "score", chrf.corpus(&strings(&case.input["hypotheses"]), &references));
            check_signature(case, &references, |count| chrf.signature(count));
            assert_eq!(chrf.name(), case.expected["name"].as_str().unwrap(), "{}", case.id);
        } else {
            let hypothesis = case.input["hypothesis"].as_str().unwrap();
            check(case, "score", chrf.sentence_score(hypothesis, &strings(&case.input["references"])));
        }
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn ter() {
    let Some(cases) = vectors("ter") else { return };
    let mut checked = 0;
    for case in &cases {
        let ter = ter_settings(&case.input["settings"]);
        let (hypotheses, references) = (strings(&case.input["hypotheses"]), by_document(&case.input["references"]));
        let documents: Vec<Vec<f64>> = hypotheses.iter().zip(&references).map(|(h, r)| ter.stats(h, r)).collect();
        let sums = ter.statistic().sum(&documents);
        check(case, "num_edits", sums[0]);
        check(case, "ref_length", sums[1]);
        check(case, "score", ter.statistic().value(&sums));
        check(case, "score", ter.corpus(&hypotheses, &references));
        check_signature(case, &references, |count| ter.signature(count));
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}
