//! `adapter_config.json`.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{EngineError, config::read_json};

/// Which modules an adapter changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// `"all-linear"`: every linear of every block; any other string: a regular expression over whole module paths.
    Pattern(String),
    /// Names: a module's path, or its last segments (`q_proj`, `self_attn.q_proj`).
    Names(Vec<String>),
}

impl TargetModules {
    /// Every linear of every block.
    pub fn all_linear() -> Self {
        Self::Pattern("all-linear".to_owned())
    }
}

/// The part of PEFT's `LoraConfig` that the engine computes, under PEFT's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterConfig {
    /// The method; `LORA`.
    pub peft_type: String,
    /// `CAUSAL_LM`.
    pub task_type: Option<String>,
    /// Where the base comes from, for people.
    pub base_model_name_or_path: Option<String>,
    /// Revision of the base on the hub.
    pub revision: Option<String>,
    /// Rank.
    pub r: usize,
    /// Scale of the addition is `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Probability with which inputs are dropped in training.
    pub lora_dropout: f64,
    /// Scale is `lora_alpha / sqrt(r)` instead.
    pub use_rslora: bool,
    /// What is adapted; `None` = PEFT's default for these architectures, `q_proj` and `v_proj`.
    pub target_modules: Option<TargetModules>,
    /// What is not adapted although it is targeted.
    pub exclude_modules: Option<TargetModules>,
    /// Only these blocks; not used with patterns.
    #[serde(deserialize_with = "one_or_many")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Ranks that differ from `r`, by a pattern that the end of a module's path matches.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas that differ from `lora_alpha`, likewise.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Whole modules trained and saved beside: `lm_head`, `embed_tokens`.
    pub modules_to_save: Option<Vec<String>>,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: None,
            revision: None,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            use_rslora: false,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            modules_to_save: None,
        }
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<usize>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Layers {
        One(usize),
        Many(Vec<usize>),
    }
    Ok(Option::<Layers>::deserialize(deserializer)?.map(|layers| match layers {
        Layers::One(layer) => vec![layer],
        Layers::Many(layers) => layers,
    }))
}

impl AdapterConfig {
    /// Reads `adapter_config.json` of a directory. Keys that are not known are ignored, as PEFT does; variants of LoRA
    /// that compute something else are refused by name.
    ///
    /// # Errors
    /// If the file is missing or broken, or asks for something that is not supported.
    pub fn load(dir: &Path) -> Result<Self, EngineError> {
        let path = dir.join("adapter_config.json");
        if !path.exists() {
            return Err(EngineError::Missing {
                path: dir.to_owned(),
                what: "adapter_config.json".to_owned(),
                hint: "an adapter is a directory as PEFT's save_pretrained writes it".to_owned(),
            });
        }
        let mut json: Map<String, Value> = read_json(&path)?;
        refuse_unsupported(&path, &json)?;
        // PEFT writes null where it means the default.
        json.retain(|_, value| !value.is_null());
        let config: Self = serde_json::from_value(Value::Object(json))
            .map_err(|source| EngineError::Json { path: path.clone(), source })?;
        let wrong = |key: &str, found: String, expected: &str| EngineError::Config {
            path: path.clone(),
            key: key.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        if let Some(rank) = std::iter::once(&config.r).chain(config.rank_pattern.values()).find(|&&rank| rank == 0) {
            return Err(wrong("r", rank.to_string(), "a positive rank"));
        }
        for module in config.modules_to_save.iter().flatten() {
            if !matches!(module.as_str(), "lm_head" | "embed_tokens" | "model.embed_tokens") {
                return Err(wrong("modules_to_save", module.clone(), "lm_head or embed_tokens"));
            }
        }
        Ok(config)
    }

    /// The text of `adapter_config.json` as PEFT writes it: sorted keys, two spaces.
    pub(super) fn to_json(&self) -> String {
        let whole = |x: f64| if x.fract() == 0.0 && x.abs() < 1e15 { Value::from(x as i64) } else { Value::from(x) };
        let mut json = match serde_json::to_value(self) {
            Ok(Value::Object(json)) => json,
            _ => Map::new(),
        };
        json.insert("lora_alpha".to_owned(), whole(self.lora_alpha));
        let alphas: Map<String, Value> =
            self.alpha_pattern.iter().map(|(pattern, &alpha)| (pattern.clone(), whole(alpha))).collect();
        json.insert("alpha_pattern".to_owned(), Value::Object(alphas));
        for (key, value) in [
            ("auto_mapping", Value::Null),
            ("bias", Value::from("none")),
            ("fan_in_fan_out", Value::from(false)),
            ("inference_mode", Value::from(true)),
            ("init_lora_weights", Value::from(true)),
            ("layers_pattern", Value::Null),
            ("use_dora", Value::from(false)),
        ] {
            json.insert(key.to_owned(), value);
        }
        json.sort_keys();
        let text = serde_json::to_string_pretty(&json);
        text.unwrap_or_default()
    }
}

/// Refuses, by name, what would compute something else than plain LoRA.
fn refuse_unsupported(path: &Path, json: &Map<String, Value>) -> Result<(), EngineError> {
    let refused = |key: &str, found: &Value, expected: &str| EngineError::Config {
        path: path.to_owned(),
        key: key.to_owned(),
        found: found.to_string(),
        expected: expected.to_owned(),
    };
    let get = |key: &str| json.get(key).filter(|value| !value.is_null());
    match json.get("peft_type") {
        Some(Value::String(kind)) if kind == "LORA" => {}
        found => return Err(refused("peft_type", found.unwrap_or(&Value::Null), "\"LORA\"")),
    }
    if let Some(bias) = get("bias").filter(|&bias| bias != "none") {
        return Err(refused("bias", bias, "\"none\" (trained biases are not supported)"));
    }
    if let Some(init) = get("init_lora_weights").and_then(Value::as_str) {
        let changes_base = ["pissa", "olora", "corda", "loftq"].iter().any(|name| init.starts_with(name));
        if changes_base {
            let expected = "an initialisation that leaves the base as it is; convert the adapter with PEFT's \
                            path_initial_model_for_weight_conversion";
            return Err(refused("init_lora_weights", &Value::from(init), expected));
        }
    }
    let variants = ["layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens"];
    let empty = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(flag) => !flag,
        _ => false,
    };
    for key in variants.into_iter().chain(["megatron_config", "arrow_config", "lora_bias"]) {
        if let Some(value) = get(key).filter(|value| !empty(value)) {
            return Err(refused(key, value, "nothing (this variant of LoRA is not supported)"));
        }
    }
    for (key, value) in json {
        if key.starts_with("use_") && key != "use_rslora" && value == &Value::Bool(true) {
            return Err(refused(key, value, "false (this variant of LoRA is not supported)"));
        }
    }
    Ok(())
}
