//! A configuration as metadata of a GGUF file, and whether the file says all of it.

use harness_kernels::cpu::norm::NormKind;

use super::{format::Value, layout::Layout};
use crate::{DecoderConfig, Norm, NormWeight, QkNorm, RopeScaling, Rotation, decoder::inverse_frequencies};

/// The metadata of a decoder as llama.cpp's converter writes them, keys of the tokenizer apart.
pub(super) fn describe(config: &DecoderConfig, layout: &Layout) -> Vec<(String, Value)> {
    let mut all = vec![];
    let mut add = |key: &str, value: Value| all.push((format!("{}.{key}", layout.name), value));
    let size = |n: usize| Value::U32(n as u32);
    let block = &config.block;
    add("block_count", size(config.num_layers));
    add("context_length", size(config.max_position_embeddings));
    add("embedding_length", size(config.hidden_size));
    add("feed_forward_length", size(config.intermediate_size));
    add("attention.head_count", size(config.num_heads));
    add("attention.head_count_kv", size(config.num_kv_heads));
    add("attention.key_length", size(config.head_dim));
    add("attention.value_length", size(config.head_dim));
    add("vocab_size", size(config.vocab_size));
    add("rope.freq_base", Value::F32(config.rope.theta as f32));
    add("rope.dimension_count", size(config.rotary_dims()));
    let epsilon = match block.norm.kind {
        NormKind::Layer => "attention.layer_norm_epsilon",
        _ => "attention.layer_norm_rms_epsilon",
    };
    add(epsilon, Value::F32(config.norm_eps));
    match &config.rope.scaling {
        RopeScaling::Linear { factor } => {
            add("rope.scaling.type", Value::String("linear".to_owned()));
            add("rope.scaling.factor", Value::F32(*factor as f32));
        }
        RopeScaling::LongRope { original_max, attention_factor, .. } => {
            add("rope.scaling.original_context_length", size(*original_max));
            add("rope.scaling.attn_factor", Value::F32(*attention_factor as f32));
        }
        _ => {}
    }
    if let Some(local) = &block.local_rope {
        add("rope.freq_base_swa", Value::F32(local.theta as f32));
    }
    let window = config.sliding_window.iter().flatten().next().filter(|_| layout.window);
    // llama.cpp takes the lack of this key of Phi 3 for an old file of Phi-3-mini.
    if let Some(window) = window.or((layout.name == "phi3").then_some(&0)) {
        add("attention.sliding_window", size(*window));
    }
    if window.is_some() && layout.name == "olmo2" {
        let pattern = config.sliding_window.iter().map(|window| Value::Bool(window.is_some()));
        add("attention.sliding_window_pattern", Value::Array(pattern.collect()));
    }
    for (key, value) in [
        ("attn_logit_softcapping", block.score_cap),
        ("final_logit_softcapping", block.logit_cap),
        ("attention.clamp_kqv", block.clip_qkv),
    ] {
        if let Some(value) = value {
            add(key, Value::F32(value));
        }
    }
    match layout.name {
        "granite" => {
            add("embedding_scale", Value::F32(block.embedding_scale));
            add("residual_scale", Value::F32(block.residual_scale));
            add("logit_scale", Value::F32(1.0 / block.logit_scale));
            add("attention.scale", Value::F32(block.score_scale.unwrap_or_default() as f32));
        }
        "cohere2" => add("logit_scale", Value::F32(block.logit_scale)),
        "gptneox" => {
            add("use_parallel_residual", Value::Bool(block.placement == crate::Placement::ParallelTwo));
        }
        _ => {}
    }
    if let Some(experts) = &config.experts {
        add("expert_count", size(experts.count));
        add("expert_used_count", size(experts.per_token));
        if let Some(width) = experts.width {
            add("expert_feed_forward_length", size(width));
        }
        if let Some(shared) = experts.shared {
            add("expert_shared_feed_forward_length", size(shared));
        }
    }
    all
}

