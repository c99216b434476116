//! ROUGE and its stemmer against vectors of rouge-score and nltk.

use harness_metrics::{Rouge, RougeScore, RougeType, porter_stem, rouge_tokens};
use harness_test_support::{Case, close, float, vectors};
use serde_json::Value;

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn rouge(case: &Case) -> (Vec<String>, Rouge) {
    let names: Vec<String> = case.expected.as_object().unwrap().keys().cloned().collect();
    let types: Vec<RougeType> = names.iter().map(|name| name.parse().unwrap()).collect();
    (names, Rouge::new(types, case.input["use_stemmer"].as_bool().unwrap()))
}

fn check(case: &Case, names: &[String], scores: &[RougeScore]) {
    assert_eq!(names.len(), scores.len());
    for (name, score) in names.iter().zip(scores) {
        let fields = [("precision", score.precision), ("recall", score.recall), ("fmeasure", score.fmeasure)];
        for (field, found) in fields {
            let expected = float(&case.expected[name][field]).unwrap();
            assert!(close(found, expected, 1e-9), "{}: {name}.{field}: {found}, expected {expected}", case.id);
        }
    }
}

#[test]
fn scores() {
    let Some(cases) = vectors("rouge") else { return };
    let mut checked = 0;
    for case in &cases {
        let (names, rouge) = rouge(case);
        let text = |name: &str| case.input[name].as_str().unwrap();
        check(case, &names, &rouge.score(text("target"), text("prediction")));
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn several_targets() {
    let Some(cases) = vectors("rouge_multi") else { return };
    let mut checked = 0;
    for case in &cases {
        let (names, rouge) = rouge(case);
        let prediction = case.input["prediction"].as_str().unwrap();
        check(case, &names, &rouge.score_multi(&strings(&case.input["targets"]), prediction));
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn tokens() {
    let Some(cases) = vectors("rouge_tokens") else { return };
    let mut checked = 0;
    for case in &cases {
        let found = rouge_tokens(case.input["text"].as_str().unwrap(), case.input["use_stemmer"].as_bool().unwrap());
        assert_eq!(found, strings(&case.expected["tokens"]), "{}", case.id);
        checked += 1;
    }
    assert_eq!(checked, cases.len());
}

#[test]
fn stemmer() {
    let Some(cases) = vectors("porter_stemmer_nltk") else { return };
    let (mut checked, mut words) = (0, 0);
    for case in &cases {
        let expected = strings(&case.expected["stems"]);
        for (word, stem) in strings(&case.input["words"]).iter().zip(&expected) {
            assert_eq!(porter_stem(word), *stem, "{}: {word}", case.id);
            words += 1;
        }
        checked += 1;
    }
    assert_eq!(checked, cases.len());
    assert!(words > checked);
}
