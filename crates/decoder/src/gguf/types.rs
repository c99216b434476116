//! In which type each tensor of a GGUF file is stored, as llama.cpp's converter and `llama-quantize` choose it
//! (`tensor_allows_quantization`, `llama_tensor_get_type`, `tensor_type_fallback` in llama-quant.cpp).

use harness_kernels::gguf::BlockType;

use crate::DecoderConfig;

/// What a GGUF file is mostly stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// Half precision.
    F16,
    /// Eight bits, a scale for every 32 elements.
    Q8_0,
    /// Four bits, and six where it matters most: llama.cpp's mixture of this name.
    Q4KM,
}

impl GgufType {
    /// The names of all.
    pub const NAMES: [&'static str; 3] = ["F16", "Q8_0", "Q4_K_M"];

    /// By llama.cpp's name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        let at = Self::NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        [Self::F16, Self::Q8_0, Self::Q4KM].get(at).copied()
    }

    /// llama.cpp's name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Its number in `general.file_type`.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
        }
    }

    /// The type of a tensor, which belongs to the block of number `layer`.
    pub(super) fn of(
        self,
        name: &str,
        shape: &[usize],
        layer: usize,
        architecture: &str,
        config: &DecoderConfig,
    ) -> BlockType {
        let always_wide = ["_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight"];
        let part = name.strip_prefix(&format!("blk.{layer}.")).unwrap_or(name);
        if shape.len() < 2 || !name.ends_with(".weight") || always_wide.iter().any(|end| part.ends_with(end)) {
            return BlockType::F32;
        }
        let wanted = match self {
            Self::F16 => return BlockType::F16,
            Self::Q8_0 => BlockType::Q8_0,
            Self::Q4KM => mixture(part, shape, layer, architecture, config),
        };
        let fits = |kind: BlockType| shape.last().is_some_and(|cols| cols.is_multiple_of(kind.elements()));
        let smaller = match wanted {
            BlockType::Q4K => BlockType::Q5_0,
            BlockType::Q5K => BlockType::Q5_1,
            BlockType::Q6K => BlockType::Q8_0,
            other => other,
        };
        [wanted, smaller].into_iter().find(|&kind| fits(kind)).unwrap_or(BlockType::F16)
    }
}

/// Whether a layer is one of the outer eighths, or every third between.
fn uses_more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// `Q4_K_M` before the width is looked at.
fn mixture(part: &str, shape: &[usize], layer: usize, architecture: &str, config: &DecoderConfig) -> BlockType {
    let more = uses_more_bits(layer, config.num_layers);
    let eight_experts = config.experts.as_ref().is_some_and(|experts| experts.count == 8);
    // Of 80 layers with shared key heads: the models that llama.cpp calls 70B.
    let shares = config.num_heads != config.num_kv_heads;
    let large = config.num_layers == 80 && (architecture == "qwen2" || architecture == "llama" && shares);
    match part {
        "output.weight" => head(shape),
        "token_embd.weight" if config.tie_word_embeddings => head(shape),
        "attn_v.weight" | "attn_qkv.weight" => match () {
            () if eight_experts => BlockType::Q8_0,
            () if more => BlockType::Q6K,
            () if large => BlockType::Q5K,
            () => BlockType::Q4K,
        },
        "attn_k.weight" if eight_experts => BlockType::Q8_0,
        "attn_output.weight" if eight_experts => BlockType::Q5K,
        "ffn_down.weight" | "ffn_down_exps.weight" if more => BlockType::Q6K,
        _ => BlockType::Q4K,
    }
}

fn head(shape: &[usize]) -> BlockType {
    let whole = shape.last().is_some_and(|cols| cols.is_multiple_of(BlockType::Q6K.elements()));
    if whole { BlockType::Q6K } else { BlockType::Q8_0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_with_more_bits_are_those_of_llama_cpp() {
        // The second as in a file of Gemma 3 270M that llama.cpp made.
        let of = |layers| (0..layers).filter(|&layer| uses_more_bits(layer, layers)).collect::<Vec<_>>();
        assert_eq!(of(24), [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
        assert_eq!(of(18), [0, 1, 4, 7, 10, 13, 15, 16, 17]);
    }
}
