//! What a protocol asks for.

use serde::{Deserialize, Serialize};

/// What a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One output gets a score.
    Absolute,
    /// Of two outputs one is preferred.
    Pairwise,
}
