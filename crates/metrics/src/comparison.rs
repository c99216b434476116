//! The comparison of models: aligned scores in, effects, intervals, tests, verdicts and caveats out.
//!
//! [`Comparison`] is the only input of reports. It is computed from [`Table`]s (one a task and metric: the scores of
//! all models on the same documents) and [`ModelFacts`] (what else is known of a model's answers).

mod alignment;
mod audit;
mod caveat;
mod checks;
mod code_span;
mod compute;
mod error;
mod facts;
mod imports;
mod inference;
mod judge;
mod row;
mod settings;
mod table;
mod unpaired;

use serde::{Deserialize, Serialize};

pub use caveat::{
    BelowNoise, Caveat, Confounded, DifferentCondition, Dropped, FilterConflict, IdenticalTask, Incomplete,
    IrregularShare, NamedDocuments, NoiseFloor, NotShared, SameScores, SeenDocuments, Share, SharedOutputs,
    Underpowered, ZeroFilter, counted, thousands,
};
pub use code_span::code;
pub use error::{ComparisonError, Documents, NamedDocument, Place};
pub use facts::{Coverage, ModelFacts, Overlap, TaskFacts};
pub use judge::{JudgeFinding, UnreadCause};
pub use row::{Cell, Contrast, Family, Flips, IntervalMethod, Ranked, Row, TestMethod, Verdict};
pub use settings::{Alignment, Pairs, Settings, TestChoice};
pub use table::{Aggregate, CLUSTERED_GROUP, Column, Table};

pub use crate::scale::Scale;

/// Version of the serialised form of [`Comparison`].
pub const SCHEMA_VERSION: u32 = 2;

/// What the comparison of k models found; the first model is the base of all differences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`SCHEMA_VERSION`] at the time of writing.
    pub schema: u32,
    /// The models, base first.
    pub models: Vec<String>,
    /// How it was computed.
    pub settings: Settings,
    /// The families over which p-values were corrected.
    pub families: Vec<Family>,
    /// One row a task and metric, in the order of the tables.
    pub rows: Vec<Row>,
    /// What limits the conclusions.
    pub caveats: Vec<Caveat>,
}

impl Comparison {
    /// The base: the first model, if there is any.
    pub fn base(&self) -> Option<&str> {
        self.models.first().map(String::as_str)
    }

    /// The other models.
    pub fn candidates(&self) -> &[String] {
        self.models.get(1..).unwrap_or_default()
    }

    /// The row of a task and metric.
    pub fn row(&self, task: &str, key: &harness_core::MetricKey) -> Option<&Row> {
        self.rows.iter().find(|row| row.task == task && &row.key == key)
    }

    /// Whether any primary row says that a candidate is worse than the base.
    pub fn any_worse(&self) -> bool {
        let mut contrasts = self.rows.iter().filter(|row| row.primary).flat_map(Row::with_base);
        contrasts.any(|contrast| contrast.verdict == Verdict::Worse)
    }
}
