//! Reading verdicts.
//!
//! Every parser is strict or a reference tool's own. A strict parser accepts what the prompt asked for and nothing that
//! merely looks like it; what it does not accept is asked again. The reference tools' parsers are there to reproduce
//! their numbers, with all they let through.

mod alpaca_eval;
mod diagnosis;
mod fastchat;
mod marks;
mod prometheus;
mod python_int;
mod reading;
mod strict;

use serde::{Deserialize, Serialize};

pub use self::{
    alpaca_eval::{label_preference, lmsys_parser, ranking_parser, regex_parser},
    fastchat::{FastChatWinner, fastchat_pair, fastchat_pair_rating, fastchat_rating},
    marks::{Marked, marked},
    prometheus::{prometheus_eval_script, prometheus_inline, prometheus_package},
};
use crate::{Kind, Outcome, Unparsed, Verdict};

/// How a verdict is read from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parser {
    /// One `[RESULT]`, then exactly a whole number on the scale, or `A` or `B`, and nothing else. Prometheus' paper
    /// scored with this rule.
    Prometheus,
    /// The parser of the `prometheus-eval` package: many markers, at the end of the text (or of a line).
    PrometheusPackage,
    /// The parser of prometheus-eval's `eval` scripts: the first marker anywhere, no check of the range.
    PrometheusScript,
    /// `[[n]]` with a number on the scale; the same number if there are several.
    Rating,
    /// FastChat's: the first `[[n]]`, else the first `[n]`, no check of the range.
    FastchatRating,
    /// `[[A]]`, `[[B]]` or `[[C]]` (a tie); the same one if there are several.
    Choice,
    /// FastChat's: `[[A]]` anywhere, else `[[B]]`, else `[[C]]`.
    FastchatChoice,
    /// FastChat's for pairs of ratings, `[[a,b]]`; a difference up to 0.1 is a tie.
    FastchatRatingPair,
    /// The share of the second label in the probability of both labels (AlpacaEval 2).
    Labels,
}

const NAMES: [(&str, Parser); 9] = [
    ("prometheus", Parser::Prometheus),
    ("prometheus-package", Parser::PrometheusPackage),
    ("prometheus-script", Parser::PrometheusScript),
    ("rating", Parser::Rating),
    ("fastchat-rating", Parser::FastchatRating),
    ("choice", Parser::Choice),
    ("fastchat-choice", Parser::FastchatChoice),
    ("fastchat-rating-pair", Parser::FastchatRatingPair),
    ("labels", Parser::Labels),
];

/// What was read from an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The verdict, or why there is none.
    pub outcome: Outcome,
    /// The judge's reasons: its thinking and the text before the verdict, or all of it where they cannot be told apart.
    pub rationale: String,
    /// Share of the probability that lies on the labels, where log-probabilities gave the verdict.
    pub label_share: Option<f64>,
}

/// What a parser of texts finds: a verdict with the reasons before it, or why there is none.
pub(crate) type Found = Result<(Verdict, String), Unparsed>;

impl Parser {
    /// The parser of a name as protocols write it.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|&(_, parser)| parser)
    }

    /// All names.
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(name, _)| *name).collect()
    }

    /// The reference tool's own parser for the same form of verdict.
    pub fn compat(self) -> Self {
        match self {
            Self::Prometheus => Self::PrometheusPackage,
            Self::Rating => Self::FastchatRating,
            Self::Choice => Self::FastchatChoice,
            other => other,
        }
    }

    /// Whether this is a strict parser.
    pub fn is_strict(self) -> bool {
        self.compat() != self
    }

    fn read(self, kind: Kind, scale: [f64; 2], text: &str) -> Found {
        let whole = |verdict: Option<Verdict>| verdict.map(|v| (v, text.to_owned())).ok_or(Unparsed::NoVerdict);
        match self {
            Self::Prometheus => strict::prometheus(kind, scale, text),
            Self::PrometheusPackage => whole(prometheus_package(kind, text)),
            Self::PrometheusScript => {
                prometheus_eval_script(kind, text).map(|(feedback, v)| (v, feedback)).ok_or(Unparsed::NoVerdict)
            }
            Self::Rating => strict::rating(scale, text),
            Self::FastchatRating => whole(fastchat_rating(text).map(Verdict::Score)),
            Self::Choice => strict::choice(text),
            Self::FastchatChoice => whole(fastchat_pair(text).verdict()),
            Self::FastchatRatingPair => whole(fastchat_pair_rating(text).verdict()),
            // Labels come as log-probabilities.
            Self::Labels => Err(Unparsed::NoLabel),
        }
    }
}
