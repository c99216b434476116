//! Protocol, prompt and outputs files, good and bad.

use std::{fs, path::Path};

use harness_judges::{
    Item, OutputSet, Plan, PlanOptions, Protocol, Rubric,
    files::{alpaca_eval, fastchat},
};

const GOOD: &str = r#"name = "mine"
version = 3
kind = "absolute"
scale = [1, 7]
parser = "rating"
placeholders = ["question", "answer"]

[[template]]
name = "only"
user = """
Question: {question}
Answer: {answer}
"""
"#;

fn error(text: &str) -> String {
    Protocol::parse(text, Path::new("dir/mine.toml")).expect_err("a bad protocol").to_string()
}

#[test]
fn built_in_protocols_are_sound() {
    let mut digests = std::collections::BTreeSet::new();
    for name in Protocol::names() {
        let protocol = Protocol::load(name).unwrap();
        assert_eq!(protocol.name, name);
        assert!(digests.insert(protocol.digest()), "digests differ");
        assert!(protocol.constraint.is_some() && !protocol.description.is_empty());
        // So that questions keep the ids that they had before there was a choice.
        assert_eq!(serde_json::to_value(&protocol).unwrap().get("least_label_share"), None);
        for turn in 1..=protocol.turns {
            assert!(protocol.template(turn, false).is_some(), "{name} turn {turn}");
        }
    }
    assert!(Protocol::load("mtbench").unwrap_err().to_string().contains("did you mean `mt-bench`?"));
}

#[test]
fn what_the_constraint_allows_the_strict_parser_reads() {
    let examples = [
        ("absolute", "Clear and complete. [RESULT] 5"),
        ("pairwise", "Feedback: B is clearer. [RESULT] B"),
        ("alpaca-eval", "M"),
        ("mt-bench", "Helpful, with a slip. Rating: [[10]]"),
        ("mt-bench-pair", "A is more accurate. [[A]]"),
    ];
    for (name, text) in examples {
        let protocol = Protocol::load(name).unwrap();
        let pattern = regex::Regex::new(&format!("^(?:{})$", protocol.constraint.as_ref().unwrap())).unwrap();
        assert!(pattern.is_match(text), "{name}: {text}");
        assert!(protocol.read(&harness_judges::Answer::text(text)).outcome.verdict().is_some(), "{name}: {text}");
    }
}

#[test]
fn an_unknown_placeholder_is_named_with_its_line() {
    let text = GOOD.replace("Answer: {answer}", "Answer: {anwser}");
    assert_eq!(
        error(&text),
        "dir/mine.toml, line 12: unknown placeholder {anwser} in template `only`: expected one of question, answer (did \
         you mean `answer`?)"
    );
    let undeclared = GOOD.replace("\"question\", ", "");
    assert!(error(&undeclared).starts_with("dir/mine.toml, line 11: unknown placeholder {question}"));
    let unfilled = GOOD.replace("\"question\", ", "\"question\", \"questoin\", ");
    assert!(error(&unfilled).contains("line 6: `placeholders` is \"questoin\""), "{}", error(&unfilled));
}

#[test]
fn other_mistakes_are_named_too() {
    assert!(error(&GOOD.replace("{answer}", "none")).contains("template `only` does not use the output"));
    assert!(error(&GOOD.replace("\"rating\"", "\"raiting\"")).contains("line 5: `parser` is \"raiting\""));
    assert!(error(&GOOD.replace("[1, 7]", "[7, 1]")).contains("`scale` is [7.0, 1.0]"));
    assert!(error(&GOOD.replace("version = 3", "version = \"x\"")).contains("line 2"));
    assert!(error(&GOOD.replace("scale", "scael")).contains("line 4"));
    assert!(error(&format!("constraint = \"(\"\n{GOOD}")).contains("line 1: `constraint`"));
    assert!(
        error(&GOOD.replace("[[template]]", "[sampling]\ntemperature = -1.0\n[[template]]")).contains("temperature")
    );
    assert!(error(&GOOD.replace("user = ", "usr = ")).contains("line 10"));
}

#[test]
fn every_part_of_a_protocol_is_in_its_digest() {
    let digest = |text: &str| Protocol::parse(text, Path::new("mine.toml")).unwrap().digest();
    let base = digest(GOOD);
    assert_eq!(base, digest(&format!("# a comment\n{GOOD}")));
    for (from, to) in [
        ("version = 3", "version = 4"),
        ("Question:", "Q:"),
        ("[1, 7]", "[1, 8]"),
        ("\"rating\"", "\"fastchat-rating\""),
    ] {
        assert_ne!(base, digest(&GOOD.replace(from, to)), "{to}");
    }
}

#[test]
fn prompts_can_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("official.txt"),
        "<|im_start|>system\nJudge.\n<|im_end|>\n<|im_start|>user\nQ {question}\nA {answer}\n<|im_end|>",
    )
    .unwrap();
    fs::write(path("mine.toml"), format!("prompt_file = \"official.txt\"\n{GOOD}")).unwrap();
    let protocol = Protocol::load(path("mine.toml").to_str().unwrap()).unwrap();
    assert_eq!(protocol.templates[0].user.source(), "Q {question}\nA {answer}");
    assert_eq!(protocol.templates[0].system.source(), "Judge.");

    fs::write(path("bad.txt"), "line one\n{question}\n{answer} {wrong}\n").unwrap();
    let text = protocol.clone().with_prompt_file(&path("bad.txt")).unwrap_err().to_string();
    assert!(text.contains("bad.txt, line 3: unknown placeholder {wrong}"), "{text}");
    fs::write(path("other.jsonl"), "{\"name\": \"x\", \"system_prompt\": \"\", \"prompt_template\": \"{question}\"}\n")
        .unwrap();
    let text = protocol.clone().with_prompt_file(&path("other.jsonl")).unwrap_err().to_string();
    assert!(text.contains("no prompt named `only`"), "{text}");
    assert!(
        protocol.with_prompt_file(&path("absent.txt")).unwrap_err().to_string().contains("absent.txt: cannot read")
    );
}

