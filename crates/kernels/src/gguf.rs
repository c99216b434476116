//! Blocks of quantised elements as ggml stores them (ggml-common.h, ggml-quants.c of llama.cpp), and what they stand for.

mod codes;

use rayon::prelude::*;

pub(crate) use self::codes::{Factors, GROUP, LARGE, decode, has_minima};
use self::codes::{SMALL, half};
use crate::{Buffer, cpu::isa::multiversion};

/// How a tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs, reason = "ggml's names")]
pub enum BlockType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    IQ4_NL,
    IQ4_XS,
    BF16,
}

impl BlockType {
    /// The type of a number in a GGUF file; `None` if it is not known here.
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            9 => Self::Q8_1,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            15 => Self::Q8K,
            20 => Self::IQ4_NL,
            23 => Self::IQ4_XS,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// The name of a type that is not known here.
    pub fn unknown(code: u32) -> String {
        let name = match code {
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            21 => "IQ3_S",
            22 => "IQ2_S",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            other => return format!("number {other}"),
        };
        name.to_owned()
    }

    /// Elements of a block.
    pub fn elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Q8_1 | Self::IQ4_NL => SMALL,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Q8K | Self::IQ4_XS => LARGE,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q8_1 => 36,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Q8K => 292,
            Self::IQ4_XS => 136,
        }
    }

    /// ggml's name in lower case, e.g. `q4_k`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q8_1 => "q8_1",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Q8K => "q8_k",
            Self::IQ4_NL => "iq4_nl",
            Self::IQ4_XS => "iq4_xs",
        }
    }

    /// The elements of whole blocks, in f32.
    pub fn widen(self, blocks: &[u8]) -> Vec<f32> {
        const BLOCKS: usize = 256;
        let (bytes, elements) = (self.bytes(), self.elements());
        let mut out = vec![0f32; blocks.len() / bytes * elements];
        let pairs = out.par_chunks_mut(BLOCKS * elements).zip(blocks.par_chunks(BLOCKS * bytes));
        pairs.for_each(|(y, blocks)| widen_into(self, blocks, y));
        out
    }
}

multiversion! {
    /// The elements of whole blocks, to `out`, which has room for as many.
    pub(crate) fn widen_into(kind: BlockType, blocks: &[u8], out: &mut [f32]) {
        match kind {
            BlockType::F32 => {
                for (y, b) in out.iter_mut().zip(blocks.as_chunks().0) {
                    *y = f32::from_le_bytes(*b);
                }
            }
            BlockType::F16 => {
                for (y, b) in out.iter_mut().zip(blocks.as_chunks().0) {
                    *y = half::<2>(b, 0);
                }
            }
            BlockType::BF16 => {
                for (y, b) in out.iter_mut().zip(blocks.as_chunks().0) {
                    *y = half::bf16::from_le_bytes(*b).to_f32();
                }
            }
            _ => {
                let (mut codes, mut factors) = ([0; LARGE], [0.0; 2 * LARGE / GROUP]);
                for (y, blocks) in out.chunks_mut(LARGE).zip(blocks.chunks(LARGE / kind.elements() * kind.bytes())) {
                    decode(kind, blocks, &mut codes, &mut factors);
                    let groups = y.chunks_mut(GROUP).zip(codes.as_chunks::<GROUP>().0);
                    let factors = factors.iter().zip(&factors[LARGE / GROUP..]);
                    for ((y, codes), (scale, minimum)) in groups.zip(factors) {
                        for (y, &code) in y.iter_mut().zip(codes) {
                            *y = f32::from(code) * scale - minimum;
                        }
                    }
                }
            }
        }
    }
}

/// Elements of a tensor in blocks.
#[derive(Clone, Debug)]
pub struct BlockTensor {
    /// The type of its blocks.
    pub kind: BlockType,
    /// The blocks; a row of the tensor has whole ones.
    pub bytes: Buffer<u8>,
    /// Number of elements.
    pub len: usize,
}

impl BlockTensor {
    /// All elements in f32.
    pub fn widen(&self) -> Vec<f32> {
        self.kind.widen(&self.bytes)
    }

    /// Bytes of so many elements, which are whole blocks.
    pub fn bytes_of(&self, elements: usize) -> usize {
        elements / self.kind.elements() * self.kind.bytes()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{
        Device,
        quantized::{GgmlDType, QStorage, QTensor},
    };
    use proptest::prelude::*;

    use super::*;

    const TYPES: [(BlockType, GgmlDType); 11] = [
        (BlockType::Q4_0, GgmlDType::Q4_0),
        (BlockType::Q4_1, GgmlDType::Q4_1),
        (BlockType::Q5_0, GgmlDType::Q5_0),
        (BlockType::Q5_1, GgmlDType::Q5_1),
        (BlockType::Q8_0, GgmlDType::Q8_0),
        (BlockType::Q2K, GgmlDType::Q2K),
        (BlockType::Q3K, GgmlDType::Q3K),
        (BlockType::Q4K, GgmlDType::Q4K),
        (BlockType::Q5K, GgmlDType::Q5K),
        (BlockType::Q6K, GgmlDType::Q6K),
        (BlockType::Q8K, GgmlDType::Q8K),
    ];

    /// What candle makes of blocks.
    fn candle(dtype: GgmlDType, blocks: &[u8], elements: usize) -> Vec<f32> {
        let storage = QStorage::from_data(blocks.into(), &Device::Cpu, dtype).unwrap();
        let tensor = QTensor::new(storage, elements).unwrap();
        tensor.dequantize(&Device::Cpu).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn blocks_are_widened_as_gguf_py_widens_them() {
        let lines =
            include_str!("../../../golden/vectors/gguf_blocks.txt").lines().filter(|line| !line.starts_with('#'));
        let mut names = vec![];
        for line in lines {
            let [name, blocks, values] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let kind = (0..40).filter_map(BlockType::from_code).find(|kind| kind.name() == name).unwrap();
            let digits = |text: &str, at: usize, len: usize| u32::from_str_radix(&text[at..at + len], 16).unwrap();
            let blocks: Vec<u8> = (0..blocks.len()).step_by(2).map(|at| digits(blocks, at, 2) as u8).collect();
            let expected: Vec<u32> = (0..values.len()).step_by(8).map(|at| digits(values, at, 8)).collect();
            let found: Vec<u32> = kind.widen(&blocks).iter().map(|x| x.to_bits()).collect();
            assert_eq!(found, expected, "{name}");
            names.push(name);
        }
        assert_eq!(names.len(), 12, "{names:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn blocks_are_widened_as_candle_widens_them(bytes in proptest::collection::vec(any::<u8>(), 3 * 292)) {
            for (ours, theirs) in TYPES {
                prop_assert_eq!((ours.bytes(), ours.elements()), (theirs.type_size(), theirs.block_size()));
                let blocks = &bytes[..3 * ours.bytes()];
                let (found, expected) = (ours.widen(blocks), candle(theirs, blocks, 3 * ours.elements()));
                for (at, (a, b)) in found.iter().zip(&expected).enumerate() {
                    // Any bits can be a scale: also one that is no number.
                    prop_assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{ours:?} {at}: {a} {b}");
                }
            }
        }
    }
}
