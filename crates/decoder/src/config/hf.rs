//! Hugging Face's `config.json` and `generation_config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    DecoderConfig,
    keys::Keys,
    limits::{self, LAYERS, POSITIONS, VOCABULARY, WIDTH},
    rope::rope,
    scheme::Scheme,
};
use crate::{
    Architecture, BlockSpec, DecoderError, Rotation,
    families::{Biases, Derivable, Family, MAX_WINDOW_LAYERS, Windows},
};
use harness_kernels::cpu::activation::Activation;

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
    let mut config = decoder(&Keys { path: &path, json: &json, prefix: "", names: &[] })?;
    let generation = read_generation_defaults(dir)?;
    if !generation.eos_token_ids.is_empty() {
        config.eos_token_ids = generation.eos_token_ids;
    }
    config.bos_token_id = config.bos_token_id.or(generation.bos_token_id);
    Ok(config)
}

/// The configuration of a family whose file says nothing, or next to nothing: the sizes of some classes fit no model.
pub(crate) fn default_config(architecture: Architecture) -> Result<DecoderConfig, DecoderError> {
    let mut json = Map::from_iter([("model_type".to_owned(), Value::from(architecture.name()))]);
    let read =
        |json: &Map<String, Value>| decoder(&Keys { path: Path::new("config.json"), json, prefix: "", names: &[] });
    read(&json).or_else(|_| {
        json.insert("head_dim".to_owned(), Value::from(128));
        read(&json)
    })
}

fn decoder(keys: &Keys<'_>) -> Result<DecoderConfig, DecoderError> {
    let architecture = architecture(keys)?;
    let family = architecture.family();
    let own = if family.within.is_empty() { *keys } else { keys.inner(family.within)? };
    let keys = &Keys { names: family.keys, ..own };
    refuse_unsupported(keys)?;
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
    let intermediate_size = match family.intermediate_size {
        Some(default) => keys.size_or("intermediate_size", default, WIDTH)?,
        None => keys.size("intermediate_size")?.unwrap_or(4 * hidden_size),
    };
    if intermediate_size > 4 * WIDTH {
        return Err(keys.error("intermediate_size", intermediate_size, format!("at most {}", 4 * WIDTH)));
    }
    let Biases { qkv: qkv_bias, o: o_bias } = family.biases;
    let rotation = rope(keys, family, max_position_embeddings, head_dim)?;
    let sliding_window = sliding_window(keys, family, num_layers)?;
    let block = BlockSpec {
        activation: activation(keys, family)?,
        mlp_bias: family.mlp_bias.read(keys)?,
        local_rope: rotation.local,
        rotary_dims: Some(rotation.dims).filter(|&dims| dims != head_dim),
        ..BlockSpec::default()
    };
    let mut config = DecoderConfig {
        architecture,
        vocab_size: keys.size_or("vocab_size", family.vocab_size, VOCABULARY)?,
        hidden_size,
        intermediate_size,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        norm_eps: keys.number_or("rms_norm_eps", family.norm_eps)? as f32,
        rope: rotation.main,
        max_position_embeddings,
        tie_word_embeddings: keys.or("tie_word_embeddings", family.tied, "true or false")?,
        qkv_bias: qkv_bias.read(keys)?,
        o_bias: o_bias.read(keys)?,
        sliding_window,
        bos_token_id: token_ids(keys, "bos_token_id", family.bos_token_id)?.first().copied(),
        eos_token_ids: token_ids(keys, "eos_token_id", family.eos_token_id)?,
        experts: None,
        block,
    };
    if config.block.local_rope.is_some() {
        config.rotate_by_window(Rotation::Local, Rotation::Main);
    }
    (family.complete)(keys, &mut config)?;
    Ok(config)
}

/// The activation of the feed-forward block. Old files of Gemma have `hidden_act`, which its class passes over.
fn activation(keys: &Keys<'_>, family: &Family) -> Result<Activation, DecoderError> {
    let (key, default) = family.activation;
    let name = match key {
        "" => default.to_owned(),
        "hidden_activation" => keys.value(key, "a name")?.unwrap_or_else(|| default.to_owned()),
        key => keys.or(key, default.to_owned(), "a name")?,
    };
    if name == "xielu" && default == "xielu" {
        return Ok(Activation::Xielu { positive: 0.0, negative: 0.0, beta: 0.0, eps: 0.0 });
    }
    let expected = "silu, gelu, gelu_pytorch_tanh, gelu_new, relu or relu2";
    Activation::named(&name).ok_or_else(|| keys.error(key, name, expected))
}

fn token_ids(keys: &Keys<'_>, key: &str, default: Option<u32>) -> Result<Vec<u32>, DecoderError> {
    if !keys.has(key) {
        return Ok(default.into_iter().collect());
    }
    let ids: Option<Ids> = keys.value(key, "a token id or a list of token ids")?;
    Ok(ids.map(|ids| ids.0).unwrap_or_default())
}

