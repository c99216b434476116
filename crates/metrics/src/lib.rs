//! Scores and statistics as pure functions of numbers and strings.

pub mod comparison;
mod error;
pub mod lm_eval;
mod metric;
mod ngrams;
pub mod overlap;
mod porter;
mod scale;
pub mod simulation;
pub mod stats;
mod sums;

pub use error::MetricsError;
pub use metric::{
    METRICS, Statistic,
    answer::{Answer, Logged, Reads},
    bleu::{Bleu, BleuFormula, BleuScore, BleuTokenizer, HfBleu, HfBleuScore, NltkBleu, NltkSmoothing, Smoothing},
    brier_score::brier_score,
    byte_perplexity::byte_perplexity_stats,
    choices::{ChoiceAnswers, Gold, argmax, softmax},
    chrf::{Chrf, ChrfFormula},
    classification::{Average, ClassMeasure, Classification, confusion_stats, logged_classes},
    definition::{Metric, Scorer, StandardError},
    exact_match::{ExactMatch, ExactMatchOptions},
    formula::mean_stats,
    mcc::Matthews,
    perplexity::{perplexity_stats, token_perplexity_stats},
    rouge::{Rouge, RougeScore, RougeType, rouge_tokens},
    ter::Ter,
    token_f1::{normalize_answer, normalized_exact_match, token_f1},
    word_perplexity::{word_count, word_perplexity_stats},
};
pub use porter::porter_stem;