/// The tensors of the rotation that no metadata describes, with their names.
pub(super) fn rotation(config: &DecoderConfig) -> Vec<(&'static str, Vec<f32>)> {
    let narrow = |list: &[f64]| list.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    match &config.rope.scaling {
        RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_) => vec![("rope_freqs.weight", divisors(config))],
        RopeScaling::LongRope { short, long, .. } => {
            vec![("rope_factors_long.weight", narrow(long)), ("rope_factors_short.weight", narrow(short))]
        }
        _ => vec![],
    }
}

/// What every frequency is divided by.
fn divisors(config: &DecoderConfig) -> Vec<f32> {
    let mut plain = config.clone();
    plain.rope.scaling = RopeScaling::None;
    let of = |config: &DecoderConfig| inverse_frequencies(config, config.max_position_embeddings);
    of(&plain).iter().zip(of(config)).map(|(plain, scaled)| plain / scaled).collect()
}

/// Fails if a file from which `read` is read says something else than `config`, naming the first difference. Numbers are
/// compared in six digits, as files have them in f32.
///
/// # Errors
/// The name of what differs.
pub(super) fn compare(config: &DecoderConfig, read: &DecoderConfig) -> Result<(), String> {
    let (config, read) = (comparable(config), comparable(read));
    let (wanted, found) = (config.identity(), read.identity());
    let differs = |constant: &&String| !found.contains(constant);
    let other = found.iter().find(|constant| !wanted.contains(constant));
    match wanted.iter().find(differs).or(other) {
        None => Ok(()),
        Some(constant) => Err(constant.split('=').next().unwrap_or_default().to_owned()),
    }
}

fn comparable(config: &DecoderConfig) -> DecoderConfig {
    let short = |x: f64| format!("{x:.5e}").parse::<f64>().unwrap_or(x);
    let mut same = config.clone();
    // The family is the file's, and special tokens are the tokenizer's.
    same.architecture = crate::Architecture::LLAMA;
    (same.bos_token_id, same.eos_token_ids) = (None, vec![]);
    same.rope.theta = short(config.rope.theta);
    same.rope.scaling = match &config.rope.scaling {
        RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_) => {
            RopeScaling::Divisors(divisors(config).into_iter().map(|x| short(f64::from(x)) as f32).collect())
        }
        RopeScaling::Linear { factor } => RopeScaling::Linear { factor: short(*factor) },
        RopeScaling::LongRope { short: few, long, original_max, attention_factor, long_attention_factor } => {
            let all = |list: &[f64]| list.iter().map(|&x| short(x)).collect();
            RopeScaling::LongRope {
                short: all(few),
                long: all(long),
                original_max: *original_max,
                attention_factor: short(*attention_factor),
                long_attention_factor: short(*long_attention_factor),
            }
        }
        other => other.clone(),
    };
    let norm = |norm: Norm| match norm.weight {
        NormWeight::OneMore => Norm { weight: NormWeight::Stored, ..norm },
        _ => norm,
    };
    let block = &mut same.block;
    block.norm = norm(block.norm);
    block.qk_norm = block.qk_norm.map(|qk| QkNorm { norm: norm(qk.norm), ..qk });
    block.rotary_dims = block.rotary_dims.filter(|&dims| dims != config.head_dim);
    block.score_scale = Some(short(block.score_scale.unwrap_or_else(|| (config.head_dim as f64).powf(-0.5))));
    for x in [&mut block.embedding_scale, &mut block.residual_scale, &mut block.logit_scale] {
        *x = short(f64::from(*x)) as f32;
    }
    if let Some(local) = &mut block.local_rope {
        local.theta = short(local.theta);
    }
    if block.rotations.iter().all(|rotation| *rotation == Rotation::Main) {
        block.rotations = vec![];
    }
    if let Some(experts) = &mut same.experts {
        if experts.sparse.iter().all(|sparse| *sparse) {
            experts.sparse = vec![];
        }
        if experts.per_token_by_layer.iter().all(|count| *count == experts.per_token) {
            experts.per_token_by_layer = vec![];
        }
        experts.width = Some(experts.width.unwrap_or(config.intermediate_size));
    }
    same
}
