//! Result files of other tools as a published study leaves them, imported without recoding: what is wrong with them is
//! said unasked, and what is right raises no alarm.

use harness_test_support::World;
use serde_json::{Map, Value, json};

use super::world;

/// Columns of the study's tables of preferences.
const PREFERENCES: &str =
    "id=instruction,win=preference:A=1,B=0,tie=0.5,output=your_answer (A),baseline=baseline_answer (B)";

/// A table of preferences by instruction: the model is A throughout, and the longer answer wins mostly.
fn preferences(rows: usize, seed: usize) -> String {
    let mut text = String::from("instruction,your_answer (A),baseline_answer (B),score (A vs B),preference,feedback\n");
    for i in 0..rows {
        let long = (i * 7 + seed) % 10 < 6;
        let (own, other) = if long { ("a long answer with many words", "short") } else { ("short", "a longer answer") };
        let (score, preference) = match (i * 3 + seed) % 10 {
            0 => (3, "Tie"),
            1 => (if long { 2 } else { 4 }, if long { "B" } else { "A" }),
            _ => (if long { 4 } else { 2 }, if long { "A" } else { "B" }),
        };
        text.push_str(&format!(
            "\"instruction {i}, in\ntwo lines\",{own},{other},{score},{preference},\"So: {score}\"\n"
        ));
    }
    text
}

/// Judgments by question and turn whose verdict stands inside the text; one turn is missing.
fn judgments(seed: u32, text: impl Fn(u32) -> String) -> String {
    let mut lines = String::new();
    for question in 81..=160 {
        for turn in (1..=2).filter(|turn| (question, *turn) != (131, 2)) {
            let line =
                json!({"question_id": question, "turn": turn, "judgment": text((question * 3 + turn + seed) % 4)});
            lines.push_str(&format!("{line}\n"));
        }
    }
    lines
}

/// A share as lm-eval writes it: with the standard error that its documents give.
fn share(entry: &mut Map<String, Value>, key: &str, filter: &str, right: u32, n: u32) {
    let p = f64::from(right) / f64::from(n);
    entry.insert(format!("{key},{filter}"), json!(p));
    entry.insert(format!("{key}_stderr,{filter}"), json!((p * (1.0 - p) / f64::from(n - 1)).sqrt()));
}

/// A results file of means with a group of groups, told by the aliases alone, and a filter that reads nothing.
fn means(more: u32) -> Value {
    let mut results = Map::new();
    let subjects = [("exam_law_civil", 120, 60), ("exam_law_criminal", 80, 30), ("exam_physics", 200, 90)];
    let group = |names: &[&str]| {
        let of = subjects.iter().filter(|(name, ..)| names.contains(name));
        let (n, right) = of.fold((0, 0), |(n, r), (_, m, right)| (n + m, r + right + more));
        let p = f64::from(right) / f64::from(n);
        json!({"acc,none": p, "acc_stderr,none": 0.021})
    };
    let named = |mut value: Value, alias: &str| {
        value["alias"] = json!(alias);
        value
    };
    let all = group(&["exam_law_civil", "exam_law_criminal", "exam_physics"]);
    let law = group(&["exam_law_civil", "exam_law_criminal"]);
    let subject = |name: &str, alias: &str| {
        let (_, n, right) = subjects.iter().find(|(known, ..)| *known == name).unwrap();
        let mut entry = Map::new();
        share(&mut entry, "acc", "none", right + more, *n);
        named(Value::Object(entry), alias)
    };
    results.insert("exam".into(), named(all.clone(), "exam"));
    results.insert("exam_law".into(), named(law.clone(), " - law"));
    results.insert("exam_law_civil".into(), subject("exam_law_civil", "  - civil"));
    results.insert("exam_law_criminal".into(), subject("exam_law_criminal", "  - criminal"));
    results.insert("exam_physics".into(), subject("exam_physics", " - physics"));
    let mut gsm8k = Map::new();
    gsm8k.insert("alias".into(), json!("gsm8k"));
    gsm8k.insert("exact_match,strict-match".into(), json!(0.0));
    gsm8k.insert("exact_match_stderr,strict-match".into(), json!(0.0));
    share(&mut gsm8k, "exact_match", "flexible-extract", 72 + more, 1_319);
    results.insert("gsm8k".into(), Value::Object(gsm8k));
    results.insert("truth".into(), json!({"alias": "truth", "acc,none": 0.4058, "acc_stderr,none": 0.01389}));
    json!({"results": results, "groups": {"exam": all, "exam_law": law}})
}

fn import(world: &World, format: &str, file: &str, name: &str, more: &[&str]) -> String {
    world.run(&[&["import", format, file, "--name", name][..], more].concat()).expect(0).stdout
}

