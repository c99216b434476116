//! How files in Hugging Face layout name the tensors of a decoder.

use std::ops::Range;

use crate::{DecoderConfig, Projection, weights::Part};

/// The names of a family.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    /// What may stand before every tensor of the decoder; the first is what transformers writes. The head stands outside.
    pub roots: &'static [&'static str],
    /// Before the number of a layer.
    pub layers: &'static str,
    pub embed: &'static str,
    pub norm: &'static str,
    pub head: &'static str,
    /// Learned positions.
    pub positions: &'static str,
    pub embed_norm: &'static str,
    /// The parts of a layer that are named otherwise than in Llama.
    pub parts: &'static [(Part, &'static str)],
    /// Queries, keys and values in one tensor: the module, and the order of its rows.
    pub qkv: Option<(&'static str, QkvOrder)>,
    /// Gate and up in one tensor, gate first: the module.
    pub gate_up: Option<&'static str>,
    /// As `gate_up`, of the shared expert.
    pub shared_gate_up: Option<&'static str>,
    /// Whether linears are stored `[in, out]`.
    pub transposed: bool,
    /// Whether the norms of queries and keys are stored head by head, under `….H.weight`.
    pub norms_by_head: bool,
    pub experts: ExpertNames,
    /// Tensors beside the decoder that are not of the language model, by their beginnings.
    pub beside: &'static [&'static str],
}

/// The order of rows in a tensor of queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QkvOrder {
    /// All queries, all keys, all values.
    Blocks,
    /// For every key head its queries, its key, its value.
    Groups,
}

