//! The functions against what lm-eval's give, as written by `tests/tools/native_functions.py`.

use harness_metrics::{Statistic, confusion_stats};
use harness_store::Row;
use serde_json::Value;

use super::{Native, find};
use crate::{metric, task::OutputType, yaml};

/// The cases, each with the function that its task files name.
fn cases() -> Vec<(Value, Native)> {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../tests/data/native.json")).unwrap();
    let found = |case: Value| {
        let file = format!("tasks/{}/x.yaml", case["folder"].as_str().unwrap());
        let node = yaml::parse(&file, &format!("x: !function {}\n", case["function"].as_str().unwrap())).unwrap();
        let native = find(node.get("x").unwrap(), Some("x")).unwrap_or_else(|| panic!("{file}: {}", case["function"]));
        (case, native)
    };
    cases.into_iter().map(found).collect()
}

fn rows(case: &Value, key: &str) -> Vec<Row> {
    case[key].as_array().unwrap().iter().map(|row| row.as_object().unwrap().clone()).collect()
}

#[test]
fn documents_and_fields() {
    let (mut documents, mut values) = (0, 0);
    for (case, native) in cases() {
        match native {
            Native::Field(function) => {
                let found: Vec<Value> = rows(&case, "rows").iter().map(|row| function(row).unwrap()).collect();
                assert_eq!(Value::from(found), case["values"], "{case}");
                values += 1;
            }
            Native::Option { .. } => {}
            _ => {
                let process = native.process_docs().unwrap();
                let found = rows(&case, "rows").into_iter().map(|row| process.apply(row));
                let found: Vec<Row> = found.filter_map(Result::unwrap).collect();
                assert_eq!(found, rows(&case, "documents"), "{case}");
                documents += 1;
            }
        }
    }
    assert_eq!((documents, values), (15, 18));
}

#[test]
fn weighted_f1() {
    let text = "m:\n- metric: f1\n  aggregation: !function utils.weighted_f1_score\n  ignore_case: true\n";
    let node = yaml::parse("x.yaml", text).unwrap();
    let yaml::Yaml::List(list) = &node.get("m").unwrap().value else { panic!("no list") };
    let metrics = metric::read(Some(list), OutputType::MultipleChoice, &node.at).unwrap();
    let mut seen = 0;
    for (case, _) in cases().iter().filter(|(_, native)| matches!(native, Native::Option { .. })) {
        let classes = case["classes"].as_u64().unwrap() as usize;
        let stats = case["pairs"].as_array().unwrap().iter().map(|pair| {
            let class = |at: usize| pair[at].as_u64().unwrap() as usize;
            confusion_stats(classes, class(0), Some(class(1)))
        });
        let statistic: Statistic = metrics[0].scorer.statistic(classes);
        let (found, expected) = (statistic.value(&statistic.sum(stats)), case["value"].as_f64().unwrap());
        assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
        seen += 1;
    }
    assert_eq!(seen, 6);
}
