//! MT-Bench against FastChat's own numbers.

use std::collections::BTreeMap;

use harness_judges::{
    Item, Orders, OutputSet, Plan, PlanOptions, Protocol,
    files::fastchat::SingleJudgment,
    results::{PairRow, WinLossTie, fastchat_pairwise, fastchat_single},
};
use harness_test_support::{beside, close, skipped, vectors};
use serde_json::Value;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[test]
fn tables() {
    for case in vectors("mtbench_aggregate").unwrap_or_default() {
        let rows = case.input["rows"].as_array().expect("rows");
        match case.group.as_str() {
            "single" => {
                let judgments: Vec<SingleJudgment> = rows
                    .iter()
                    .map(|row| SingleJudgment {
                        question_id: Value::Null,
                        model: text(row, "model").into(),
                        judge: [String::new(), String::new()],
                        user_prompt: String::new(),
                        judgment: String::new(),
                        score: row["score"].as_f64().expect("a score"),
                        turn: row["turn"].as_u64().expect("a turn") as usize,
                        tstamp: 0.0,
                    })
                    .collect();
                let found = fastchat_single(&judgments);
                for (name, turn) in [("turn1", Some(1)), ("turn2", Some(2)), ("average", None)] {
                    let expected = case.expected[name].as_object().expect("a table");
                    let column: BTreeMap<&str, f64> = found
                        .iter()
                        .filter_map(|(model, scores)| match turn {
                            Some(turn) => Some((model.as_str(), *scores.turns.get(&turn)?)),
                            None => Some((model.as_str(), scores.average)),
                        })
                        .collect();
                    assert_eq!(column.len(), expected.len(), "{} {name}", case.id);
                    for (model, value) in expected {
                        assert!(
                            close(column[model.as_str()], value.as_f64().expect("a mean"), 1e-9),
                            "{} {name}",
                            case.id
                        );
                    }
                }
            }
            "pairwise" => {
                let pair = |row: &'_ Value| -> [String; 4] {
                    ["model_1", "model_2", "g1_winner", "g2_winner"].map(|key| text(row, key).to_owned())
                };
                let rows: Vec<[String; 4]> = rows.iter().map(pair).collect();
                let rows = || {
                    rows.iter().map(|[model_1, model_2, g1_winner, g2_winner]| PairRow {
                        model_1,
                        model_2,
                        g1_winner,
                        g2_winner,
                    })
                };
                for (name, baseline) in
                    [("pairwise-baseline", Some(text(&case.input, "baseline"))), ("pairwise-all", None)]
                {
                    let found: BTreeMap<String, WinLossTie> = fastchat_pairwise(rows(), baseline);
                    let expected = case.expected[name].as_object().expect("a table");
                    assert_eq!(found.len(), expected.len(), "{} {name}", case.id);
                    for (model, counts) in expected {
                        let own = found[model];
                        let numbers = [
                            ("win", own.win as f64),
                            ("loss", own.loss as f64),
                            ("tie", own.tie as f64),
                            ("win_rate", own.win_rate()),
                            ("loss_rate", own.loss_rate()),
                            ("win_rate_adjusted", own.win_rate_adjusted()),
                        ];
                        for (key, value) in numbers {
                            assert!(
                                close(value, counts[key].as_f64().expect("a number"), 1e-12),
                                "{} {model} {key}",
                                case.id
                            );
                        }
                    }
                }
            }
            other => panic!("unknown group {other}"),
        }
    }
}

/// FastChat's own prompts, loaded from its file as a prompt file, give the prompts FastChat sends.
#[test]
fn official_prompts_are_rendered_as_fastchat_does() {
    let (Some(cases), Some(data)) = (vectors("mtbench_prompts"), beside("HARNESS_DATA_DIR", "data")) else { return };
    let file = data.join("mt_bench/judge_prompts.jsonl.zst");
    if !file.is_file() {
        return skipped(format_args!("no {}", file.display()));
    }
    let packed = harness_store::read_rows(&[file], None).expect("the prompts");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("judge_prompts.jsonl");
    let lines: String = packed.into_iter().map(|row| format!("{}\n", Value::Object(row))).collect();
    std::fs::write(&file, lines).expect("a file");
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|x| x.as_str().expect("a text").to_owned()).collect()
    };
    for case in cases {
        let name = text(&case.input, "prompt_name");
        let pair = name.starts_with("pair");
        let protocol = Protocol::load(if pair { "mt-bench-pair" } else { "mt-bench" }).expect("built in");
        let protocol = protocol.with_prompt_file(&file).expect("FastChat's prompts");
        let item = Item {
            id: "1".into(),
            turns: strings(&case.input["question"]["turns"]),
            reference: strings(&case.input["ref"]),
            category: Some(text(&case.input["question"], "category").into()),
            temperature: None,
        };
        let outputs = |key: &str| {
            let turns = strings(&case.input[key]);
            OutputSet { model: key.into(), outputs: BTreeMap::from([("1".to_owned(), turns)]) }
        };
        let options = PlanOptions {
            orders: Orders::BaselineFirst,
            repeat_share: 0.0,
            self_pair_share: 0.0,
            ..PlanOptions::default()
        };
        let items = [item];
        let plan = if pair {
            let (a, b) = (outputs("answer_a"), outputs("answer_b"));
            Plan::pairwise(&protocol, None, &items, &[(&a, &b)], &options)
        } else {
            Plan::absolute(&protocol, None, &items, &[outputs("answer_a")], &options)
        }
        .expect("a plan");
        let question = plan.questions.iter().find(|question| question.template == name);
        let question = question.unwrap_or_else(|| panic!("{}: no question with prompt {name}", case.id));
        assert_eq!(question.messages[0].content, text(&case.expected, "system"), "{}", case.id);
        assert_eq!(question.messages[1].content, text(&case.expected, "user"), "{}", case.id);
    }
}

