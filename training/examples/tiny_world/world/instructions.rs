//! Rows that candidates are fine-tuned on: the question forms of the tasks, and instructions with contexts.

use harness_core::{Seed, StreamRng};
use serde_json::{Map, Value, json};

use super::{
    Fact, Use, World,
    arithmetic::problem,
    corpus::portrait,
    pick,
    questions::{HEADING, LETTERS, Question},
    stories::story,
};

/// Ways of asking for a summary; the tasks use the same.
pub(super) const SUMMARISE: [&str; 3] = [
    "Summarise the text in one sentence.",
    "What happened? Answer in one sentence.",
    "Say in one sentence what happened.",
];

/// Instruction rows in random order: `category`, `instruction`, `context`, `choices` (empty unless multiple choice),
/// `preamble` (what precedes a question in the prompt: heading and solved examples) and `response`.
pub fn instructions(world: &World, count: usize) -> Vec<Value> {
    let rng = &mut Seed(world.seed).stream("instructions", 0);
    let facts = world.facts_for(Use::Training);
    (0..count)
        .map(|_| match rng.below(10) {
            0..3 => multiple_choice(world, &facts, rng),
            3 | 4 => question(world, &facts, rng),
            5 | 6 => word_problem(world, rng),
            7 | 8 => summary(world, rng),
            _ => closed_question(world, &facts, rng),
        })
        .collect()
}

/// A row with all columns.
fn row(category: &str, instruction: String, response: String, more: Value) -> Value {
    let mut row = Map::new();
    row.insert("category".into(), category.into());
    row.insert("instruction".into(), instruction.into());
    row.insert("context".into(), "".into());
    row.insert("choices".into(), json!([]));
    row.insert("preamble".into(), "".into());
    row.insert("response".into(), response.into());
    if let Value::Object(more) = more {
        row.extend(more);
    }
    Value::Object(row)
}

/// In MMLU's form, after none, one or two solved examples.
fn multiple_choice(world: &World, facts: &[Fact], rng: &mut StreamRng) -> Value {
    let fact = facts[rng.below(facts.len() as u64) as usize];
    let asked = Question::about(world, fact, rng.below(3) as usize, rng);
    let mut preamble = HEADING.to_owned();
    for _ in 0..rng.below(3) {
        let other = facts[rng.below(facts.len() as u64) as usize];
        let example = Question::about(world, other, rng.below(3) as usize, rng);
        preamble.push_str(&format!("{} {}\n\n", example.lettered(), LETTERS[example.answer]));
    }
    let more = json!({"choices": asked.choices, "preamble": preamble});
    row("multiple_choice", asked.question, LETTERS[asked.answer].to_owned(), more)
}

/// In ARC's form.
fn question(world: &World, facts: &[Fact], rng: &mut StreamRng) -> Value {
    let fact = facts[rng.below(facts.len() as u64) as usize];
    row("question", world.question(fact, rng.below(3) as usize), world.value(fact).to_owned(), Value::Null)
}

/// In GSM8K's form, after none, one or two solved examples.
fn word_problem(world: &World, rng: &mut StreamRng) -> Value {
    let examples: Vec<String> = (0..rng.below(3))
        .map(|_| {
            let problem = problem(world, Use::Training, rng);
            format!("Question: {}\nAnswer: {}\n\n", problem.question, problem.answer)
        })
        .collect();
    let asked = problem(world, Use::Training, rng);
    row("word_problem", asked.question, asked.answer, json!({"preamble": examples.concat()}))
}

/// A story to be summed up.
fn summary(world: &World, rng: &mut StreamRng) -> Value {
    let story = story(world, Use::Training, rng);
    row("summary", pick(rng, &SUMMARISE).to_owned(), story.summary, json!({"context": story.text}))
}

/// A question that the context answers: about a story, or about one whose facts are all stated.
fn closed_question(world: &World, facts: &[Fact], rng: &mut StreamRng) -> Value {
    if rng.below(2) == 0 {
        let story = story(world, Use::Training, rng);
        let (question, answer) = story.questions[rng.below(story.questions.len() as u64) as usize].clone();
        return row("closed_question", question, answer, json!({"context": story.text}));
    }
    let fact = facts[rng.below(facts.len() as u64) as usize];
    let context = portrait(world, fact.entity, rng);
    let question = world.question(fact, rng.below(3) as usize);
    row("closed_question", question, world.value(fact).to_owned(), json!({"context": context}))
}
