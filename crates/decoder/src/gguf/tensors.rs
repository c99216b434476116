//! The decoder's weights from GGUF tensors.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
};

use harness_core::Digest;

use harness_kernels::{
    gguf::{BlockTensor, BlockType},
    mapped,
};

use super::{
    GgufFile, Part as FilePart,
    families::{self, GgufFamily},
    format::TensorInfo,
};
use crate::{
    DecoderConfig, DecoderError, Weights,
    weights::{Count, ExpertPart, Part, Place, StoredTensors, TensorSource, assemble, by_type, digest_tensors},
};
use harness_kernels::{HostData, HostTensor};

pub(super) fn read(file: &GgufFile, config: &DecoderConfig) -> Result<Weights, DecoderError> {
    let (family, _) = families::of(file)?;
    assemble(config, &GgufSource { file, config, family })
}

impl GgufFile {
    /// The part that a tensor lies in, and what its header says of it.
    fn find(&self, name: &str) -> Option<(&FilePart, &TensorInfo)> {
        let part = &self.parts[*self.places.get(name)?];
        part.content.tensors.get(name).map(|info| (part, info))
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The shape of a tensor.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.find(name).map(|(_, info)| info.shape.as_slice())
    }

    /// The stored bytes of every tensor with its name, block type and shape, sorted by name.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (&str, String, &[usize], &[u8])> {
        self.places.keys().filter_map(|name| {
            let (part, info) = self.find(name)?;
            let (begin, end) = part.extent(info)?;
            let bytes = part.map.get(begin..end)?;
            Some((name.as_str(), format!("{:?}", info.blocks), info.shape.as_slice(), bytes))
        })
    }

    /// Counts and bytes of tensors by the name of their type, as llama.cpp writes it for blocks: `Q4_K`.
    pub(crate) fn by_type(&self) -> BTreeMap<String, StoredTensors> {
        let named = self.contents().map(|(name, dtype, shape, bytes)| {
            let dtype = match dtype.as_str() {
                "F32" | "F16" | "BF16" => dtype.to_lowercase(),
                _ => match dtype.strip_suffix('K') {
                    Some(bits) => format!("{bits}_K"),
                    None => dtype,
                },
            };
            (name, dtype, shape, bytes)
        });
        by_type(named)
    }

    /// Hash of all tensors as they are stored, in however many files.
    pub(crate) fn digest(&self) -> Digest {
        digest_tensors("gguf", self.contents())
    }

    /// One tensor of a given shape; quantised blocks stay as they are.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<HostTensor, DecoderError> {
        let Some((part, info)) = self.find(name) else {
            return Err(DecoderError::MissingTensors { path: self.path.clone(), names: vec![name.to_owned()] });
        };
        if info.shape != shape {
            return Err(DecoderError::TensorShape {
                path: part.path.clone(),
                tensor: name.to_owned(),
                found: info.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let absurd = || part.error(format!("tensor `{name}` does not lie inside the file"));
        let (begin, end) = part.extent(info).ok_or_else(absurd)?;
        let len = info.shape.iter().product();
        let data = match info.blocks {
            BlockType::F32 => HostData::F32(mapped(&part.map, begin, len).ok_or_else(absurd)?),
            BlockType::F16 => HostData::F16(mapped(&part.map, begin, len).ok_or_else(absurd)?),
            BlockType::BF16 => HostData::Bf16(mapped(&part.map, begin, len).ok_or_else(absurd)?),
            kind if info.shape.len() > 1 => {
                let bytes = mapped(&part.map, begin, end - begin).ok_or_else(absurd)?;
                HostData::Blocks(BlockTensor { kind, bytes, len })
            }
            kind => HostData::F32(kind.widen(part.map.get(begin..end).ok_or_else(absurd)?).into()),
        };
        Ok(HostTensor { shape: shape.to_vec(), data })
    }
}

impl FilePart {
    /// First byte of a tensor and the one after its last; `None` if its size is absurd, or its rows are not whole blocks.
    fn extent(&self, info: &TensorInfo) -> Option<(usize, usize)> {
        let elements = info.shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
        let block = info.blocks.elements();
        if !info.shape.last().copied().unwrap_or(1).is_multiple_of(block) {
            return None;
        }
        let bytes = (elements / block).checked_mul(info.blocks.bytes())?;
        let begin = usize::try_from(self.content.data.checked_add(info.offset)?).ok()?;
        Some((begin, begin.checked_add(bytes)?))
    }

    /// Checks that every tensor lies inside the file and no two in one place: what is read is then no more than the file.
    pub(super) fn check_extents(&self) -> Result<(), DecoderError> {
        let mut extents = Vec::with_capacity(self.content.tensors.len());
        for (name, info) in &self.content.tensors {
            let Some((begin, end)) = self.extent(info) else {
                let shape = &info.shape;
                return Err(
                    self.error(format!("tensor `{name}`: {shape:?} is not a shape of {:?} blocks", info.blocks))
                );
            };
            if end > self.map.len() {
                return Err(self.error(format!(
                    "the file is truncated: tensor `{name}` ends at byte {end}, the file at {}; download it again",
                    self.map.len()
                )));
            }
            extents.push((begin, end, name));
        }
        extents.sort_unstable();
        match extents.array_windows().find(|[(_, end, _), (begin, ..)]| begin < end) {
            Some([(.., first), (.., second)]) => {
                Err(self
                    .error(format!("the tensors `{first}` and `{second}` lie in the same bytes; the file is broken")))
            }
            None => Ok(()),
        }
    }
}

/// GGUF tensors under the names that llama.cpp gives them.
struct GgufSource<'a> {
    file: &'a GgufFile,
    config: &'a DecoderConfig,
    family: &'static GgufFamily,
}

