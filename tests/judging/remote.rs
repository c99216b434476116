//! A judge behind HTTP.

use std::{path::Path, sync::Arc};

use harness_test_support::{World, beside};
use serde_json::Value;

use super::{
    PROGRAM, fixture, script,
    server::{Fault, Faults, Server, scripted::Scripted},
    write_outputs,
};

/// A server whose judge weighs the labels `m` and `M` by the script; one request in twenty meets a fault at first.
fn judge() -> Server {
    let model = Scripted::new(
        1_000_000,
        Box::new(|prompt, _| {
            let part = |from: &str, to: &str| {
                prompt.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map_or("", |(part, _)| part)
            };
            let first = part("## Output of model m\n\n", "\n\n## Output of model M\n\n");
            let second = part("## Output of model M\n\n", "\n\n## Task");
            let p = script(first, second);
            let label = if p > 0.5 { "M" } else { "m" };
            (label.to_owned(), vec![("M", p.ln() as f32), ("m", (1.0 - p).ln() as f32)])
        }),
    );
    let kinds = Fault::PASSING;
    let faults = Box::new(move |before: usize, body: &Value| {
        let hash = script(&body.to_string(), "");
        (before == 0 && hash < 0.05 + 0.9 * 0.05).then(|| kinds[(hash * 1e6) as usize % kinds.len()])
    });
    Server::start(Arc::new(model), "scripted", None, faults)
}

fn experiment(server: &Server) -> String {
    format!(
        "[models.scripted]\nendpoint = \"openai:scripted@{}\"\ntimeout = 4\nretries = 8\ninput_price = 1.0\noutput_price = 4.0\n\
         [judges.fast]\nmodel = \"scripted\"\n",
        server.url()
    )
}

/// A call that judges two files of outputs.
fn call<'a>(judge: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    let call = ["judge", "alpaca-eval", "other.json", "--baseline", "base.json", "--json", "--judge", judge];
    [&call, options].concat()
}

/// Runs the judging of two files of outputs and compares it with what the script says.
fn judged(world: &World, rows: &[(String, String, String)]) {
    let server = judge();
    world.write("harness.toml", experiment(&server));
    write_outputs(world, rows);
    let call = call("fast", &["--repeats", "0", "--self-pairs", "0", "--concurrency", "12", "--out", "result"]);
    let found = world.run(&call).expect(0).json();
    let preference = |(_, base, other): &(String, String, String)| {
        if base == other { 0.5 } else { (script(base, other) + 1.0 - script(other, base)) / 2.0 }
    };
    let expected = 100.0 * rows.iter().map(preference).sum::<f64>() / rows.len() as f64;
    let result = &found["results"]["models"][0];
    let value = 100.0 * result["pair"]["win_rate"]["value"].as_f64().unwrap();
    assert!((value - expected).abs() < 1e-4, "{value} for {expected}");
    assert_eq!(
        (&result["pair"]["win_rate"]["n"], &result["pair"]["win_rate"]["unparsed"]),
        (&rows.len().into(), &0.into())
    );
    let wins = |(_, base, other): &&(String, String, String)| {
        base != other && script(base, other) > 0.5 && script(other, base) < 0.5
    };
    assert_eq!(result["pair"]["wins"], rows.iter().filter(wins).count());
    let asked = 2 * rows.iter().filter(|(_, base, other)| base != other).count();
    assert_eq!(found["run"]["judge"]["requested"], asked);
    let met = |what: &str| found["run"]["judge"][what].as_u64().unwrap();
    assert!(met("repeated") + met("throttled") > 0, "faults were met: {}", found["run"]);
    assert!(found["asked"]["cost"].as_f64().unwrap() > 0.0);
    // The table says the same.
    let row = &found["comparison"]["rows"][0];
    assert_eq!((&row["key"]["metric"], &row["key"]["filter"]), (&"win_rate".into(), &"fast".into()));
    assert!((row["cells"][1]["value"].as_f64().unwrap() * 100.0 - expected).abs() < 1e-4, "{row}");
    // What was asked once is never asked again.
    let before = server.bodies().len();
    let again = world.run(&call).expect(0).json();
    assert_eq!(
        (&again["run"]["judge"]["requested"], &again["results"], &again["asked"]),
        (&0.into(), &found["results"], &found["asked"])
    );
    assert_eq!(server.bodies().len(), before);
    for file in [
        "judging.json",
        "judgments.jsonl",
        "annotations.other-model.json",
        "model_outputs.other-model.json",
        "report.md",
    ] {
        assert!(world.path(Path::new("result").join(file)).is_file(), "{file}");
    }
}

#[test]
fn own_outputs_get_the_right_numbers_in_spite_of_faults() {
    judged(&World::empty(PROGRAM), &fixture(120));
}

