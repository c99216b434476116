//! MT-Bench through the program: questions of our own, two models' answers, a scripted judge.

use std::sync::Arc;

use harness_test_support::World;
use serde_json::{Value, json};

use super::{
    PROGRAM, script,
    server::{Server, scripted::Scripted},
};

const CATEGORIES: [&str; 4] = ["writing", "roleplay", "stem", "humanities"];

/// Two questions a category, and the answers of three models; a judge that rates by the script, and names a winner by it.
fn world() -> (World, Server) {
    let world = World::empty(PROGRAM);
    let question = |id: usize| json!({"question_id": id, "category": CATEGORIES[id % 4], "turns": [format!("Question {id}?"), "And then?"]});
    let lines = |rows: Vec<Value>| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    world.write("questions.jsonl", lines((0..8).map(question).collect()));
    for model in ["one", "two", "three"] {
        let answer = |id: usize| {
            let turns = [format!("{model} says {id}."), format!("{model} says more of {id}.")];
            json!({"question_id": id, "model_id": model, "choices": [{"index": 0, "turns": turns}]})
        };
        world.write(&format!("{model}.jsonl"), lines((0..8).map(answer).collect()));
    }
    let model = Scripted::new(
        1_000_000,
        Box::new(|prompt, _| {
            let share = script(prompt, "");
            let pair = prompt.contains("Assistant B");
            let verdict = ["[[A]]", "[[B]]", "[[C]]"][(share * 3.0) as usize % 3].to_owned();
            (if pair { verdict } else { format!("Rating: [[{}]]", 1 + (share * 9.0) as usize) }, vec![])
        }),
    );
    let server = Server::sound(Arc::new(model), "m");
    world.write("harness.toml", format!("[models.m]\nendpoint = \"openai:m@{}\"\n", server.url()));
    (world, server)
}

#[test]
fn scores_by_category_are_tabled_and_plotted() {
    let (world, _server) = world();
    let call = ["judge", "mt-bench", "one.jsonl", "two.jsonl", "--instructions", "questions.jsonl", "--judge", "m"];
    let found = world.run(&[&call[..], &["--json", "--out", "result"]].concat()).expect(0).json();
    let models = found["results"]["models"].as_array().unwrap();
    for model in models {
        let categories = model["score"]["categories"].as_array().unwrap();
        let names: Vec<&str> = categories.iter().map(|one| one["category"].as_str().unwrap()).collect();
        assert_eq!(names, CATEGORIES);
        let value = |bounded: &Value| bounded["value"].as_f64().unwrap();
        let mean = categories.iter().map(|one| value(&one["score"])).sum::<f64>() / 4.0;
        assert!((mean - value(&model["score"]["score"])).abs() < 1e-9, "as many questions in each category");
        let name = model["model"].as_str().unwrap();
        let theirs = found["results"]["fastchat_scores"][name]["average"].as_f64().unwrap();
        assert!((theirs - mean).abs() < 1e-9, "no verdict is missing");
    }
    let svg = world.read("result/radar.svg");
    assert!(CATEGORIES.iter().chain(&["one", "two"]).all(|name| svg.contains(name)), "{svg}");
    assert!(world.bytes("result/radar.png").starts_with(b"\x89PNG"));
    let report = world.read("result/report.md");
    assert!(report.contains("| Category | one | two |") && report.contains("| roleplay | "), "{report}");
    assert!(report.contains("![Scores by category](radar.svg)"), "{report}");
    assert!(world.path("result/model_judgment.m.jsonl").is_file());
}

#[test]
fn every_two_models_can_be_compared() {
    let (world, _server) = world();
    let call = [
        "judge",
        "mt-bench-pair",
        "one.jsonl",
        "two.jsonl",
        "three.jsonl",
        "--instructions",
        "questions.jsonl",
        "--judge",
        "m",
    ];
    let outcome = world.run(&call).expect(2);
    assert!(outcome.stderr.contains("--baseline") && outcome.stderr.contains("--all-pairs"), "{}", outcome.stderr);
    let found = world.run(&[&call[..], &["--all-pairs", "--json"]].concat()).expect(0).json();
    let pairs = found["results"]["models"].as_array().unwrap();
    assert_eq!(pairs.len(), 3);
    let games = found["results"]["fastchat_games"].as_object().unwrap();
    let count = |model: &str, what: &str| games[model][what].as_u64().unwrap();
    for model in ["one", "two", "three"] {
        // Two other models, eight questions of two turns.
        assert_eq!(count(model, "win") + count(model, "loss") + count(model, "tie"), 32);
        let (win, tie) = (count(model, "win") as f64, count(model, "tie") as f64);
        assert_eq!(games[model]["win_rate_adjusted"].as_f64().unwrap(), (win + 0.5 * tie) / 32.0);
    }
    let total = |what: &str| ["one", "two", "three"].iter().map(|model| count(model, what)).sum::<u64>();
    assert_eq!(total("win"), total("loss"));
    // One row: the win rate of each over the others, half on average.
    let cells = found["comparison"]["rows"][0]["cells"].as_array().unwrap();
    let mean = cells.iter().map(|cell| cell["value"].as_f64().unwrap()).sum::<f64>() / 3.0;
    assert!(cells.len() == 3 && (mean - 0.5).abs() < 1e-9, "{cells:?}");
    let text = world.run(&[&call[..], &["--all-pairs"]].concat()).expect(0).stdout;
    assert!(text.contains("| Model | win | loss | tie |") && text.contains("- three against two: win rate"), "{text}");
    let one = world.run(&["judge", "mt-bench-pair", "one.jsonl", "--all-pairs"]).expect(2).stderr;
    assert!(one.contains("--all-pairs: expected two or more models"), "{one}");
}

#[test]
fn a_question_can_require_a_temperature() {
    let (world, server) = world();
    let question = |id: usize, required: Value| json!({"question_id": id, "category": "writing", "turns": ["Write.", "More."], "required_temperature": required});
    world.write("questions.jsonl", format!("{}\n{}\n", question(0, json!(0.35)), question(1, Value::Null)));
    let call = ["judge", "mt-bench", "m", "--instructions", "questions.jsonl", "--judge", "m", "--json"];
    world.run(&call).expect(0);
    let mut written: Vec<(f64, u64)> = server
        .bodies()
        .iter()
        .filter(|body| !body.to_string().contains("impartial judge"))
        .map(|body| (body["temperature"].as_f64().unwrap(), body["max_tokens"].as_u64().unwrap()))
        .collect();
    written.sort_by(|a, b| a.0.total_cmp(&b.0));
    written.dedup();
    assert_eq!(written, [(0.35, 1024), (0.7, 1024)], "as required, else by category; as many tokens as MT-Bench gives");
    world.write("questions.jsonl", format!("{}\n", question(0, json!("hot"))));
    let outcome = world.run(&call).expect(2);
    assert!(outcome.stdout.contains("row 1") && outcome.stdout.contains("required_temperature"), "{}", outcome.stdout);
}
