//! What a judging shows.

use std::collections::BTreeMap;

use harness_judges::Plan;
use harness_metrics::comparison::Comparison;
use serde_json::{Value, json};

use super::{
    ask::Asked,
    case::{Case, Setting},
    results::Results,
};

/// A finished judging.
pub struct Report {
    /// What was judged.
    pub case: Case,
    /// The questions.
    pub plan: Plan,
    /// The table.
    pub comparison: Comparison,
    /// What the verdicts show.
    pub results: Results,
    /// What asking the judge took.
    pub asked: Asked,
    /// What writing the outputs took, by model.
    pub written: Vec<(String, Asked)>,
    /// Outputs from which thinking was cut off, by model.
    pub thoughts: Vec<(String, usize)>,
}

impl Report {
    pub(super) fn setting(&self) -> Setting<'_> {
        self.case.setting()
    }

    /// Why nothing can be said: no verdict of the judge could be read.
    pub fn failure(&self) -> Option<String> {
        let reasons: Vec<&str> = self.results.unread.keys().map(String::as_str).collect();
        let message = || format!("no verdict of {} could be read: {}", self.case.judge.name(), reasons.join("; "));
        self.results.nothing_read.then(message)
    }

    /// Everything as one JSON object, the same however often the work was interrupted.
    pub fn object(&self) -> Value {
        let Case { protocol, judge, items, .. } = &self.case;
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
    pub fn cost_per_decided(&self) -> Option<f64> {
        let decided = self.results.decided();
        let cost = self.asked.bill.cost;
        (decided > 0 && cost > 0.0).then(|| cost / decided as f64)
    }

    /// What this run did, a line for everyone who was asked.
    pub fn run_lines(&self) -> Vec<String> {
        let written = self.written.iter().map(|(name, asked)| (format!("write {name}"), asked));
        let members = self.asked.members.iter().map(|(name, asked)| (format!("judge {name}"), asked));
        let judge = (format!("judge {}", self.case.judge.name()), &self.asked);
        let asked = written.chain(members).chain([judge]).filter(|(_, asked)| asked.is_any());
        asked.map(|(name, asked)| format!("{name}: {}", asked.run.text(asked.bill.answers))).collect()
    }

    /// As [`Report::object`], with what this run did as `run`.
    pub fn object_of_run(&self) -> Value {
        let mut object = self.object();
        let run = |asked: &Asked| asked.run.object(asked.bill.answers);
        let by_name =
            |all: &[(String, Asked)]| -> Value { all.iter().map(|(name, one)| (name.clone(), run(one))).collect() };
        let (members, written) = (by_name(&self.asked.members), by_name(&self.written));
        object["run"] = json!({ "judge": run(&self.asked), "members": members, "written": written });
        object
    }
}

fn by_name((name, asked): &(String, Asked)) -> (String, Value) {
    (name.clone(), usage(asked))
}

fn usage(asked: &Asked) -> Value {
    let mut object = asked.bill.object();
    object["answers"] = json!(asked.bill.answers);
    object
}
