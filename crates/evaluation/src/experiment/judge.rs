//! Judges in `harness.toml`.

use std::path::PathBuf;

use serde::Deserialize;

/// One judge: a model, a jury, or verdicts of people.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeSection {
    /// A model of the experiment, a path, or `openai:MODEL@URL`.
    pub model: Option<String>,
    /// Names of judges that vote together.
    pub jury: Vec<String>,
    /// A file with people's verdicts.
    pub verdicts: Option<PathBuf>,
    /// Most tokens of a verdict, instead of the protocol's.
    pub max_new_tokens: Option<usize>,
    /// Whether a local judge is kept within the protocol's form; true unless said otherwise.
    pub constrained: Option<bool>,
    /// Most requests in flight, where the judge is behind an endpoint.
    pub concurrency: Option<usize>,
    /// Most requests begun a minute, likewise.
    pub requests_per_minute: Option<f64>,
}

impl JudgeSection {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        let sources = [self.model.is_some(), !self.jury.is_empty(), self.verdicts.is_some()];
        match sources.iter().filter(|&&given| given).count() {
            1 if self.model.is_none() && (self.concurrency.is_some() || self.requests_per_minute.is_some()) => {
                Some("concurrency and requests_per_minute belong to a judge with `model`")
            }
            1 => None,
            0 => Some("found no judge; expected one of model, jury, verdicts"),
            _ => Some("found several judges; expected one of model, jury, verdicts"),
        }
    }
}
