//! The decoder's configuration from GGUF metadata.

use super::{
    GgufFile,
    families::{self, Metadata},
};
use crate::{
    Architecture, BlockSpec, DecoderConfig, DecoderError, Rope, RopeScaling,
    config::limits::{self, LAYERS, POSITIONS, VOCABULARY, WIDTH},
};

pub(super) fn read(file: &GgufFile) -> Result<DecoderConfig, DecoderError> {
    let (family, architecture) = families::of(file)?;
    let name = family.name;
    let metadata = Metadata { file, name };
    let key = |suffix: &str| metadata.key(suffix);
    let refused = |suffix: &str, found: String, expected: &str| metadata.refused(suffix, found, expected);
    if let Some(kind) = file.integer(&key("pooling_type"))?.filter(|&kind| kind != 0) {
        let expected = "none (an embedding model or a classifier, not a language model)";
        return Err(refused("pooling_type", kind.to_string(), expected));
    }
    if file.flag(&key("attention.causal"))? == Some(false) {
        return Err(refused(
            "attention.causal",
            "false".to_owned(),
            "true (attention to later tokens is not supported)",
        ));
    }
    let num_layers = file.size(&key("block_count"), LAYERS)?;
    let hidden_size = file.size(&key("embedding_length"), WIDTH)?;
    let num_heads = file.size(&key("attention.head_count"), WIDTH)?;
    let num_kv_heads = file.integer(&key("attention.head_count_kv"))?.unwrap_or(num_heads);
    if num_kv_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
        let expected = format!("a divisor of {num_heads} heads");
        return Err(refused("attention.head_count_kv", num_kv_heads.to_string(), &expected));
    }
    let head_dim = file.integer(&key("attention.key_length"))?.unwrap_or(hidden_size / num_heads);
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(refused("attention.key_length", head_dim.to_string(), "an even number"));
    }
    if let Some(expected) = limits::product(head_dim, num_heads, WIDTH) {
        return Err(refused("attention.key_length", head_dim.to_string(), &format!("{expected} heads")));
    }
    if let Some(values) = file.integer(&key("attention.value_length"))?.filter(|&n| n != head_dim) {
        return Err(refused("attention.value_length", values.to_string(), &format!("{head_dim}, the key's length")));
    }
    let rotated = file.integer(&key("rope.dimension_count"))?.filter(|&n| n != head_dim && n > 0);
    let part = architecture.family().rotated.is_some();
    if let Some(rotated) = rotated.filter(|&n| !part || n > head_dim || !n.is_multiple_of(2)) {
        return Err(refused("rope.dimension_count", rotated.to_string(), &format!("{head_dim}, the whole head")));
    }
    let max_position_embeddings = file.size(&key("context_length"), POSITIONS)?;
    let has = |tensor: &str| file.has(tensor);
    let vocab_size = match file.shape("token_embd.weight") {
        Some(&[rows, _]) if (1..=VOCABULARY).contains(&rows) => rows,
        _ => file.size(&key("vocab_size"), VOCABULARY)?,
    };
    let window = file.integer(&key("attention.sliding_window"))?.filter(|&n| n > 0);
    let token = |role: &str| {
        let key = format!("tokenizer.ggml.{role}_token_id");
        let Some(id) = file.integer(&key)? else { return Ok(None) };
        u32::try_from(id).map(Some).map_err(|_| DecoderError::Config {
            path: file.path.clone(),
            key,
            found: id.to_string(),
            expected: "a token id, which has 32 bits".to_owned(),
        })
    };
    let ends: Vec<Option<u32>> = ["eos", "eot", "eom"].map(token).into_iter().collect::<Result<_, DecoderError>>()?;
    let mut eos_token_ids: Vec<u32> = Vec::new();
    for id in ends.into_iter().flatten() {
        if !eos_token_ids.contains(&id) {
            eos_token_ids.push(id);
        }
    }
    let epsilon = match file.positive(&key("attention.layer_norm_rms_epsilon"))? {
        Some(epsilon) => Some(epsilon),
        None => file.positive(&key("attention.layer_norm_epsilon"))?,
    };
    let epsilon = epsilon.ok_or_else(|| file.missing(&key("attention.layer_norm_rms_epsilon"), "a positive number"))?;
    let mut config = DecoderConfig {
        architecture,
        vocab_size,
        hidden_size,
        intermediate_size: file.size(&key("feed_forward_length"), WIDTH)?,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        norm_eps: epsilon as f32,
        rope: rope(file, name, rotated.unwrap_or(head_dim), max_position_embeddings)?,
        max_position_embeddings,
        tie_word_embeddings: !has("output.weight"),
        qkv_bias: architecture == Architecture::QWEN2 || has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
        o_bias: has("blk.0.attn_output.bias"),
        sliding_window: vec![window; num_layers],
        bos_token_id: token("bos")?,
        eos_token_ids,
        experts: None,
        block: BlockSpec { rotary_dims: rotated, mlp_bias: has("blk.0.ffn_up.bias"), ..BlockSpec::default() },
    };
    (family.complete)(&metadata, &mut config)?;
    if config.experts.is_none()
        && let Some(count) = file.integer(&key("expert_count"))?.filter(|&n| n > 0)
    {
        return Err(refused(
            "expert_count",
            count.to_string(),
            "none (experts of this architecture are not supported)",
        ));
    }
    Ok(config)
}

