//! Bad input and bad judges: what is said, and with which exit code.

use std::sync::Arc;

use harness_test_support::{Outcome, World};

use super::{
    PROGRAM, fixture, outputs,
    server::{Fault, Server, scripted::Scripted},
    write_outputs,
};

fn world() -> World {
    let world = World::empty(PROGRAM);
    write_outputs(&world, &fixture(12));
    world
}

fn call<'a>(judge: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
    let mut call = vec!["judge", "alpaca-eval", "other.json", "--baseline", "base.json", "--judge", judge];
    call.extend(extra);
    call
}

#[track_caller]
fn refused(outcome: Outcome, parts: &[&str]) {
    let outcome = outcome.expect(2);
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} is not in {}", outcome.stderr);
    }
    assert_eq!(outcome.stdout, "");
}

#[test]
fn outputs_that_do_not_fit_are_named() {
    let world = world();
    let rows = fixture(12);
    let some = |skip: usize| rows.iter().skip(skip).map(|(i, _, other)| (i.clone(), other.clone()));
    world.write("short.json", outputs("short", some(2)));
    refused(
        world.run(&["judge", "alpaca-eval", "short.json", "--baseline", "base.json"]),
        &["short.json", "2 instructions missing", "Describe the river number 0"],
    );
    let extra = some(0).chain([("Sing a song.".to_owned(), "La.".to_owned())]);
    world.write("extra.json", outputs("extra", extra));
    refused(
        world.run(&["judge", "alpaca-eval", "extra.json", "--baseline", "base.json"]),
        &["extra.json", "1 instruction not asked for", "Sing a song."],
    );
    world.write("twice.json", outputs("twice", some(0).chain(some(11))));
    refused(
        world.run(&["judge", "alpaca-eval", "twice.json", "--baseline", "base.json"]),
        &["twice.json", "Describe the orchard number 11"],
    );
    world.write("broken.json", "[{\"instruction\": 3}]");
    refused(world.run(&["judge", "alpaca-eval", "broken.json", "--baseline", "base.json"]), &["broken.json"]);
    refused(
        world.run(&["judge", "alpaca-eval", "base.json", "--baseline", "base.json"]),
        &["two of the models are called \"base-model\""],
    );
}

#[test]
fn wrong_calls_are_explained() {
    let world = world();
    refused(world.run(&["judge", "alpaca-evl", "other.json"]), &["alpaca-evl", "did you mean `alpaca-eval`"]);
    refused(world.run(&["judge", "alpaca-eval", "other.json"]), &["compares two outputs", "--baseline"]);
    refused(world.run(&["judge", "absolute", "other.json", "--baseline", "base.json"]), &["takes no --baseline"]);
    refused(world.run(&call("overlap", &[])), &["`overlap` compares outputs with references"]);
    refused(world.run(&call("nobody", &[])), &["--judge nobody"]);
    refused(
        world.run(&call("openai:m@http://127.0.0.1:9/v1", &["--max-cost", "1"])),
        &["input_price and output_price"],
    );
    refused(world.run(&call("overlap", &["--max-cost", "0"])), &["--max-cost 0: expected a positive number"]);
    refused(world.run(&call("overlap", &["--rubric", "helpfulnes"])), &["did you mean `helpfulness`"]);
    refused(world.run(&call("openai:m@https://user:sk-secret@host/v1", &[])), &["environment"]);
    let protocol = "name = \"mine\"\nversion = 1\nkind = \"pairwise\"\nparser = \"choice\"\n\
        placeholders = [\"instruction\", \"output_1\", \"output_2\"]\n[[template]]\nname = \"t\"\n\
        user = \"{instruction} {output_1} {output_2} {output_3}\"\n";
    world.write("mine.toml", protocol);
    refused(
        world.run(&["judge", "./mine.toml", "other.json", "--baseline", "base.json"]),
        &["mine.toml", "unknown placeholder", "output_3"],
    );
    world.write("bad.toml", "[judges.j]\nmodel = \"x\"\njury = [\"y\"]\n");
    refused(world.run(&call("j", &["--experiment", "bad.toml"])), &["bad.toml:1", "[judges.j]: found several judges"]);
    world.write("bad.toml", "[models.m]\nendpoint = \"http://host/v1\"\n");
    refused(world.run(&call("m", &["--experiment", "bad.toml"])), &["[models.m]", "which model?"]);
    world.write("bad.toml", "[models.m]\npath = \"x\"\napi_key_env = \"K\"\n");
    refused(world.run(&call("m", &["--experiment", "bad.toml"])), &["`api_key_env` belongs to an endpoint"]);
}

