//! Scores and statistics as pure functions of numbers and strings.