/// All parts are in a text.
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn preferences_of_a_published_study() {
    let world = world();
    world.write("r8.csv", preferences(800, 0));
    world.write("r32.csv", preferences(800, 3));
    world.write("again.csv", preferences(800, 0));
    world.write("r8.txt", "r: 8\nlora_alpha: 16\nlearning_rate: 2e-4\nepochs: 1\n");
    world.write("r32.json", json!({"r": 32, "lora_alpha": 64, "learning_rate": 0.0001, "epochs": 1}).to_string());
    let map = ["--task", "alpaca_eval", "--map", PREFERENCES];
    let text = import(&world, "csv", "r8.csv", "r8", &[&map[..], &["--facts", "r8.txt"]].concat());
    says(&text, &["800 of 805 instructions", "always the same position", "longer output wins"]);
    import(&world, "csv", "r32.csv", "r32", &[&map[..], &["--facts", "r32.json"]].concat());
    import(&world, "csv", "again.csv", "again", &map);
    let text = world.run(&["audit", "r8", "r32", "again"]).expect(0).stdout;
    says(
        &text,
        &[
            "alpaca_eval `r8` has 800 of 805 instructions; alpaca_eval `r32` has 800 of 805",
            "`r8` is shown first in all of 800 pairs: always the same position",
            "The longer output wins in 8",
            "that of `r32` is the longer one in 60.0 % of the pairs",
            "The results of `r8` and `again` were imported from files with the same content: the same model twice",
            "noise floor",
            "`r8` and `r32` beyond what their names say in training.learning_rate (0.0002, 0.0001)",
        ],
    );
    assert!(!text.contains("Only means are known") && !text.contains("lora.alpha"), "{text}");
    let wrong = "id=instruction,win=preference:A=1,B=0";
    world.run(&["import", "csv", "r8.csv", "--name", "x", "--task", "t", "--map", wrong]).expect(2).says(&[
        "row 1, column \"preference\"",
        "\"Tie\"",
        "one of \"A\", \"B\"",
    ]);
}

#[test]
fn judgments_whose_verdict_stands_inside_the_text() {
    let world = world();
    world.write("r8.jsonl", judgments(0, |x| format!("Clear, if short. Rating: [[{}]]", 5 + x)));
    world.write("r32.jsonl", judgments(1, |x| format!("So the overall score is {0}. [RESULT] {0}", 2 + x)));
    let text = import(&world, "fastchat", "r8.jsonl", "r8", &[]);
    says(&text, &["mt_bench: 159 documents", "159 of 160 turns (131 turn 2 missing)"]);
    let map = ["--task", "mt_bench", "--map", "id=question_id+turn,cluster=question_id,score=judgment"];
    import(&world, "jsonl", "r32.jsonl", "r32", &map);
    let object = world.run(&["compare", "r8", "r32", "--json"]).expect(0).json();
    let row = &object["rows"][0];
    assert_eq!((&row["n"], &row["clusters"]), (&json!(159), &json!(80)), "{row}");
    let value = |at: usize| row["cells"][at]["value"].as_f64().unwrap();
    assert!((6.0..7.0).contains(&value(0)) && (3.0..4.0).contains(&value(1)), "{row}");
    // Two scales are no comparison of models.
    let text = world.run(&["audit", "r8", "r32"]).expect(0).stdout;
    says(&text, &["scale of mt_bench: `r8` 1 to 10, `r32` 1 to 5", "131 turn 2 missing"]);
    // A judge that always names the assistant shown first.
    let game = |question: u32| {
        let line = json!({"question_id": question, "turn": 1, "model_1": "base", "model_2": "m", "judge": ["gpt-4", "pair-v2"],
            "g1_judgment": "The first is clearer. [[A]]", "g2_judgment": "[[A]]"});
        format!("{line}\n")
    };
    world.write("pairs.jsonl", (81..=160).map(game).collect::<String>());
    let text = import(&world, "fastchat", "pairs.jsonl", "pairs", &["--model", "m"]);
    says(&text, &["judge `gpt-4`", "same winner in both orders for 0.0 % of 80 pairs", "80 of 160 turns"]);
}