fn rope(file: &GgufFile, name: &str, dims: usize, max: usize) -> Result<Rope, DecoderError> {
    let theta = file.positive(&format!("{name}.rope.freq_base"))?.unwrap_or(10_000.0);
    if file.has("rope_freqs.weight") {
        let divisors = file.tensor("rope_freqs.weight", &[dims / 2])?.to_f32().into_owned();
        if let Some(divisor) = divisors.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
            return Err(file.error(format!("tensor `rope_freqs.weight` holds {divisor}, expected positive numbers")));
        }
        let plain = divisors.iter().all(|&x| x == 1.0);
        return Ok(Rope { theta, scaling: if plain { RopeScaling::None } else { RopeScaling::Divisors(divisors) } });
    }
    const LONG: &str = "rope_factors_long.weight";
    if file.has(LONG) {
        let list = |tensor: &str| -> Result<Vec<f64>, DecoderError> {
            let factors = file.tensor(tensor, &[dims / 2])?;
            let factors: Vec<f64> = factors.to_f32().iter().map(|&x| f64::from(x)).collect();
            match factors.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
                Some(wrong) => Err(file.error(format!("tensor `{tensor}` holds {wrong}, expected positive numbers"))),
                None => Ok(factors),
            }
        };
        let key = format!("{name}.rope.scaling.original_context_length");
        let original_max = file.integer(&key)?.filter(|&length| length > 1).unwrap_or(max);
        let factor = max as f64 / original_max as f64;
        let grown = if factor > 1.0 { (1.0 + factor.ln() / (original_max as f64).ln()).sqrt() } else { 1.0 };
        let attention_factor = file.positive(&format!("{name}.rope.scaling.attn_factor"))?.unwrap_or(grown);
        let scaling = RopeScaling::LongRope {
            short: list("rope_factors_short.weight")?,
            long: list(LONG)?,
            original_max,
            attention_factor,
            long_attention_factor: attention_factor,
        };
        return Ok(Rope { theta, scaling });
    }
    let kind_key = format!("{name}.rope.scaling.type");
    // llama.cpp takes 0 for none.
    let factor = |key: &str| {
        let zero = file.number(key)? == Some(0.0);
        if zero { Ok(Some(1.0)) } else { file.positive(key) }
    };
    let factor = match factor(&format!("{name}.rope.scaling.factor"))? {
        Some(factor) => Some(factor),
        None => factor(&format!("{name}.rope.scale_linear"))?,
    };
    let scaling = match (file.string(&kind_key)?, factor) {
        (Some("none"), _) | (None, None) => RopeScaling::None,
        (Some("linear") | None, Some(factor)) if factor != 1.0 => RopeScaling::Linear { factor },
        (Some("linear") | None, _) => RopeScaling::None,
        (Some(other), _) => {
            return Err(DecoderError::Config {
                path: file.path.clone(),
                key: kind_key,
                found: other.to_owned(),
                expected: "none or linear (or a `rope_freqs.weight` tensor)".to_owned(),
            });
        }
    };
    Ok(Rope { theta, scaling })
}
