//! Questions about facts, with choices, in the forms of the tasks.

use harness_core::StreamRng;

use super::{Fact, World};

/// The letters of the choices.
pub const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// A question with four choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The fact asked about.
    pub fact: Fact,
    /// The subject: the kind of the entity.
    pub subject: &'static str,
    /// The question.
    pub question: String,
    /// Four different values of the attribute.
    pub choices: Vec<String>,
    /// Which of them is true, from 0.
    pub answer: usize,
}

impl Question {
    /// Asks about a fact in phrasing `number`, with three other values of the attribute, all in random order.
    pub fn about(world: &World, fact: Fact, number: usize, rng: &mut StreamRng) -> Self {
        let value = world.value(fact);
        let mut others: Vec<String> = world.values(world.attribute(fact)).into_iter().filter(|v| v != value).collect();
        rng.shuffle(&mut others);
        others.truncate(LETTERS.len() - 1);
        let answer = rng.below(LETTERS.len() as u64) as usize;
        let mut choices = others;
        choices.insert(answer, value.to_owned());
        let subject = world.entity(fact).kind.subject();
        Self { fact, subject, question: world.question(fact, number), choices, answer }
    }

    /// The right choice.
    pub fn value(&self) -> &str {
        &self.choices[self.answer]
    }

    /// The form of MMLU: question, lettered choices, `Answer:`; without the answer.
    pub fn lettered(&self) -> String {
        let mut text = format!("{}\n", self.question);
        for (letter, choice) in LETTERS.iter().zip(&self.choices) {
            text.push_str(&format!("{letter}. {choice}\n"));
        }
        text.push_str("Answer:");
        text
    }

    /// The form of ARC: `Question: ...`, `Answer:`; without the answer.
    pub fn plain(&self) -> String {
        format!("Question: {}\nAnswer:", self.question)
    }
}

/// What prompts of lettered questions begin with, as in MMLU.
pub const HEADING: &str = "The following are multiple choice questions (with answers) about the world.\n\n";
