//! The families of decoders: what each family's configuration class says in transformers 5.24 where `config.json` says
//! nothing, what its block computes, and how its files name tensors. One file each, mostly data.

mod cohere;
mod gemma;
mod glm;
mod gpt;
mod granite;
mod latent;
mod llama;
mod mixtures;
mod names;
mod olmo;
mod others;
mod phi;

pub(crate) use names::{ExpertNames, Names, QkvOrder};
pub use names::{LinearPlace, StackedExperts, linear_names};

use crate::{Architecture, DecoderConfig, DecoderError, config::Keys};

/// The defaults of a family's class, and which keys the class and its model read at all.
pub(crate) struct Family {
    /// `model_type`.
    pub name: &'static str,
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// `None`: four times the hidden size, where the key is absent or null.
    pub intermediate_size: Option<usize>,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: Derivable,
    pub head_dim: Derivable,
    pub max_position_embeddings: usize,
    pub norm_eps: f64,
    pub rope_theta: f64,
    /// The part of a head that is rotated unless `partial_rotary_factor` says otherwise; `None` = the class does not read it.
    pub rotated: Option<f64>,
    /// The class has `original_max_position_embeddings`, and this default of it.
    pub original_max: Option<usize>,
    /// `rope_scaling` where no key speaks of rotation, as JSON, and whether `rope_theta` is read beside it.
    pub absent_rope: Option<(&'static str, bool)>,
    /// Layers with a window have a rotation of their own: the key of its base in older files, and the base.
    pub local_rope: Option<(&'static str, f64)>,
    pub sliding_window: Option<usize>,
    pub windows: Windows,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub biases: Biases,
    /// The key that says whether the feed-forward block has biases, or what it says without one.
    pub mlp_bias: Flag,
    pub tied: bool,
    /// Whether a hidden size that is no multiple of the heads is refused even beside a `head_dim`.
    pub whole_heads: bool,
    /// The key of the activation, where the family has one, and its default.
    pub activation: (&'static str, &'static str),
    /// What keys are called that other families call otherwise: several names in the order in which they count, none for a
    /// key that is not read.
    pub keys: &'static [(&'static str, &'static str)],
    /// The object of `config.json` that holds the decoder's keys; empty = the whole file.
    pub within: &'static str,
    pub names: Names,
    /// Completes a configuration whose sizes are read: its block, experts, and what differs.
    pub complete: fn(&Keys<'_>, &mut DecoderConfig) -> Result<(), DecoderError>,
}

/// A yes or no.
#[derive(Clone, Copy)]
pub(crate) enum Flag {
    Always(bool),
    /// By a key, with its default.
    Key(&'static str, bool),
}

impl Flag {
    pub(crate) fn read(self, keys: &Keys<'_>) -> Result<bool, DecoderError> {
        match self {
            Self::Always(value) => Ok(value),
            Self::Key(key, default) => keys.or(key, default, "true or false"),
        }
    }
}

/// A size that follows from other keys unless it is given.
pub(crate) struct Derivable {
    /// What an absent key means; `None` = it is derived.
    pub absent: Option<usize>,
    /// Whether `null` is allowed, and means that it is derived.
    pub null: bool,
}

/// Which layers have the sliding window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Windows {
    /// None: `sliding_window` and `layer_types` are not read.
    Never,
    /// All: `layer_types` is not read.
    Always,
    /// All, or those that `layer_types` says (transformers then takes Mistral for Ministral).
    AlwaysOrTyped,
    /// With `use_sliding_window` the layers from `max_window_layers` on, or those that `layer_types` says.
    Qwen,
    /// Those that `layer_types` says; without it all but every so many, the number under this key with this default.
    Every(&'static str, usize),
    /// Those that `layer_types` says; without it all but the first of every so many.
    FullFirst(usize),
    /// Those that `layer_types` says; without it those from `max_window_layers` on, which has this default.
    From(usize),
    /// All, with `use_sliding_window`.
    Flagged,
    /// With `use_sliding_window` those that `layer_types` says, which must be there then.
    Typed,
}

/// Which linears of the attention have biases.
#[derive(Clone, Copy)]
pub(crate) struct Biases {
    /// q, k and v.
    pub qkv: Flag,
    /// Output.
    pub o: Flag,
}

impl Biases {
    pub(crate) const NONE: Self = Self::all(Flag::Always(false));
    pub(crate) const QKV: Self = Self::qkv(Flag::Always(true));
    pub(crate) const ALL: Self = Self::all(Flag::Always(true));
    /// All four where `attention_bias` is true.
    pub(crate) const BY_KEY: Self = Self::all(Flag::Key("attention_bias", false));

    /// q, k, v and output alike.
    pub(crate) const fn all(flag: Flag) -> Self {
        Self { qkv: flag, o: flag }
    }

    /// q, k and v alone.
    pub(crate) const fn qkv(flag: Flag) -> Self {
        Self { qkv: flag, o: Flag::Always(false) }
    }
}

/// Qwen's class from which on layers have a window, where `max_window_layers` is absent.
pub(crate) const MAX_WINDOW_LAYERS: usize = 28;

/// All families, in the order in which they are listed.
static FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &llama::MISTRAL,
    &mixtures::MIXTRAL,
    &llama::QWEN2,
    &llama::QWEN3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3_TEXT,
    &gemma::GEMMA3,
    &phi::PHI3,
    &mixtures::QWEN2_MOE,
    &mixtures::QWEN3_MOE,
    &olmo::OLMO,
    &olmo::OLMO2,
    &olmo::OLMO3,
    &llama::SMOLLM3,
    &granite::GRANITE,
    &granite::GRANITEMOE,
    &granite::GRANITEMOESHARED,
    &gpt::GPT_NEOX,
    &phi::PHI,
    &gpt::GPT2,
    &gpt::GPT_BIGCODE,
    &others::STABLELM,
    &others::STARCODER2,
    &cohere::COHERE,
    &cohere::COHERE2,
    &glm::GLM,
    &glm::GLM4,
    &glm::GLM4_MOE,
    &glm::DOTS1,
    &olmo::EXAONE4,
    &llama::MINISTRAL,
    &llama::MINISTRAL3,
    &llama::CWM,
    &others::NEMOTRON,
    &gpt::FALCON,
    &gpt::BLOOM,
    &gpt::MPT,
    &gpt::OPT,
    &gpt::GPTJ,
    &mixtures::DEEPSEEK_V2,
    &mixtures::DEEPSEEK_V3,
    &mixtures::GPT_OSS,
    &others::ERNIE4_5,
    &mixtures::ERNIE4_5_MOE,
    &others::HUNYUAN_V1_DENSE,
    &mixtures::HUNYUAN_V1_MOE,
    &llama::SEED_OSS,
    &others::APERTUS,
    &mixtures::LLAMA4_TEXT,
    &olmo::OLMOE,
    &mixtures::PHIMOE,
    &llama::ARCEE,
    &llama::HELIUM,
    &llama::INTERNLM3,
    &others::LFM2,
    &others::MINICPM3,
];

/// Architectures that the block cannot compute, and why.
const UNSUPPORTED: &[(&str, &str)] = &[
    (
        "mamba mamba2 falcon_mamba bamba falcon_h1 jamba zamba zamba2 nemotron_h granitemoehybrid plamo2 rwkv recurrent_gemma \
         xlstm rwkv6 rwkv7",
        "its layers have a recurrent state",
    ),
    ("qwen3_next qwen3_5 qwen3_5_moe qwen3_5_text minimax minimax_m1 kimi_linear", "it has layers of linear attention"),
    ("gemma3n gemma3n_text gemma4 gemma4_text", "its layers differ in more than their masks"),
    ("deepseek_v32 glm_moe_dsa", "its attention is sparse by an indexer"),
    ("bert roberta distilbert xlm-roberta modernbert electra deberta deberta-v2", "an encoder predicts no next token"),
    ("t5 mt5 bart mbart pegasus t5gemma umt5 whisper m2m_100 marian", "it has an encoder and a decoder"),
];

impl Architecture {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        FAMILIES.iter().map(|family| Self::new(family.name))
    }

    /// The architecture of this `model_type`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|architecture| architecture.name() == name)
    }

    /// What keeps a model of another name from being computed, or which name is near it, for messages.
    pub(crate) fn hint(name: &str, known: impl Iterator<Item = &'static str>) -> String {
        if let Some((_, reason)) = UNSUPPORTED.iter().find(|(names, _)| names.split(' ').any(|other| other == name)) {
            return format!(" ({reason})");
        }
        harness_core::nearest(name, known).map(|near| format!("; the nearest is {near}")).unwrap_or_default()
    }

    pub(crate) fn family(self) -> &'static Family {
        FAMILIES.iter().find(|family| family.name == self.name()).unwrap_or(&FAMILIES[0])
    }
}

/// For families whose block is Llama's.
fn as_it_is(_: &Keys<'_>, _: &mut DecoderConfig) -> Result<(), DecoderError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_apart() {
        let mut names: Vec<&str> = Architecture::all().map(Architecture::name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
