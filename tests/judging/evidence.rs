//! What bears on a judge: other judges, gold labels, a base in common, too little data for length control.

use std::sync::Arc;

use harness_test_support::{Dims, World, tiny_model};
use serde_json::{Value, json};

use super::{
    PROGRAM, fixture, script,
    server::{Server, scripted::Scripted},
    write_outputs,
};

/// A server whose judges `kind` and `harsh` prefer by the length of what they are shown: one the longer output, one the
/// shorter, with some noise of the script.
fn judges() -> (Server, Server) {
    let judge = |longer: bool| {
        let model = Scripted::new(
            1_000_000,
            Box::new(move |prompt, _| {
                let part = |from: &str, to: &str| {
                    prompt.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map_or("", |(part, _)| part)
                };
                let first = part("## Output of model m\n\n", "\n\n## Output of model M\n\n");
                let second = part("## Output of model M\n\n", "\n\n## Task");
                let second_is_longer = second.len() > first.len();
                let p = if second_is_longer == longer { 0.6 } else { 0.1 } + 0.3 * script(first, second);
                ("M".to_owned(), vec![("M", p.ln() as f32), ("m", (1.0 - p).ln() as f32)])
            }),
        );
        Server::sound(Arc::new(model), if longer { "kind" } else { "harsh" })
    };
    (judge(true), judge(false))
}

/// A world with outputs of two models, and an experiment with both judges and a jury.
fn world(count: usize) -> (World, (Server, Server)) {
    let world = World::empty(PROGRAM);
    let servers = judges();
    write_outputs(&world, &fixture(count));
    let section =
        |name: &str, server: &Server| format!("[models.{name}]\nendpoint = \"openai:{name}@{}\"\n", server.url());
    let jury = "[judges.both]\njury = [\"kind\", \"harsh\"]\n";
    world.write("harness.toml", section("kind", &servers.0) + &section("harsh", &servers.1) + jury);
    (world, servers)
}

const CALL: [&str; 8] = ["judge", "alpaca-eval", "other.json", "--baseline", "base.json", "--repeats", "0", "--judge"];

fn run(world: &World, extra: &[&str]) -> Value {
    world.run(&[&CALL[..], extra, &["--json"]].concat()).expect(0).json()
}

fn caveats<'a>(found: &'a Value, finding: &str) -> Vec<&'a Value> {
    let all = found["comparison"]["caveats"].as_array().unwrap();
    all.iter().filter(|caveat| caveat["finding"]["finding"] == finding).collect()
}

