//! What a judging shows.

use harness_judges::Plan;
use harness_metrics::comparison::Comparison;
use harness_reports::{Meta, markdown};
use serde_json::{Value, json};

use super::{
    ask::Asked,
    results::{Results, Setting},
    text,
};
use crate::commands::{App, Failure};

/// A finished judging.
pub(super) struct Report<'a> {
    pub(super) setting: Setting<'a>,
    pub(super) plan: &'a Plan,
    pub(super) comparison: Comparison,
    pub(super) results: Results,
    /// What asking the judge took.
    pub(super) asked: Asked,
    /// What writing the outputs took, by model.
    pub(super) written: Vec<(String, Asked)>,
}

impl Report<'_> {
    /// Prints the table and the figures, or one JSON object.
    ///
    /// # Errors
    /// If nobody reads it any more.
    pub(super) fn print(&self, app: &App) -> Result<(), Failure> {
        app.output(&self.object(), || self.markdown(&Meta::default(), false))
    }

    /// The table, then the figures; `plot` says whether there is a radar plot to show.
    pub(super) fn markdown(&self, meta: &Meta, plot: bool) -> String {
        format!("{}\n{}", markdown(&self.comparison, meta), text::text(self, plot))
    }

    pub(super) fn object(&self) -> Value {
        let Setting { protocol, judge, items, .. } = &self.setting;
        let mut asked = usage(&self.asked);
        asked["questions"] = json!(self.asked.judgments.len());
        asked["cost_per_decided"] = json!(self.cost_per_decided());
        json!({
            "protocol": { "name": protocol.name, "version": protocol.version, "digest": protocol.digest() },
            "judge": { "name": judge.name(), "note": judge.note(), "identities": judge.identities() },
            "items": items.len(),
            "results": self.results,
            "comparison": self.comparison,
            "asked": asked,
            "members": self.asked.members.iter().map(by_name).collect::<serde_json::Map<_, _>>(),
            "written": self.written.iter().map(by_name).collect::<serde_json::Map<_, _>>(),
        })
    }

    /// What judging cost for each verdict that could be read.
    pub(super) fn cost_per_decided(&self) -> Option<f64> {
        let decided = self.results.decided();
        (decided > 0 && self.asked.cost > 0.0).then(|| self.asked.cost / decided as f64)
    }
}

fn by_name((name, asked): &(String, Asked)) -> (String, Value) {
    (name.clone(), usage(asked))
}

fn usage(asked: &Asked) -> Value {
    json!({
        "now": asked.asked,
        "stored": asked.stored,
        "prompt_tokens": asked.tokens[0],
        "completion_tokens": asked.tokens[1],
        "throttled": asked.repeated[0],
        "repeated": asked.repeated[1],
        "cost": asked.cost,
        "seconds": asked.seconds,
    })
}
