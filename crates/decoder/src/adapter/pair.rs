//! Low-rank additions.

/// A low-rank addition to one linear: `y += scale * B (A x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair {
    /// `A`, `[rank, in]`, row-major.
    pub a: Vec<f32>,
    /// `B`, `[out, rank]`, row-major.
    pub b: Vec<f32>,
    /// The rank.
    pub rank: usize,
    /// The factor, `alpha / rank` or `alpha / sqrt(rank)`.
    pub scale: f32,
    /// DoRA (Liu et al. 2024): what the rows of the changed weight are scaled to, `[out]`.
    pub magnitude: Option<Vec<f32>>,
    /// Added to the products of B, `[out]` (`lora_bias`).
    pub bias: Option<Vec<f32>>,
}

impl LoraPair {
    /// Plain LoRA.
    pub fn new(a: Vec<f32>, b: Vec<f32>, rank: usize, scale: f32) -> Self {
        Self { a, b, rank, scale, magnitude: None, bias: None }
    }

    /// Whether the pair is plain LoRA.
    pub fn is_plain(&self) -> bool {
        self.magnitude.is_none() && self.bias.is_none()
    }
}
