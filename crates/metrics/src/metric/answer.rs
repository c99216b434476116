//! What a metric may look at.

use serde_json::Value;

use super::choices::{ChoiceAnswers, Gold};

/// What a model said about one document.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// The log-likelihoods of choices.
    Choices(&'a ChoiceAnswers<'a>),
    /// The log-likelihood of one continuation.
    Continuation {
        /// Its logarithm of the probability.
        logprob: f64,
        /// Whether every token was the most probable one.
        is_greedy: bool,
    },
    /// The log-likelihood of a whole text.
    Rolling {
        /// Its logarithm of the probability.
        logprob: f64,
        /// The text on which words and bytes are counted.
        text: &'a str,
    },
    /// A generated text.
    Text {
        /// What was generated, behind the filters.
        text: &'a str,
        /// The right texts.
        references: &'a [String],
    },
    /// The log-likelihood of the right text, asked for beside a generation.
    Reference {
        /// Its logarithm of the probability.
        logprob: f64,
        /// Number of its tokens.
        tokens: usize,
    },
}

impl<'a> Answer<'a> {
    /// The choices, if it is about choices.
    pub(super) fn choices(&self) -> Option<&'a ChoiceAnswers<'a>> {
        match self {
            Self::Choices(choices) => Some(choices),
            _ => None,
        }
    }
}

/// The kind of [`Answer`] that a metric looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// [`Answer::Choices`].
    Choices,
    /// [`Answer::Continuation`].
    Continuation,
    /// [`Answer::Rolling`].
    Rolling,
    /// [`Answer::Text`].
    Text,
    /// [`Answer::Reference`].
    Reference,
}

/// A document as lm-eval may log it: a metric takes from it what its aggregation takes.
#[derive(Clone, Copy, Debug)]
pub struct Logged<'a> {
    /// The additive statistics.
    pub stats: &'a [f64],
    /// The right choice; [`Gold::Missing`] where the target is a text.
    pub gold: &'a Gold,
    /// Log-likelihoods of the choices.
    pub loglikelihoods: &'a [f64],
    /// The target as text.
    pub target: &'a str,
    /// The right texts, where there are several.
    pub references: Option<&'a [String]>,
    /// The filtered answer.
    pub answer: &'a Value,
}

impl Logged<'_> {
    /// The mean of the document's own scores; null where it has none.
    pub fn score(&self) -> Value {
        match self.stats {
            [sum, weight] if *weight > 0.0 => Value::from(sum / weight),
            _ => Value::Null,
        }
    }

    /// The right choice as lm-eval logs it.
    pub fn gold(&self) -> Value {
        match self.gold {
            Gold::One(index) => Value::from(*index),
            Gold::Any(indices) => Value::from(indices.clone()),
            Gold::Missing => Value::from(-100),
        }
    }
}
