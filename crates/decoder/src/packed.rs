//! A block's weights as one run of bytes, so that ranks can hold parts of it.

use half::{bf16, f16};

use crate::{DecoderError, LayerWeights};
use harness_kernels::{BlockScales, HostData, HostTensor, NestedScales, Nf4Tensor};

/// What the bytes of a block are: types and shapes of its tensors, and its norms and biases, which are small.
#[derive(Clone, Debug)]
pub struct PackedLayer {
    matrices: Vec<Matrix>,
    rest: LayerWeights,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Matrix {
    shape: Vec<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    F32,
    Bf16,
    F16,
    /// Block, elements, and whether scales are nested around this offset.
    Nf4(usize, usize, Option<f32>),
}

fn floats(data: &[f32]) -> impl Iterator<Item = u8> + '_ {
    data.iter().flat_map(|x| x.to_le_bytes())
}

impl PackedLayer {
    /// The description of a block, and the bytes of its matrices in the order of [`crate::Projection::ALL`].
    pub fn split(layer: &LayerWeights) -> (Self, Vec<u8>) {
        let (mut bytes, mut matrices) = (vec![], vec![]);
        for (_, tensor) in layer.linears() {
            let kind = match &tensor.data {
                HostData::F32(data) => {
                    bytes.extend(floats(data));
                    Kind::F32
                }
                HostData::Bf16(data) => {
                    bytes.extend(data.iter().flat_map(|x| x.to_le_bytes()));
                    Kind::Bf16
                }
                HostData::F16(data) => {
                    bytes.extend(data.iter().flat_map(|x| x.to_le_bytes()));
                    Kind::F16
                }
                HostData::Blocks(_) | HostData::Coded(_) => {
                    bytes.extend(floats(&tensor.to_f32()));
                    Kind::F32
                }
                HostData::Nf4(data) => {
                    bytes.extend_from_slice(&data.codes);
                    let offset = match &data.scales {
                        BlockScales::Plain(scales) => {
                            bytes.extend(floats(scales));
                            None
                        }
                        BlockScales::Nested(scales) => {
                            bytes.extend_from_slice(&scales.codes);
                            bytes.extend(floats(&scales.absmax));
                            Some(scales.offset)
                        }
                    };
                    Kind::Nf4(data.block, data.len, offset)
                }
            };
            matrices.push(Matrix { shape: tensor.shape.clone(), kind });
        }
        let mut rest = layer.clone();
        for (_, tensor) in rest.linears_mut() {
            *tensor = HostTensor::from_f32([0, 0], vec![]);
        }
        let total = bytes.len();
        (Self { matrices, rest, bytes: total }, bytes)
    }

    /// Number of bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The block again.
    ///
    /// # Errors
    /// If these are not as many bytes as came out.
    pub fn join(&self, bytes: &[u8]) -> Result<LayerWeights, DecoderError> {
        if bytes.len() != self.bytes {
            return Err(DecoderError::Weights {
                path: "sharded block".into(),
                reason: format!("{} bytes were gathered, expected {}", bytes.len(), self.bytes),
            });
        }
        let mut rest = bytes;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at(n);
            rest = tail;
            head
        };
        let wide = |bytes: &[u8]| -> Vec<f32> {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let mut layer = self.rest.clone();
        for ((_, tensor), matrix) in layer.linears_mut().into_iter().zip(&self.matrices) {
            let elements: usize = matrix.shape.iter().product();
            let data = match matrix.kind {
                Kind::F32 => HostData::F32(wide(take(4 * elements)).into()),
                Kind::Bf16 => {
                    let pairs = take(2 * elements).chunks_exact(2);
                    HostData::Bf16(pairs.map(|b| bf16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>().into())
                }
                Kind::F16 => {
                    let pairs = take(2 * elements).chunks_exact(2);
                    HostData::F16(pairs.map(|b| f16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>().into())
                }
                Kind::Nf4(block, len, offset) => {
                    let (blocks, codes) = (len.div_ceil(block), take(len.div_ceil(2)).to_vec());
                    let scales = match offset {
                        None => BlockScales::Plain(wide(take(4 * blocks)).into()),
                        Some(offset) => {
                            let codes = take(blocks).to_vec();
                            let absmax = wide(take(4 * blocks.div_ceil(NestedScales::BLOCK)));
                            BlockScales::Nested(NestedScales { codes: codes.into(), absmax: absmax.into(), offset })
                        }
                    };
                    HostData::Nf4(Nf4Tensor { codes: codes.into(), scales, block, len })
                }
            };
            *tensor = HostTensor { shape: matrix.shape.clone(), data };
        }
        Ok(layer)
    }
}
