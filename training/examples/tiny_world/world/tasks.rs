//! The rows of the four tasks: questions about facts, numbers and plots that training never asks about.

use std::collections::BTreeSet;

use harness_core::{Seed, StreamRng};
use serde_json::{Value, json};

use super::{
    Fact, Kind, Use, World, arithmetic::problem, instructions::SUMMARISE, pick, questions::LETTERS,
    questions::Question, stories::story,
};

/// Most questions of a subject in `tiny_mmlu`.
const PER_SUBJECT: usize = 40;
/// Most questions in each of the other tasks.
const PER_TASK: usize = 120;
/// Examples for few-shot prompts, per subject or task.
const EXAMPLES: usize = 5;

/// The rows of one task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRows {
    /// The task.
    pub name: &'static str,
    /// Rows that are scored.
    pub test: Vec<Value>,
    /// Rows for examples in prompts.
    pub dev: Vec<Value>,
}

/// The rows of all tasks.
pub fn tasks(world: &World) -> Vec<TaskRows> {
    let rng = |purpose: &str| Seed(world.seed).stream(purpose, 0);
    vec![
        TaskRows {
            name: "tiny_mmlu",
            test: mmlu(world, Use::Test, PER_SUBJECT, &mut rng("tiny_mmlu test")),
            dev: mmlu(world, Use::Examples, EXAMPLES, &mut rng("tiny_mmlu dev")),
        },
        TaskRows {
            name: "tiny_arc",
            test: arc(world, Use::Test, PER_TASK, &mut rng("tiny_arc test")),
            dev: arc(world, Use::Examples, EXAMPLES, &mut rng("tiny_arc dev")),
        },
        TaskRows {
            name: "tiny_gsm8k",
            test: gsm8k(world, Use::Test, PER_TASK, &mut rng("tiny_gsm8k test")),
            dev: gsm8k(world, Use::Examples, EXAMPLES, &mut rng("tiny_gsm8k dev")),
        },
        TaskRows {
            name: "tiny_summary",
            test: summary(world, Use::Test, PER_TASK, &mut rng("tiny_summary test")),
            dev: summary(world, Use::Examples, EXAMPLES, &mut rng("tiny_summary dev")),
        },
    ]
}

/// The facts of a use in random order.
fn shuffled(world: &World, used: Use, rng: &mut StreamRng) -> Vec<Fact> {
    let mut facts = world.facts_for(used);
    rng.shuffle(&mut facts);
    facts
}

/// Columns of cais/mmlu: `question`, `subject`, `choices`, `answer` (from 0). Subjects take turns, so that the first
/// rows are of all.
fn mmlu(world: &World, used: Use, per_subject: usize, rng: &mut StreamRng) -> Vec<Value> {
    let facts = shuffled(world, used, rng);
    let subjects = Kind::ALL.map(|kind| {
        facts.iter().copied().filter(|&f| world.entity(f).kind == kind).take(per_subject).collect::<Vec<Fact>>()
    });
    let mut rows = Vec::new();
    for turn in 0..per_subject {
        for &fact in subjects.iter().filter_map(|facts| facts.get(turn)) {
            let Question { question, subject, choices, answer, .. } =
                Question::about(world, fact, rng.below(3) as usize, rng);
            rows.push(json!({"question": question, "subject": subject, "choices": choices, "answer": answer}));
        }
    }
    rows
}

/// Columns of allenai/ai2_arc: `id`, `question`, `choices` (`text` and `label`), `answerKey`.
fn arc(world: &World, used: Use, count: usize, rng: &mut StreamRng) -> Vec<Value> {
    shuffled(world, used, rng)
        .into_iter()
        .take(count)
        .enumerate()
        .map(|(i, fact)| {
            let Question { question, choices, answer, .. } = Question::about(world, fact, rng.below(3) as usize, rng);
            json!({
                "id": format!("tiny_{i}"),
                "question": question,
                "choices": {"text": choices, "label": LETTERS},
                "answerKey": LETTERS[answer],
            })
        })
        .collect()
}

/// Columns of gsm8k: `question`, `answer`. No two rows have the same numbers.
fn gsm8k(world: &World, used: Use, count: usize, rng: &mut StreamRng) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    while rows.len() < count {
        let problem = problem(world, used, rng);
        if seen.insert(problem.numbers.clone()) {
            rows.push(json!({"question": problem.question, "answer": problem.answer}));
        }
    }
    rows
}

/// Columns of Dolly: `instruction`, `context`, `response`, `category`. No two rows have the same plot.
fn summary(world: &World, used: Use, count: usize, rng: &mut StreamRng) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    while rows.len() < count {
        let story = story(world, used, rng);
        if seen.insert(story.plot.clone()) {
            rows.push(json!({
                "instruction": pick(rng, &SUMMARISE),
                "context": story.text,
                "response": story.summary,
                "category": "summarization",
            }));
        }
    }
    rows
}