#[test]
fn servers_that_are_none_are_noticed() {
    let world = world();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("openai:m@http://127.0.0.1:{port}/v1");
    let outcome = world.run(&call(&nobody, &[])).expect(1);
    assert!(outcome.stderr.contains("cannot connect"), "{}", outcome.stderr);
    let says = Scripted::new(10_000, Box::new(|_, _| ("m".into(), vec![])));
    let server = Server::start(Arc::new(says), "m", Some("the right key"), Box::new(|_, _| None));
    let wrong = format!("openai:m@http://{}", server.address);
    refused(world.run(&call(&wrong, &[])), &["404", "usually ending in /v1"]);
    let locked = format!("openai:m@{}", server.url());
    refused(world.run(&call(&locked, &[])), &["a key is needed and none is set", "OPENAI_API_KEY"]);
    let secret = "sk-secret-of-the-test";
    let outcome = Outcome::new(&world.command(&call(&locked, &[])).env("OPENAI_API_KEY", secret).output().unwrap());
    assert!(!outcome.stderr.contains(secret), "{}", outcome.stderr);
    refused(outcome, &["the key was refused", "[key]"]);
}

/// A judge that always says the same, with as many verdicts unread as there are.
fn always(text: &'static str, max_length: usize, fault: Option<Fault>) -> (World, Outcome) {
    let world = world();
    let says = Scripted::new(max_length, Box::new(move |_, _| (text.into(), vec![])));
    let server = Server::start(Arc::new(says), "m", None, Box::new(move |_, _| fault));
    world.write("harness.toml", format!("[models.m]\nendpoint = \"openai:m@{}\"\nretries = 1\n", server.url()));
    let outcome = world.run(&call("m", &["--json", "--repeats", "0", "--self-pairs", "0", "--out", "result"]));
    (world, outcome)
}

#[test]
fn judges_without_a_verdict_are_never_zero_and_never_dropped() {
    let endless: &'static str = Box::leak("and so on ".repeat(400).into_boxed_str());
    for text in ["", "I'm sorry, but I cannot help with that.", endless, "<!DOCTYPE html><html></html>"] {
        let (world, outcome) = always(text, 10_000, None);
        // A draw of equal outputs is no verdict of the judge's.
        let outcome = outcome.expect(1).says(&["no verdict of m could be read"]);
        let found = outcome.json();
        let result = &found["results"]["models"][0]["pair"]["win_rate"];
        // Of 12 pairs one is equal, a draw without asking; the others have no verdict in either order.
        assert_eq!((&result["n"], &result["unparsed"]), (&12.into(), &22.into()), "{text:?}: {result}");
        let bound = |which: &str| result[which].as_f64().unwrap();
        assert!(bound("worst") < 0.1 && bound("best") > 0.9, "{result}");
        assert_eq!(world.read("result/judgments.jsonl").lines().count(), 24, "every verdict is kept");
        let caveats = found["comparison"]["caveats"].to_string();
        assert!(caveats.contains("unparsed_verdicts") && !caveats.contains("one_order_only"), "{caveats}");
        // The main row of the table allows for all they could have been.
        let row = &found["comparison"]["rows"][0];
        let interval = &row["cells"][1]["interval"];
        assert_eq!((&row["primary"], &row["contrasts"][0]["verdict"]), (&true.into(), &"undecided".into()));
        assert!(interval["low"].as_f64() < Some(0.1) && interval["high"].as_f64() > Some(0.9), "{row}");
    }
}

#[test]
fn scores_off_the_scale_are_no_scores() {
    let world = world();
    let says = Scripted::new(10_000, Box::new(|_, _| ("Good. [RESULT] 9".into(), vec![])));
    let server = Server::sound(Arc::new(says), "m");
    let judge = format!("openai:m@{}", server.url());
    let call = ["judge", "absolute", "base.json", "other.json", "--judge", &judge, "--repeats", "0"];
    let text = world.run(&call).expect(1).stdout;
    let none =
        "None of 12 verdicts on `other-model` could be read (the score 9 is outside the scale): there is no result";
    assert!(text.contains(none), "{text}");
    assert!(text.contains("24 verdicts could not be read: the score 9 is outside the scale"), "{text}");
    let found = world.run(&[&call[..], &["--json"]].concat()).expect(1).json();
    assert_eq!(
        found["comparison"]["rows"][0]["cells"][1]["value"],
        serde_json::Value::Null,
        "neither 0 nor the middle"
    );
}

#[test]
fn a_judge_behind_a_broken_gateway_ends_the_work() {
    let (_, outcome) = always("m", 10_000, Some(Fault::Html));
    let message = outcome.expect(1).json()["error"].as_str().unwrap().to_owned();
    assert!(message.contains("no answer after 2 attempts") && message.contains("a web page"), "{message}");
}

#[test]
fn prompts_longer_than_the_context_of_the_judge_are_named() {
    let (_, outcome) = always("m", 20, None);
    let message = outcome.expect(2).json()["error"].as_str().unwrap().to_owned();
    assert!(
        message.contains("can answer none of the questions") && message.contains("maximum context length is 20"),
        "{message}"
    );
}