/// The family, if the checkpoint is a language model.
fn architecture(keys: &Keys<'_>) -> Result<Architecture, DecoderError> {
    let classes: Option<Vec<String>> = keys.value("architectures", "a list of class names")?;
    let class = classes.and_then(|names| names.into_iter().next());
    const EXPECTED: &str = "a causal language model (…ForCausalLM); classifiers, reward models and bare encoders have no \
                            head that predicts tokens";
    let is_language_model = |class: &&String| {
        class.ends_with("ForCausalLM") || *class == "Gemma3ForConditionalGeneration" || *class == "GPT2LMHeadModel"
    };
    if let Some(class) = class.as_ref().filter(|class| !is_language_model(class)) {
        return Err(keys.error("architectures", class, EXPECTED));
    }
    if class.is_none()
        && let Some(key) = ["num_labels", "id2label", "problem_type"].into_iter().find(|key| keys.get(key).is_some())
    {
        return Err(keys.error(key, &keys.json[key], format!("`architectures` to name {EXPECTED}")));
    }
    let name: Option<String> = keys.value("model_type", "an architecture's name")?;
    let name = name.or_else(|| class.map(|c| c.trim_end_matches("ForCausalLM").to_lowercase()));
    let name = name.ok_or_else(|| keys.error("model_type", "nothing", "an architecture's name"))?;
    Architecture::from_name(&name).ok_or_else(|| DecoderError::UnknownArchitecture {
        path: keys.path.to_owned(),
        hint: Architecture::hint(&name, Architecture::all().map(Architecture::name)),
        found: name,
    })
}

/// Refuses, by name, what would silently compute something else.
fn refuse_unsupported(keys: &Keys<'_>) -> Result<(), DecoderError> {
    if keys.value("is_causal", "true or false")? == Some(false) {
        return Err(keys.error("is_causal", false, "true (attention to later tokens is not supported)"));
    }
    if let Some(layers) = keys.get("per_layer_config").filter(|layers| layers.as_object().is_none_or(|l| !l.is_empty()))
    {
        return Err(keys.error("per_layer_config", layers, "nothing (layers that differ are not supported)"));
    }
    Scheme::read(keys)?;
    Ok(())
}

/// The kinds of layers, where the file names them.
pub(crate) fn layer_types(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<String>>, DecoderError> {
    let types: Option<Vec<String>> = keys.value("layer_types", "a list of names")?;
    match types.as_ref().filter(|types| types.len() != layers) {
        Some(types) => Err(keys.error("layer_types", format!("{} entries", types.len()), format!("{layers} entries"))),
        None => Ok(types),
    }
}

impl Keys<'_> {
    /// The window of every layer by the kinds of layers.
    pub(crate) fn windows(&self, types: &[String], window: Option<usize>) -> Result<Vec<Option<usize>>, DecoderError> {
        let window_of = |kind: &String| match kind.as_str() {
            "sliding_attention" if window.is_none() => {
                let expected = "`sliding_window` beside it (and `use_sliding_window`, where the family has the key)";
                Err(self.error("layer_types", kind, expected))
            }
            "sliding_attention" => Ok(window),
            "full_attention" | "attention" => Ok(None),
            other => Err(self.error("layer_types", other, "full_attention or sliding_attention")),
        };
        types.iter().map(window_of).collect()
    }
}

/// The window of every layer.
fn sliding_window(keys: &Keys<'_>, family: &Family, layers: usize) -> Result<Vec<Option<usize>>, DecoderError> {
    if family.windows == Windows::Never {
        return Ok(vec![None; layers]);
    }
    let types = layer_types(keys, layers)?;
    let given = match (keys.has("sliding_window"), family.windows) {
        (false, _) => family.sliding_window,
        // Their class writes 0 for none.
        (true, Windows::Typed) => keys.count("sliding_window")?.filter(|&window| window > 0),
        (true, _) => keys.size("sliding_window")?,
    };
    let from = |default| keys.or("max_window_layers", default, "an integer");
    let used = || keys.flag("use_sliding_window");
    // The layers that have it, where they are not named.
    let (window, types, has): (_, _, Box<dyn Fn(usize) -> bool>) = match family.windows {
        Windows::Never => (None, None, Box::new(|_| false)),
        Windows::Always => (given, None, Box::new(|_| true)),
        Windows::AlwaysOrTyped => (given, types, Box::new(|_| true)),
        Windows::Qwen => {
            let (used, first) = (used()?, from(MAX_WINDOW_LAYERS)?);
            (given.filter(|_| used), types, Box::new(move |layer| layer >= first))
        }
        Windows::From(default) => {
            let first = from(default)?;
            (given, types, Box::new(move |layer| layer >= first))
        }
        Windows::Flagged => {
            let used = used()?;
            (given.filter(|_| used), None, Box::new(|_| true))
        }
        Windows::Typed => {
            let used = used()?;
            if used && types.is_none() {
                return Err(keys.error("use_sliding_window", true, "`layer_types` beside it, or false"));
            }
            (given.filter(|_| used), types.filter(|_| used), Box::new(|_| false))
        }
        Windows::Every(key, default) => {
            let every = if key.is_empty() { default } else { keys.size_or(key, default, usize::MAX)? };
            (given, types, Box::new(move |layer| !(layer + 1).is_multiple_of(every)))
        }
        Windows::FullFirst(every) => (given, types, Box::new(move |layer| !layer.is_multiple_of(every))),
    };
    match types {
        Some(types) => keys.windows(&types, window),
        None => Ok((0..layers).map(|layer| window.filter(|_| has(layer))).collect()),
    }
}

/// One id or several.
#[derive(Deserialize)]
struct Ids(#[serde(deserialize_with = "one_or_many")] Vec<u32>);
