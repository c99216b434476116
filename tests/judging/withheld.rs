//! Answers that are none, thinking, labels without probability: what is no verdict, and what is said of it.

use std::sync::Arc;

use harness_test_support::World;
use serde_json::Value;

use super::{
    PROGRAM, fixture, outputs,
    server::{Fault, Server, scripted::Scripted},
    write_outputs,
};

const CALL: [&str; 11] = [
    "judge",
    "pairwise",
    "other.json",
    "--baseline",
    "base.json",
    "--judge",
    "m",
    "--repeats",
    "0",
    "--self-pairs",
    "0",
];

fn says(text: &'static str) -> Arc<Scripted> {
    Arc::new(Scripted::new(1_000_000, Box::new(move |_, _| (text.into(), vec![]))))
}

/// A world with 20 pairs of outputs and a judge `m`, whose server says `fault` where a body contains the text.
fn world(model: Arc<Scripted>, faults: &'static [(&'static str, Fault)]) -> (World, Server) {
    let world = World::empty(PROGRAM);
    write_outputs(&world, &fixture(20));
    let fault = |_: usize, body: &Value| {
        let body = body.to_string();
        faults.iter().find(|(part, _)| body.contains(part)).map(|(_, fault)| *fault)
    };
    let server = Server::start(model, "m", None, Box::new(fault));
    let experiment = format!(
        "[models.m]\nendpoint = \"openai:m@{}\"\nretries = 1\ninput_price = 1.0\noutput_price = 4.0\n",
        server.url()
    );
    world.write("harness.toml", experiment);
    (world, server)
}

