//! Which tensors a GGUF file of a family has, and from which of the decoder's each is made: the other way round from
//! reading them.

use super::tensors::{expert_name, part_name};
use crate::{
    DecoderConfig, NormWeight,
    weights::{ExpertPart, Part, Place, expert_shape, parts, shape, top_shape, tops},
};

/// How llama.cpp stores a family that is written here.
pub(super) struct Layout {
    /// llama.cpp's name of the family.
    pub(super) name: &'static str,
    /// The families of Hugging Face that are stored so.
    pub(super) of: &'static [&'static str],
    /// Queries, keys and values in one tensor.
    qkv: bool,
    /// Gate and up in one tensor.
    gate_up: bool,
    /// The key of the sliding window is read.
    pub(super) window: bool,
}

impl Layout {
    const fn new(name: &'static str, of: &'static [&'static str]) -> Self {
        Self { name, of, qkv: false, gate_up: false, window: false }
    }
}

/// The families that are written.
pub(super) static LAYOUTS: &[Layout] = &[
    Layout::new("llama", &["llama", "mistral", "mixtral"]),
    Layout::new("qwen2", &["qwen2"]),
    Layout::new("qwen3", &["qwen3"]),
    Layout::new("qwen2moe", &["qwen2_moe"]),
    Layout::new("qwen3moe", &["qwen3_moe"]),
    Layout::new("gemma", &["gemma"]),
    Layout { window: true, ..Layout::new("gemma2", &["gemma2"]) },
    Layout { window: true, ..Layout::new("gemma3", &["gemma3_text"]) },
    Layout { qkv: true, gate_up: true, window: true, ..Layout::new("phi3", &["phi3"]) },
    Layout { window: true, ..Layout::new("olmo2", &["olmo2", "olmo3"]) },
    Layout::new("smollm3", &["smollm3"]),
    Layout::new("granite", &["granite"]),
    Layout::new("starcoder2", &["starcoder2"]),
    Layout { qkv: true, ..Layout::new("gpt2", &["gpt2"]) },
    Layout { qkv: true, ..Layout::new("gptneox", &["gpt_neox"]) },
    Layout { gate_up: true, ..Layout::new("glm4", &["glm4"]) },
    Layout { window: true, ..Layout::new("cohere2", &["cohere2"]) },
];

/// A tensor of the file.
pub(super) struct Output {
    pub(super) name: String,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    /// The block it belongs to; 0 for others.
    pub(super) layer: usize,
    /// What it is made of, one after the other, each with its shape.
    pub(super) sources: Vec<(Place, Vec<usize>)>,
    /// Whether rows of heads are put into the order of rotated pairs.
    pub(super) permuted: bool,
    /// Whether one is added, as norms have it that are by one more than their weight.
    pub(super) one_more: bool,
}

/// The tensors of a decoder in the order of the file.
pub(super) fn outputs(config: &DecoderConfig, layout: &Layout, permuted: bool) -> Vec<Output> {
    let top = |name: &str, place: Place| {
        let shape = top_shape(config, place);
        let one_more = place == Place::Norm && config.block.norm.weight == NormWeight::OneMore;
        let sources = vec![(place, shape.clone())];
        Output { name: name.to_owned(), shape, layer: 0, sources, permuted: false, one_more }
    };
    let mut outputs = vec![top("token_embd.weight", Place::Embed)];
    if tops(config).contains(&Place::Positions) {
        outputs.push(top("position_embd.weight", Place::Positions));
    }
    for layer in 0..config.num_layers {
        block(config, layout, permuted, layer, &mut outputs);
    }
    for (name, place) in
        [("output_norm.weight", Place::Norm), ("output_norm.bias", Place::NormBias), ("output.bias", Place::HeadBias)]
    {
        if tops(config).contains(&place) {
            outputs.push(top(name, place));
        }
    }
    if !config.tie_word_embeddings {
        outputs.push(top("output.weight", Place::LmHead));
    }
    outputs
}

fn block(config: &DecoderConfig, layout: &Layout, permuted: bool, layer: usize, outputs: &mut Vec<Output>) {
    for part in parts(config, layer) {
        let fused = match part {
            Part::Q | Part::K | Part::V if layout.qkv => Some("attn_qkv.weight"),
            Part::QBias | Part::KBias | Part::VBias if layout.qkv => Some("attn_qkv.bias"),
            Part::Gate | Part::Up if layout.gate_up => Some("ffn_up.weight"),
            _ => None,
        };
        let name = format!("blk.{layer}.{}", fused.unwrap_or_else(|| part_name(part)));
        let own = shape(config, part);
        let source = (Place::Layer(layer, part), own.clone());
        if let Some(known) = outputs.iter_mut().rev().take(8).find(|known| known.name == name) {
            known.shape[0] += own[0];
            known.sources.push(source);
            continue;
        }
        let weight = match part {
            Part::QNorm | Part::KNorm => config.block.qk_norm.map(|norm| norm.norm.weight),
            Part::InputNorm | Part::PostAttentionNorm | Part::AttentionOutNorm | Part::FeedForwardOutNorm => {
                Some(config.block.norm.weight)
            }
            _ => None,
        };
        outputs.push(Output {
            name,
            shape: own,
            layer,
            sources: vec![source],
            permuted: permuted && matches!(part, Part::Q | Part::K | Part::QBias | Part::KBias),
            one_more: weight == Some(NormWeight::OneMore),
        });
    }
    let Some(experts) = config.experts.as_ref().filter(|experts| experts.is_sparse(layer)) else { return };
    for part in ExpertPart::ALL {
        let one = expert_shape(config, part);
        outputs.push(Output {
            name: format!("blk.{layer}.{}_exps.weight", expert_name(part)),
            shape: [&[experts.count][..], &one].concat(),
            layer,
            sources: (0..experts.count).map(|expert| (Place::Expert(layer, expert, part), one.to_vec())).collect(),
            permuted: false,
            one_more: false,
        });
    }
}
