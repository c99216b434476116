//! Scores of documents and groups against lm-eval's.

use crate::common::{likelihood, rolling, rows, task};
use harness_tasks::{Aggregate, BuildOptions, Gold, MemoryData, Task};
use harness_test_support::{close, float, vectors};
use serde_json::{Value, json};

#[test]
fn multiple_choice_scores_equal_lm_evals() {
    let Some(cases) = vectors("mc_process_results") else { return };
    for case in &cases {
        let names = ["acc", "acc_norm", "acc_bytes", "exact_match", "brier_score", "f1"];
        let metrics: Vec<Value> = names.iter().map(|name| json!({"metric": name})).collect();
        let config = json!({"task": "t", "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "q",
            "doc_to_choice": "choices", "doc_to_target": "gold", "metric_list": metrics});
        let doc = json!([{"q": "?", "choices": case.input["choices"], "gold": case.input["gold"]}]);
        let task = task(&config, MemoryData::default().with("test", rows(&doc)));
        let prepared = task.build(&BuildOptions::default(), None).unwrap();
        let item = &prepared.documents[0];
        let lls = case.input["lls"].as_array().unwrap();
        let greedy = case.input["is_greedy"].as_array().unwrap();
        let responses: Vec<_> =
            lls.iter().zip(greedy).map(|(ll, g)| likelihood(float(ll).unwrap(), g.as_bool().unwrap())).collect();
        let scored = task.score(item, &responses).unwrap();
        for score in &scored.scores {
            let expected = &case.expected[&score.key.metric];
            match score.key.metric.as_str() {
                "f1" => {
                    let (gold, predicted) = (expected[0].as_i64().unwrap(), expected[1].as_u64().unwrap() as usize);
                    let classes = item.choices.len().max(2);
                    let place = score.stats.iter().position(|&x| x == 1.0);
                    assert_eq!(
                        place,
                        usize::try_from(gold).ok().map(|gold| gold * (classes + 1) + predicted),
                        "{}",
                        case.id
                    );
                }
                "brier_score" => {
                    let probabilities: Vec<f64> =
                        expected[1].as_array().unwrap().iter().map(|p| float(p).unwrap()).collect();
                    match usize::try_from(expected[0].as_i64().unwrap()) {
                        Ok(gold) => {
                            let brier: f64 = probabilities
                                .iter()
                                .enumerate()
                                .map(|(i, p)| (p - f64::from(u8::from(i == gold))).powi(2))
                                .sum();
                            assert!(close(score.stats[0], brier, 1e-12), "{}", case.id);
                        }
                        Err(_) => assert_eq!(score.stats, [0.0, 0.0]),
                    }
                }
                _ => assert_eq!(score.stats[0], expected.as_f64().unwrap(), "{} {}", case.id, score.key),
            }
        }
        let outside = matches!(item.gold, Gold::Choice(None));
        assert_eq!(prepared.warnings.len(), usize::from(outside), "{}", case.id);
    }
}

#[test]
fn words_and_bytes_are_counted_on_the_text() {
    let Some(cases) = vectors("word_byte_counts") else { return };
    let config = json!({"task": "t", "output_type": "loglikelihood_rolling", "test_split": "test", "doc_to_text": "",
        "doc_to_target": "text"});
    for case in &cases {
        let task = task(&config, MemoryData::default().with("test", rows(&json!([case.input]))));
        let item = task.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
        let scored = task.score(&item, &[rolling(-3.0)]).unwrap();
        let (words, bytes) = (case.expected["words"].as_f64().unwrap(), case.expected["bytes"].as_f64().unwrap());
        let stats: Vec<&[f64]> = scored.scores.iter().map(|score| score.stats.as_slice()).collect();
        assert_eq!(stats, [[-3.0, words], [-3.0, bytes], [-3.0, bytes]], "{}", case.id);
    }
}

#[test]
fn group_values_equal_lm_evals() {
    let Some(cases) = vectors("lmeval_metrics") else { return };
    let list = |value: &Value| -> Vec<f64> { value.as_array().unwrap().iter().map(|x| float(x).unwrap()).collect() };
    for case in cases.iter().filter(|case| case.group == "group") {
        let sizes: Vec<usize> = list(&case.input["sizes"]).into_iter().map(|n| n as usize).collect();
        let stderrs: Vec<Option<f64>> = list(&case.input["stderrs"]).into_iter().map(Some).collect();
        for (weight_by_size, name) in [(true, "weighted"), (false, "unweighted")] {
            let aggregate = Aggregate { metric: "acc".into(), filters: Vec::new(), weight_by_size };
            let value = aggregate.value(&list(&case.input["metrics"]), &sizes);
            assert!(close(value, float(&case.expected[name]).unwrap(), 1e-12), "{}", case.id);
            let stderr = aggregate.stderr(&stderrs, &sizes).unwrap();
            assert!(close(stderr, float(&case.expected["pooled_stderr"]).unwrap(), 1e-12), "{}", case.id);
        }
    }
}

#[test]
fn mutual_information_asks_twice_and_subtracts() {
    let config = json!({"task": "t", "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "q",
        "doc_to_choice": ["a", "bb"], "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_mutual_info"}]});
    let task = task(&config, MemoryData::default().with("test", rows(&json!([{"q": "Q", "gold": 1}]))));
    let item = task.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
    assert_eq!(item.requests.len(), 4);
    let responses = [likelihood(-1.0, true), likelihood(-2.0, false), likelihood(-1.0, false), likelihood(-9.0, false)];
    let scored = task.score(&item, &responses).unwrap();
    assert_eq!(scored.scores.iter().map(|s| s.stats[0]).collect::<Vec<_>>(), [0.0, 1.0]);
    assert!(task.score(&item, &responses[..2]).unwrap_err().to_string().contains("expected 4 responses, found 2"));
}

#[test]
fn multiple_inputs_and_targets() {
    let inputs = json!({"task": "t", "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "label",
        "doc_to_choice": "{{[a, b]}}", "doc_to_target": "rest", "num_fewshot": 1, "training_split": "train"});
    let doc = json!([{"label": 1, "a": "The cat sat", "b": "The dog sat", "rest": "on the mat."}]);
    let data = MemoryData::default().with("test", rows(&doc)).with("train", rows(&doc));
    let task_inputs = task(&inputs, data);
    let item = task_inputs.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
    let texts: Vec<Vec<String>> = item.requests.iter().map(crate::common::arguments).collect();
    let shot = "The dog sat on the mat.\n\n";
    let expected =
        [[format!("{shot}The cat sat"), " on the mat.".into()], [format!("{shot}The dog sat"), " on the mat.".into()]];
    assert_eq!(texts, expected);
    assert_eq!(item.gold, Gold::Choice(Some(1)));

    let targets = json!({"task": "t", "test_split": "test", "doc_to_text": "q", "doc_to_target": "{{answers}}",
        "metric_list": [{"metric": "exact_match"}, {"metric": "token_f1"}]});
    let doc = json!([{"q": "?", "answers": ["one", "it's two"]}]);
    let task_targets = task(&targets, MemoryData::default().with("test", rows(&doc)));
    let item = task_targets.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
    assert_eq!(item.gold, Gold::Texts(vec!["one".into(), "it's two".into()]));
    let scored = task_targets.score(&item, &[crate::common::generation("it's two")]).unwrap();
    assert!(scored.scores.iter().all(|score| score.stats == [1.0, 1.0]));
}
