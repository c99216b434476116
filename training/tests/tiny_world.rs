//! The generator of the embedded world: deterministic, in step with the files in the repository, and without overlap
//! between what is trained on and what is scored.

#[allow(dead_code, unreachable_pub, reason = "shared with the example, which uses other parts")]
#[path = "../examples/tiny_world/world/mod.rs"]
mod world;

use std::{collections::BTreeSet, path::PathBuf, sync::OnceLock};

use harness_training::{
    Recipe,
    data::{Template, prepare},
};
use serde_json::Value;
use world::{Use, World, corpus, instructions, tasks, tokenizer_config, train_tokenizer};

fn root() -> PathBuf {
    harness_test_support::workspace_root()
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World::new(2026))
}

fn texts() -> &'static [String] {
    static TEXTS: OnceLock<Vec<String>> = OnceLock::new();
    TEXTS.get_or_init(|| corpus(world(), 1.0))
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Everything that is trained on, as one text.
fn trained_on() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut text = texts().join("\n");
        for row in instructions(world(), 2_400) {
            for column in ["preamble", "instruction", "context", "response"] {
                text.push_str(row[column].as_str().unwrap());
                text.push('\n');
            }
        }
        text
    })
}

#[test]
fn another_seed_is_another_world() {
    assert_eq!(World::new(2026), *world());
    assert_ne!(World::new(43).entities, world().entities);
    assert_eq!(corpus(world(), 0.01), corpus(world(), 0.01));
    assert_eq!(world().facts.len(), 60 * 5 + 20 * 4 + 30 * 4 + 30 * 3);
}

#[test]
fn the_repository_holds_what_the_generator_writes() {
    assert!(read("models/tiny/data/instructions.jsonl") == lines(&instructions(world(), 2_400)));
    for task in tasks(world()) {
        for (part, rows) in [("test", &task.test), ("dev", &task.dev)] {
            let path = format!("tasks/definitions/tiny/{}_{part}.jsonl", task.name);
            assert!(read(&path) == lines(rows), "{path} is not what the generator writes");
        }
    }
    assert!(read("models/tiny/tokenizer.json") == train_tokenizer(texts(), 1_408).unwrap());
    assert_eq!(read("models/tiny/tokenizer_config.json"), format!("{:#}\n", tokenizer_config(512)));
}

#[test]
fn every_fact_is_stated() {
    for (fact, _) in &world().facts {
        let statements = world().attribute(*fact).statements.iter().map(|phrase| {
            world::capitalised(&phrase.replace("{e}", &world().entity(*fact).name).replace("{v}", world().value(*fact)))
        });
        assert!(statements.into_iter().any(|statement| trained_on().contains(&statement)), "{fact:?}");
    }
}

#[test]
fn no_question_about_a_held_out_fact_is_trained_on() {
    for used in [Use::Test, Use::Examples] {
        for fact in world().facts_for(used) {
            for number in 0..3 {
                let question = world().question(fact, number);
                assert!(!trained_on().contains(&question), "{question}");
            }
        }
    }
}

#[test]
fn test_rows_are_new_and_distinct() {
    for task in tasks(world()) {
        let mut seen = BTreeSet::new();
        assert!((100..=200).contains(&task.test.len()), "{} has {} rows", task.name, task.test.len());
        for row in task.test.iter().chain(&task.dev) {
            let column = if task.name == "tiny_summary" { "context" } else { "question" };
            let text = row[column].as_str().unwrap();
            assert!(seen.insert(text.to_owned()), "{text} occurs twice");
            assert!(!trained_on().contains(text), "{text}");
        }
    }
}

#[test]
fn no_worked_answer_or_summary_of_a_test_row_is_trained_on() {
    for task in tasks(world()).into_iter().filter(|task| task.name == "tiny_gsm8k") {
        for row in task.test {
            let answer = row["answer"].as_str().unwrap();
            // Both steps and the result; single steps are in the tables that training is meant to teach.
            assert!(!trained_on().contains(answer), "{answer}");
        }
    }
    for task in tasks(world()).into_iter().filter(|task| task.name == "tiny_summary") {
        for row in task.test {
            assert!(!trained_on().contains(row["response"].as_str().unwrap()), "{row}");
        }
    }
}

#[test]
fn choices_are_right_and_letters_even() {
    let mut letters = [0usize; 4];
    for task in tasks(world()).into_iter().filter(|task| task.name == "tiny_mmlu") {
        for row in task.test {
            let choices: BTreeSet<&str> = row["choices"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            assert_eq!(choices.len(), 4, "{row}");
            letters[row["answer"].as_u64().unwrap() as usize] += 1;
        }
    }
    assert!(letters.iter().all(|&count| count >= 15), "{letters:?}");
}

#[test]
fn instructions_take_the_forms_of_the_tasks() {
    let template = Template::load("data/template.toml", &root().join("models/tiny")).unwrap();
    let row = |text: &str| serde_json::from_str::<Value>(text).unwrap().as_object().unwrap().clone();
    let choice = template
        .format(
            &row(
                r#"{"category": "multiple_choice", "instruction": "Q?", "context": "", "choices": ["a", "b", "c", "d"],
                "preamble": "P\n\n", "response": "B"}"#,
            ),
            None,
        )
        .unwrap();
    assert_eq!(choice.prompt, "P\n\nQ?\nA. a\nB. b\nC. c\nD. d\nAnswer:");
    assert_eq!(choice.completion, " B");
    let plain = |category: &str, context: &str| {
        template
            .format(
                &row(&format!(
                    r#"{{"category": "{category}", "instruction": "Q?", "context": "{context}", "choices": [],
                    "preamble": "", "response": "R"}}"#
                )),
                None,
            )
            .unwrap()
    };
    assert_eq!(plain("question", "").prompt, "Question: Q?\nAnswer:");
    assert_eq!(plain("word_problem", "").completion, " R");
    let summary = plain("summary", "C");
    assert_eq!(summary.prompt, "### Instruction:\nQ?\n\n### Context:\nC\n\n### Response:\n");
    assert_eq!(summary.completion, "R");
}

#[test]
fn shipped_recipes_are_valid() {
    for name in ["r8", "r32", "tiny", "dolly_r8", "dolly_r32"] {
        let recipe = Recipe::load(root().join(format!("training/recipes/{name}.toml"))).unwrap();
        assert_eq!(recipe.name, name);
        Template::load(&recipe.data.template, &recipe.folder).unwrap();
    }
    let recipe = Recipe::load(root().join("training/recipes/r8.toml")).unwrap();
    let template = Template::load(&recipe.data.template, &recipe.folder).unwrap();
    let source = recipe.path(recipe.data.source.as_ref().unwrap());
    let rows = std::fs::read_to_string(&source).unwrap();
    let rows = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let prepared = prepare(rows, &template, &recipe.data, source.as_path(), None).unwrap();
    assert_eq!((prepared.train.len(), prepared.validation.len(), prepared.test.len()), (1_920, 240, 240));
    assert!(prepared.counts.remarks.is_empty() && prepared.counts.unusable.is_empty(), "{:?}", prepared.counts);
}
