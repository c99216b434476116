//! `adapter_config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Initialisation, Patterns, TokenIndices};
use crate::{DecoderError, config::read_json};

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
    /// What stands before the number of a block in a module's path, for `layers_to_transform`.
    #[serde(deserialize_with = "one_or_many_names")]
    pub layers_pattern: Option<Vec<String>>,
    /// Ranks that differ from `r`, by a pattern that the end of a module's path matches.
    pub rank_pattern: Patterns<usize>,
    /// Alphas that differ from `lora_alpha`, likewise.
    pub alpha_pattern: Patterns<f64>,
    /// Whole modules trained and saved beside: `lm_head`, `embed_tokens`.
    pub modules_to_save: Option<Vec<String>>,
    /// Whether a trained embedding is the head as well, where the base ties them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ensure_weight_tying: bool,
    /// Whether the rows of changed weights are scaled to magnitudes of their own (DoRA).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub use_dora: bool,
    /// Whether the second matrix of each pair has a bias.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lora_bias: bool,
    /// Stacked weights of experts that are adapted, by their names or the ends of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_parameters: Option<Vec<String>>,
    /// Tokens whose rows of the embedding, or of embedding and head, are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainable_token_indices: Option<TokenIndices>,
    /// What the factors began as, where that was taken out of the base.
    #[serde(rename = "init_lora_weights", skip_serializing, deserialize_with = "Initialisation::read")]
    pub initialisation: Option<Initialisation>,
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
            layers_pattern: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            modules_to_save: None,
            ensure_weight_tying: false,
            use_dora: false,
            lora_bias: false,
            target_parameters: None,
            trainable_token_indices: None,
            initialisation: None,
        }
    }
}

/// One value or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<usize>>, D::Error> {
    Ok(Option::<OneOrMany<usize>>::deserialize(deserializer)?.map(|layers| match layers {
        OneOrMany::One(layer) => vec![layer],
        OneOrMany::Many(layers) => layers,
    }))
}

/// An empty name is no name.
fn one_or_many_names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    Ok(Option::<OneOrMany<String>>::deserialize(deserializer)?.map(|names| match names {
        OneOrMany::One(name) if name.is_empty() => vec![],
        OneOrMany::One(name) => vec![name],
        OneOrMany::Many(names) => names,
    }))
}

impl AdapterConfig {
    /// Reads `adapter_config.json` of a directory. Keys that are not known, and variants of LoRA that compute something
    /// else, are refused by name unless they are empty or false.
    ///
    /// # Errors
    /// If the file is missing or broken, or asks for something that is not supported.
    pub fn load(dir: &Path) -> Result<Self, DecoderError> {
        let path = dir.join("adapter_config.json");
        if !path.exists() {
            return Err(DecoderError::Missing {
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
            .map_err(|source| DecoderError::Json { path: path.clone(), source })?;
        let wrong = |key: &str, found: String, expected: &str| DecoderError::Config {
            path: path.clone(),
            key: key.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        let ranks = config.rank_pattern.0.iter().map(|(_, rank)| rank);
        if let Some(rank) = std::iter::once(&config.r).chain(ranks).find(|&&rank| rank == 0) {
            return Err(wrong("r", rank.to_string(), "a positive rank"));
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
            self.alpha_pattern.0.iter().map(|(pattern, alpha)| (pattern.clone(), whole(*alpha))).collect();
        json.insert("alpha_pattern".to_owned(), Value::Object(alphas));
        for (key, value) in [
            ("auto_mapping", Value::Null),
            ("bias", Value::from("none")),
            ("fan_in_fan_out", Value::from(false)),
            ("inference_mode", Value::from(true)),
            ("init_lora_weights", Value::from(true)),
            ("use_dora", Value::from(self.use_dora)),
        ] {
            json.insert(key.to_owned(), value);
        }
        json.sort_keys();
        let text = serde_json::to_string_pretty(&json);
        text.unwrap_or_default()
    }
}

/// Keys that change nothing once an adapter is trained, or only beside another key that is refused.
const WITHOUT_EFFECT: [&str; 11] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
];

/// Initialisations that leave the base as it is.
const INITIALISATIONS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Whether the base with such an adapter is known.
fn is_known(initialisation: &Value) -> bool {
    let leaves_the_base = initialisation
        .as_str()
        .is_some_and(|found| INITIALISATIONS.iter().any(|name| found.eq_ignore_ascii_case(name)));
    leaves_the_base || Initialisation::named(initialisation).is_some()
}

/// Refuses, by name, what would compute something else than plain LoRA.
fn refuse_unsupported(path: &Path, json: &Map<String, Value>) -> Result<(), DecoderError> {
    let refused = |key: &str, found: &Value, expected: &str| DecoderError::Config {
        path: path.to_owned(),
        key: key.to_owned(),
        found: found.to_string(),
        expected: expected.to_owned(),
    };
    match json.get("peft_type") {
        Some(Value::String(kind)) if kind == "LORA" => {}
        found => {
            let expected = "\"LORA\" (other kinds of adapters are not supported)";
            return Err(refused("peft_type", found.unwrap_or(&Value::Null), expected));
        }
    }
    let known = serde_json::to_value(AdapterConfig {
        ensure_weight_tying: true,
        use_dora: true,
        lora_bias: true,
        target_parameters: Some(vec![]),
        trainable_token_indices: Some(TokenIndices::Embedding(vec![])),
        ..AdapterConfig::default()
    });
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    for (key, value) in json.iter().filter(|(_, value)| !empty(value)) {
        match key.as_str() {
            "task_type" if value != "CAUSAL_LM" => {
                let expected =
                    "\"CAUSAL_LM\" (an adapter for another task, such as a classifier's, predicts no tokens)";
                return Err(refused(key, value, expected));
            }
            "bias" if value != "none" => {
                return Err(refused(key, value, "\"none\" (trained biases are not supported)"));
            }
            "init_lora_weights" if value != &Value::Bool(true) && !is_known(value) => {
                let reason = match value.as_str().unwrap_or_default() {
                    name if name.starts_with("pissa_niter") => "its decomposition is random, another one every time",
                    name if name.starts_with("corda") || name == "lora_ga" => "it depends on data that are not here",
                    "loftq" => "it quantises the base",
                    _ => "it is not known",
                };
                let expected = format!(
                    "an initialisation that can be computed again ({reason}); convert the adapter with PEFT's \
                     path_initial_model_for_weight_conversion"
                );
                return Err(refused(key, value, &expected));
            }
            "bias" | "init_lora_weights" => {}
            key if WITHOUT_EFFECT.contains(&key) || known.as_ref().is_ok_and(|known| known.get(key).is_some()) => {}
            key => return Err(refused(key, value, "nothing (this variant of LoRA is not supported)")),
        }
    }
    Ok(())
}
