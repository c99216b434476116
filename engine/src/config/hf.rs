//! Hugging Face's `config.json` and `generation_config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{Architecture, DecoderConfig, Experts, Rope, RopeScaling};
use crate::EngineError;

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, EngineError> {
    let bytes = std::fs::read(path).map_err(|e| EngineError::read(path, e))?;
    serde_json::from_slice(&bytes).map_err(|source| EngineError::Json { path: path.to_owned(), source })
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
pub(crate) fn read_generation_defaults(dir: &Path) -> Result<GenerationDefaults, EngineError> {
    let path = dir.join("generation_config.json");
    if path.exists() { read_json(&path) } else { Ok(GenerationDefaults::default()) }
}

/// Reads `config.json` of a directory.
pub(crate) fn read_config(dir: &Path) -> Result<DecoderConfig, EngineError> {
    let path = dir.join("config.json");
    if !path.exists() {
        return Err(EngineError::Missing {
            path: dir.to_owned(),
            what: "config.json".to_owned(),
            hint: "a model is a directory in Hugging Face layout or a .gguf file".to_owned(),
        });
    }
    let json: Map<String, Value> = read_json(&path)?;
    let mut config = Keys { path: &path, json: &json, prefix: "" }.decoder()?;
    let generation = read_generation_defaults(dir)?;
    if !generation.eos_token_ids.is_empty() {
        config.eos_token_ids = generation.eos_token_ids;
    }
    config.bos_token_id = config.bos_token_id.or(generation.bos_token_id);
    Ok(config)
}

/// Typed access to the keys of one JSON object, with errors that name the file and the key.
struct Keys<'a> {
    path: &'a Path,
    json: &'a Map<String, Value>,
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    fn error(&self, key: &str, found: impl ToString, expected: impl ToString) -> EngineError {
        EngineError::Config {
            path: self.path.to_owned(),
            key: format!("{}{key}", self.prefix),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// The value of a key, `None` for an absent key and for `null`.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    fn value<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>, EngineError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        T::deserialize(value).map(Some).map_err(|_| self.error(key, value, expected))
    }

    fn size(&self, key: &str) -> Result<Option<usize>, EngineError> {
        let size = self.value::<usize>(key, "a positive integer")?;
        if size == Some(0) { Err(self.error(key, 0, "a positive integer")) } else { Ok(size) }
    }

    fn required(&self, key: &str) -> Result<usize, EngineError> {
        self.size(key)?.ok_or_else(|| self.error(key, "nothing", "a positive integer"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, EngineError> {
        let number = self.value::<f64>(key, "a positive number")?;
        match number {
            Some(x) if !(x.is_finite() && x > 0.0) => Err(self.error(key, x, "a positive number")),
            number => Ok(number),
        }
    }

    fn required_number(&self, key: &str) -> Result<f64, EngineError> {
        self.number(key)?.ok_or_else(|| self.error(key, "nothing", "a positive number"))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, EngineError> {
        self.value(key, "true or false")
    }

    fn decoder(&self) -> Result<DecoderConfig, EngineError> {
        let architecture = self.architecture()?;
        self.refuse_unsupported()?;
        let hidden_size = self.required("hidden_size")?;
        let num_heads = self.required("num_attention_heads")?;
        let num_kv_heads = self.size("num_key_value_heads")?.unwrap_or(num_heads);
        if !num_heads.is_multiple_of(num_kv_heads) {
            return Err(self.error("num_key_value_heads", num_kv_heads, format!("a divisor of {num_heads} heads")));
        }
        let head_dim = match self.size("head_dim")? {
            Some(head_dim) => head_dim,
            None if architecture == Architecture::Qwen3 => 128,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => return Err(self.error("hidden_size", hidden_size, format!("a multiple of {num_heads} heads"))),
        };
        if !head_dim.is_multiple_of(2) {
            return Err(self.error("head_dim", head_dim, "an even number"));
        }
        let num_layers = self.required("num_hidden_layers")?;
        let max_position_embeddings = self.required("max_position_embeddings")?;
        let attention_bias = self.flag("attention_bias")?.unwrap_or(false);
        let eos: Option<Ids> = self.value("eos_token_id", "a token id or a list of token ids")?;
        let bos: Option<Ids> = self.value("bos_token_id", "a token id")?;
        Ok(DecoderConfig {
            architecture,
            vocab_size: self.required("vocab_size")?,
            hidden_size,
            intermediate_size: self.required("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            rms_norm_eps: self.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: self.rope(max_position_embeddings)?,
            max_position_embeddings,
            tie_word_embeddings: self.flag("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: architecture == Architecture::Qwen2 || attention_bias,
            o_bias: architecture != Architecture::Qwen2 && attention_bias,
            qk_norm: architecture == Architecture::Qwen3,
            sliding_window: self.sliding_window(architecture, num_layers)?,
            bos_token_id: bos.and_then(|ids| ids.0.first().copied()),
            eos_token_ids: eos.map(|ids| ids.0).unwrap_or_default(),
            experts: if architecture == Architecture::Mixtral { Some(self.experts()?) } else { None },
        })
    }

    fn experts(&self) -> Result<Experts, EngineError> {
        let count = self.size("num_local_experts")?.unwrap_or(8);
        let per_token = self.size("num_experts_per_tok")?.unwrap_or(2);
        if per_token > count {
            return Err(self.error(
                "num_experts_per_tok",
                per_token,
                format!("at most {count}, the number of experts"),
            ));
        }
        Ok(Experts { count, per_token })
    }

    fn architecture(&self) -> Result<Architecture, EngineError> {
        let class: Option<Vec<String>> = self.value("architectures", "a list of class names")?;
        let class = class.and_then(|names| names.into_iter().next());
        let name: Option<String> = self.value("model_type", "an architecture's name")?;
        let name = name.or_else(|| class.map(|c| c.trim_end_matches("ForCausalLM").to_lowercase()));
        let name = name.ok_or_else(|| self.error("model_type", "nothing", Architecture::supported()))?;
        Architecture::from_name(&name).ok_or_else(|| EngineError::UnknownArchitecture {
            path: self.path.to_owned(),
            found: name,
            supported: Architecture::supported(),
        })
    }

    /// Refuses, by name, what would silently compute something else.
    fn refuse_unsupported(&self) -> Result<(), EngineError> {
        if let Some(act) = self.value::<String>("hidden_act", "a name")?.filter(|act| act != "silu" && act != "swish") {
            return Err(self.error("hidden_act", act, "silu"));
        }
        if self.flag("mlp_bias")? == Some(true) {
            return Err(self.error("mlp_bias", true, "false (biases in the feed-forward block are not supported)"));
        }
        if let Some(quantised) = self.get("quantization_config") {
            let bitsandbytes = quantised["quant_method"] == "bitsandbytes" && quantised["load_in_4bit"] == true;
            if !bitsandbytes {
                let expected = "bitsandbytes in 4 bits, unquantised safetensors in f32, f16 or bf16, or a .gguf file";
                return Err(self.error("quantization_config.quant_method", &quantised["quant_method"], expected));
            }
        }
        Ok(())
    }

    /// Both spellings: `rope_theta` with `rope_scaling`, and `rope_parameters` which holds both.
    fn rope(&self, max_position_embeddings: usize) -> Result<Rope, EngineError> {
        let top_theta = self.number("rope_theta")?;
        let key = if self.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
        let json: Option<Map<String, Value>> = self.value(key, "an object")?;
        let Some(json) = json else {
            return Ok(Rope { theta: top_theta.unwrap_or(10_000.0), scaling: RopeScaling::None });
        };
        let prefix = format!("{key}.");
        let keys = Keys { path: self.path, json: &json, prefix: &prefix };
        let theta = keys.number("rope_theta")?.or(top_theta).unwrap_or(10_000.0);
        let partial = keys.number("partial_rotary_factor")?.or(self.number("partial_rotary_factor")?);
        if let Some(partial) = partial.filter(|&p| p != 1.0) {
            return Err(keys.error("partial_rotary_factor", partial, "1 (the whole head)"));
        }
        let kind_key = if keys.get("rope_type").is_some() { "rope_type" } else { "type" };
        let kind: Option<String> = keys.value(kind_key, "a name")?;
        let original_max = keys.size("original_max_position_embeddings")?;
        let scaling = match kind.as_deref() {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: keys.required_number("factor")? },
            Some("dynamic") => RopeScaling::Dynamic {
                factor: keys.required_number("factor")?,
                original_max: original_max.unwrap_or(max_position_embeddings),
            },
            Some("llama3") => RopeScaling::Llama3 {
                factor: keys.required_number("factor")?,
                low_freq_factor: keys.required_number("low_freq_factor")?,
                high_freq_factor: keys.required_number("high_freq_factor")?,
                original_max: keys.required("original_max_position_embeddings")?,
            },
            Some(other) => return Err(keys.error(kind_key, other, "default, linear, dynamic or llama3")),
        };
        Ok(Rope { theta, scaling })
    }

    /// The window of every layer: `layer_types` if given; Qwen's `use_sliding_window` with `max_window_layers` (layers
    /// from that one on have the window); Mistral's window on all layers.
    fn sliding_window(&self, architecture: Architecture, layers: usize) -> Result<Vec<Option<usize>>, EngineError> {
        let qwen = matches!(architecture, Architecture::Qwen2 | Architecture::Qwen3);
        let used = match architecture {
            Architecture::Llama => false,
            Architecture::Mistral | Architecture::Mixtral => true,
            _ => self.flag("use_sliding_window")?.unwrap_or(false),
        };
        let Some(window) = self.size("sliding_window")?.filter(|_| used) else { return Ok(vec![None; layers]) };
        let types: Option<Vec<String>> = self.value("layer_types", "a list of names")?;
        if let Some(types) = types {
            if types.len() != layers {
                return Err(self.error("layer_types", format!("{} entries", types.len()), format!("{layers} entries")));
            }
            let window_of = |kind: &String| match kind.as_str() {
                "sliding_attention" => Ok(Some(window)),
                "full_attention" => Ok(None),
                other => Err(self.error("layer_types", other, "full_attention or sliding_attention")),
            };
            return types.iter().map(window_of).collect();
        }
        let first = if qwen { self.value::<usize>("max_window_layers", "an integer")?.unwrap_or(28) } else { 0 };
        Ok((0..layers).map(|layer| (layer >= first).then_some(window)).collect())
    }
}

/// One id or several.
#[derive(Deserialize)]
struct Ids(#[serde(deserialize_with = "one_or_many")] Vec<u32>);