/// People who prefer the base on every item of a list.
fn people(rows: &[(String, String, String)], skip: usize) -> String {
    let line = |instruction: &String| {
        json!({"item": instruction, "model": "other-model", "baseline": "base-model", "preference": 0.0}).to_string()
    };
    rows.iter().skip(skip).map(|(instruction, ..)| line(instruction)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_jury_says_how_far_its_members_agree_and_is_less_sure() {
    let (world, _servers) = world(40);
    let found = run(&world, &["both", "--out", "result"]);
    let jury = &found["results"]["jury"][0];
    let value = |at: usize| jury["members"][at]["value"].as_f64().unwrap();
    assert!(value(0) > 0.6 && value(1) < 0.4, "{jury}");
    let agreement = &jury["pairs"][0]["agreement"];
    assert_eq!(agreement["n"], 40);
    let number = |value: &Value| value.as_f64().unwrap();
    let (kappa, interval) = (number(&agreement["kappa"]), &agreement["kappa_interval"]);
    assert!(number(&interval["low"]) < kappa && kappa < number(&interval["high"]), "{agreement}");
    // They never name the same winner: kappa sees the ties, alpha that the rest is the contrary.
    assert!(kappa < 0.3 && number(&agreement["alpha"]) < -0.5, "{agreement}");
    let (whole, fixed) = (jury["standard_error"].as_f64().unwrap(), jury["fixed_standard_error"].as_f64().unwrap());
    assert!(whole > 3.0 * fixed, "two judges that differ this much leave the rate open: {jury}");
    let rows = found["comparison"]["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["key"]["filter"]), (2, &"both, judges like these".into()));
    assert_eq!((&rows[0]["primary"], &rows[1]["primary"]), (&true.into(), &false.into()));
    let width = |row: &Value| {
        let interval = &row["contrasts"][0]["interval"];
        interval["high"].as_f64().unwrap() - interval["low"].as_f64().unwrap()
    };
    assert!(width(&rows[0]) > 3.0 * width(&rows[1]) && rows[0]["contrasts"][0]["verdict"] == "undecided");
    assert!(!found["comparison"]["caveats"].to_string().contains("unpaired"));
    let members = &found["run"]["members"];
    assert!(
        members["kind"]["requested"].as_u64() > Some(60) && members["harsh"]["requested"].as_u64() > Some(60),
        "{members:?}"
    );
    let report = world.read("result/report.md");
    assert!(
        report.contains("The jury on other-model: kind ") && report.contains("kind and harsh: the same for"),
        "{report}"
    );
}

#[test]
fn people_in_a_jury_need_not_have_seen_everything() {
    let (world, _servers) = world(20);
    world.write("people.jsonl", people(&fixture(20), 5));
    let found = run(&world, &["kind", "--judge", "human:people.jsonl"]);
    let jury = &found["results"]["jury"][0];
    assert_eq!((&jury["n"], &jury["pairs"][0]["agreement"]["n"]), (&16.into(), &16.into()), "{jury}");
    let result = &found["results"]["models"][0]["pair"]["win_rate"];
    assert_eq!((&result["n"], &result["unparsed"]), (&20.into(), &0.into()), "the other member's verdicts count");
}

#[test]
fn gold_labels_correct_the_result() {
    let (world, _servers) = world(60);
    let rows = fixture(60);
    let elsewhere = json!({"item": "x", "model": "y", "score": 1}).to_string();
    world.write("people.jsonl", people(&rows, 45) + "\n" + &elsewhere);
    let outcome = world.run(&[&CALL[..], &["kind", "--gold", "people.jsonl", "--json"]].concat()).expect(0);
    assert!(outcome.stderr.contains("people.jsonl: verdicts that match nothing judged here: 1"), "{}", outcome.stderr);
    let found = outcome.json();
    let gold = &found["results"]["gold"][0];
    let corrected = &gold["corrected"];
    assert_eq!((&corrected["labelled"], &corrected["unlabelled"]), (&15.into(), &45.into()));
    // The judge prefers the longer output; people never do.
    assert!(corrected["judge_only"].as_f64() > Some(0.6) && corrected["value"].as_f64() < Some(0.1), "{gold}");
    let offset = caveats(&found, "gold_offset");
    assert_eq!(offset.len(), 1);
    assert!(offset[0]["finding"]["offset"].as_f64() > Some(0.5), "{offset:?}");
    let rows = found["comparison"]["rows"].as_array().unwrap();
    assert_eq!(
        (&rows[0]["key"]["filter"], &rows[0]["primary"]),
        (&"kind, corrected by people.jsonl".into(), &true.into())
    );
    assert_eq!(rows[0]["contrasts"][0]["verdict"], "worse");
    assert_eq!((&rows[1]["key"]["filter"], &rows[1]["contrasts"][0]["verdict"]), (&"kind".into(), &"better".into()));
    let text = world.run(&[&CALL[..], &["kind", "--gold", "people.jsonl"]].concat()).expect(0).stdout;
    assert!(text.contains("other-model corrected by 15 labels of people.jsonl:"), "{text}");
    world.write("people.jsonl", elsewhere);
    let outcome = world.run(&[&CALL[..], &["kind", "--gold", "people.jsonl"]].concat()).expect(2);
    assert!(outcome.stderr.contains("no verdict is about anything judged here"), "{}", outcome.stderr);
}

#[test]
fn labels_off_the_scale_are_refused() {
    let (world, _servers) = world(4);
    let item = &fixture(4)[1].0;
    world.write("people.jsonl", json!({"item": item, "model": "other-model", "score": 9}).to_string());
    let outcome = world.run(&["judge", "absolute", "other.json", "--judge", "human:people.jsonl"]).expect(2);
    for part in ["people.jsonl", "the score 9 of \"other-model\"", item, "scale of absolute, 1 to 5"] {
        assert!(outcome.stderr.contains(part), "{part:?} is not in {}", outcome.stderr);
    }
}

#[test]
fn a_judge_that_shares_a_base_with_a_model_is_reported() {
    let world = World::empty(PROGRAM);
    tiny_model(&world.path("kin"), 7, Dims { layers: 1, max_length: 8192, ..Dims::default() });
    world.write("harness.toml", "[models.kin]\npath = \"kin\"\n[judges.self]\nmodel = \"kin\"\n");
    let rows = fixture(6);
    write_outputs(&world, &rows);
    let lines: Vec<String> = rows
        .iter()
        .map(|(instruction, base, _)| json!({"instruction": instruction, "reference": base}).to_string())
        .collect();
    world.write("instructions.jsonl", lines.join("\n"));
    let call = [
        "judge",
        "pairwise",
        "kin",
        "other.json",
        "--baseline",
        "base.json",
        "--instructions",
        "instructions.jsonl",
        "--max-new-tokens",
        "4",
        "--judge-max-tokens",
        "24",
        "--repeats",
        "0",
        "--self-pairs",
        "0",
        "--json",
        "--judge",
        "self",
    ];
    let finding = |extra: &[&str]| {
        let found = world.run(&[&call[..], extra].concat()).expect(0).json();
        let all: Vec<Value> = caveats(&found, "self_preference").into_iter().cloned().collect();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((&all[0]["judge"], &all[0]["finding"]["model"]), (&"self".into(), &"kin".into()));
        all[0]["finding"].clone()
    };
    assert_eq!(finding(&[])["excess"], Value::Null, "nothing to compare with");
    // Against another judge, and against people who never prefer what the judge's kin wrote.
    let other = finding(&["--judge", "overlap"]);
    assert!(other["against"] == "overlap" && other["excess"].is_number(), "{other}");
    let gold: Vec<String> = rows
        .iter()
        .flat_map(|(instruction, ..)| {
            ["kin", "other-model"].map(|model| {
                json!({"item": instruction, "model": model, "baseline": "base-model", "preference": 0.0}).to_string()
            })
        })
        .collect();
    world.write("people.jsonl", gold.join("\n"));
    let people = finding(&["--gold", "people.jsonl"]);
    assert!(people["against"] == "people.jsonl" && people["excess"].is_number(), "{people}");
}

#[test]
fn a_length_controlled_rate_is_given_with_its_variants_or_not_at_all() {
    let (world, _servers) = world(60);
    let difficulty: String = (0..60).map(|i| format!("{i},{}\n", f64::from((i * 7) % 11) / 5.0 - 1.0)).collect();
    world.write("difficulty.csv", format!("index,instruction_difficulty\n{difficulty}"));
    let gamed: String = (0..60)
        .map(|i| {
            format!(
                "{},{i},{},{},concise\n",
                0.4 + f64::from(i % 3) / 10.0,
                f64::from(i % 5) - 2.0,
                f64::from(i % 7) / 7.0
            )
        })
        .collect();
    world.write("gamed.csv", format!("preference,index,std_delta_len,instruction_difficulty,model\n{gamed}"));
    let variants = |extra: &[&str]| -> Vec<String> {
        let found = run(&world, &[&["kind"], extra].concat());
        let fits = found["results"]["models"][0]["alpaca_eval"]["length_controlled"].clone();
        fits.as_array().unwrap().iter().map(|fit| fit["variant"].as_str().unwrap().to_owned()).collect()
    };
    let named = |names: &[&str]| names.iter().map(|name| format!("length_controlled_{name}")).collect::<Vec<_>>();
    assert_eq!(variants(&[]), named(&["minimal"]));
    let difficulty = ["--instruction-difficulty", "difficulty.csv"];
    assert_eq!(variants(&difficulty), named(&["noreg", "minimal"]));
    let both = [&difficulty[..], &["--gamed-baselines", "gamed.csv"]].concat();
    assert_eq!(variants(&both), named(&["v1", "noreg", "minimal"]));
    let few = run(&world, &["kind", "--limit", "12"]);
    let reason = caveats(&few, "length_control_fails")[0]["finding"]["reason"].clone();
    assert!(reason.as_str().unwrap().contains("12 instructions are too few"), "{reason}");
    let text = world.run(&[&CALL[..], &["kind", "--limit", "12"]].concat()).expect(0).stdout;
    assert!(text.contains("length_controlled_minimal: not estimable"), "{text}");
    let outcome =
        world.run(&["judge", "absolute", "other.json", "--instruction-difficulty", "difficulty.csv"]).expect(2);
    assert!(outcome.stderr.contains("AlpacaEval's length control"), "{}", outcome.stderr);
}
