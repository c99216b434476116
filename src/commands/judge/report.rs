//! What a judging shows.

use std::collections::BTreeMap;

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
    /// Outputs from which thinking was cut off, by model.
    pub(super) thoughts: Vec<(String, usize)>,
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
            "protocol": {
                "name": protocol.name,
                "version": protocol.version,
                "digest": protocol.digest(),
                "least_label_share": protocol.labels.as_ref().map(|_| protocol.least_label_share),
            },
            "judge": { "name": judge.name(), "note": judge.note(), "identities": judge.identities() },
            "items": items.len(),
            "results": self.results,
            "comparison": self.comparison,
            "asked": asked,
            "members": self.asked.members.iter().map(by_name).collect::<serde_json::Map<_, _>>(),
            "thoughts": self.thoughts.iter().filter(|(_, n)| *n > 0).cloned().collect::<BTreeMap<_, _>>(),
            "written": self.written.iter().map(by_name).collect::<serde_json::Map<_, _>>(),
        })
    }

    /// What judging cost for each verdict that could be read.
    pub(super) fn cost_per_decided(&self) -> Option<f64> {
        let decided = self.results.decided();
        let cost = self.asked.total_cost();
        (decided > 0 && cost > 0.0).then(|| cost / decided as f64)
    }
}

fn by_name((name, asked): &(String, Asked)) -> (String, Value) {
    (name.clone(), usage(asked))
}

fn usage(asked: &Asked) -> Value {
    let mut object = asked.now.object();
    object["now"] = json!(asked.now.answers);
    object["stored"] = json!(asked.stored.answers);
    object["of_stored"] = asked.stored.object();
    object["total_cost"] = json!(asked.total_cost());
    object["throttled"] = json!(asked.repeated[0]);
    object["repeated"] = json!(asked.repeated[1]);
    object["seconds"] = json!(asked.seconds);
    object
}
