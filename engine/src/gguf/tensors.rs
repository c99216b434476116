//! The decoder's weights from GGUF tensors.

use std::{io::Cursor, path::Path};

use candle_core::{
    Device,
    quantized::{GgmlDType, gguf_file::TensorInfo},
};
use harness_core::Digest;

use super::GgufFile;
use crate::{
    Architecture, DecoderConfig, EngineError, HostData, HostTensor, Weights,
    weights::{ExpertPart, Part, Place, TensorSource, assemble, digest_tensors, mapped},
};

pub(super) fn read(file: &GgufFile, config: &DecoderConfig) -> Result<Weights, EngineError> {
    assemble(config, &GgufSource { file, config })
}

impl GgufFile {
    /// Hash of all tensors as they are stored.
    pub(crate) fn digest(&self) -> Digest {
        let mut names: Vec<&String> = self.content.tensor_infos.keys().collect();
        names.sort();
        let tensors = names.into_iter().map(|name| {
            let info = &self.content.tensor_infos[name];
            let (begin, end) = self.extent(info).unwrap_or_default();
            let bytes = self.map.get(begin..end).unwrap_or_default();
            (name.as_str(), format!("{:?}", info.ggml_dtype), info.shape.dims(), bytes)
        });
        digest_tensors("gguf", tensors)
    }

    /// First byte of a tensor and the one after its last; `None` if its size is absurd.
    fn extent(&self, info: &TensorInfo) -> Option<(usize, usize)> {
        let elements = info.shape.dims().iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
        let block = info.ggml_dtype.block_size();
        if !elements.is_multiple_of(block) {
            return None;
        }
        let bytes = (elements / block).checked_mul(info.ggml_dtype.type_size())?;
        let begin = usize::try_from(self.content.tensor_data_offset.checked_add(info.offset)?).ok()?;
        Some((begin, begin.checked_add(bytes)?))
    }

    /// Checks that every tensor lies inside the file.
    pub(super) fn check_extents(&self) -> Result<(), EngineError> {
        let mut names: Vec<&String> = self.content.tensor_infos.keys().collect();
        names.sort();
        for name in names {
            let info = &self.content.tensor_infos[name];
            let Some((_, end)) = self.extent(info) else {
                let shape = info.shape.dims();
                return Err(
                    self.error(format!("tensor `{name}`: {shape:?} is no shape of {:?} blocks", info.ggml_dtype))
                );
            };
            if end > self.map.len() {
                return Err(self.error(format!(
                    "the file is truncated: tensor `{name}` ends at byte {end}, the file at {}; download it again",
                    self.map.len()
                )));
            }
        }
        Ok(())
    }

    /// One tensor of a given shape; quantised blocks are widened to f32, other types kept.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, EngineError> {
        let Some(info) = self.content.tensor_infos.get(name) else {
            return Err(EngineError::MissingTensors { path: self.path.clone(), names: vec![name.to_owned()] });
        };
        if info.shape.dims() != shape {
            return Err(EngineError::TensorShape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                found: info.shape.dims().to_vec(),
                expected: shape.to_vec(),
            });
        }
        let absurd = || self.error(format!("tensor `{name}` does not lie inside the file"));
        let (begin, _) = self.extent(info).ok_or_else(absurd)?;
        let len = info.shape.elem_count();
        let data = match info.ggml_dtype {
            GgmlDType::F32 => HostData::F32(mapped(&self.map, begin, len).ok_or_else(absurd)?),
            GgmlDType::F16 => HostData::F16(mapped(&self.map, begin, len).ok_or_else(absurd)?),
            GgmlDType::BF16 => HostData::Bf16(mapped(&self.map, begin, len).ok_or_else(absurd)?),
            _ => HostData::F32(self.dequantised(name).map_err(|e| self.error(format!("tensor `{name}`: {e}")))?.into()),
        };
        Ok(HostTensor { shape: shape.to_vec(), data })
    }

    fn dequantised(&self, name: &str) -> candle_core::Result<Vec<f32>> {
        let blocks = self.content.tensor(&mut Cursor::new(&self.map[..]), name, &Device::Cpu)?;
        blocks.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
    }
}

/// GGUF tensors under the names that llama.cpp gives them.
struct GgufSource<'a> {
    file: &'a GgufFile,
    config: &'a DecoderConfig,
}

