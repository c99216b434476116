//! Requests against those that lm-eval built for the same definitions, documents and options.

use crate::common::{ToyTemplate, arguments, rows, task};
use harness_core::Request;
use harness_tasks::{BuildOptions, MemoryData, Task};
use harness_test_support::vectors;

#[test]
fn requests_equal_lm_evals() {
    let Some(cases) = vectors("lmeval_requests") else { return };
    let mut compared = 0;
    for case in &cases {
        let input = &case.input;
        let mut data = MemoryData::default();
        for (split, docs) in input["docs"].as_object().unwrap() {
            data = data.with(split, rows(docs));
        }
        let mut config = input["config"].clone();
        // The definitions say num_fewshot 0, which would fix it; the reference ran with the number of the case.
        config["num_fewshot"] = input["num_fewshot"].clone();
        let task = task(&config, data);
        let mode = input["mode"].as_str().unwrap();
        let options = BuildOptions {
            num_fewshot: input["num_fewshot"].as_u64().map(|n| n as usize),
            fewshot_seed: input["fewshot_seed"].as_i64().unwrap(),
            system_instruction: input["system_instruction"].as_str().map(str::to_owned),
            apply_chat_template: mode.starts_with("chat"),
            fewshot_as_multiturn: mode == "chat_multiturn" || mode == "chat+system",
            ..BuildOptions::default()
        };
        let prepared = task.build(&options, Some(&ToyTemplate)).unwrap();
        let built: Vec<(usize, &Request)> =
            prepared.documents.iter().flat_map(|d| d.requests.iter().map(|r| (d.doc.index, r))).collect();
        let expected = case.expected["requests"].as_array().unwrap();
        assert_eq!(built.len(), expected.len(), "{} {}", case.id, case.group);
        for ((doc, request), expected) in built.into_iter().zip(expected) {
            assert_eq!(doc as u64, expected["doc_id"].as_u64().unwrap());
            assert_eq!(request.kind(), expected["type"]);
            let texts: Vec<&str> = expected["args"].as_array().unwrap().iter().filter_map(|a| a.as_str()).collect();
            assert_eq!(arguments(request), texts, "{} {} {mode}", case.id, case.group);
            if let Request::Generate { stop, sampling, .. } = request {
                assert_eq!(serde_json::json!(stop), expected["args"][1]["until"]);
                assert!(sampling.is_greedy());
            }
            compared += 1;
        }
    }
    assert!(compared >= cases.len());
}
