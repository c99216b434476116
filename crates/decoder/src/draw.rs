//! How the tokens of a sequence are drawn where the decoder draws them.

/// Hears of the tokens of a step, one of every sequence, with their log-probabilities, and says whether to go on.
pub type Seen<'a> = &'a mut dyn FnMut(&[(u32, f32)]) -> bool;

/// For one sequence, up to as many steps as there are uniform numbers.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Softmax temperature; 0 takes the most probable token.
    pub temperature: f64,
    /// Only the k most probable tokens; 0 for all.
    pub top_k: usize,
    /// Only the first tokens whose probability reaches p; 1 for all.
    pub top_p: f64,
    /// Only tokens at least this fraction as probable as the best one.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens already seen; 1 is off.
    pub penalty: f64,
    /// A number of the sequence's random stream for every step, in `[0, 1)`.
    pub uniform: Vec<f64>,
    /// The tokens already seen, where there is a penalty.
    pub seen: Vec<u32>,
}

#[cfg(feature = "cuda")]
impl Draw {
    /// The same for the kernel.
    pub(crate) fn choice(&self) -> harness_kernels::cuda::Choice {
        harness_kernels::cuda::Choice {
            sharpness: if self.temperature > 0.0 { (1.0 / self.temperature) as f32 } else { 0.0 },
            top_k: u32::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p.min(1.0) as f32,
            min_p: self.min_p as f32,
            penalty: self.penalty as f32,
        }
    }
}
