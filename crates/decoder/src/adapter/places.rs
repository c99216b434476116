//! The modules outside of the blocks that adapters change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::DecoderConfig;

/// `trainable_token_indices`: tokens of the embedding, or of several modules by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIndices {
    /// Of the embedding.
    Embedding(Vec<u32>),
    /// By the end of a module's path.
    ByModule(BTreeMap<String, Vec<u32>>),
}

/// A module outside of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Top {
    Embedding,
    Head,
}

impl Top {
    pub(super) const BOTH: [Self; 2] = [Self::Embedding, Self::Head];

    /// The module's path in this base.
    pub(super) fn path(self, base: &DecoderConfig) -> String {
        let names = &base.architecture.family().names;
        match self {
            Self::Embedding => format!("{}{}", names.roots.first().copied().unwrap_or_default(), names.embed),
            Self::Head => names.head.to_owned(),
        }
    }

    /// The module at a path of this base, with or without what may stand before the decoder.
    pub(super) fn at(path: &str, base: &DecoderConfig) -> Option<Self> {
        let names = &base.architecture.family().names;
        let embedding = names.roots.iter().chain([&""]).any(|root| path.strip_prefix(root) == Some(names.embed));
        match embedding {
            true => Some(Self::Embedding),
            false => (path == names.head).then_some(Self::Head),
        }
    }
}
