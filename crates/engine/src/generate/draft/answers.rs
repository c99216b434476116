//! Answers to prompts, finished and growing: what other answers to the same prompt are drafted from.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

/// Tokens that are remembered of all answers together.
const REMEMBERED: usize = 1 << 22;

/// Answers to one prompt that another one is drafted from.
const OTHERS: usize = 4;

/// An answer to a prompt, as far as it is known: what another answer to it may be drafted from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// How sure its model was of each of them.
    pub logprobs: Vec<f32>,
}

/// Stands for the tokens of a prompt. Two prompts of one key would draft badly for each other, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PromptKey(u64);

impl PromptKey {
    pub(crate) fn of(tokens: &[u32]) -> Self {
        let mut hasher = DefaultHasher::new();
        tokens.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The answers of a batch of generations by their prompts.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    all: Vec<Draft>,
    by_prompt: HashMap<PromptKey, Vec<usize>>,
    /// Those that may be forgotten, the oldest first.
    finished: VecDeque<(PromptKey, usize)>,
    free: Vec<usize>,
    tokens: usize,
}

impl Answers {
    /// Begins an answer and gives its number.
    pub(crate) fn begin(&mut self, key: PromptKey) -> usize {
        let number = self.free.pop().unwrap_or(self.all.len());
        if number == self.all.len() {
            self.all.push(Draft::default());
        }
        self.by_prompt.entry(key).or_default().push(number);
        number
    }

    /// Adds what an answer has more than is known of it.
    pub(crate) fn extend(&mut self, number: usize, tokens: &[u32], logprobs: &[f32]) {
        let answer = &mut self.all[number];
        let known = answer.tokens.len();
        answer.tokens.extend_from_slice(&tokens[known..]);
        answer.logprobs.extend_from_slice(&logprobs[known..]);
        self.tokens += tokens.len() - known;
    }

    /// An answer is whole, or nobody goes on with it; the oldest of these are forgotten where there are too many.
    pub(crate) fn finish(&mut self, key: PromptKey, number: usize) {
        self.finished.push_back((key, number));
        while self.tokens > REMEMBERED
            && let Some((key, number)) = self.finished.pop_front()
        {
            self.tokens -= std::mem::take(&mut self.all[number]).tokens.len();
            self.free.push(number);
            if let Some(numbers) = self.by_prompt.get_mut(&key) {
                numbers.retain(|&other| other != number);
                if numbers.is_empty() {
                    self.by_prompt.remove(&key);
                }
            }
        }
    }

    /// Other answers to a prompt, with their numbers: the last that were begun.
    pub(crate) fn others(&self, key: PromptKey, own: usize) -> impl Iterator<Item = (usize, &Draft)> {
        let numbers = self.by_prompt.get(&key).map(Vec::as_slice).unwrap_or_default();
        let others = numbers.iter().rev().filter(move |&&number| number != own).take(OTHERS);
        others.map(|&number| (number, &self.all[number]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_those_of_the_same_prompt() {
        let (a, b) = (PromptKey::of(&[1, 2]), PromptKey::of(&[1, 3]));
        assert_ne!(a, b);
        let mut answers = Answers::default();
        let [first, second, third] = [a, a, b].map(|key| answers.begin(key));
        answers.extend(first, &[7], &[-0.5]);
        answers.extend(first, &[7, 8], &[-0.5, -0.25]);
        let others: Vec<_> = answers.others(a, second).collect();
        assert_eq!(others, [(first, &Draft { tokens: vec![7, 8], logprobs: vec![-0.5, -0.25] })]);
        assert_eq!(answers.others(b, third).count(), 0);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut answers = Answers::default();
        let long = vec![5; REMEMBERED / 2];
        let mut numbers = vec![];
        for prompt in 0..4 {
            let key = PromptKey::of(&[prompt]);
            numbers.push(answers.begin(key));
            answers.extend(numbers[prompt as usize], &long, &vec![0.0; long.len()]);
            answers.finish(key, numbers[prompt as usize]);
        }
        assert_eq!(numbers, [0, 1, 2, 0], "the place of the first is used again");
        assert_eq!(answers.tokens, REMEMBERED);
        let known = |prompt: u32| answers.others(PromptKey::of(&[prompt]), usize::MAX).count();
        assert_eq!([0, 1, 2, 3].map(known), [0, 0, 1, 1]);
    }
}
