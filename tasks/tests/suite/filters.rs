//! Filters and extraction against lm-eval's own runs.

use std::{path::Path, sync::Arc};

use crate::common::{generation, rows, task};
use harness_tasks::{AnswerOutcome, BuildOptions, DeclarativeTask, MemoryData, Registry, Task, postprocess_generation};
use harness_test_support::vectors;
use serde_json::{Value, json};

#[test]
fn filters_equal_lm_evals() {
    let Some(cases) = vectors("lmeval_filters") else { return };
    for case in &cases {
        let mut step = case.input["kwargs"].as_object().cloned().unwrap_or_default();
        step.insert("function".into(), case.input["filter"].clone());
        let responses: Vec<&str> = case.input["resps"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let config = json!({"task": "t", "test_split": "test", "doc_to_text": "q", "doc_to_target": "a",
            "repeats": responses.len(), "filter_list": [{"name": "f", "filter": [step]}],
            "metric_list": [{"metric": "exact_match"}]});
        let choices = case.input.get("choices").cloned().unwrap_or(json!([]));
        let doc = json!([{"q": "?", "a": "x", "choices": choices}]);
        let data = MemoryData::default().with("test", rows(&doc));
        if case.input["kwargs"]["k"].as_u64().is_some_and(|k| k > responses.len() as u64) {
            // lm-eval ends with an assertion.
            assert!(refusal(&config, data).contains("take_first_k with k"), "{}", case.id);
            continue;
        }
        let task = task(&config, data);
        let item = task.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
        let responses: Vec<_> = responses.into_iter().map(generation).collect();
        let scored = task.score(&item, &responses).unwrap();
        assert_eq!(scored.answers[0].value, case.expected, "{} {:?}", case.id, case.input);
    }
}

/// Why a definition is refused.
fn refusal(config: &Value, data: MemoryData) -> String {
    let mut registry = Registry::default();
    let added = registry.add_definition(Path::new("task.yaml"), &config.to_string());
    added.and_then(|()| registry.load_by_name("t", Arc::new(data)).map(drop)).unwrap_err().to_string()
}

fn gsm8k(kind: &str) -> DeclarativeTask {
    let row = json!([{"question": "?", "answer": "x"}]);
    let data = MemoryData::default().with("test", rows(&row)).with("train", Vec::new());
    Registry::builtin().unwrap().load_by_name(kind, Arc::new(data)).unwrap()
}

#[test]
fn gsm8k_answers_equal_lm_evals() {
    let tasks = [gsm8k("gsm8k"), gsm8k("gsm8k_cot")];
    let options = BuildOptions { num_fewshot: Some(0), ..BuildOptions::default() };
    let mut items: Vec<_> = tasks.iter().map(|task| task.build(&options, None).unwrap().documents.remove(0)).collect();
    for name in ["gsm8k_extraction", "gsm8k_extraction_edge"] {
        for case in &vectors(name).unwrap_or_default() {
            let which = usize::from(case.group == "gsm8k_cot");
            items[which].gold = harness_tasks::Gold::Text(case.input["target"].as_str().unwrap().to_owned());
            if let harness_core::Request::Generate { stop, .. } = &mut items[which].requests[0] {
                stop.clear();
            }
            let response = generation(case.input["response"].as_str().unwrap());
            let scored = tasks[which].score(&items[which], &[response]).unwrap();
            for (answer, score) in scored.answers.iter().zip(&scored.scores) {
                let expected = &case.expected[&answer.filter];
                assert_eq!(answer.value, expected["filtered"], "{} {}", case.id, answer.filter);
                assert_eq!(
                    score.stats,
                    [expected["exact_match"].as_f64().unwrap(), 1.0],
                    "{} {}",
                    case.id,
                    answer.filter
                );
                assert_eq!(score.key.filter, answer.filter);
                assert_eq!(score.parsed, answer.outcome == AnswerOutcome::Parsed);
                assert_eq!(score.parsed, answer.value != "[invalid]");
            }
        }
    }
}

#[test]
fn generations_are_cut_as_lm_eval_cuts_them() {
    let Some(cases) = vectors("generate_until_stops") else { return };
    for case in cases.iter().filter(|case| case.input["fn"] == "postprocess_generated_text") {
        let stop: Vec<String> = match &case.input["stop"] {
            Value::Array(items) => items.iter().map(|s| s.as_str().unwrap().to_owned()).collect(),
            Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        };
        let text = case.input["generation"].as_str().unwrap();
        let cut = postprocess_generation(text, &stop, case.input["think_end_token"].as_str());
        assert_eq!(cut, case.expected, "{}", case.id);
    }
}

#[test]
fn generation_settings_mean_what_they_mean_in_lm_eval() {
    let Some(cases) = vectors("generate_until_stops") else { return };
    let mut compared = 0;
    for case in cases.iter().filter(|case| case.input["fn"] == "normalize_gen_kwargs") {
        let config = json!({"task": "t", "test_split": "test", "doc_to_text": "q", "doc_to_target": "a",
            "generation_kwargs": case.input["gen_kwargs"]});
        let data = MemoryData::default().with("test", rows(&json!([{"q": "?", "a": "x"}])));
        let kwargs = &case.input["gen_kwargs"];
        compared += 1;
        if kwargs["do_sample"] == true && kwargs["temperature"].as_f64() == Some(0.0) {
            // lm-eval passes both on, and transformers ends with an error.
            assert!(refusal(&config, data).contains("do_sample is true and temperature 0"), "{}", case.id);
            continue;
        }
        let task = task(&config, data);
        let item = task.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
        let harness_core::Request::Generate { stop, sampling, .. } = &item.requests[0] else { panic!("{}", case.id) };
        assert_eq!(sampling.max_new_tokens as u64, case.expected["max_gen_toks"].as_u64().unwrap(), "{}", case.id);
        assert_eq!(!sampling.is_greedy(), case.expected["do_sample"].as_bool().unwrap(), "{}", case.id);
        // A task without stop strings stops at the delimiter between examples.
        let until =
            if case.input["gen_kwargs"].get("until").is_some() { &case.expected["until"] } else { &json!(["\n\n"]) };
        assert_eq!(&json!(stop), until, "{}", case.id);
    }
    assert!(compared > 0);
}

/// A task that asks for several answers, drawn at random, with the outcomes of right and wrong ones.
fn repeated(more: &Value) -> Result<Vec<(Value, Vec<f64>)>, String> {
    let mut config = json!({"task": "t", "test_split": "test", "doc_to_text": "q", "doc_to_target": "a", "repeats": 4,
        "generation_kwargs": {"temperature": 0.5}});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut registry = Registry::default();
    registry.add_definition(Path::new("t.yaml"), &config.to_string()).map_err(|e| e.to_string())?;
    let data = MemoryData::default().with("test", rows(&json!([{"q": "?", "a": "x"}])));
    let task = registry.load_by_name("t", Arc::new(data)).map_err(|e| e.to_string())?;
    let item = task.build(&BuildOptions::default(), None).map_err(|e| e.to_string())?.documents.remove(0);
    let scored = task.score(&item, &["x", "y", "x", "x"].map(generation)).map_err(|e| e.to_string())?;
    Ok(scored.answers.into_iter().zip(scored.scores).map(|(answer, score)| (answer.value, score.stats)).collect())
}

#[test]
fn repeated_answers_are_all_scored_or_refused() {
    let filters = |filters: Value| repeated(&json!({"filter_list": [{"name": "f", "filter": filters}]}));
    assert_eq!(repeated(&json!({})).unwrap(), [(json!(["x", "y", "x", "x"]), vec![0.75, 1.0])]);
    assert_eq!(filters(json!([{"function": "majority_vote"}])).unwrap(), [(json!(["x"]), vec![1.0, 1.0])]);
    let two = json!([{"function": "take_first_k", "k": 2}]);
    assert_eq!(
        repeated(&json!({"filter_list": [{"name": "first two", "filter": two},
        {"name": "all", "filter": [{"function": "lowercase"}]}]}))
        .unwrap()[0]
            .1,
        [0.5, 1.0]
    );
    for (more, says) in [
        (
            json!({"filter_list": [{"name": "f", "filter": [{"function": "take_first"}]}]}),
            "look at the first answer only",
        ),
        (json!({"filter_list": [{"name": "f", "filter": two}]}), "look at the first 2 answers only"),
        (json!({"metric_list": [{"metric": "exact_match"}, {"metric": "bleu"}]}), "bleu takes one"),
        (json!({"repeats": 0}), "repeats must be an integer of at least 1"),
        (
            json!({"filter_list": [{"name": "f", "filter": [{"function": "majority_vote"},
                {"function": "take_first_k", "k": 2}]}]}),
            "take_first_k with k 2, but there is 1 answer",
        ),
        (
            json!({"filter_list": [{"name": "f", "filter": [{"function": "take_first"}, {"function": "majority_vote"}]}]}),
            "take_first has left one answer",
        ),
    ] {
        let message = repeated(&more).unwrap_err();
        assert!(message.contains(says), "{message}");
    }
    // Greedy answers are all the same: nothing is lost with those that are dropped.
    let greedy =
        json!({"generation_kwargs": {}, "filter_list": [{"name": "f", "filter": [{"function": "take_first"}]}]});
    assert_eq!(repeated(&greedy).unwrap(), [(json!("x"), vec![1.0, 1.0])]);
}

#[test]
fn answers_are_what_follows_the_thinking() {
    let config = json!({"task": "t", "test_split": "test", "doc_to_text": "q", "doc_to_target": "a",
        "generation_kwargs": {"until": ["Q:"]},
        "filter_list": [{"name": "f", "filter": [{"function": "regex", "regex_pattern": "([0-9]+)"},
            {"function": "take_first"}]}]});
    let task = task(&config, MemoryData::default().with("test", rows(&json!([{"q": "?", "a": "18"}]))));
    let answer = |mark: Option<&str>, text: &str| {
        let options = BuildOptions { think_end_token: mark.map(str::to_owned), ..BuildOptions::default() };
        let item = task.build(&options, None).unwrap().documents.remove(0);
        let scored = task.score(&item, &[generation(text)]).unwrap();
        let score = &scored.scores[0];
        (scored.answers[0].value.as_str().unwrap().to_owned(), scored.answers[0].outcome, score.stats[0], score.parsed)
    };
    let (mark, text) = (Some("</think>"), "<think>4? Q: 5?</think>\n\n18 Q: 3");
    assert_eq!(answer(mark, text), ("18".to_owned(), AnswerOutcome::Parsed, 1.0, true));
    assert_eq!(answer(None, text), ("4".to_owned(), AnswerOutcome::Parsed, 0.0, true));
    assert_eq!(answer(Some(""), text).0, "4", "an empty mark is none");
    assert_eq!(answer(mark, "18 Q: 3"), ("18".to_owned(), AnswerOutcome::Parsed, 1.0, true));
    let open = answer(mark, "<think>18?");
    assert_eq!(open, ("[invalid]".to_owned(), AnswerOutcome::CutInThinking, 0.0, true));
    assert_eq!(answer(mark, "none").1, AnswerOutcome::Fallback);
}

#[test]
fn exact_match_options_reach_the_metric() {
    let Some(cases) = vectors("exact_match_options") else { return };
    for case in &cases {
        let mut metric = case.input.as_object().unwrap().clone();
        let prediction = metric.remove("prediction").unwrap();
        let reference = metric.remove("reference").unwrap();
        metric.retain(|_, value| !value.is_null());
        metric.insert("metric".into(), json!("exact_match"));
        let config = json!({"task": "t", "test_split": "test", "doc_to_text": "q", "doc_to_target": "a",
            "metric_list": [metric], "generation_kwargs": {"until": []}});
        let doc = json!([{"q": "?", "a": reference}]);
        let task = task(&config, MemoryData::default().with("test", rows(&doc)));
        let item = task.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
        let scored = task.score(&item, &[generation(prediction.as_str().unwrap())]).unwrap();
        assert_eq!(scored.scores[0].stats, [case.expected.as_f64().unwrap(), 1.0], "{} {:?}", case.id, case.input);
    }
}

#[test]
fn a_costly_pattern_is_reported_and_scores_zero() {
    let config = json!({"task": "t", "test_split": "test", "doc_to_text": "q", "doc_to_target": "a",
        "filter_list": [{"name": "f", "filter": [
            {"function": "regex", "regex_pattern": "(?:a(?=a|!)|a(?!c))*d"}, {"function": "take_first"}]}]});
    let task = task(&config, MemoryData::default().with("test", rows(&json!([{"q": "?", "a": "x"}]))));
    let item = task.build(&BuildOptions::default(), None).unwrap().documents.remove(0);
    let scored = task.score(&item, &[generation(&("a".repeat(60) + "!d"))]).unwrap();
    assert_eq!(scored.answers[0].outcome, AnswerOutcome::PatternTooCostly);
    assert_eq!((scored.scores[0].stats.as_slice(), scored.scores[0].parsed), ([0.0, 1.0].as_slice(), false));
}
