//! What each architecture of llama.cpp computes, where its GGUF metadata does not say it.
//!
//! Norms by one more than the weight have the one added when a file is made, so that weights are as they are stored.

use super::GgufFile;
use crate::{
    Architecture, DecoderConfig, DecoderError, Experts, Norm, NormWeight, Placement, Positions, QkNorm, Rope,
    RopeScaling, Rotation, Routing, Span,
    config::limits::{self, EXPERTS, WIDTH},
};
use harness_kernels::cpu::activation::Activation;

/// One architecture.
pub(super) struct GgufFamily {
    /// Its name in `general.architecture`.
    pub(super) name: &'static str,
    /// The family of Hugging Face that it is made of.
    pub(super) of: &'static str,
    /// Whether the rows of q and k are stored in the order of rotated pairs, though halves are rotated.
    pub(super) permuted: bool,
    pub(super) complete: Complete,
}

/// Completes a configuration whose sizes are read.
type Complete = fn(&Metadata<'_>, &mut DecoderConfig) -> Result<(), DecoderError>;

impl GgufFamily {
    const fn new(name: &'static str, of: &'static str, complete: Complete) -> Self {
        Self { name, of, permuted: false, complete }
    }

    const fn permuted(name: &'static str, of: &'static str, complete: Complete) -> Self {
        Self { name, of, permuted: true, complete }
    }
}

/// The metadata of one architecture.
pub(super) struct Metadata<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) name: &'a str,
}

impl Metadata<'_> {
    pub(super) fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.name)
    }

    fn positive(&self, suffix: &str) -> Result<Option<f64>, DecoderError> {
        self.file.positive(&self.key(suffix))
    }

    fn integer(&self, suffix: &str) -> Result<Option<usize>, DecoderError> {
        self.file.integer(&self.key(suffix))
    }

    pub(super) fn refused(&self, suffix: &str, found: impl ToString, expected: &str) -> DecoderError {
        DecoderError::Config {
            path: self.file.path.clone(),
            key: self.key(suffix),
            found: found.to_string(),
            expected: expected.to_owned(),
        }
    }

    /// A mixture of experts; `None` where there are none.
    fn experts(&self, config: &DecoderConfig) -> Result<Option<Experts>, DecoderError> {
        let Some(count) = self.integer("expert_count")?.filter(|&n| n > 0) else { return Ok(None) };
        let has = |layer: usize| self.file.has(&format!("blk.{layer}.ffn_gate_inp.weight"));
        let sparse: Vec<bool> = (0..config.num_layers).map(has).collect();
        let tensor = format!("blk.{}.ffn_gate_exps.weight", sparse.iter().position(|&sparse| sparse).unwrap_or(0));
        let stacked = self.file.shape(&tensor).and_then(|shape| shape.first()).copied();
        if let Some(stacked) = stacked.filter(|&stacked| stacked != count) {
            let expected = format!("{stacked}, as many as {tensor} has");
            return Err(self.refused("expert_count", count, &expected));
        }
        if let Some(expected) = limits::product(count, config.num_layers, EXPERTS) {
            return Err(self.refused("expert_count", count, &format!("{expected} layers")));
        }
        let per_token = self.file.size(&self.key("expert_used_count"), EXPERTS)?;
        if per_token > count {
            return Err(self.refused("expert_used_count", per_token, &format!("at most {count} experts")));
        }
        let width = self.integer("expert_feed_forward_length")?.filter(|&width| width > 0);
        if let Some(width) = width.filter(|&width| width > WIDTH) {
            return Err(self.refused("expert_feed_forward_length", width, &format!("at most {WIDTH}")));
        }
        // Where no layer has a router, all lack theirs.
        let sparse = if sparse.contains(&true) && sparse.contains(&false) { sparse } else { vec![] };
        Ok(Some(Experts { width, sparse, ..Experts::new(count, per_token) }))
    }

    /// As [`Self::experts`], which must be there.
    fn mixture(&self, config: &DecoderConfig) -> Result<Experts, DecoderError> {
        self.experts(config)?.ok_or_else(|| self.file.missing(&self.key("expert_count"), "a positive integer"))
    }

    /// The window on all layers but every so many, or on those that the file lists.
    fn windows(&self, config: &mut DecoderConfig, every: usize) -> Result<(), DecoderError> {
        if let Some(listed) = self.file.flags(&self.key("attention.sliding_window_pattern")) {
            let listed = listed.into_iter().chain(std::iter::repeat(false));
            config.sliding_window.iter_mut().zip(listed).for_each(|(window, has)| *window = window.filter(|_| has));
            return Ok(());
        }
        let every = self.integer("attention.sliding_window_pattern")?.filter(|&every| every > 0).unwrap_or(every);
        for (layer, window) in config.sliding_window.iter_mut().enumerate() {
            *window = window.filter(|_| !(layer + 1).is_multiple_of(every));
        }
        Ok(())
    }
}

