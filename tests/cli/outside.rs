//! Texts from outside (models, servers, files) on the program's output.

use std::{fs, path::Path, sync::Arc};

use harness_core::is_hidden;
use harness_test_support::{Outcome, World};
use serde_json::{Value, json};

use super::{
    PROGRAM,
    server::{Fault, Server, scripted::Scripted},
};

/// What a hostile server says: it clears the screen, renames the window, and turns text around.
const SAYS: &str = "\u{1b}[2J\u{1b}]2;mine\u{7}five\tand\nsix \u{2067}txet\u{2069} \u{9b}1m\r";
/// The same as it is shown.
const SHOWN: &str = "[U+001B][2J[U+001B]]2;mine[U+0007]five\tand\nsix [U+2067]txet[U+2069] [U+009B]1m[U+000D]";

/// Names of models as they are written in TOML.
const NAMES: [&str; 2] = ["plain", "z\\u001b[7m|`\\u202e"];

const TASK: &str = r#"task: "odd\u0007 <u>"
task_alias: "=SUM(1)\e[5m"
dataset_path: json
dataset_kwargs:
  data_files:
    test: odd.jsonl
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
metric_list:
  - metric: exact_match
"#;

/// A model behind `plain` that is right, and one behind the other name that is hostile.
fn outside(fault: Option<Fault>) -> (World, [Server; 2]) {
    let world = World::empty(PROGRAM);
    let start = |text: &'static str| {
        let model = Scripted::new(1_000, Box::new(move |_, _| (text.to_owned(), vec![])));
        Server::start(Arc::new(model), "m", None, Box::new(move |_, _| fault))
    };
    let servers = [start("ok"), start(SAYS)];
    let section =
        |(name, server): (&str, &Server)| format!("[models.\"{name}\"]\nendpoint = \"openai:m@{}\"\n", server.url());
    world.write("harness.toml", NAMES.into_iter().zip(&servers).map(section).collect::<String>());
    world.write("tasks/odd.yaml", TASK);
    let rows = (0..6).map(|i| json!({"q": format!("{i}\u{1b}[1A\u{202d}"), "a": "ok"}).to_string() + "\n");
    world.write("tasks/odd.jsonl", rows.collect::<String>());
    (world, servers)
}

/// The hostile name itself.
fn hostile() -> String {
    serde_json::from_str(&format!("\"{}\"", NAMES[1])).unwrap()
}

/// Itself, if nothing that it printed acts on a terminal.
#[track_caller]
fn harmless(outcome: Outcome) -> Outcome {
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!text.chars().any(is_hidden), "{text:?}");
    }
    outcome
}

#[test]
fn answers_are_shown_with_their_control_characters_visible() {
    let (world, _servers) = outside(None);
    let name = hostile();
    let call = ["generate", &name, "-p", "x"];
    assert_eq!(harmless(world.run(&call).expect(0)).stdout, format!("{SHOWN}\n"));
    let stopped = world.run(&[&call[..], &["--stop", "never"]].concat()).expect(0);
    assert_eq!(harmless(stopped).stdout, format!("{SHOWN}\n"));
    let lines = world.run_with_input(&["generate", &name, "-p", "-"], "x\ny\n").expect(0);
    assert_eq!(harmless(lines).stdout, format!("{}\n", SHOWN.replace('\n', "\\n")).repeat(2));
    assert_eq!(harmless(world.run_with_input(&["chat", &name], "x\n").expect(0)).stdout, format!("{SHOWN}\n"));
    // JSON has the exact text, and no character that acts either.
    let object = harmless(world.run(&[&call[..], &["--json"]].concat()).expect(0)).json();
    assert_eq!(object["completions"][0]["response"]["output"]["text"], SAYS);
    let said = harmless(world.run_with_input(&["chat", &name, "--json"], "x\n").expect(0)).json();
    assert_eq!(said["response"]["output"]["text"], SAYS);
}

