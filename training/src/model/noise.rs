//! Noise on embeddings in training (NEFTune, Jain et al. 2023).

use crate::{backend::mix64, data::Batch};

/// Uniform noise on the embeddings of one micro-batch, a function of seed, update and micro-batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoisePlan {
    key: u64,
    alpha: f32,
}

impl NoisePlan {
    /// The noise of one micro-batch; `None` if `alpha` is 0.
    pub fn new(seed: u64, update: u64, micro_batch: u64, alpha: f64) -> Option<Self> {
        let key = mix64(mix64(mix64(seed ^ 0x6e65_6674) ^ update) ^ micro_batch);
        (alpha > 0.0).then_some(Self { key, alpha: alpha as f32 })
    }

    /// Noise on every element of the embeddings, `[tokens, hidden]`: uniform on ±`alpha / sqrt(length * hidden)`, where
    /// `length` is that of the token's own document.
    pub fn values(&self, batch: &Batch, hidden: usize) -> Vec<f32> {
        let mut noise = vec![0f32; batch.len() * hidden];
        for bounds in batch.boundaries.windows(2) {
            let size = self.alpha / ((bounds[1] - bounds[0]) as f32 * hidden as f32).sqrt();
            for (i, x) in noise[bounds[0] * hidden..bounds[1] * hidden].iter_mut().enumerate() {
                let bits = mix64(self.key ^ mix64((bounds[0] * hidden + i) as u64)) >> 40;
                *x = (bits as f32 / (1u32 << 23) as f32 - 1.0) * size;
            }
        }
        noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sample;

    #[test]
    fn noise_is_uniform_within_its_bound_and_named() {
        let samples = [9, 100].map(|n| Sample { tokens: vec![1; n], loss_from: 1, ..Sample::default() });
        let batch = Batch::of(&samples);
        let plan = NoisePlan::new(1, 2, 3, 5.0).expect("noise");
        let noise = plan.values(&batch, 64);
        for (part, length) in [(&noise[..9 * 64], 9.0f32), (&noise[9 * 64..], 100.0)] {
            let bound = 5.0 / (length * 64.0).sqrt();
            let n = part.len() as f32;
            assert!(part.iter().all(|x| x.abs() <= bound));
            // Mean and variance of a uniform distribution, within five standard deviations.
            let (mean, square) = part.iter().fold((0.0, 0.0), |(m, s), x| (m + x / n, s + x * x / n));
            assert!(mean.abs() < 5.0 * bound / (3.0 * n).sqrt(), "{mean}");
            assert!((square / bound / bound - 1.0 / 3.0).abs() < 5.0 * 0.3 / n.sqrt(), "{square}");
        }
        for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4)] {
            assert_ne!(NoisePlan::new(other.0, other.1, other.2, 5.0).expect("noise").values(&batch, 64), noise);
        }
        assert_eq!(NoisePlan::new(1, 2, 3, 0.0), None);
    }
}
