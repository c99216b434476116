//! Metrics that must not change unnoticed: `golden/metrics.json`.
//!
//! ```json
//! {"tolerance": 1e-6, "tasks": {"tiny_arc": {"acc,none": {"base": 0.5, "r8": 0.625, "tolerance": 0.01}}}}
//! ```

mod check;

pub use check::{Golden, GoldenMetric, Metrics, Regression, RegressionKind, check};