#[test]
fn means_with_groups_and_a_filter_that_reads_nothing() {
    let world = world();
    world.write("r8.json", means(0).to_string());
    world.write("r32.json", means(4).to_string());
    let text = import(&world, "lm-eval", "r8.json", "r8", &[]);
    says(
        &text,
        &[
            "  exam: means only, over 400 documents",
            "\n      exam_law_civil: means only, over 120 documents",
            "truth: means only, over an unknown number of documents",
            "exact_match,strict-match for `r8`, but up to 5.5 % after flexible-extract",
        ],
    );
    import(&world, "lm-eval", "r32.json", "r32", &[]);
    let object = world.run(&["compare", "r8", "r32", "--json"]).expect(0).json();
    let rows = object["rows"].as_array().unwrap();
    let row = |task: &str| rows.iter().find(|row| row["task"] == task && row["primary"] == true).unwrap();
    assert_eq!(
        (&row("exam")["n"], &row("exam")["depth"], &row("exam")["pooled"]),
        (&json!(400), &json!(0), &json!(true))
    );
    let civil = row("exam_law_civil");
    assert_eq!((&civil["label"], &civil["group"]), (&json!("exam_law_civil"), &json!("exam_law")));
    assert_eq!((&civil["depth"], &civil["family"]), (&json!(2), &json!("within exam")));
    assert_eq!((&row("gsm8k")["n"], &row("truth")["n"]), (&json!(1_319), &Value::Null));
    let main = object["families"].as_array().unwrap().iter().find(|family| family["name"] == "main results").unwrap();
    assert_eq!(main["tests"], 3, "exam, gsm8k and truth: {main}");
    let text = world.run(&["compare", "r8", "r32", "--all-rows"]).expect(0).stdout;
    says(&text, &["exam_law_criminal", "unknown", "Only means are known", "for all models, `r8`; `r32`"]);
    // A group by name brings its members; a member by name stands for itself.
    let object = world.run(&["compare", "r8", "r32", "--tasks", "exam_law", "--json"]).expect(0).json();
    let shown: Vec<(&Value, &Value)> =
        object["rows"].as_array().unwrap().iter().map(|row| (&row["task"], &row["depth"])).collect();
    let expected =
        [(json!("exam_law"), json!(0)), (json!("exam_law_civil"), json!(1)), (json!("exam_law_criminal"), json!(1))];
    assert_eq!(shown, expected.iter().map(|(task, depth)| (task, depth)).collect::<Vec<_>>());
    for command in ["compare", "audit"] {
        let call = [command, "r8", "r32", "--tasks", "exam,gsm8"];
        world.run(&call).expect(2).says(&["--tasks gsm8", "did you mean \"gsm8k\"?"]);
    }
}

#[test]
fn what_only_some_models_have_is_named() {
    let world = world();
    world.write("r8.json", means(0).to_string());
    let mut other = means(4);
    other["results"].as_object_mut().unwrap().remove("truth");
    world.write("r32.json", other.to_string());
    for name in ["r8", "r32"] {
        import(&world, "lm-eval", &format!("{name}.json"), name, &[]);
    }
    let text = world.run(&["audit", "r8", "r32"]).expect(0).stdout;
    says(&text, &["Not compared, because some models have no results for it: truth (only `r8`)"]);
    world.run(&["compare", "r8", "r32", "--tasks", "truth"]).expect(2).says(&["--tasks truth", "results of r32"]);
    // Beside a model that is asked here, too.
    world.write("toy.csv", "id,score\n1,1\n2,0\n");
    import(&world, "csv", "toy.csv", "toy", &["--task", "toy_chioce"]);
    world
        .run(&["compare", "base", "toy", "--tasks", "toy_choice"])
        .expect(2)
        .says(&["results of toy have no toy_choice", "did you mean \"toy_chioce\"?"]);
}

#[test]
fn the_same_means_are_one_model() {
    let world = world();
    world.write("a.json", means(0).to_string());
    let mut same = means(0);
    same["date"] = json!(1);
    world.write("b.json", same.to_string());
    let mut run = means(2);
    run["model_name"] = json!("lab/model");
    world.write("c.json", run.to_string());
    run["results"]["truth"]["acc,none"] = json!(0.4258);
    world.write("d.json", run.to_string());
    for name in ["a", "b", "c", "d"] {
        import(&world, "lm-eval", &format!("{name}.json"), name, &["--force"]);
    }
    let text = world.run(&["audit", "a", "b"]).expect(0).stdout;
    says(&text, &["`a` and `b` have the same mean in every row (8 rows)", "noise floor"]);
    let text = world.run(&["audit", "c", "d"]).expect(0).stdout;
    says(
        &text,
        &[
            "same model, according to their files (`lab/model`)",
            "noise floor, up to 2.0 percentage points (truth acc,none)",
        ],
    );
}

#[test]
fn a_sound_import_raises_no_alarm() {
    let world = world();
    let rows = |shift: usize| -> String {
        (0..120).map(|i| format!("{i},{},{}\n", u8::from((i + shift).is_multiple_of(3)), ["x", "y"][i % 2])).collect()
    };
    // Two models in one file are no copy of each other.
    let both: String =
        rows(0).lines().zip(rows(1).lines()).map(|(a, b)| format!("{a},{}\n", b.split(',').nth(1).unwrap())).collect();
    world.write("both.csv", format!("id,base,topic,tuned\n{both}"));
    import(&world, "csv", "both.csv", "before", &["--task", "own", "--map", "id=id,acc=base"]);
    import(&world, "csv", "both.csv", "after", &["--task", "own", "--map", "id=id,acc=tuned"]);
    let object = world.run(&["audit", "before", "after", "--json"]).expect(0).json();
    assert_eq!(object["alarms"], 0, "{object}");
}