/// For Llama's block, with the norms of heads and biases that are there.
fn plain(_: &Metadata<'_>, _: &mut DecoderConfig) -> Result<(), DecoderError> {
    Ok(())
}

fn head_norms(_: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    config.block.qk_norm = Some(QkNorm::HEAD);
    Ok(())
}

fn llama(metadata: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    config.experts = metadata.experts(config)?;
    Ok(())
}

fn gemma(config: &mut DecoderConfig) {
    config.block.activation = Activation::GeluTanh;
    config.block.embedding_scale = (config.hidden_size as f64).sqrt() as f32;
}

/// Gemma 2 and 3: norms around both, scores by the width of a head, or in the model of so many layers by that of the
/// residual stream.
fn sandwich(config: &mut DecoderConfig, widest: usize) {
    gemma(config);
    config.block.placement = Placement::Sandwich;
    let width = if config.num_layers == widest { config.hidden_size / config.num_heads } else { config.head_dim };
    config.block.score_scale = Some((width as f64).powf(-0.5));
}

fn gemma2(metadata: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    sandwich(config, 46);
    config.block.score_cap = Some(metadata.positive("attn_logit_softcapping")?.unwrap_or(50.0) as f32);
    config.block.logit_cap = Some(metadata.positive("final_logit_softcapping")?.unwrap_or(30.0) as f32);
    metadata.windows(config, 2)
}

fn gemma3(metadata: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    sandwich(config, 62);
    config.block.qk_norm = Some(QkNorm::HEAD);
    config.block.logit_cap = metadata.positive("final_logit_softcapping")?.map(|cap| cap as f32);
    metadata.windows(config, 6)?;
    let theta = metadata.positive("rope.freq_base_swa")?.unwrap_or(1e4);
    config.block.local_rope = Some(Rope { theta, scaling: RopeScaling::None });
    config.rotate_by_window(Rotation::Local, Rotation::Main);
    Ok(())
}

fn granite(metadata: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    let block = &mut config.block;
    let factor = |suffix: &str| metadata.positive(suffix).map(|factor| factor.unwrap_or(1.0));
    block.embedding_scale = factor("embedding_scale")? as f32;
    block.residual_scale = factor("residual_scale")? as f32;
    block.logit_scale = (1.0 / factor("logit_scale")?) as f32;
    block.score_scale = metadata.positive("attention.scale")?;
    Ok(())
}

fn granitemoe(metadata: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    granite(metadata, config)?;
    let experts = metadata.mixture(config)?;
    let shared = metadata.integer("expert_shared_feed_forward_length")?.filter(|&width| width > 0);
    config.experts = Some(Experts { routing: Routing::TopSoftmax, normalised: false, shared, ..experts });
    Ok(())
}

fn qwen2moe(metadata: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    let experts = metadata.mixture(config)?;
    let first = experts.sparse.iter().position(|&sparse| sparse).unwrap_or(0);
    let tensor = format!("blk.{first}.ffn_up_shexp.weight");
    let shared = metadata.file.shape(&tensor).and_then(|shape| shape.first()).copied();
    config.experts = Some(Experts { normalised: false, shared, shared_gate: shared.is_some(), ..experts });
    Ok(())
}

fn qwen3moe(metadata: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    config.block.qk_norm = Some(QkNorm::HEAD);
    config.experts = Some(metadata.mixture(config)?);
    Ok(())
}

/// OLMo 2, and OLMo 3 where there is a window.
fn olmo2(metadata: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    (config.block.placement, config.block.qk_norm) =
        (Placement::Post, Some(QkNorm { span: Span::Whole, ..QkNorm::HEAD }));
    if config.sliding_window.iter().any(Option::is_some) {
        metadata.windows(config, 4)?;
        if config.rope.scaling != RopeScaling::None {
            config.block.local_rope = Some(Rope { theta: config.rope.theta, scaling: RopeScaling::None });
            config.rotate_by_window(Rotation::Local, Rotation::Main);
        }
    }
    Ok(())
}

fn smollm3(_: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    let of = |layer: usize| if (layer + 1).is_multiple_of(4) { Rotation::None } else { Rotation::Main };
    config.block.rotations = (0..config.num_layers).map(of).collect();
    Ok(())
}

/// A feed-forward block without a gate.
fn ungated(config: &mut DecoderConfig, norm: Norm, activation: Activation) {
    (config.block.norm, config.block.gated, config.block.activation) = (norm, false, activation);
}

fn learned(_: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    ungated(config, Norm::LAYER_WITH_BIAS, Activation::GeluTanh);
    config.block.positions = Positions::Learned { offset: 0 };
    Ok(())
}

