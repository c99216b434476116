//! Hugging Face's `config.json` and `generation_config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    Architecture, DecoderConfig, Experts,
    families::{Biases, Derivable, Family, MAX_WINDOW_LAYERS, Windows},
    keys::Keys,
    limits::{self, EXPERTS, LAYERS, POSITIONS, VOCABULARY, WIDTH},
    rope::rope,
};
use crate::DecoderError;

/// Reads a JSON file.
///
/// # Errors
/// If it cannot be read, or is not of the expected form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, DecoderError> {
    let bytes = harness_core::read_file(path).map_err(|e| DecoderError::read(path, e))?;
    serde_json::from_slice(&bytes).map_err(|source| DecoderError::Json { path: path.to_owned(), source })
}

/// Sampling that a model's makers propose (`generation_config.json`), all optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationDefaults {
    /// Whether to sample at all.
    pub do_sample: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f64>,
    /// Keep the `k` likeliest tokens.
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens that make up this probability.
    pub top_p: Option<f64>,
    /// Keep tokens at least this likely relative to the likeliest.
    pub min_p: Option<f64>,
    /// Divisor of the logits of tokens already present.
    pub repetition_penalty: Option<f64>,
    /// Longest completion in tokens.
    pub max_new_tokens: Option<usize>,
    /// Tokens that end a generation; empty where the file says nothing.
    #[serde(rename = "eos_token_id", deserialize_with = "one_or_many")]
    pub eos_token_ids: Vec<u32>,
    /// Beginning-of-sequence token.
    #[serde(deserialize_with = "one_or_many_first")]
    pub bos_token_id: Option<u32>,
}

/// `null`, one id, or a list of ids.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(u32),
        Many(Vec<u32>),
    }
    Ok(match Option::<Ids>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Many(ids)) => ids,
    })
}

/// The first of [`one_or_many`].
fn one_or_many_first<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(one_or_many(deserializer)?.first().copied())
}

/// Reads `generation_config.json` of a directory; all defaults where there is none.
pub(crate) fn read_generation_defaults(dir: &Path) -> Result<GenerationDefaults, DecoderError> {
    let path = dir.join("generation_config.json");
    if path.exists() { read_json(&path) } else { Ok(GenerationDefaults::default()) }
}

/// Reads `config.json` of a directory.
pub(crate) fn read_config(dir: &Path) -> Result<DecoderConfig, DecoderError> {
    let path = dir.join("config.json");
    if !path.exists() {
        return Err(DecoderError::Missing {
            path: dir.to_owned(),
            what: "config.json".to_owned(),
            hint: "a model is a directory in Hugging Face layout or a .gguf file".to_owned(),
        });
    }
    let json: Map<String, Value> = read_json(&path)?;
    let mut config = decoder(&Keys { path: &path, json: &json, prefix: "" })?;
    let generation = read_generation_defaults(dir)?;
    if !generation.eos_token_ids.is_empty() {
        config.eos_token_ids = generation.eos_token_ids;
    }
    config.bos_token_id = config.bos_token_id.or(generation.bos_token_id);
    Ok(config)
}

fn decoder(keys: &Keys<'_>) -> Result<DecoderConfig, DecoderError> {
    let family = Family::of(architecture(keys)?);
    refuse_unsupported(keys, family)?;
    let hidden_size = keys.size_or("hidden_size", family.hidden_size, WIDTH)?;
    let num_heads = keys.size_or("num_attention_heads", family.num_heads, WIDTH)?;
    let derivable = |key: &str, rule: &Derivable, derived: usize| match (keys.size(key)?, keys.has(key)) {
        (Some(size), _) => Ok(size),
        (None, false) => Ok(rule.absent.unwrap_or(derived)),
        (None, true) if rule.null => Ok(derived),
        (None, true) => Err(keys.error(key, "null", "a positive integer, or no such key")),
    };
    let num_kv_heads = derivable("num_key_value_heads", &family.num_kv_heads, num_heads)?;
    if !num_heads.is_multiple_of(num_kv_heads) {
        let source = if keys.has("num_key_value_heads") { "" } else { " (the default where the key is absent)" };
        let found = format!("{num_kv_heads}{source}");
        return Err(keys.error("num_key_value_heads", found, format!("a divisor of {num_heads} heads")));
    }
    if family.whole_heads && !hidden_size.is_multiple_of(num_heads) {
        return Err(keys.error("hidden_size", hidden_size, format!("a multiple of {num_heads} heads")));
    }
    let head_dim = derivable("head_dim", &family.head_dim, hidden_size / num_heads)?;
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(keys.error("head_dim", head_dim, "an even number"));
    }
    if let Some(expected) = limits::product(head_dim, num_heads, WIDTH) {
        return Err(keys.error("head_dim", head_dim, format!("{expected} heads")));
    }
    let num_layers = keys.size_or("num_hidden_layers", family.num_layers, LAYERS)?;
    let max_position_embeddings = keys.size_or("max_position_embeddings", family.max_position_embeddings, POSITIONS)?;
    let bias = family.biases == Biases::ByKey && keys.flag("attention_bias")?;
    Ok(DecoderConfig {
        architecture: family.architecture,
        vocab_size: keys.size_or("vocab_size", family.vocab_size, VOCABULARY)?,
        hidden_size,
        intermediate_size: keys.size_or("intermediate_size", family.intermediate_size, WIDTH)?,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        rms_norm_eps: keys.number_or("rms_norm_eps", family.rms_norm_eps)? as f32,
        rope: rope(keys, family.rope_theta, max_position_embeddings)?,
        max_position_embeddings,
        tie_word_embeddings: keys.flag("tie_word_embeddings")?,
        qkv_bias: bias || family.biases == Biases::Qkv,
        o_bias: bias,
        qk_norm: family.qk_norm,
        sliding_window: sliding_window(keys, family, num_layers)?,
        bos_token_id: token_ids(keys, "bos_token_id", family.bos_token_id)?.first().copied(),
        eos_token_ids: token_ids(keys, "eos_token_id", family.eos_token_id)?,
        experts: if family.architecture == Architecture::Mixtral { Some(experts(keys, num_layers)?) } else { None },
    })
}

