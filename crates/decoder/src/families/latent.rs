//! Multi-head latent attention (DeepSeek-AI 2024).

use crate::{
    DecoderConfig, DecoderError, Latent,
    config::{Keys, limits},
};

/// Latent attention: heads of `nope` and rotated elements, keys and values through a narrow layer.
pub(super) fn latent(
    keys: &Keys<'_>,
    config: &mut DecoderConfig,
    sizes: [usize; 4],
    value: Option<usize>,
) -> Result<(), DecoderError> {
    const LIMIT: usize = 1 << 16;
    let size = |key: &str, default| keys.size_or(key, default, LIMIT);
    let q_rank = if keys.has("q_lora_rank") { keys.size("q_lora_rank")? } else { Some(sizes[0]) };
    let (nope, rope) = (size("qk_nope_head_dim", sizes[2])?, size("qk_rope_head_dim", sizes[3])?);
    if !rope.is_multiple_of(2) {
        return Err(keys.error("qk_rope_head_dim", rope, "an even number"));
    }
    let value = if keys.has("v_head_dim") { keys.size("v_head_dim")? } else { value };
    let value = value.unwrap_or(config.hidden_size / config.num_heads);
    (config.num_kv_heads, config.head_dim) = (config.num_heads, nope + rope);
    if value > nope + rope {
        return Err(keys.error("v_head_dim", value, format!("at most the key's {}", nope + rope)));
    }
    if let Some(expected) = limits::product(nope + rope, config.num_heads, limits::WIDTH) {
        return Err(keys.error("qk_nope_head_dim", nope, format!("{expected} heads")));
    }
    let kv_rank = size("kv_lora_rank", sizes[1])?;
    let bias = keys.flag("attention_bias")?;
    config.block.latent = Some(Latent { q_rank, kv_rank, nope, rope, value, bias, eps: 1e-6 });
    config.block.rotary_dims = Some(rope);
    Ok(())
}

/// The factor on scores that yarn's `mscale_all_dim` asks for.
pub(super) fn latent_scale(keys: &Keys<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    let rope = keys.rotation()?;
    let scaled = rope.kind()? != "default";
    if let Some(all) = rope.number("mscale_all_dim")?.filter(|&all| scaled && all != 0.0) {
        let factor = rope.number("factor")?.unwrap_or(1.0);
        let scale = if factor > 1.0 { 0.1 * all * factor.ln() + 1.0 } else { 1.0 };
        config.block.score_scale = Some((config.head_dim as f64).powf(-0.5) * scale * scale);
    }
    Ok(())
}
