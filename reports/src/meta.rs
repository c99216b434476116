//! What the caller knows besides the comparison.

use serde::{Deserialize, Serialize};

/// Title and manifest of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Title; `MODEL against BASE` where empty.
    #[serde(default)]
    pub title: String,
    /// What the numbers depend on, as name and value: model identities, versions, seeds, the command.
    #[serde(default)]
    pub manifest: Vec<(String, String)>,
}
