//! Scores and statistics as pure functions of numbers and strings.

pub mod comparison;
mod statistic;
pub mod stats;

pub use statistic::Statistic;