impl GgufSource<'_> {
    /// The rows of a projection in a tensor that it shares, which are stored in blocks; `None` if it shares none.
    fn shared(&self, part: Part) -> Option<(&'static str, usize, Range<usize>)> {
        let (q, kv, inner) = (self.config.q_dim(), self.config.kv_dim(), self.config.intermediate_size);
        let fused = !self.has("blk.0.attn_q.weight") && self.has("blk.0.attn_qkv.weight");
        let wide = self.config.block.gated && !self.has("blk.0.ffn_gate.weight");
        let qkv = |name, rows| fused.then_some((name, q + 2 * kv, rows));
        match part {
            Part::Q => qkv("attn_qkv.weight", 0..q),
            Part::K => qkv("attn_qkv.weight", q..q + kv),
            Part::V => qkv("attn_qkv.weight", q + kv..q + 2 * kv),
            Part::QBias => qkv("attn_qkv.bias", 0..q),
            Part::KBias => qkv("attn_qkv.bias", q..q + kv),
            Part::VBias => qkv("attn_qkv.bias", q + kv..q + 2 * kv),
            Part::Gate if wide => Some(("ffn_up.weight", 2 * inner, 0..inner)),
            Part::Up if wide => Some(("ffn_up.weight", 2 * inner, inner..2 * inner)),
            _ => None,
        }
    }

    /// llama.cpp's name of a part, where it is not that of most architectures.
    fn own_name(&self, part: Part) -> Option<&'static str> {
        let second = "post_attention_norm.weight";
        let has = |name: &str| self.has(&format!("blk.0.{name}"));
        (part == Part::PostAttentionNorm && has(second) && !has(part_name(part))).then_some(second)
    }
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
            Place::NormBias => "output_norm.bias".to_owned(),
            Place::HeadBias => "output.bias".to_owned(),
            Place::Positions => "position_embd.weight".to_owned(),
            Place::EmbedNorm => "token_embd_norm.weight".to_owned(),
            Place::EmbedNormBias => "token_embd_norm.bias".to_owned(),
            Place::ProjectIn => "project_in.weight".to_owned(),
            Place::ProjectOut => "project_out.weight".to_owned(),
            Place::Layer(layer, part) => {
                let shared = self.shared(part).map(|(name, ..)| name);
                format!("blk.{layer}.{}", shared.or_else(|| self.own_name(part)).unwrap_or_else(|| part_name(part)))
            }
            Place::Expert(layer, expert, part) => {
                let stacked = format!("blk.{layer}.{}_exps.weight", expert_name(part));
                let own = format!("blk.{layer}.{}.{expert}.weight", expert_name(part));
                if self.has(&own) { own } else { stacked }
            }
            Place::ExpertBias(layer, _, part) => format!("blk.{layer}.{}_exps.bias", expert_name(part)),
        }
    }

    fn len(&self) -> usize {
        self.file.places.len()
    }

    fn key_of(&self, count: Count) -> (PathBuf, String) {
        let key = match count {
            Count::Layers => "block_count",
            Count::Experts => "expert_count",
        };
        (self.file.path.clone(), format!("{}.{key}", self.family.name))
    }

    fn has(&self, name: &str) -> bool {
        self.file.has(name)
    }

    /// llama.cpp reads every tensor or refuses the file; those of rotary embeddings are read with the configuration, or
    /// left over from old conversions.
    fn stranger(&self, known: &BTreeSet<String>) -> Option<String> {
        let passed_over = |name: &str| name.starts_with("rope_f") || name.contains(".attn_rot_embd");
        self.file.places.keys().find(|name| !known.contains(*name) && !passed_over(name)).cloned()
    }

    fn read(&self, place: Place, shape: &[usize]) -> Result<HostTensor, DecoderError> {
        let name = self.name(place);
        if let (Place::Expert(_, expert, _), &[rows, cols], Some(experts)) = (place, shape, &self.config.experts)
            && name.ends_with("_exps.weight")
        {
            return Ok(self.file.tensor(&name, &[experts.count, rows, cols])?.matrix(expert, rows, cols));
        }
        let Place::Layer(_, part) = place else { return self.file.tensor(&name, shape) };
        let tensor = match (self.shared(part), part) {
            (Some((_, rows, own)), _) => {
                let whole: Vec<usize> = std::iter::once(rows).chain(shape[1..].iter().copied()).collect();
                self.file.tensor(&name, &whole)?.select_rows(std::iter::once(own))
            }
            // Older files store a vector.
            (None, Part::SharedSigmoid) if self.file.shape(&name).is_some_and(|found| found.len() == 1) => {
                self.file.tensor(&name, &shape[1..])?.reshaped(shape)
            }
            (None, _) => self.file.tensor(&name, shape)?,
        };
        // llama.cpp stores the rows of q and k of some architectures in the order of interleaved rotation.
        Ok(match part {
            Part::Q | Part::K | Part::QBias | Part::KBias if self.family.permuted => {
                halves_from_pairs(tensor, self.config.head_dim)
            }
            _ => tensor,
        })
    }
}