#[test]
fn names_are_shown_with_their_control_characters_visible() {
    let (world, _servers) = outside(None);
    let name = hostile();
    let task = ["-t", "odd\u{7} <u>", "--include-path", "tasks"];
    let compare = ["compare", "plain", &name, "--out", "out", "--flips"];
    let compared = harmless(world.run(&[&compare[..], &task].concat()).expect(0));
    assert!(
        compared.stdout.contains(": z[U+001B][7m|`[U+202E] against plain: 0 won, 6 lost"),
        "flips are text:\n{}",
        compared.stdout
    );
    world.run(&[&["run", &name, "--out", "out"][..], &task].concat()).expect(0);
    for file in fs::read_dir(world.path("out")).unwrap().map(|file| file.unwrap().path()) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        assert!(!text.chars().any(is_hidden), "{}", file.display());
    }
    let table = world.read("out/report.csv");
    assert!(table.lines().skip(1).all(|line| line.starts_with("odd[U+0007] <u>,'=SUM(1)[U+001B][5m,")), "{table}");
    for call in
        [&["models", "list"][..], &["tasks", "show", task[1], "--include-path", "tasks"], &["models", "show", &name]]
    {
        assert!(harmless(world.run(call).expect(0)).stdout.contains("[U+"), "{call:?}");
    }
    let audited = world.run(&[&["audit", "plain", &name][..], &task].concat()).expect(0);
    assert!(harmless(audited).stdout.contains("``z[U+001B][7m|`[U+202E]``"));
    let unknown = harmless(world.run(&["run", "\u{1b}c", "--no\u{9c}"]).expect(2));
    assert!(unknown.stderr.contains("--no[U+009C]"), "{}", unknown.stderr);
}

#[test]
fn errors_are_shown_with_their_control_characters_visible() {
    let (world, _servers) = outside(Some(Fault::Refuses(400, "no \u{1b}[1;31mway\u{7} \u{202e}tuo")));
    let call = ["generate", "plain", "-p", "x"];
    harmless(world.run(&call).expect(2)).says(&["no [U+001B][1;31mway[U+0007] [U+202E]tuo"]);
    let object: Value = harmless(world.run(&[&call[..], &["--json"]].concat()).expect(2)).json();
    assert!(object["error"].as_str().unwrap().contains("no \u{1b}[1;31mway\u{7} \u{202e}tuo"), "{object}");
    harmless(world.run(&["generate", "no\u{1b}[0m model", "-p", "x"]).expect(2)).says(&["no[U+001B][0m model"]);
}

#[test]
fn a_judging_report_has_no_markup_in_its_names() {
    let (world, _servers) = outside(None);
    let rows = |generator: &str, text: &str| -> String {
        let row = |i: usize| json!({"instruction": format!("do {i}"), "output": format!("{text} {i}"), "generator": generator, "dataset": "d"});
        Value::from((0..6).map(row).collect::<Vec<_>>()).to_string()
    };
    world.write("a.json", rows("*a* <em>\u{1b}[3m", "one two three"));
    world.write("b.json", rows("b|`c`", "four"));
    let name = hostile();
    let call = ["judge", "alpaca-eval", "a.json", "--baseline", "b.json", "--judge", &name, "--out", "judged"];
    // The judge never names a winner.
    let judged = harmless(world.run(&call).expect(1));
    assert!(judged.stdout.contains("no verdict could be read"), "{}", judged.stdout);
    let report = world.read("judged/report.md");
    assert!(!report.chars().any(is_hidden));
    let item = report.lines().find(|line| line.starts_with("- ") && line.contains("characters on average")).unwrap();
    assert!(item.starts_with("- \\*a\\* \\<em>\\[U+001B\\]\\[3m: "), "{item}");
    assert!(report.contains("Judged by z\\[U+001B\\]\\[7m\\|\\`\\[U+202E\\] under"), "{report}");
    assert!(report.contains("`*a* <em>[U+001B][3m`"), "{report}");
}