/// The 80 questions in the hub's form: which prompt each gets.
#[test]
fn the_eighty_questions_get_the_prompts_of_their_categories() {
    let Some(data) = beside("HARNESS_DATA_DIR", "data") else { return };
    let items =
        harness_judges::files::fastchat::read_questions(&data.join("mt_bench/train.jsonl.zst")).expect("questions");
    assert_eq!(items.len(), 80);
    let outputs = OutputSet::constant("m", "an answer", &items);
    let options = PlanOptions { repeat_share: 0.0, ..PlanOptions::default() };
    let protocol = Protocol::load("mt-bench").expect("built in");
    let plan = Plan::absolute(&protocol, None, &items, &[outputs], &options).expect("a plan");
    assert_eq!(plan.questions.len(), 160);
    let mut by_template: BTreeMap<&str, usize> = BTreeMap::new();
    for question in &plan.questions {
        *by_template.entry(&question.template).or_default() += 1;
        let category = items.iter().find(|item| item.id == question.item).and_then(|item| item.category.as_deref());
        let guided = matches!(category, Some("math" | "reasoning" | "coding"));
        assert_eq!(question.template.contains("math"), guided, "{category:?}");
    }
    let expected =
        [("single-math-v1", 30), ("single-math-v1-multi-turn", 30), ("single-v1", 50), ("single-v1-multi-turn", 50)];
    assert_eq!(by_template, BTreeMap::from(expected));
}

/// Prometheus' own words, in a prompt file, give the text its package sends.
#[test]
fn prometheus_prompts_keep_their_form() {
    for case in vectors("prometheus_prompts").unwrap_or_default() {
        if case.group != "prompt" {
            continue;
        }
        // The placeholders put back: what a user would have in a prompt file.
        let fields = &case.input["fields"];
        let relative = case.input["mode"] == "relative";
        let mut official = text(&case.expected, "user").to_owned();
        let after = |heading: &str, key: &str, official: &mut String| {
            let filled = format!("{heading}\n{}", text(fields, key));
            assert!(official.contains(&filled), "{}: {heading}", case.id);
            *official = official.replacen(&filled, &format!("{heading}\n{{{key}}}"), 1);
        };
        let reference = case.input["with_reference"] == true;
        if relative {
            after("###Instruction:", "instruction", &mut official);
            after("###Response A:", "response_A", &mut official);
            after("###Response B:", "response_B", &mut official);
            if reference {
                after("###Reference Answer:", "reference_answer", &mut official);
            }
            after("###Score Rubric:", "rubric", &mut official);
        } else {
            after("###The instruction to evaluate:", "instruction", &mut official);
            after("###Response to evaluate:", "response", &mut official);
            if reference {
                after("###Reference Answer (Score 5):", "reference_answer", &mut official);
            }
            after("###Score Rubrics:", "rubric", &mut official);
        }
        // The headings of our own prompt are the protocol's, in its order.
        let headings =
            |text: &str| text.lines().filter(|l| l.starts_with("###")).map(str::to_owned).collect::<Vec<_>>();
        let protocol = Protocol::load(if relative { "pairwise" } else { "absolute" }).expect("built in");
        let ours = protocol.template(1, reference).expect("a prompt");
        assert_eq!(headings(ours.user.source()), headings(&official), "{}", case.id);
        let placeholders =
            |text: &str| harness_judges::Template::new(text).placeholders().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(placeholders(ours.user.source()), placeholders(&official), "{}", case.id);
        assert!(ours.user.source().ends_with("###Feedback: ") && ours.user.source().contains("[RESULT]"));
    }
}