pub(super) fn part_name(part: Part) -> &'static str {
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
        Part::GateBias => "ffn_gate.bias",
        Part::UpBias => "ffn_up.bias",
        Part::DownBias => "ffn_down.bias",
        Part::InputNormBias => "attn_norm.bias",
        Part::PostAttentionNormBias => "ffn_norm.bias",
        Part::AttentionOutNorm => "post_attention_norm.weight",
        Part::FeedForwardOutNorm => "post_ffw_norm.weight",
        Part::QNormBias => "attn_q_norm.bias",
        Part::KNormBias => "attn_k_norm.bias",
        Part::Sinks => "attn_sinks.weight",
        Part::RouterBias => "ffn_gate_inp.bias",
        Part::SelectionBias => "exp_probs_b.bias",
        Part::SharedGate => "ffn_gate_shexp.weight",
        Part::SharedUp => "ffn_up_shexp.weight",
        Part::SharedDown => "ffn_down_shexp.weight",
        Part::SharedGateBias => "ffn_gate_shexp.bias",
        Part::SharedUpBias => "ffn_up_shexp.bias",
        Part::SharedDownBias => "ffn_down_shexp.bias",
        Part::SharedSigmoid => "ffn_gate_inp_shexp.weight",
        Part::QDown => "attn_q_a.weight",
        Part::QDownBias => "attn_q_a.bias",
        Part::QDownNorm => "attn_q_a_norm.weight",
        Part::QUp => "attn_q_b.weight",
        Part::KvDown => "attn_kv_a_mqa.weight",
        Part::KvDownBias => "attn_kv_a_mqa.bias",
        Part::KvDownNorm => "attn_kv_a_norm.weight",
        Part::KvUp => "attn_kv_b.weight",
        Part::ConvIn => "shortconv.in_proj.weight",
        Part::ConvInBias => "shortconv.in_proj.bias",
        Part::Conv => "shortconv.conv.weight",
        Part::ConvBias => "shortconv.conv.bias",
        Part::ConvOut => "shortconv.out_proj.weight",
        Part::ConvOutBias => "shortconv.out_proj.bias",
        Part::XieluPositive => "xielu.alpha_p",
        Part::XieluNegative => "xielu.alpha_n",
        Part::XieluBeta => "xielu.beta",
        Part::XieluEps => "xielu.eps",
    }
}