#[test]
fn alpaca_eval_gets_the_right_numbers_in_spite_of_faults() {
    let Some(data) = beside("HARNESS_DATA_DIR", "data") else { return };
    let read = |name: &str| -> Vec<(String, String)> {
        let rows = harness::store::read_rows(&[data.join("alpaca_eval").join(name)], None).unwrap();
        let text = |row: &harness::store::Row, key: &str| row[key].as_str().unwrap().to_owned();
        rows.iter().map(|row| (text(row, "instruction"), text(row, "output"))).collect()
    };
    let (davinci, gpt4) = (read("alpaca_eval.jsonl.zst"), read("alpaca_eval_gpt4_baseline.jsonl.zst"));
    let gpt4: std::collections::BTreeMap<String, String> = gpt4.into_iter().collect();
    let mut rows: Vec<(String, String, String)> = davinci
        .into_iter()
        .filter_map(|(instruction, output)| {
            let baseline = gpt4.get(&instruction)?.clone();
            Some((instruction, baseline, output))
        })
        .collect();
    rows.sort();
    rows.dedup_by(|a, b| a.0 == b.0);
    rows.truncate(800);
    assert_eq!(rows.len(), 800);
    judged(&World::empty(PROGRAM), &rows);
}

#[test]
fn a_cost_limit_stops_before_it_is_passed_and_the_rest_is_asked_later() {
    let world = World::empty(PROGRAM);
    let server = judge();
    world.write("harness.toml", experiment(&server));
    write_outputs(&world, &fixture(60));
    let limited = |limit: &'static str| call("fast", &["--concurrency", "2", "--max-cost", limit]);
    let stopped = world.run(&limited("0.006")).expect(1);
    let message = stopped.json()["error"].as_str().unwrap().to_owned();
    assert!(message.contains("--max-cost: the cost limit of 0.0060 is reached"), "{message}");
    assert!(message.contains("are answered and stored") && message.contains("higher limit to continue"), "{message}");
    let spent: f64 = message.split(": ").filter_map(|part| part.split(" are spent").next()?.parse::<f64>().ok()).sum();
    assert!(spent <= 0.006, "{message}");
    let first = world.stored();
    assert!(first > 3, "{first}");
    let done = world.run(&limited("1000")).expect(0).json();
    assert_eq!(done["run"]["judge"]["from_store"].as_u64().unwrap() as usize, first);
    assert_eq!(done["results"]["models"][0]["pair"]["win_rate"]["n"], 60);
}

#[test]
fn a_jury_is_the_mean_of_its_members() {
    let world = World::empty(PROGRAM);
    let server = judge();
    world.write("harness.toml", experiment(&server) + "[judges.both]\njury = [\"fast\", \"overlap\"]\n");
    let rows = fixture(20);
    write_outputs(&world, &rows);
    let lines: Vec<String> = rows
        .iter()
        .map(|(instruction, base, _)| serde_json::json!({"instruction": instruction, "reference": base}).to_string())
        .collect();
    world.write("instructions.jsonl", lines.join("\n"));
    let value = |judge: &str| {
        let call = call(judge, &["--instructions", "instructions.jsonl", "--out", "result"]);
        world.run(&call).expect(0).json()["results"]["models"][0]["pair"]["win_rate"]["value"].as_f64().unwrap()
    };
    let (fast, overlap, both) = (value("fast"), value("overlap"), value("both"));
    assert!((both - (fast + overlap) / 2.0).abs() < 1e-9, "{fast}, {overlap}, {both}");
    assert_eq!(overlap, 0.05, "the reference is the base's output: only the two equal outputs are draws");
    assert!(world.path("result/judgments.fast.jsonl").is_file());
}

#[test]
fn endpoints_are_models_like_others() {
    let world = World::new(PROGRAM);
    let folder = world.path("models/base");
    let base = harness::engine::LoadedBase::load(&folder, harness::engine::ModelOptions::default()).unwrap();
    let server = Server::sound(Arc::new(harness::engine::LocalModel::new(Arc::new(base))), "base");
    let spec = format!("openai:base@{}", server.url());
    let chat = ["-t", "toy_answer", "--include-path", "tasks", "--apply-chat-template", "--json"];
    let rows = |model: &str| {
        let call: Vec<&str> = ["run", model].into_iter().chain(chat).collect();
        world.run(&call).expect(0).json()["rows"][0]["cells"][0]["value"].clone()
    };
    assert_eq!(rows(&spec), rows("base"), "the same model behind HTTP scores the same");
    let said = world.run(&["generate", &spec, "-p", "Hello", "--max-new-tokens", "4"]).expect(0).stdout;
    assert!(!said.trim().is_empty());
    let shown = world.run(&["models", "show", &spec]).expect(0).stdout;
    assert!(shown.contains("endpoint") && shown.contains("base"), "{shown}");
}

