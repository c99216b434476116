//! Scores and statistics as pure functions of numbers and strings.

mod statistic;

pub use statistic::Statistic;
