//! Scores and statistics as pure functions of numbers and strings.

mod bleu;
mod chrf;
mod classification;
pub mod comparison;
mod error;
mod exact_match;
pub mod lm_eval;
mod multiple_choice;
mod ngrams;
pub mod overlap;
mod perplexity;
mod porter;
mod rouge;
mod scale;
pub mod simulation;
mod statistic;
pub mod stats;
mod sums;
mod ter;
mod token_f1;

pub use bleu::{Bleu, BleuFormula, BleuScore, BleuTokenizer, HfBleu, HfBleuScore, NltkBleu, NltkSmoothing, Smoothing};
pub use chrf::{Chrf, ChrfFormula};
pub use classification::{Average, ClassMeasure, Classification, confusion_stats, matthews};
pub use error::MetricsError;
pub use exact_match::{ExactMatch, ExactMatchOptions};
pub use multiple_choice::{ChoiceAnswers, ChoiceScores, Gold, argmax, brier_score, softmax};
pub use perplexity::{
    byte_perplexity_stats, perplexity_stats, token_perplexity_stats, word_count, word_perplexity_stats,
};
pub use porter::porter_stem;
pub use rouge::{Rouge, RougeScore, RougeType, rouge_tokens};
pub use statistic::{Statistic, mean_stats};
pub use ter::Ter;
pub use token_f1::{normalize_answer, normalized_exact_match, token_f1};
