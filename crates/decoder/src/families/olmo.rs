//! OLMo, and other families whose norms stand behind attention and feed-forward block.

use super::{llama::LLAMA, *};
use crate::{
    Norm, NormWeight, Placement, QkNorm, Rotation, Span,
    config::{Keys, layer_types},
    weights::Part,
};

fn clip(keys: &Keys<'_>, config: &mut DecoderConfig) -> Result<(), DecoderError> {
    config.block.clip_qkv = keys.number("clip_qkv")?.map(|limit| limit as f32);
    Ok(())
}

pub(crate) const OLMO: Family = Family {
    name: "olmo",
    vocab_size: 50_304,
    norm_eps: 1e-5,
    bos_token_id: None,
    eos_token_id: Some(50_279),
    mlp_bias: Flag::Always(false),
    keys: &[("rms_norm_eps", "")],
    complete: |keys, config| {
        config.block.norm = Norm { weight: NormWeight::None, ..Norm::LAYER };
        clip(keys, config)
    },
    ..LLAMA
};

const WHOLE: QkNorm = QkNorm { span: Span::Whole, ..QkNorm::HEAD };

const POST: &[(Part, &str)] =
    &[(Part::AttentionOutNorm, "post_attention_layernorm"), (Part::FeedForwardOutNorm, "post_feedforward_layernorm")];

pub(crate) const OLMO2: Family = Family {
    name: "olmo2",
    keys: &[],
    names: Names { parts: POST, ..Names::LLAMA },
    complete: |_, config| {
        (config.block.placement, config.block.qk_norm) = (Placement::Post, Some(WHOLE));
        Ok(())
    },
    ..OLMO
};

pub(crate) const OLMO3: Family = Family {
    name: "olmo3",
    rope_theta: 5e5,
    local_rope: Some(("", 5e5)),
    sliding_window: Some(4096),
    windows: Windows::Every("", 4),
    ..OLMO2
};

pub(crate) const OLMOE: Family = Family {
    name: "olmoe",
    intermediate_size: Some(2048),
    hidden_size: 2048,
    num_layers: 16,
    num_heads: 16,
    max_position_embeddings: 4096,
    keys: &[],
    names: Names { parts: &[(Part::Router, "mlp.gate")], experts: ExpertNames::QWEN, ..Names::LLAMA },
    complete: |keys, config| {
        config.block.qk_norm = Some(WHOLE);
        let experts = keys.experts(config, "num_experts", 64, "num_experts_per_tok", 8)?;
        config.experts = Some(crate::Experts { normalised: keys.flag("norm_topk_prob")?, ..experts });
        clip(keys, config)
    },
    ..OLMO
};

pub(crate) const EXAONE4: Family = Family {
    name: "exaone4",
    vocab_size: 102_400,
    intermediate_size: Some(16_384),
    norm_eps: 1e-5,
    bos_token_id: Some(0),
    eos_token_id: Some(2),
    num_kv_heads: Derivable { absent: Some(32), null: true },
    biases: Biases::NONE,
    complete: |keys, config| {
        (config.block.placement, config.block.qk_norm) = (Placement::Post, Some(QkNorm::HEAD));
        let window = if keys.has("sliding_window") { keys.size("sliding_window")? } else { Some(4096) };
        let Some(window) = window else { return Ok(()) };
        let layers = config.num_layers;
        let types = match layer_types(keys, layers)? {
            Some(types) => types,
            None => pattern(keys, layers)?,
        };
        config.sliding_window = keys.windows(&types, Some(window))?;
        config.rotate_by_window(Rotation::Main, Rotation::None);
        Ok(())
    },
    ..OLMO2
};

/// The kinds of layers by `sliding_window_pattern`: every so many is full, or by the letters of a text, L and G, gone
/// through again and again; the last layer is full.
fn pattern(keys: &Keys<'_>, layers: usize) -> Result<Vec<String>, DecoderError> {
    const KEY: &str = "sliding_window_pattern";
    let kinds: Vec<bool> = match keys.get(KEY) {
        Some(serde_json::Value::String(letters)) if !letters.is_empty() => {
            letters.chars().map(|letter| letter == 'L').collect()
        }
        Some(_) => {
            let every = keys.size_or(KEY, 4, usize::MAX)?;
            (1..=every.min(layers)).map(|layer| layer != every).collect()
        }
        None => vec![true, true, true, false],
    };
    let slides = |layer: usize| kinds[layer % kinds.len()] && layer + 1 != layers;
    Ok((0..layers).map(|layer| if slides(layer) { "sliding_attention" } else { "full_attention" }.to_owned()).collect())
}