fn token_ids(keys: &Keys<'_>, key: &str, default: Option<u32>) -> Result<Vec<u32>, DecoderError> {
    if !keys.has(key) {
        return Ok(default.into_iter().collect());
    }
    let ids: Option<Ids> = keys.value(key, "a token id or a list of token ids")?;
    Ok(ids.map(|ids| ids.0).unwrap_or_default())
}

fn experts(keys: &Keys<'_>, layers: usize) -> Result<Experts, DecoderError> {
    // Mixtral's class knows the number under both names, and the general one counts.
    let count = keys.size_or("num_local_experts", 8, EXPERTS / layers)?;
    let count = keys.size_or("num_experts", count, EXPERTS / layers)?;
    let per_token = keys.size_or("num_experts_per_tok", 2, EXPERTS)?;
    if per_token > count {
        return Err(keys.error("num_experts_per_tok", per_token, format!("at most {count}, the number of experts")));
    }
    Ok(Experts { count, per_token })
}

/// The family, if the checkpoint is a language model.
fn architecture(keys: &Keys<'_>) -> Result<Architecture, DecoderError> {
    let classes: Option<Vec<String>> = keys.value("architectures", "a list of class names")?;
    let class = classes.and_then(|names| names.into_iter().next());
    const EXPECTED: &str = "a causal language model (…ForCausalLM); classifiers, reward models and bare encoders have no \
                            head that predicts tokens";
    if let Some(class) = class.as_ref().filter(|class| !class.ends_with("ForCausalLM")) {
        return Err(keys.error("architectures", class, EXPECTED));
    }
    if class.is_none()
        && let Some(key) = ["num_labels", "id2label", "problem_type"].into_iter().find(|key| keys.get(key).is_some())
    {
        return Err(keys.error(key, &keys.json[key], format!("`architectures` to name {EXPECTED}")));
    }
    let name: Option<String> = keys.value("model_type", "an architecture's name")?;
    let name = name.or_else(|| class.map(|c| c.trim_end_matches("ForCausalLM").to_lowercase()));
    let name = name.ok_or_else(|| keys.error("model_type", "nothing", Architecture::supported()))?;
    Architecture::from_name(&name).ok_or_else(|| DecoderError::UnknownArchitecture {
        path: keys.path.to_owned(),
        found: name,
        supported: Architecture::supported(),
    })
}

/// Refuses, by name, what would silently compute something else.
fn refuse_unsupported(keys: &Keys<'_>, family: &Family) -> Result<(), DecoderError> {
    let act = keys.or("hidden_act", "silu".to_owned(), "silu")?;
    if act != "silu" && act != "swish" {
        return Err(keys.error("hidden_act", act, "silu"));
    }
    if family.mlp_bias && keys.flag("mlp_bias")? {
        return Err(keys.error("mlp_bias", true, "false (biases in the feed-forward block are not supported)"));
    }
    if keys.value("is_causal", "true or false")? == Some(false) {
        return Err(keys.error("is_causal", false, "true (attention to later tokens is not supported)"));
    }
    if let Some(layers) = keys.get("per_layer_config").filter(|layers| layers.as_object().is_none_or(|l| !l.is_empty()))
    {
        return Err(keys.error("per_layer_config", layers, "nothing (layers that differ are not supported)"));
    }
    if let Some(quantised) = keys.get("quantization_config") {
        let bitsandbytes = quantised["quant_method"] == "bitsandbytes" && quantised["load_in_4bit"] == true;
        if !bitsandbytes {
            let expected = "bitsandbytes in 4 bits, unquantised safetensors in f32, f16 or bf16, or a .gguf file";
            return Err(keys.error("quantization_config.quant_method", &quantised["quant_method"], expected));
        }
    }
    Ok(())
}

/// The window of every layer.
fn sliding_window(keys: &Keys<'_>, family: &Family, layers: usize) -> Result<Vec<Option<usize>>, DecoderError> {
    let types: Option<Vec<String>> = keys.value("layer_types", "a list of names")?;
    if let Some(types) = types.as_ref().filter(|types| types.len() != layers) {
        return Err(keys.error("layer_types", format!("{} entries", types.len()), format!("{layers} entries")));
    }
    let given = if keys.has("sliding_window") { keys.size("sliding_window")? } else { family.sliding_window };
    let (window, first, types) = match family.windows {
        Windows::Never => (None, 0, None),
        Windows::Always => (given, 0, None),
        Windows::AlwaysOrTyped => (given, 0, types),
        Windows::Qwen => {
            let used = keys.flag("use_sliding_window")?;
            let first = keys.or("max_window_layers", MAX_WINDOW_LAYERS, "an integer")?;
            (given.filter(|_| used), first, types)
        }
    };
    let Some(types) = types else {
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    let window_of = |kind: &String| match kind.as_str() {
        "sliding_attention" if window.is_none() => {
            let expected = "`sliding_window` beside it (and `use_sliding_window`, where the family has the key)";
            Err(keys.error("layer_types", kind, expected))
        }
        "sliding_attention" => Ok(window),
        "full_attention" | "attention" => Ok(None),
        other => Err(keys.error("layer_types", other, "full_attention or sliding_attention")),
    };
    types.iter().map(window_of).collect()
}

/// One id or several.
#[derive(Deserialize)]
struct Ids(#[serde(deserialize_with = "one_or_many")] Vec<u32>);
