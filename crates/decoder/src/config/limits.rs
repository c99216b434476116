//! The largest sizes that a configuration may name.
//!
//! Loading makes an entry for every layer and expert, and a header of a few bytes can name any number of them. Within
//! these limits no product of sizes overflows; what a model really has is compared with its tensors later.

/// Rows of the embedding: ids of tokens have 32 bits.
pub(crate) const VOCABULARY: usize = 1 << 31;
/// Width of the residual stream, of a feed-forward block, and of all heads together.
pub(crate) const WIDTH: usize = 1 << 20;
/// Blocks.
pub(crate) const LAYERS: usize = 1 << 16;
/// Experts of all blocks together.
pub(crate) const EXPERTS: usize = 1 << 20;
/// Positions: rotary angles are computed in f32, which tells no more of them apart.
pub(crate) const POSITIONS: usize = 1 << 24;

/// What is expected of two sizes whose product is more than a limit; `None` if it is not.
pub(crate) fn product(a: usize, b: usize, limit: usize) -> Option<String> {
    let fits = a.checked_mul(b).is_some_and(|product| product <= limit);
    (!fits).then(|| format!("at most {} beside {b}", limit / b.max(1)))
}