#[test]
fn official_headings_are_kept_and_system_text_is_joined() {
    let items = [Item { reference: vec!["four".into()], ..Item::new("2 + 2?") }];
    let outputs = OutputSet::single_turn("m", [("2 + 2?".to_owned(), "{rubric} is 5".to_owned())]);
    let rubric = Rubric::load("correctness").unwrap();
    let options = PlanOptions { repeat_share: 0.0, ..PlanOptions::default() };
    let plan =
        Plan::absolute(&Protocol::load("absolute").unwrap(), Some(&rubric), &items, &[outputs], &options).unwrap();
    let [message] = &plan.questions[0].messages[..] else { panic!("one message") };
    let text = &message.content;
    assert!(text.contains("\n###Task Description:\n") && text.ends_with("\n###Feedback: "), "{text}");
    assert!(text.contains("###Reference Answer (Score 5):\nfour\n"), "{text}");
    assert!(text.contains("###Response to evaluate:\n{rubric} is 5\n"), "values are not read as templates: {text}");
    assert!(text.contains("\nScore 5: Everything that is said is correct"), "{text}");
}

#[test]
fn outputs_files_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let good = write(
        "model_outputs.json",
        r#"[{"dataset": "d", "instruction": "One?", "output": "1", "generator": "gen"}, {"instruction": "Two?", "output": ""}]"#,
    );
    let file = alpaca_eval::read_outputs(&good).unwrap();
    assert_eq!((file.outputs.model.as_str(), file.items.len()), ("gen", 2));
    assert_eq!(file.items[0].category.as_deref(), Some("d"));
    let again = folder.path().join("again/model_outputs.json");
    alpaca_eval::write_outputs(&again, &file.items, &file.outputs).unwrap();
    assert_eq!(alpaca_eval::read_outputs(&again).unwrap(), file);

    let read = |path: &Path| alpaca_eval::read_outputs(path).unwrap_err().to_string();
    let twice = write(
        "twice.jsonl",
        "{\"instruction\": \"A?\", \"output\": \"1\"}\n{\"instruction\": \"A?\", \"output\": \"2\"}\n",
    );
    assert!(read(&twice).contains("twice.jsonl: 1 instruction more than once: \"A?\""), "{}", read(&twice));
    let lacks = write("lacks.jsonl", "{\"instruction\": \"A?\"}\n");
    assert!(
        read(&lacks).contains("lacks.jsonl, row 1: found nothing in `output`, expected a text"),
        "{}",
        read(&lacks)
    );
    let mixed = write(
        "mixed.json",
        r#"[{"instruction": "A?", "output": "1", "generator": "x"}, {"instruction": "B?", "output": "1", "generator": "y"}]"#,
    );
    assert!(read(&mixed).contains("row 2: found generator `y`"), "{}", read(&mixed));
    let broken = write("broken.json", "[{\"instruction\": ");
    assert!(read(&broken).contains("broken.json"), "{}", read(&broken));

    let other =
        OutputSet::single_turn("m", [("One?".to_owned(), "1".to_owned()), ("Three?".to_owned(), "3".to_owned())]);
    let text = other.check(&file.items).unwrap_err().to_string();
    assert!(text.contains("1 instruction missing: \"Two?\"") && text.contains("not asked for: \"Three?\""), "{text}");
}

#[test]
fn fastchat_files_are_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let questions = write(
        "question.jsonl",
        "{\"question_id\": 81, \"category\": \"math\", \"turns\": [\"a?\", \"b?\"]}\n{\"question_id\": 82, \"category\": \"writing\", \"turns\": [\"c?\", \"d?\"], \"reference\": [\"r\"]}\n",
    );
    let items = fastchat::read_questions(&questions).unwrap();
    assert_eq!((items[0].id.as_str(), items[1].reference.len()), ("81", 1));
    let turns = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
    let outputs = [("81".to_owned(), turns("1", "2")), ("82".to_owned(), turns("3", "4"))].into();
    let answers = OutputSet { model: "m".into(), outputs };
    let file = folder.path().join("model_answer/m.jsonl");
    fastchat::write_answers(&file, &items, &answers, 1.5).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("{\"question_id\":81,")
            && text.contains("\"choices\":[{\"index\":0,\"turns\":[\"1\",\"2\"]}]"),
        "{text}"
    );
    assert_eq!(fastchat::read_answers(&file).unwrap(), answers);
    let referenced = fastchat::with_references(items.clone(), &answers);
    assert_eq!(referenced[0].reference, ["1", "2"]);

    let twice = write("twice.jsonl", &text.replace("\"question_id\":82", "\"question_id\":81"));
    assert!(fastchat::read_answers(&twice).unwrap_err().to_string().contains("more than once: \"81\""));
    let same = write("same.jsonl", &fs::read_to_string(&questions).unwrap().replace("82", "81"));
    assert!(
        fastchat::read_questions(&same).unwrap_err().to_string().contains("row 2: found question 81 a second time")
    );
    let temperature = |category: Option<&str>| {
        fastchat::temperature(&Item { category: category.map(str::to_owned), ..Item::new("x") })
    };
    assert_eq!([Some("math"), Some("stem"), Some("writing"), None].map(temperature), [0.0, 0.1, 0.7, 0.7]);
}