pub(super) fn expert_name(part: ExpertPart) -> &'static str {
    match part {
        ExpertPart::Gate => "ffn_gate",
        ExpertPart::Up => "ffn_up",
        ExpertPart::Down => "ffn_down",
    }
}

/// Rows of every head from the order of rotated pairs (0, 1), (2, 3) … to that of rotated halves (0, d/2), (1, d/2 + 1) …
fn halves_from_pairs(tensor: HostTensor, head_dim: usize) -> HostTensor {
    reordered(tensor, head_dim, |row| if row < head_dim / 2 { 2 * row } else { 2 * row + 1 - head_dim })
}

/// The other way round.
pub(super) fn pairs_from_halves(tensor: HostTensor, head_dim: usize) -> HostTensor {
    reordered(tensor, head_dim, |row| row / 2 + row % 2 * (head_dim / 2))
}

/// Rows of every head in another order: `from` says which row comes to a place.
fn reordered(tensor: HostTensor, head_dim: usize, from: impl Fn(usize) -> usize + Copy) -> HostTensor {
    let cols = tensor.cols();
    let data = match &tensor.data {
        HostData::F32(data) => HostData::F32(reorder(data, head_dim, cols, from).into()),
        HostData::F16(data) => HostData::F16(reorder(data, head_dim, cols, from).into()),
        HostData::Bf16(data) => HostData::Bf16(reorder(data, head_dim, cols, from).into()),
        // GGUF has no such codes.
        HostData::Nf4(_) | HostData::Coded(_) => HostData::F32(reorder(&tensor.to_f32(), head_dim, cols, from).into()),
        HostData::Blocks(data) => {
            let bytes = reorder(&data.bytes, head_dim, data.bytes_of(cols), from).into();
            HostData::Blocks(BlockTensor { bytes, ..*data })
        }
    };
    HostTensor { shape: tensor.shape, data }
}

fn reorder<T: Copy>(data: &[T], head_dim: usize, cols: usize, from: impl Fn(usize) -> usize) -> Vec<T> {
    let mut out = Vec::with_capacity(data.len());
    for head in data.chunks_exact(head_dim * cols) {
        for row in (0..head_dim).map(&from) {
            out.extend_from_slice(&head[row * cols..(row + 1) * cols]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_halves_and_pairs_again() {
        // Two heads of four rows with one column: rows 0 and 1 of a head are a pair, so they end up half a head apart.
        let tensor = |rows: usize, data: &[f32]| HostTensor::from_f32([rows, data.len() / rows], data.to_vec());
        let pairs = tensor(8, &[0., 1., 2., 3., 10., 11., 12., 13.]);
        let halves = halves_from_pairs(pairs.clone(), 4);
        assert_eq!(*halves.to_f32(), [0., 2., 1., 3., 10., 12., 11., 13.]);
        assert_eq!(pairs_from_halves(halves, 4).to_f32(), pairs.to_f32());
        let two = tensor(4, &[0., 5., 1., 6., 2., 7., 3., 8.]);
        assert_eq!(*halves_from_pairs(two, 4).to_f32(), [0., 5., 2., 7., 1., 6., 3., 8.]);
    }
}