#[test]
fn one_prompt_that_is_withheld_is_one_unread_verdict_with_its_reason() {
    let (world, server) = world(
        says("Both are short. [RESULT] A"),
        &[
            ("number 3 ", Fault::Says(r#"{"choices": []}"#)),
            (
                "number 5 ",
                Fault::Says(r#"{"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}"#),
            ),
            ("number 6 ", Fault::Refuses(400, "filtered by the content management policy")),
            ("number 7 ", Fault::Says(r#"{"choices": [{"message": {"content": null, "refusal": "I cannot."}}]}"#)),
            (
                "number 8 ",
                Fault::Says(
                    r#"{"choices": [{"message": {"content": null, "reasoning_content": "[RESULT] B"}, "finish_reason": "length"}]}"#,
                ),
            ),
            ("number 9 ", Fault::Says(r#"{"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}"#)),
            (
                "number 11 ",
                Fault::Says(
                    r#"{"choices": [{"message": {"content": [{"type": "thinking", "thinking": "[RESULT] A"},
                        {"type": "text", "text": "[RESULT] B"}]}}]}"#,
                ),
            ),
        ],
    );
    let found = world.run(&[&CALL[..], &["--json"]].concat()).expect(0).json();
    let unread = found["results"]["unread"].as_object().unwrap();
    let expected = [
        "the answer is empty",
        "the answer was cut by the limit on tokens: all of it went into reasoning",
        "the judge refused",
        "the server answered without a choice",
        "the server's filter withheld the answer",
    ];
    assert_eq!(unread.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{found}");
    assert_eq!(unread["the server's filter withheld the answer"], 4);
    let item = &found["results"]["unread_items"]["the server answered without a choice"];
    assert_eq!(item, &serde_json::json!(["Describe the harbour number 3 in one sentence."]));
    let result = &found["results"]["models"][0]["pair"]["win_rate"];
    assert_eq!((&result["n"], &result["unparsed"]), (&20.into(), &12.into()));
    let asked = |part: &str| server.bodies().iter().filter(|body| body.to_string().contains(part)).count();
    assert_eq!((asked("number 3 "), asked("number 5 "), asked("number 6 ")), (2, 2, 2), "the same would come again");
    let text = world.run(&CALL).expect(0).stdout;
    assert!(
        text.contains(
            "2 verdicts could not be read: the server answered without a choice (item \"Describe the harbour number 3"
        ),
        "{text}"
    );
    assert!(
        text.contains("12 of 40 verdicts could not be read (4: the server's filter withheld the answer; 2: "),
        "{text}"
    );
    assert!(!text.contains("counts as wrong") && !text.contains("Only means are known"), "{text}");
}

#[test]
fn where_no_verdict_can_be_read_that_alone_is_said_and_the_work_has_failed() {
    let (world, _server) = world(
        says("-"),
        &[(
            "",
            Fault::Says(r#"{"choices": [{"message": {"content": null, "refusal": "No."}, "finish_reason": "stop"}]}"#),
        )],
    );
    let outcome = world.run(&CALL).expect(1).says(&["no verdict of m could be read: the judge refused"]);
    assert!(
        outcome.stdout.contains("None of 40 verdicts on `other-model` could be read (the judge refused)"),
        "{}",
        outcome.stdout
    );
    for other in ["Only means", "counts as wrong", "shown in one order"] {
        assert!(!outcome.stdout.contains(other), "{}", outcome.stdout);
    }
}

#[test]
fn labels_need_most_of_the_probability() {
    let model = Scripted::new(
        1_000_000,
        Box::new(|_, _| ("<think>".into(), vec![("<think>", -0.0001), ("m", -11.0), ("Okay", -11.5), ("M", -14.0)])),
    );
    let (world, _server) = world(Arc::new(model), &[]);
    let call = |extra: &[&'static str]| [&["judge", "alpaca-eval"], &CALL[2..], extra].concat();
    let outcome = world.run(&call(&[])).expect(1).says(&["the labels have too little of the probability"]);
    let few = "The labels have less than 50.0 % of the probability on 36 of 36 questions (median 0.0018 %)";
    assert!(outcome.stdout.contains(&format!("{few}; they have no verdict.")), "{}", outcome.stdout);
    let text = world.run(&call(&["--least-label-share", "0"])).expect(0).stdout;
    assert!(text.contains(&format!("{few}; the verdicts count all the same.")), "{text}");
    let found = world.run(&call(&["--json", "--least-label-share", "0.00001", "--out", "result"])).expect(0).json();
    assert!((found["results"]["label_share"]["median"].as_f64().unwrap() - 1.75e-5).abs() < 1e-7, "{found}");
    assert!(world.read("result/judgments.jsonl").contains("\"label_share\":"));
    world.run(&call(&["--least-label-share", "2"])).expect(2).says(&["--least-label-share 2", "from 0 to 1"]);
}

#[test]
fn where_log_probabilities_are_refused_the_written_label_counts_and_that_is_said() {
    let (world, _server) = world(
        says("M"),
        &[("\"logprobs\":true", Fault::Refuses(400, "This model doesn't support the 'logprobs' parameter."))],
    );
    let call = [&["judge", "alpaca-eval"], &CALL[2..]].concat();
    let text = world.run(&call).expect(0).stdout;
    assert!(text.contains("36 of 36 verdicts are the label that the judge wrote"), "{text}");
}

#[test]
fn thinking_is_neither_read_nor_shown() {
    let (world, server) =
        world(says("<think>At first [RESULT] B, or [RESULT] A.</think>\n\nThe first is clearer. [RESULT] A"), &[]);
    let rows = fixture(20);
    let thought = rows.iter().enumerate().map(|(n, (i, _, other))| {
        let thinking = match n {
            0 => "<think>a secret that never ends".to_owned(),
            1 => format!("a secret</think>\n\n{other}"),
            _ => other.clone(),
        };
        (i.clone(), thinking)
    });
    world.write("other.json", outputs("other-model", thought));
    let found = world.run(&[&CALL[..], &["--json", "--out", "result"]].concat()).expect(0).json();
    assert_eq!(
        (&found["run"]["judge"]["requested"], found["results"].get("unread")),
        (&40.into(), None),
        "read at the first attempt"
    );
    assert!(server.bodies().iter().all(|body| !body.to_string().contains("secret")));
    let judgments = world.read("result/judgments.jsonl");
    assert!(judgments.contains(r#""rationale":"<think>At first [RESULT] B, or [RESULT] A.\n\nThe first is clearer.""#));
    assert_eq!(found["thoughts"], serde_json::json!({"other-model": 2}));
    let caveats = found["comparison"]["caveats"].as_array().unwrap();
    let empty = caveats.iter().find(|caveat| caveat["finding"]["finding"] == "empty_outputs").expect("the caveat");
    assert_eq!((&empty["finding"]["count"], &empty["finding"]["of"]), (&1.into(), &20.into()), "{empty}");
    let compat = world.run(&[&CALL[..], &["--json", "--compat"]].concat()).expect(0).json();
    assert_eq!(compat["results"]["models"][0]["pair"]["win_rate"], found["results"]["models"][0]["pair"]["win_rate"]);
}

#[test]
fn counts_that_are_not_told_are_no_counts() {
    let (world, _server) =
        world(says("-"), &[("", Fault::Says(r#"{"choices": [{"message": {"content": "[RESULT] A"}}]}"#))]);
    let text = world.run(&CALL).expect(0).stdout;
    assert!(text.contains("Judging: 40 answers; token counts not reported by the server, at most"), "{text}");
    assert!(text.contains("cost at most"), "{text}");
    let asked = &world.run(&[&CALL[..], &["--json"]].concat()).expect(0).json()["asked"];
    assert!(asked["prompt_tokens"].is_null() && asked["prompt_tokens_at_most"].as_u64() > Some(0), "{asked}");
}

#[test]
fn a_run_that_goes_on_keeps_its_cost() {
    let cost = |world: &World, extra: &[&str], code: i32| {
        world.run(&[&CALL[..], &["--json"], extra].concat()).expect(code).json()["asked"]["cost"].as_f64()
    };
    let (whole, _server) = world(says("Both are short. [RESULT] A"), &[]);
    let expected = cost(&whole, &[], 0).unwrap();
    let (world, _server) = world(says("Both are short. [RESULT] A"), &[]);
    assert_eq!(cost(&world, &["--concurrency", "1", "--max-cost", "0.008"], 1), None);
    assert!(world.stored() > 0 && world.stored() < 40, "{}", world.stored());
    assert_eq!(cost(&world, &[], 0), Some(expected));
    world.run(&CALL).expect(0).says(&["0 answers requested, 40 from the store"]);
}

#[test]
fn evaluated_models_have_caveats_by_reason() {
    let world = World::new(PROGRAM);
    let folder = world.path("models/base");
    let base = harness::engine::LoadedBase::load(&folder, harness::engine::ModelOptions::default()).unwrap();
    let seen = std::sync::Mutex::new(0);
    let faults = move |_: usize, _: &Value| {
        let mut seen = seen.lock().unwrap();
        *seen += 1;
        Some(match *seen {
            1 => Fault::Says(r#"{"choices": [{"message": {"content": "4"}, "finish_reason": "content_filter"}]}"#),
            2 => Fault::Refuses(400, "content_filter"),
            3 => Fault::Says(r#"{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}"#),
            4 => {
                Fault::Says(r#"{"choices": [{"message": {"content": "x", "refusal": null}, "finish_reason": "moon"}]}"#)
            }
            _ => return None,
        })
    };
    let local = Arc::new(harness::engine::LocalModel::new(Arc::new(base)));
    let server = Server::start(local, "base", None, Box::new(faults));
    let spec = format!("openai:base@{}", server.url());
    let call = ["run", &spec, "-t", "toy_answer", "--include-path", "tasks", "--apply-chat-template"];
    let text = world.run(&call).expect(0).stdout;
    for part in ["2 of ", "withheld by the server's filter", "null instead of a text", "ended for an unknown reason"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_chat_does_not_send_thinking_back() {
    let (world, server) = world(says("<think>a secret</think>\n\nGood day."), &[]);
    world.run_with_input(&["chat", "m"], "Hello\nAnd again\n").expect(0);
    let last = server.bodies().pop().unwrap()["messages"].to_string();
    assert!(last.contains("Good day.") && last.contains("And again") && !last.contains("secret"), "{last}");
}
