//! Which tokens are computed when: shared prefixes once, suffixes packed without padding, memory bounded.

mod forest;
mod score;

pub(crate) use forest::{Forest, Sequence, shared};
pub(crate) use score::{Scored, Work, score};

/// Bounds on what is computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens computed in one pass; a longer run of tokens is a pass of its own.
    pub batch_tokens: usize,
    /// Bytes of keys and values kept for shared prefixes and generated sequences. One sequence is always let through.
    pub kv_bytes: usize,
    /// Sequences generated together.
    pub batch_sequences: usize,
}

impl Default for Limits {
    /// 768 tokens a pass, 1 GiB of keys and values, 64 sequences generated together.
    fn default() -> Self {
        Self { batch_tokens: 768, kv_bytes: 1 << 30, batch_sequences: 64 }
    }
}
