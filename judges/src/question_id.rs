//! How questions are told apart.

use harness_core::Digest;
use serde::{Deserialize, Serialize};

/// Hash of everything a question says and is about: equal ids are the same question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QuestionId(pub Digest);