/// Every file below a folder, with its content.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = vec![];
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.to_string_lossy().into_owned(), fs::read(&path).unwrap()));
        }
    }
    found
}

#[test]
fn a_key_that_a_server_repeats_is_kept_nowhere() {
    const SECRET: &str = "sk-Kq7/93+zz";
    let (world, _) = outside(None);
    let model = Scripted::new(1_000, Box::new(|_, _| (format!("you sent Bearer {SECRET} ok"), vec![])));
    let server = Server::start(Arc::new(model), "m", Some(SECRET), Box::new(|_, _| None));
    let section =
        |name: &str| format!("[models.{name}]\nendpoint = \"openai:m@{}\"\napi_key_env = \"ODD_KEY\"\n", server.url());
    world.write("harness.toml", section("one") + &section("two"));
    let run = |call: &[&str], key: &str| {
        Outcome::new(&world.command(call).env("ODD_KEY", key).output().expect("the program"))
    };
    let task = ["-t", "odd\u{7} <u>", "--include-path", "tasks", "--limit", "3"];
    let calls: [&[&str]; 4] = [
        &["run", "one", "--out", "run", "--lm-eval-output", "lm"],
        &["compare", "one", "two", "--out", "out", "--flips"],
        &["generate", "one", "-p", "x"],
        &["generate", "one", "-p", "x", "--json"],
    ];
    for call in calls {
        let call = if call[0] == "generate" { call.to_vec() } else { [call, &task].concat() };
        let outcome = run(&call, SECRET).expect(0);
        assert!(!outcome.stdout.contains(SECRET) && !outcome.stderr.contains(SECRET), "{outcome:?}");
        assert!(call[0] != "generate" || outcome.stdout.contains("you sent Bearer [key] ok"), "{}", outcome.stdout);
    }
    // The server refuses another key, and repeats it.
    let refused = run(&["generate", "one", "-p", "x"], "sk-wrong-one").expect(2);
    assert!(refused.stderr.contains("Bearer [key]") && !refused.stderr.contains("sk-wrong"), "{}", refused.stderr);
    let all = files(world.folder());
    assert!(
        all.iter().any(|(name, _)| name.contains("/responses/"))
            && all.iter().any(|(name, _)| name.contains("samples_"))
    );
    let holds = |content: &[u8], text: &str| content.windows(text.len()).any(|part| part == text.as_bytes());
    for (name, content) in &all {
        for part in [SECRET, "sk-Kq7", "93+zz"] {
            assert!(!holds(content, part), "{name} holds {part}");
        }
    }
    assert!(all.iter().any(|(_, content)| holds(content, "you sent Bearer [key] ok")), "answers are kept");
}

