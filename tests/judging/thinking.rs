//! Models behind a server that think before they answer.

use std::sync::Arc;

use harness_test_support::World;
use serde_json::{Value, json};

use super::{
    PROGRAM,
    server::{Server, scripted::Scripted},
};

const TASK: &str = r#"task: sum
dataset_path: json
dataset_kwargs:
  data_files:
    test: sum.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
generation_kwargs:
  until: ["Question:"]
filter_list:
  - name: first
    filter:
      - function: regex
        regex_pattern: "([0-9]+)"
      - function: take_first
metric_list:
  - metric: exact_match
"#;

/// A server whose model restates the question, with a wrong number, before it gives the right one; on documents with
/// `long` the thinking does not end.
fn thinking() -> (World, Server) {
    let world = World::empty(PROGRAM);
    let says = Scripted::new(
        1_000_000,
        Box::new(|prompt, _| {
            let end = if prompt.contains("long") { "" } else { "\n</think>\n\nIt is 7. Question: 9?" };
            (format!("<think>\nQuestion: 3 or 4? 12?{end}"), vec![])
        }),
    );
    let server = Server::sound(Arc::new(says), "m");
    world.write("harness.toml", format!("[models.m]\nendpoint = \"openai:m@{}\"\n", server.url()));
    world.write("tasks/sum.yaml", TASK);
    let rows: Vec<String> =
        ["3 + 4", "4 + 3", "a long way to 7"].iter().map(|q| json!({"q": q, "a": "7"}).to_string()).collect();
    world.write("tasks/sum.jsonl", rows.join("\n"));
    (world, server)
}

const CALL: [&str; 7] = ["run", "m", "-t", "sum", "--include-path", "tasks", "--apply-chat-template"];

/// The value, and the kinds of the caveats.
fn found(world: &World, extra: &[&str]) -> (f64, Vec<Value>) {
    let object = world.run(&[&CALL[..], &["--json"], extra].concat()).expect(0).json();
    let caveats = object["caveats"].as_array().unwrap().iter();
    let mut kinds: Vec<Value> = caveats.map(|caveat| caveat["kind"].clone()).collect();
    kinds.sort_by_key(Value::to_string);
    (object["rows"][0]["cells"][0]["value"].as_f64().unwrap(), kinds)
}

#[test]
fn stop_strings_and_scores_begin_after_the_thinking() {
    let (world, server) = thinking();
    let unset = found(&world, &[]);
    assert_eq!(unset, (0.0, vec![json!("irregular_answers"), json!("thinking_scored")]));
    assert!(server.bodies().iter().all(|body| body["stop"] == json!(["Question:"])));
    let asked = server.bodies().len();
    let right = (2.0 / 3.0, vec![json!("cut_in_thinking")]);
    assert_eq!(found(&world, &["--think-end-token", "</think>"]), right);
    assert!(server.bodies()[asked..].iter().all(|body| body.get("stop").is_none()), "they would end the thinking");
    // Said in another place it is the same setting, whose answers are stored.
    let asked = server.bodies().len();
    assert_eq!(found(&world, &["--gen-kwargs", "think_end_token=</think>"]), right);
    let experiment = world.read("harness.toml");
    world.write("harness.toml", format!("{experiment}think_end_token = \"</think>\"\n"));
    assert_eq!(found(&world, &[]), right);
    assert_eq!(found(&world, &["--think-end-token", ""]), unset, "an empty mark takes it back");
    assert_eq!(server.bodies().len(), asked);
    let text = world.run(&CALL).expect(0).stdout;
    assert!(text.contains("The thinking never ended, so there is no answer: sum `m` 1 of 3"), "{text}");
}