/// How the experts of a layer are stored.
#[derive(Clone, Copy)]
pub(crate) struct ExpertNames {
    /// The module that holds them, with its dot.
    pub stem: &'static str,
    /// Gate, up and down of one expert, behind its number.
    pub each: [&'static str; 3],
    /// Gate and up, and down, of all experts in one tensor each, behind the stem.
    pub stacked: [&'static str; 2],
    /// Whether stacked ones are `[expert, in, out]`.
    pub transposed: bool,
    /// Whether rows of gate and up take turns.
    pub interleaved: bool,
}

impl ExpertNames {
    pub(crate) const QWEN: Self = Self {
        stem: "mlp.experts.",
        each: ["gate_proj", "up_proj", "down_proj"],
        stacked: ["gate_up_proj", "down_proj"],
        transposed: false,
        interleaved: false,
    };
    pub(crate) const MIXTRAL: Self = Self { stem: "block_sparse_moe.experts.", each: ["w1", "w3", "w2"], ..Self::QWEN };
}

impl Names {
    pub(crate) const LLAMA: Self = Self {
        roots: &["model."],
        layers: "layers.",
        embed: "embed_tokens",
        norm: "norm",
        head: "lm_head",
        positions: "",
        embed_norm: "",
        parts: &[],
        qkv: None,
        gate_up: None,
        shared_gate_up: None,
        transposed: false,
        norms_by_head: false,
        experts: ExpertNames::MIXTRAL,
        beside: &[],
    };

    /// What a part of a layer is called behind the layer's number, e.g. `self_attn.q_proj.weight`. Parts that share a tensor
    /// have one name.
    pub(crate) fn part(&self, part: Part) -> String {
        let (part, suffix) = match part {
            Part::QBias => (Part::Q, "bias"),
            Part::KBias => (Part::K, "bias"),
            Part::VBias => (Part::V, "bias"),
            Part::OBias => (Part::O, "bias"),
            Part::GateBias => (Part::Gate, "bias"),
            Part::UpBias => (Part::Up, "bias"),
            Part::DownBias => (Part::Down, "bias"),
            Part::InputNormBias => (Part::InputNorm, "bias"),
            Part::PostAttentionNormBias => (Part::PostAttentionNorm, "bias"),
            Part::QNormBias => (Part::QNorm, "bias"),
            Part::KNormBias => (Part::KNorm, "bias"),
            Part::QDownBias => (Part::QDown, "bias"),
            Part::KvDownBias => (Part::KvDown, "bias"),
            Part::RouterBias => (Part::Router, "bias"),
            Part::ConvInBias => (Part::ConvIn, "bias"),
            Part::ConvBias => (Part::Conv, "bias"),
            Part::ConvOutBias => (Part::ConvOut, "bias"),
            Part::SharedGateBias => (Part::SharedGate, "bias"),
            Part::SharedUpBias => (Part::SharedUp, "bias"),
            Part::SharedDownBias => (Part::SharedDown, "bias"),
            other => (other, "weight"),
        };
        let module = match (part, self.qkv, self.gate_up, self.shared_gate_up) {
            (Part::Q | Part::K | Part::V, Some((module, _)), ..) => module,
            (Part::Gate | Part::Up, _, Some(module), _) | (Part::SharedGate | Part::SharedUp, .., Some(module)) => {
                module
            }
            _ => self.parts.iter().find(|(own, _)| *own == part).map_or_else(|| module(part), |(_, name)| name),
        };
        match part {
            Part::Sinks
            | Part::SelectionBias
            | Part::XieluPositive
            | Part::XieluNegative
            | Part::XieluBeta
            | Part::XieluEps => module.to_owned(),
            Part::QNorm | Part::KNorm if self.norms_by_head => format!("{module}.norms.0.{suffix}"),
            _ => format!("{module}.{suffix}"),
        }
    }
}

/// A linear of a block as files name it, which may be several of the block's projections at once.
pub(crate) struct Module {
    /// Its name behind the layer's number.
    pub name: String,
    pub projections: Vec<Projection>,
}

impl Names {
    /// The linears of a block that adapters may change; experts are stacked in transformers 5 and no linears.
    pub(crate) fn modules(&self, config: &DecoderConfig) -> Vec<Module> {
        let there = |projection: &Projection| match projection {
            Projection::Q | Projection::K | Projection::V => config.block.latent.is_none(),
            Projection::O => true,
            Projection::Gate => config.experts.is_none() && config.block.gated,
            Projection::Up | Projection::Down => config.experts.is_none(),
        };
        let mut modules: Vec<Module> = vec![];
        for projection in Projection::ALL.into_iter().filter(there) {
            let name = self.part(part_of(projection));
            let name = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
            match modules.iter_mut().find(|module| module.name == name) {
                Some(module) => module.projections.push(projection),
                None => modules.push(Module { name, projections: vec![projection] }),
            }
        }
        modules
    }

    /// The full path of a module, without what may stand before it.
    pub(crate) fn path(&self, layer: usize, module: &str) -> String {
        let root = self.roots.first().copied().unwrap_or_default();
        format!("{root}{}{layer}.{module}", self.layers)
    }

    /// The rows of a projection in the tensor it shares with others, and how many rows that has; `None` if it shares none.
    pub(crate) fn rows(&self, config: &DecoderConfig, projection: Projection) -> Option<(usize, Vec<Range<usize>>)> {
        let (q, kv, head) = (config.q_dim(), config.kv_dim(), config.head_dim);
        let which = match projection {
            Projection::Q => 0,
            Projection::K => 1,
            Projection::V => 2,
            Projection::Gate | Projection::Up if self.gate_up.is_some() => {
                let rows = config.intermediate_size;
                let first = if projection == Projection::Up { rows } else { 0 };
                return Some((2 * rows, std::iter::once(first..first + rows).collect()));
            }
            _ => return None,
        };
        let (_, order) = self.qkv?;
        let runs = match order {
            QkvOrder::Blocks => vec![[0..q, q..q + kv, q + kv..q + 2 * kv][which].clone()],
            QkvOrder::Groups => {
                let own = config.num_heads / config.num_kv_heads;
                let run = &[0..own, own..own + 1, own + 1..own + 2][which];
                let first = |group: usize| group * (own + 2);
                let of = |group| (first(group) + run.start) * head..(first(group) + run.end) * head;
                (0..config.num_kv_heads).map(of).collect()
            }
        };
        Some((q + 2 * kv, runs))
    }
}

impl DecoderConfig {
    /// Whether files name the tensors of this family as those of Llama, each with a projection of its own: what is written
    /// here (models, adapters) is.
    pub fn is_named_like_llama(&self) -> bool {
        let Names { roots, layers, embed, norm, parts, qkv, gate_up, transposed, .. } =
            self.architecture.family().names;
        let top = (roots, layers, embed, norm) == (Names::LLAMA.roots, "layers.", "embed_tokens", "norm");
        top && parts.is_empty() && qkv.is_none() && gate_up.is_none() && !transposed
    }

    /// The linears of a block that adapters may change, and the names around theirs.
    pub(crate) fn modules(&self) -> (&'static Names, Vec<Module>) {
        let names = &self.architecture.family().names;
        (names, names.modules(self))
    }
}

/// The weight of a projection.
pub(crate) fn part_of(projection: Projection) -> Part {
    match projection {
        Projection::Q => Part::Q,
        Projection::K => Part::K,
        Projection::V => Part::V,
        Projection::O => Part::O,
        Projection::Gate => Part::Gate,
        Projection::Up => Part::Up,
        Projection::Down => Part::Down,
    }
}

/// Llama's name of a module, or that of the family that has it.
fn module(part: Part) -> &'static str {
    match part {
        Part::Q => "self_attn.q_proj",
        Part::K => "self_attn.k_proj",
        Part::V => "self_attn.v_proj",
        Part::O => "self_attn.o_proj",
        Part::Gate => "mlp.gate_proj",
        Part::Up => "mlp.up_proj",
        Part::Down => "mlp.down_proj",
        Part::InputNorm => "input_layernorm",
        Part::PostAttentionNorm => "post_attention_layernorm",
        Part::AttentionOutNorm => "post_attention_layernorm",
        Part::FeedForwardOutNorm => "post_feedforward_layernorm",
        Part::QNorm => "self_attn.q_norm",
        Part::KNorm => "self_attn.k_norm",
        Part::Router => "block_sparse_moe.gate",
        Part::SelectionBias => "mlp.gate.e_score_correction_bias",
        Part::SharedGate => "mlp.shared_experts.gate_proj",
        Part::SharedUp => "mlp.shared_experts.up_proj",
        Part::SharedDown => "mlp.shared_experts.down_proj",
        Part::SharedSigmoid => "mlp.shared_expert_gate",
        Part::Sinks => "self_attn.sinks",
        Part::XieluPositive => "mlp.act_fn.alpha_p",
        Part::XieluNegative => "mlp.act_fn.alpha_n",
        Part::XieluBeta => "mlp.act_fn.beta",
        Part::XieluEps => "mlp.act_fn.eps",
        Part::QDown => "self_attn.q_a_proj",
        Part::QDownNorm => "self_attn.q_a_layernorm",
        Part::QUp => "self_attn.q_b_proj",
        Part::KvDown => "self_attn.kv_a_proj_with_mqa",
        Part::KvDownNorm => "self_attn.kv_a_layernorm",
        Part::KvUp => "self_attn.kv_b_proj",
        Part::ConvIn => "conv.in_proj",
        Part::Conv => "conv.conv",
        Part::ConvOut => "conv.out_proj",
        _ => "",
    }
}
