//! Names for the weights of a block on a device.

/// A matrix; projections that share their input are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatrixKey {
    /// q, k and v.
    Qkv,
    /// Attention output.
    O,
    /// Gate and up, or up alone.
    GateUp,
    /// Down.
    Down,
    /// Into the narrow layer of queries.
    QDown,
    /// Out of it, or the queries where there is none.
    QUp,
    /// Into the narrow layer of keys and values.
    KvDown,
    /// Out of it.
    KvUp,
    /// To the gates and the input of a short convolution.
    ConvIn,
    /// From the convolution.
    ConvOut,
    /// The router of a mixture.
    Router,
    /// Gate and up of the shared expert.
    SharedGateUp,
    /// Down of the shared expert.
    SharedDown,
    /// What the shared expert is weighed by.
    SharedSigmoid,
    /// Gate and up of an expert.
    ExpertGateUp(usize),
    /// Down of an expert.
    ExpertDown(usize),
}

/// A norm, a bias, or another vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VectorKey {
    /// The first norm of the block.
    FirstNorm,
    /// Its bias.
    FirstNormBias,
    /// The second norm of the block.
    SecondNorm,
    /// Its bias.
    SecondNormBias,
    /// The norm of what the attention adds.
    MixedNorm,
    /// The norm of what the feed-forward block adds.
    FeedForwardNorm,
    /// The norm of q.
    QNorm,
    /// Its bias.
    QNormBias,
    /// The norm of k.
    KNorm,
    /// Its bias.
    KNormBias,
    /// The norm of the narrow layer of queries.
    QDownNorm,
    /// The norm of the narrow layer of keys and values.
    KvDownNorm,
    /// A score of every head.
    Sinks,
    /// The factors of a short convolution.
    Taps,
    /// Its bias.
    TapsBias,
    /// The bias of a matrix.
    Bias(MatrixKey),
}
