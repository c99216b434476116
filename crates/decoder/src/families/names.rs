//! How files in Hugging Face layout name the tensors of a decoder.

use std::{collections::BTreeSet, ops::Range};

use crate::{
    Architecture, DecoderConfig, Projection,
    weights::{Part, parts},
};

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
    /// Whether routers are modules of the class of linears.
    pub linear_router: bool,
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
    /// What the module with all experts is called in transformers 5, where files may name it otherwise.
    pub(crate) fn module(&self) -> &'static str {
        match self.stem {
            "block_sparse_moe.experts." => "mlp.experts",
            stem => stem.trim_end_matches('.'),
        }
    }

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
        linear_router: false,
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

/// A linear of a block and the module that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearPlace {
    /// Which linear it is.
    pub projection: Projection,
    /// The module's name behind the layer's number, e.g. `attn.c_attn`.
    pub module: String,
    /// The module's full path, as adapters name it, e.g. `transformer.h.3.attn.c_attn`.
    pub path: String,
    /// Output features: rows of its weight.
    pub outputs: usize,
    /// Input features: columns of its weight.
    pub inputs: usize,
    /// The rows that the module has and those of this linear, in their order, where the module holds several.
    pub fused: Option<(usize, Vec<Range<usize>>)>,
}

impl LinearPlace {
    /// Output features of the module.
    pub fn module_outputs(&self) -> usize {
        self.fused.as_ref().map_or(self.outputs, |(rows, _)| *rows)
    }
}

impl Names {
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
            Projection::Gate | Projection::Up => return self.gate_up.map(|_| half(config, projection, Projection::Up)),
            Projection::SharedGate | Projection::SharedUp => {
                return self.shared_gate_up.map(|_| half(config, projection, Projection::SharedUp));
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

    /// The linears of a block that adapters may change, with the modules that hold them. Experts are stacked in transformers
    /// 5 and no linears, and so are routers in most families.
    pub fn linears(&self, layer: usize) -> Vec<LinearPlace> {
        let names = &self.architecture.family().names;
        let there = |place: &LinearPlace| place.projection != Projection::Router || names.linear_router;
        self.matrices(layer).filter(there).collect()
    }

    /// The router of a block, where it is no linear.
    pub(crate) fn router(&self, layer: usize) -> Option<LinearPlace> {
        let mut routers = self.matrices(layer).filter(|place| place.projection == Projection::Router);
        routers.next().filter(|_| !self.architecture.family().names.linear_router)
    }

    fn matrices(&self, layer: usize) -> impl Iterator<Item = LinearPlace> {
        let names = &self.architecture.family().names;
        let place = move |(part, projection): (Part, Projection)| {
            let name = names.part(part);
            let module = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
            let (outputs, inputs) = projection.dims(self);
            let path = names.path(layer, &module);
            LinearPlace { projection, module, path, outputs, inputs, fused: names.rows(self, projection) }
        };
        parts(self, layer).into_iter().filter_map(|part| Some((part, part.projection()?))).map(place)
    }
}

/// The stacked weights of a block's experts, which PEFT adapts as `target_parameters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackedExperts {
    /// The path of the module that holds them, e.g. `model.layers.3.mlp.experts`.
    pub path: String,
    /// The names of gate and up, and of down, in it.
    pub names: [&'static str; 2],
    /// How many experts there are.
    pub count: usize,
}

impl StackedExperts {
    /// What PEFT calls the module of one of the two weights where these are adapted: the first of two is wrapped twice.
    pub fn adapter_path(&self, part: usize, adapted: [bool; 2]) -> String {
        let inner = if part == 0 && adapted == [true, true] { ".base_layer" } else { "" };
        format!("{}{inner}", self.path)
    }
}

/// The last parts of the names that any family has for the modules of its linears, e.g. `q_proj` or `c_attn`.
pub fn linear_names() -> BTreeSet<String> {
    let of = |family: Names| {
        let named = move |part: &Part| family.part(*part).strip_suffix(".weight").map(str::to_owned);
        Projection::EVERY.into_iter().map(Part::of).filter_map(move |part| named(&part))
    };
    let all = Architecture::all().flat_map(|architecture| of(architecture.family().names));
    all.map(|name| name.rsplit('.').next().unwrap_or_default().to_owned()).filter(|name| !name.is_empty()).collect()
}

impl DecoderConfig {
    /// The stacked weights of a block's experts, where it has some that adapters may change.
    pub fn stacked_experts(&self, layer: usize) -> Option<StackedExperts> {
        let names = &self.architecture.family().names;
        let experts = self.experts.as_ref().filter(|_| self.is_sparse(layer) && !names.experts.transposed)?;
        // A weight in a module of its own is not named as those beside each other are.
        let stacked = names.experts.stacked.iter().all(|name| !name.contains('.'));
        let path = names.path(layer, names.experts.module());
        stacked.then_some(StackedExperts { path, names: names.experts.stacked, count: experts.count })
    }
}

/// The rows of the first or second of two linears of one size in one module.
fn half(config: &DecoderConfig, projection: Projection, second: Projection) -> (usize, Vec<Range<usize>>) {
    let (rows, _) = projection.dims(config);
    let first = if projection == second { rows } else { 0 };
    (2 * rows, std::iter::once(first..first + rows).collect())
}

/// Llama's name of a module, or that of the family that has it.
fn module(part: Part) -> &'static str {
    match part {
        Part::InputNorm => "input_layernorm",
        Part::PostAttentionNorm => "post_attention_layernorm",
        Part::AttentionOutNorm => "post_attention_layernorm",
        Part::FeedForwardOutNorm => "post_feedforward_layernorm",
        Part::QNorm => "self_attn.q_norm",
        Part::KNorm => "self_attn.k_norm",
        Part::SelectionBias => "mlp.gate.e_score_correction_bias",
        Part::Sinks => "self_attn.sinks",
        Part::XieluPositive => "mlp.act_fn.alpha_p",
        Part::XieluNegative => "mlp.act_fn.alpha_n",
        Part::XieluBeta => "mlp.act_fn.beta",
        Part::XieluEps => "mlp.act_fn.eps",
        Part::QDownNorm => "self_attn.q_a_layernorm",
        Part::KvDownNorm => "self_attn.kv_a_layernorm",
        Part::Conv => "conv.conv",
        other => other.projection().map_or("", Projection::module),
    }
}
