//! What a judge said: verdicts, and why there is none.

use std::fmt;

use harness_metrics::comparison::UnreadCause;
use serde::{Deserialize, Serialize};

use crate::QuestionId;

/// A verdict as read from an answer, in terms of what was shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A score on the protocol's scale.
    Score(f64),
    /// Preference for the output shown *second*: 0 the first is better, 1 the second, ½ a tie; anything between where the
    /// protocol weighs by probability.
    Preference(f64),
}

impl Verdict {
    /// The score or the preference.
    pub fn value(self) -> f64 {
        match self {
            Self::Score(value) | Self::Preference(value) => value,
        }
    }
}

/// Why an answer has no verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Unparsed {
    /// Nothing was answered.
    Empty,
    /// There is no verdict in the form the protocol asks for.
    NoVerdict,
    /// There are several verdicts that contradict each other.
    Ambiguous {
        /// The verdicts.
        found: String,
    },
    /// The score is outside the scale.
    OutOfRange {
        /// The score.
        found: String,
    },
    /// The answer ended at the limit on tokens before a verdict.
    CutByLimit,
    /// The judge reasoned, and no verdict came after it.
    OnlyReasoning {
        /// Whether the limit on tokens ended it.
        cut: bool,
    },
    /// The answer repeats itself without end.
    Repetition,
    /// The judge refused.
    Refusal,
    /// A filter of the judge's server withheld the answer.
    Filtered,
    /// The judge's server gave a list of choices without one.
    NoChoice,
    /// The judge called a tool instead of answering.
    ToolCall,
    /// The answer is a web page (an error of a gateway).
    Html,
    /// None of the labels is among the most probable tokens, or what was written is none.
    NoLabel,
    /// The labels have less of the probability than the protocol asks for; [`Judgment::label_share`] says how much.
    FewOnLabels,
    /// The judge could not be asked, e.g. because the prompt is longer than its context.
    NotAnswered {
        /// Why.
        message: String,
    },
}

impl fmt::Display for Unparsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the answer is empty"),
            Self::NoVerdict => f.write_str("the answer has no verdict in the form asked for"),
            Self::Ambiguous { found } => write!(f, "the answer has contradicting verdicts: {found}"),
            Self::OutOfRange { found } => write!(f, "the score {found} is outside the scale"),
            Self::CutByLimit => f.write_str("the answer was cut by the limit on tokens before a verdict"),
            Self::OnlyReasoning { cut: true } => {
                f.write_str("the answer was cut by the limit on tokens: all of it went into reasoning")
            }
            Self::OnlyReasoning { cut: false } => f.write_str("nothing came after the judge's reasoning"),
            Self::Repetition => f.write_str("the answer repeats itself without end"),
            Self::Refusal => f.write_str("the judge refused"),
            Self::Filtered => f.write_str("the server's filter withheld the answer"),
            Self::NoChoice => f.write_str("the server answered without a choice"),
            Self::ToolCall => f.write_str("the judge called a tool instead of answering"),
            Self::Html => f.write_str("the answer is a web page"),
            Self::NoLabel => f.write_str("no label is among the most probable tokens"),
            Self::FewOnLabels => f.write_str("the labels have too little of the probability"),
            Self::NotAnswered { message } => write!(f, "the judge could not be asked: {message}"),
        }
    }
}

impl Unparsed {
    /// Where the cause lies, which decides what can be done about it.
    pub fn cause(&self) -> UnreadCause {
        match self {
            Self::Empty
            | Self::NoVerdict
            | Self::Ambiguous { .. }
            | Self::OutOfRange { .. }
            | Self::Repetition
            | Self::Html
            | Self::ToolCall => UnreadCause::Form,
            Self::CutByLimit | Self::OnlyReasoning { .. } => UnreadCause::Limit,
            Self::Refusal | Self::Filtered | Self::NoChoice => UnreadCause::Withheld,
            Self::NoLabel | Self::FewOnLabels => UnreadCause::Labels,
            Self::NotAnswered { .. } => UnreadCause::NotAnswered,
        }
    }

    /// Whether the same would come again if the judge were asked once more.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Filtered | Self::NoChoice)
    }
}

/// The end of one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A verdict was read.
    Parsed(Verdict),
    /// None could be read in any attempt; the reason of the last.
    Unparsed(Unparsed),
}

impl Outcome {
    /// The verdict, if there is one.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Parsed(verdict) => Some(*verdict),
            Self::Unparsed(_) => None,
        }
    }
}

/// Whose output is judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// One model.
    Single {
        /// Its name.
        model: String,
    },
    /// Two models.
    Pair {
        /// The one compared with; AlpacaEval's output_1, FastChat's model_1.
        baseline: String,
        /// The one in question; output_2, model_2.
        candidate: String,
    },
}

/// Which output of a pair is shown first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The baseline's; also of single outputs.
    BaselineFirst,
    /// The candidate's ("switched").
    CandidateFirst,
}

impl Order {
    /// The other order.
    pub fn swapped(self) -> Self {
        match self {
            Self::BaselineFirst => Self::CandidateFirst,
            Self::CandidateFirst => Self::BaselineFirst,
        }
    }

    /// Turns a preference for the output shown second into one for the candidate.
    pub fn for_candidate(self, preference: f64) -> f64 {
        match self {
            Self::BaselineFirst => preference,
            Self::CandidateFirst => 1.0 - preference,
        }
    }
}

/// What a question is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The result.
    Main,
    /// Asked once more with another seed, to see how often the judge changes its mind.
    Repeat,
    /// A model against itself: a placebo.
    SelfPair,
    /// A candidate that always answers the same.
    NullAnswer,
}

/// The judgment of one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgment {
    /// The question.
    pub question: QuestionId,
    /// Id of the item.
    pub item: String,
    /// Whose output.
    pub subject: Subject,
    /// Turn that was judged, from 1.
    pub turn: usize,
    /// Which output was shown first.
    pub order: Order,
    /// What it was asked for.
    pub purpose: Purpose,
    /// Number of the repetition; 0 for the first time.
    pub repeat: u32,
    /// The verdict, or why there is none.
    pub outcome: Outcome,
    /// What the judge gave as its reasons: its thinking, and what stands before the verdict.
    pub rationale: String,
    /// Share of the probability of the first token that lies on the labels, where log-probabilities gave the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_share: Option<f64>,
    /// Everything the judge answered the last time.
    pub raw: String,
    /// How often the judge was asked; 0 where the verdict was clear without it (equal outputs).
    pub attempts: u32,
}

impl Judgment {
    /// Preference for the candidate, from 0 to 1; `None` for scores and unparsed verdicts.
    pub fn candidate_preference(&self) -> Option<f64> {
        match self.outcome {
            Outcome::Parsed(Verdict::Preference(preference)) => Some(self.order.for_candidate(preference)),
            _ => None,
        }
    }

    /// The score; `None` for preferences and unparsed verdicts.
    pub fn score(&self) -> Option<f64> {
        match self.outcome {
            Outcome::Parsed(Verdict::Score(score)) => Some(score),
            _ => None,
        }
    }
}