impl TensorSource for GgufSource<'_> {
    fn path(&self) -> &Path {
        &self.file.path
    }

    fn name(&self, place: Place) -> String {
        match place {
            Place::Embed => "token_embd.weight".to_owned(),
            Place::Norm => "output_norm.weight".to_owned(),
            Place::LmHead => "output.weight".to_owned(),
            Place::Layer(layer, part) => format!("blk.{layer}.{}", part_name(part)),
            Place::Expert(layer, expert, part) => {
                let stacked = format!("blk.{layer}.{}_exps.weight", expert_name(part));
                let own = format!("blk.{layer}.{}.{expert}.weight", expert_name(part));
                if self.has(&own) { own } else { stacked }
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.file.content.tensor_infos.contains_key(name)
    }

    fn read(&self, place: Place, shape: &[usize]) -> Result<HostTensor, EngineError> {
        let name = self.name(place);
        if let (Place::Expert(_, expert, _), &[rows, cols], Some(experts)) = (place, shape, self.config.experts)
            && name.ends_with("_exps.weight")
        {
            return Ok(self.file.tensor(&name, &[experts.count, rows, cols])?.matrix(expert, rows, cols));
        }
        let tensor = self.file.tensor(&name, shape)?;
        let Place::Layer(_, Part::Q | Part::K | Part::QBias | Part::KBias) = place else { return Ok(tensor) };
        // llama.cpp stores the rows of q and k of `llama` in the order of interleaved rotation, Qwen's as they are.
        Ok(if self.config.architecture == Architecture::Llama {
            halves_from_pairs(tensor, self.config.head_dim)
        } else {
            tensor
        })
    }
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Q => "attn_q.weight",
        Part::K => "attn_k.weight",
        Part::V => "attn_v.weight",
        Part::O => "attn_output.weight",
        Part::Gate => "ffn_gate.weight",
        Part::Up => "ffn_up.weight",
        Part::Down => "ffn_down.weight",
        Part::QBias => "attn_q.bias",
        Part::KBias => "attn_k.bias",
        Part::VBias => "attn_v.bias",
        Part::OBias => "attn_output.bias",
        Part::InputNorm => "attn_norm.weight",
        Part::PostAttentionNorm => "ffn_norm.weight",
        Part::QNorm => "attn_q_norm.weight",
        Part::KNorm => "attn_k_norm.weight",
        Part::Router => "ffn_gate_inp.weight",
    }
}

fn expert_name(part: ExpertPart) -> &'static str {
    match part {
        ExpertPart::Gate => "ffn_gate",
        ExpertPart::Up => "ffn_up",
        ExpertPart::Down => "ffn_down",
    }
}

/// Rows of every head from the order of rotated pairs (0, 1), (2, 3) … to that of rotated halves (0, d/2), (1, d/2 + 1) …
fn halves_from_pairs(tensor: HostTensor, head_dim: usize) -> HostTensor {
    let cols = tensor.cols();
    let data = match tensor.data {
        HostData::F32(data) => HostData::F32(reorder(&data, head_dim, cols).into()),
        HostData::F16(data) => HostData::F16(reorder(&data, head_dim, cols).into()),
        HostData::Bf16(data) => HostData::Bf16(reorder(&data, head_dim, cols).into()),
        // GGUF has no such codes.
        HostData::Nf4(data) => HostData::F32(reorder(&data.dequantise(), head_dim, cols).into()),
    };
    HostTensor { shape: tensor.shape, data }
}

fn reorder<T: Copy>(data: &[T], head_dim: usize, cols: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(data.len());
    for head in data.chunks_exact(head_dim * cols) {
        for parity in 0..2 {
            for pair in 0..head_dim / 2 {
                let row = 2 * pair + parity;
                out.extend_from_slice(&head[row * cols..(row + 1) * cols]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_halves() {
        // Two heads of four rows with one column: rows 0 and 1 of a head are a pair, so they end up half a head apart.
        assert_eq!(reorder(&[0, 1, 2, 3, 10, 11, 12, 13], 4, 1), [0, 2, 1, 3, 10, 12, 11, 13]);
        assert_eq!(reorder(&[0, 5, 1, 6, 2, 7, 3, 8], 4, 2), [0, 5, 2, 7, 1, 6, 3, 8]);
    }
}