fn cohere(metadata: &Metadata<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    let block = &mut config.block;
    (block.norm, block.placement, block.positions) = (Norm::LAYER, Placement::Parallel, Positions::Pairs);
    block.logit_scale = metadata.positive("logit_scale")?.unwrap_or(1.0) as f32;
    if metadata.file.has("blk.0.attn_q_norm.weight") {
        block.qk_norm = Some(QkNorm { span: Span::EachHead, norm: Norm::LAYER, after_rotation: false });
    }
    Ok(())
}

/// All architectures that are read.
pub(super) static ARCHITECTURES: &[GgufFamily] = &[
    GgufFamily::permuted("llama", "llama", llama),
    GgufFamily::new("qwen2", "qwen2", plain),
    GgufFamily::new("qwen3", "qwen3", head_norms),
    GgufFamily::new("gemma", "gemma", |_, config| {
        gemma(config);
        Ok(())
    }),
    GgufFamily::new("gemma2", "gemma2", gemma2),
    GgufFamily::new("gemma3", "gemma3_text", gemma3),
    GgufFamily::new("phi3", "phi3", plain),
    GgufFamily::new("qwen2moe", "qwen2_moe", qwen2moe),
    GgufFamily::new("qwen3moe", "qwen3_moe", qwen3moe),
    GgufFamily::permuted("olmo", "olmo", |metadata, config| {
        config.block.norm = Norm { weight: NormWeight::None, ..Norm::LAYER };
        config.block.clip_qkv = metadata.positive("attention.clamp_kqv")?.map(|limit| limit as f32);
        Ok(())
    }),
    GgufFamily::new("olmo2", "olmo2", olmo2),
    GgufFamily::permuted("smollm3", "smollm3", smollm3),
    GgufFamily::permuted("granite", "granite", granite),
    GgufFamily::permuted("granitemoe", "granitemoe", granitemoe),
    GgufFamily::permuted("arcee", "arcee", |_, config| {
        (config.block.gated, config.block.activation) = (false, Activation::Relu2);
        Ok(())
    }),
    GgufFamily::new("phi2", "phi", |_, config| {
        ungated(config, Norm::LAYER_WITH_BIAS, Activation::GeluTanh);
        (config.block.placement, config.block.head_bias) = (Placement::Parallel, true);
        Ok(())
    }),
    GgufFamily::new("gpt2", "gpt2", learned),
    GgufFamily::new("starcoder", "gpt_bigcode", learned),
    GgufFamily::new("starcoder2", "starcoder2", |_, config| {
        ungated(config, Norm::LAYER_WITH_BIAS, Activation::GeluTanh);
        Ok(())
    }),
    GgufFamily::new("gptneox", "gpt_neox", |metadata, config| {
        ungated(config, Norm::LAYER_WITH_BIAS, Activation::Gelu);
        if metadata.file.flag(&metadata.key("use_parallel_residual"))?.unwrap_or(true) {
            config.block.placement = Placement::ParallelTwo;
        }
        Ok(())
    }),
    GgufFamily::new("nemotron", "nemotron", |_, config| {
        ungated(config, Norm::LAYER_WITH_BIAS, Activation::Relu2);
        Ok(())
    }),
    GgufFamily::new("command-r", "cohere", cohere),
    GgufFamily::new("cohere2", "cohere2", |metadata, config| {
        cohere(metadata, config)?;
        metadata.windows(config, 4)?;
        config.rotate_by_window(Rotation::Main, Rotation::None);
        Ok(())
    }),
    GgufFamily::new("seed_oss", "seed_oss", plain),
    GgufFamily::new("ernie4_5", "ernie4_5", |_, config| {
        config.block.positions = Positions::Pairs;
        Ok(())
    }),
    GgufFamily::new("glm4", "glm4", |_, config| {
        (config.block.positions, config.block.placement) = (Positions::Pairs, Placement::Sandwich);
        Ok(())
    }),
    GgufFamily::new("hunyuan-dense", "hunyuan_v1_dense", |_, config| {
        config.block.qk_norm = Some(QkNorm { after_rotation: true, ..QkNorm::HEAD });
        Ok(())
    }),
];

/// The architecture of a file.
///
/// # Errors
/// If it is not read.
pub(super) fn of(file: &GgufFile) -> Result<(&'static GgufFamily, Architecture), DecoderError> {
    let name = file.string("general.architecture")?;
    let name = name.ok_or_else(|| file.missing("general.architecture", "an architecture's name"))?;
    let known = ARCHITECTURES.iter().find(|family| family.name == name);
    known.and_then(|family| Some((family, Architecture::from_name(family.of)?))).ok_or_else(|| {
        DecoderError::UnknownArchitecture {
            path: file.path.clone(),
            hint: Architecture::hint(name, ARCHITECTURES.iter().map(|family| family.name)),
            found: name.to_owned(),
        }
    })
}