/// The embedded model behind a server under a name that says what the server lacks.
fn toy_server(world: &World, name: &str, faults: Faults) -> Server {
    let folder = world.path("models/base");
    let base = harness::engine::LoadedBase::load(&folder, harness::engine::ModelOptions::default()).unwrap();
    Server::start(Arc::new(harness::engine::LocalModel::new(Arc::new(base))), name, None, faults)
}

#[test]
fn a_server_that_cannot_score_texts_is_refused_before_it_is_asked() {
    let world = World::new(PROGRAM);
    let server = toy_server(&world, "base-no-echo-no-prompt-logprobs", Box::new(|_, _| None));
    let spec = format!("openai:base-no-echo-no-prompt-logprobs@{}", server.url());
    // Log-likelihoods alone: nothing is asked but the two questions of the probe.
    let call = |tasks: &'static str| vec!["run".to_owned(), spec.clone(), "-t".to_owned(), tasks.to_owned()];
    let outcome = world.run(&call("toy_choice,toy_text")).expect(2);
    let outcome = outcome.says(&[&server.url(), "cannot score given texts", "echo", "prompt_logprobs"]);
    let outcome = outcome.says(&["toy_choice, toy_text cannot be asked"]);
    assert_eq!((outcome.stdout.as_str(), world.stored()), ("", 0));
    assert_eq!(server.bodies().len(), 2, "{:?}", server.bodies());
    // A comparison asks all models the same, so it does not begin.
    let compare = ["compare", "base", &spec, "-t", "toy_choice,toy_answer"];
    world.run(&compare).expect(2).says(&["toy_choice cannot be asked"]);
    assert_eq!(world.stored(), 0);
    // Generations go on beside tasks that are refused.
    let chat = ["--json", "--limit", "4"].map(str::to_owned);
    let outcome = world.run(&[call("toy_choice,toy_answer"), chat.to_vec()].concat()).expect(1);
    let outcome = outcome.says(&["toy_choice cannot be asked; running the other tasks", &server.url()]);
    let rows = outcome.json()["rows"].as_array().unwrap().clone();
    assert!(rows.iter().all(|row| row["task"] == "toy_answer") && !rows.is_empty(), "{rows:?}");
    assert_eq!(world.stored(), 4);
    // A template of the server's own leaves nothing to score.
    let templated = ["--apply-chat-template"].map(str::to_owned);
    let outcome = world.run(&[call("toy_choice"), templated.to_vec()].concat()).expect(2);
    outcome.says(&["continuations of a chat cannot be scored", &server.url()]);
}

#[test]
fn log_likelihoods_come_from_a_server_in_spite_of_faults() {
    let world = World::new(PROGRAM);
    let local = world.run(&["run", "base", "-t", "toy_choice", "--json"]).expect(0).json();
    for name in ["base", "base-no-echo"] {
        // All but silence, which costs a timeout each time.
        let kinds: Vec<Fault> = Fault::PASSING.into_iter().filter(|kind| *kind != Fault::Silent).collect();
        let faults = Box::new(move |before: usize, body: &Value| {
            let hash = script(&body.to_string(), "");
            // The probe's own answers are whole: a server is judged by what it says, not by a stumble.
            let probe = body["prompt"] == "The sky is blue";
            (before == 0 && !probe && hash < 0.05 + 0.9 * 0.2).then(|| kinds[(hash * 1e6) as usize % kinds.len()])
        });
        let server = toy_server(&world, name, faults);
        let spec = format!("openai:{name}@{}", server.url());
        world.write(
            "harness.toml",
            format!(
                "include_path = [\"tasks\"]\n[models.far]\nendpoint = {spec:?}\napi = \"completions\"\ntimeout = 30\nretries = 8\n"
            ),
        );
        let call = ["run", "far", "-t", "toy_choice", "--json"];
        let far = world.run(&call).expect(0).json();
        let asked = server.bodies().len();
        assert_eq!(world.run(&call).expect(0).json(), far);
        assert_eq!(server.bodies().len(), asked, "what is stored needs no probe");
        for (near, far) in local["rows"].as_array().unwrap().iter().zip(far["rows"].as_array().unwrap()) {
            assert_eq!(near["key"], far["key"]);
            let value = |row: &Value| row["cells"][0]["value"].as_f64().unwrap();
            assert_eq!(value(near), value(far), "{name}");
        }
        let texts = ["run", "far", "-t", "toy_text"];
        let bos = "no log-probability for the first token: toy_text `far` 4 of 4 texts (100.0 %)";
        let report = world.run(&texts).expect(0).stdout;
        assert!(report.contains(bos), "{report}");
    }
}