/// Where a task is written whose name is a path.
#[test]
fn names_lead_out_of_no_folder() {
    let world = World::new(PROGRAM);
    let long = "long".repeat(70);
    let names = ["../../up", "/abs/olute", "a/b", "..", "a%2Fb", "tab\there", long.as_str()];
    for (i, name) in names.iter().enumerate() {
        let text = harness_test_support::tasks::TEXT.replace("task: toy_text", &format!("task: {}", json!(name)));
        assert!(text.contains(&json!(name).to_string()), "{text}");
        world.write(&format!("in/work/odd/{i}.yaml"), text);
    }
    world.write("in/work/odd/toy_text.jsonl", world.read("tasks/toy_text.jsonl"));
    let before = files(world.folder()).len();
    let given: Vec<&str> = names.iter().flat_map(|name| ["-t", name]).collect();
    let call =
        ["run", "base", "--include-path", "in/work/odd", "--out", "in/work/out", "--lm-eval-output", "in/work/lm"];
    world.run(&[&call[..], &given].concat()).expect(0);
    let below = |folder: &str| -> Vec<String> {
        fs::read_dir(world.path(folder)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let mut samples = below("in/work/out");
    samples.retain(|name| name != "manifest.json");
    samples.sort();
    assert_eq!(samples.len(), names.len(), "{samples:?}");
    let expected = ["%2E%2E", "%2E.%2F..%2Fup", "%2Fabs%2Folute", "a%252Fb", "a%2Fb", "tab%09here"];
    for name in expected {
        assert!(samples.contains(&format!("samples_{name}.jsonl")), "{name}: {samples:?}");
    }
    // Every line says whose it is.
    let mut tasks: Vec<String> = samples
        .iter()
        .map(|file| {
            let text = world.read(&format!("in/work/out/{file}"));
            let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
            line["task"].as_str().unwrap().to_owned()
        })
        .collect();
    tasks.sort();
    let mut sorted: Vec<&str> = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(tasks, sorted);
    let folders = below("in/work/lm");
    assert_eq!((folders.len(), below(&format!("in/work/lm/{}", folders[0])).len()), (1, names.len() + 1));
    // Nothing else is new but the store.
    let new = files(world.folder()).into_iter().filter(|(name, _)| !name.contains("/.harness/")).count();
    assert_eq!(new - before, 2 * names.len() + 2);
    // What lm-eval's files say is read back under the same names.
    let imported = world.run(&["import", "lm-eval", "in/work/lm", "--name", "back", "--json"]).expect(0).json();
    let tasks = imported["tasks"].as_object().unwrap();
    assert!(names.iter().all(|name| tasks.contains_key(*name)), "{imported}");
}

#[test]
fn an_imported_name_may_be_odd_or_long() {
    let world = World::empty(PROGRAM);
    let rows: String = (0..4).map(|i| format!("{i},{}\n", i % 2)).collect();
    world.write("i.csv", format!("id,score\n{rows}"));
    let long = "n".repeat(300);
    for name in ["a:b?c", "con", &long, "x\u{7}"] {
        world.run(&["import", "csv", "i.csv", "--task", "t", "--name", name]).expect(0);
    }
    world.run(&["compare", "a:b?c", "con", &long, "x\u{7}", "-t", "t"]).expect(0);
    let folder = world.path(".harness/imports");
    assert!(folder.join("a%3Ab%3Fc.json").is_file() && folder.join("%63on.json").is_file());
    // What earlier versions wrote is found under its old name.
    fs::rename(folder.join("a%3Ab%3Fc.json"), folder.join("a:b?c.json")).unwrap();
    world.run(&["compare", "a:b?c", "con", "-t", "t"]).expect(0);
    world
        .run(&["import", "csv", "i.csv", "--task", "t", "--name", "a:b?c"])
        .expect(2)
        .says(&["results with this name exist"]);
    for name in ["../x", ".x", "a/b", ""] {
        world
            .run(&["import", "csv", "i.csv", "--task", "t", "--name", name])
            .expect(2)
            .says(&["expected a plain name"]);
    }
}

#[test]
fn a_candidate_is_trained_below_its_folder() {
    let world = World::new(PROGRAM);
    let experiment = world.read("harness.toml").replace("[models.r4]", "[models.\"../../r4\"]");
    world.write("harness.toml", experiment);
    world.run(&["train", "../../r4"]).expect(0);
    let trained = fs::read_dir(world.path(".harness/models")).unwrap().map(|entry| entry.unwrap().file_name());
    let trained: Vec<String> = trained.map(|name| name.into_string().unwrap()).collect();
    assert!(matches!(trained.as_slice(), [name] if name.starts_with("%2E.%2F..%2Fr4-")), "{trained:?}");
}

#[test]
fn an_empty_home_is_refused() {
    let world = World::empty(PROGRAM);
    for call in [&["models", "list"][..], &["tasks", "list"], &["report", "comparison"]] {
        let output = world.command(call).env("HARNESS_HOME", "").output().unwrap();
        Outcome::new(&output).expect(2).says(&["HARNESS_HOME is empty: expected a folder"]);
    }
    assert_eq!(files(world.folder()), []);
}
