//! Which masks a micro-batch drops inputs with.

use harness_decoder::Projection;

use crate::backend::{DropoutKey, mix64};

/// Dropout on the inputs of low-rank additions. Masks depend on seed, update, micro-batch, layer and projection only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutPlan {
    key: u64,
    probability: f32,
}

impl DropoutPlan {
    /// The masks of one micro-batch; `None` without dropout.
    pub fn new(seed: u64, update: u64, micro_batch: u64, probability: f32) -> Option<Self> {
        let key = mix64(mix64(mix64(seed ^ 0x6c6f_7261) ^ update) ^ micro_batch);
        (probability > 0.0).then_some(Self { key, probability })
    }

    /// The mask of one projection in one layer.
    pub fn mask(&self, layer: usize, projection: Projection) -> DropoutKey {
        let key = mix64(mix64(self.key ^ layer as u64) ^ projection as u64);
        DropoutKey { key, probability: self.probability }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn masks_have_their_rate_and_differ_by_everything_that_names_them() {
        let mut masks = BTreeSet::new();
        let mut count = 0;
        for (seed, update, micro_batch, layer) in
            [(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1), (1, 1, 1, 1)]
        {
            let plan = DropoutPlan::new(seed, update, micro_batch, 0.3).expect("dropout");
            for projection in Projection::ALL {
                let key = plan.mask(layer, projection);
                let mask: Vec<bool> = (0..4000).map(|i| key.keeps(i / 50, i % 50)).collect();
                let kept = mask.iter().filter(|&&keep| keep).count() as f64 / 4000.0;
                // Five standard deviations of a proportion of 4,000 draws.
                assert!((kept - 0.7).abs() < 0.037, "{kept}");
                masks.insert(mask);
                count += 1;
            }
        }
        assert_eq!(masks.len(), count);
        assert_eq!(DropoutPlan::new(1, 0, 0, 0.0), None);
    }
}
