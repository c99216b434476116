use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use proptest::prelude::*;

use super::*;

fn candle(dtype: GgmlDType, values: &[f32]) -> Vec<u8> {
    let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
    QTensor::quantize(&tensor, dtype).unwrap().data().unwrap().into_owned()
}

/// Numbers like those of a weight matrix: about normal, a few of them large.
fn weights(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|i| (0..6).map(|_| unit()).sum::<f32>() * if i % 97 == 0 { 0.2 } else { 0.03 }).collect()
}

/// Root of the mean square of what quantising changes, relative to that of the values.
fn error(kind: BlockType, values: &[f32], blocks: &[u8]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = kind.widen(blocks).iter().zip(values).map(|(a, b)| square(a - b)).sum();
    (off / values.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

#[test]
fn small_blocks_are_those_of_candle() {
    let values = weights(1, 32 * 200);
    for (ours, theirs) in
        [(BlockType::Q8_0, GgmlDType::Q8_0), (BlockType::Q5_0, GgmlDType::Q5_0), (BlockType::Q5_1, GgmlDType::Q5_1)]
    {
        assert_eq!(ours.quantise(&values).unwrap(), candle(theirs, &values), "{ours:?}");
    }
}

#[test]
fn large_blocks_lose_no_more_than_those_of_candle() {
    let values = weights(2, 256 * 200);
    // The last number: a little more than ggml itself loses of these values (0.0846, 0.0427, 0.0239).
    for (ours, theirs, bound) in [
        (BlockType::Q4K, GgmlDType::Q4K, 0.09),
        (BlockType::Q5K, GgmlDType::Q5K, 0.05),
        (BlockType::Q6K, GgmlDType::Q6K, 0.026),
    ] {
        let found = error(ours, &values, &ours.quantise(&values).unwrap());
        let expected = error(ours, &values, &candle(theirs, &values));
        assert!(found <= 1.01 * expected && found < bound, "{ours:?}: {found} and {expected}");
    }
}

#[test]
fn what_cannot_be_stored_is_refused() {
    for kind in [BlockType::F16, BlockType::Q8_0, BlockType::Q5_0, BlockType::Q5_1, BlockType::Q4K, BlockType::Q6K] {
        let zeros = vec![0f32; 256];
        assert!(kind.widen(&kind.quantise(&zeros).unwrap()).iter().all(|&x| x == 0.0), "{kind:?}");
        for wrong in [f32::NAN, f32::INFINITY, 1e30] {
            let mut values = zeros.clone();
            values[17] = wrong;
            assert!(kind.quantise(&values).is_none(), "{kind:?} {wrong}");
        }
    }
    assert!(BlockType::Q4K.quantise(&[0.0; 255]).is_none() && BlockType::Q2K.quantise(&[0.0; 256]).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_element_moves_further_than_its_group_is_wide(seed: u64, scale in -4i32..12) {
        let values: Vec<f32> = weights(seed, 512).iter().map(|x| x * 2f32.powi(scale)).collect();
        for (kind, group, steps) in [
            (BlockType::Q8_0, 32, 127.0), (BlockType::Q5_0, 32, 16.0), (BlockType::Q5_1, 32, 31.0),
            (BlockType::Q4K, 32, 7.0), (BlockType::Q5K, 32, 15.0), (BlockType::Q6K, 16, 24.0),
        ] {
            let widened = kind.widen(&kind.quantise(&values).unwrap());
            for (x, y) in values.chunks(group).zip(widened.chunks(group)) {
                let widest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
                // Scales of groups are themselves codes of the widest in 256 elements.
                let all = values.iter().fold(0f32, |max, x| max.max(x.abs()));
                let bound = 2.0 * widest / steps + all / 60.0;
                let worst = x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
                prop_assert!(worst <= bound, "{kind:?}: {worst} of {widest}");
            }
        }
    }
}
