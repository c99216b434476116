//! `tokenizer.json` and `tokenizer_config.json` of a Hugging Face directory.

use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::{Parts, TextTokenizer, post_processor};
use crate::{EngineError, config::read_json};

/// Lengths above this are transformers' way to say "none".
const NO_LIMIT: f64 = 1e9;

impl TextTokenizer {
    /// Reads `tokenizer.json`, with `tokenizer_config.json` and `special_tokens_map.json` where they exist.
    ///
    /// As in transformers, the tokens named in the configuration are added where `tokenizer.json` lacks them, and
    /// `add_bos_token` or `add_eos_token` in the configuration decide, where one is given, what is put around a text.
    ///
    /// # Errors
    /// If a file is missing or broken, or a special token is not in the vocabulary.
    pub fn load(dir: &Path) -> Result<Self, EngineError> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            let other = ["tokenizer.model", "vocab.json"].into_iter().find(|name| dir.join(name).exists());
            return Err(EngineError::Missing {
                path: dir.to_owned(),
                what: "tokenizer.json".to_owned(),
                hint: match other {
                    Some(other) => format!("{other} alone is not read; save the fast tokenizer with transformers"),
                    None => "copy it from where the model comes from".to_owned(),
                },
            });
        }
        let inner = Tokenizer::from_file(&path)
            .map_err(|error| EngineError::TokenizerFile { path: path.clone(), reason: error.to_string() })?;
        let read = |name: &str| -> Result<Map<String, Value>, EngineError> {
            let path = dir.join(name);
            if path.exists() { read_json(&path) } else { Ok(Map::new()) }
        };
        let config = read("tokenizer_config.json")?;
        let map = read("special_tokens_map.json")?;
        from_json(inner, &config, &map).map_err(|reason| EngineError::TokenizerFile { path, reason })
    }

    /// A tokenizer from the text of a `tokenizer.json` and, if given, of a `tokenizer_config.json`.
    ///
    /// # Errors
    /// If either is broken, or a special token is not in the vocabulary.
    pub fn from_json(tokenizer: &str, config: Option<&str>) -> Result<Self, EngineError> {
        let failed = |reason: String| EngineError::TokenizerFile { path: "tokenizer.json".into(), reason };
        let inner = Tokenizer::from_bytes(tokenizer).map_err(|error| failed(error.to_string()))?;
        let config = serde_json::from_str(config.unwrap_or("{}"))
            .map_err(|source| EngineError::Json { path: "tokenizer_config.json".into(), source })?;
        from_json(inner, &config, &Map::new()).map_err(failed)
    }
}

fn from_json(
    mut inner: Tokenizer,
    config: &Map<String, Value>,
    special_tokens_map: &Map<String, Value>,
) -> Result<TextTokenizer, String> {
    let token = |key: &str| token_text(config.get(key)).or_else(|| token_text(special_tokens_map.get(key)));
    let roles = ["bos_token", "eos_token", "unk_token", "pad_token"].map(token);
    add_tokens(&mut inner, config, &roles)?;
    let [bos, eos, unk, pad] = roles;

    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    if let (Some(_), _) | (_, Some(_)) = (flag("add_bos_token"), flag("add_eos_token")) {
        let added = |key, token: &Option<String>| token.clone().filter(|_| flag(key) == Some(true));
        let (before, after) = (added("add_bos_token", &bos), added("add_eos_token", &eos));
        let processor = post_processor(&inner, before.as_deref(), after.as_deref())?;
        inner.with_post_processor(Some(processor));
    }
    let model_max_length =
        config.get("model_max_length").and_then(Value::as_f64).filter(|&n| (1.0..NO_LIMIT).contains(&n));
    Parts { inner, bos, eos, unk, pad, model_max_length: model_max_length.map(|n| n as usize) }.build()
}

/// A special token is written as a string or as an object with `content`.
fn token_text(value: Option<&Value>) -> Option<String> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// Adds the tokens of `added_tokens_decoder`, by id, and then the special tokens, where they are not added yet.
fn add_tokens(inner: &mut Tokenizer, config: &Map<String, Value>, roles: &[Option<String>]) -> Result<(), String> {
    let mut listed: Vec<(u32, &Value)> = match config.get("added_tokens_decoder") {
        Some(Value::Object(tokens)) => {
            tokens.iter().filter_map(|(id, token)| Some((id.parse().ok()?, token))).collect()
        }
        _ => Vec::new(),
    };
    listed.sort_by_key(|&(id, _)| id);
    let known = |inner: &Tokenizer, text: &str| {
        inner.get_added_vocabulary().get_added_tokens_decoder().values().any(|token| token.content == text)
    };
    for (id, token) in listed {
        let Some(text) = token_text(Some(token)).filter(|text| !known(inner, text)) else { continue };
        let flag = |key: &str, default: bool| token.get(key).and_then(Value::as_bool).unwrap_or(default);
        let special = flag("special", false);
        let added = AddedToken::from(text.clone(), special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special));
        inner.add_tokens([added]).map_err(|error| error.to_string())?;
        if inner.token_to_id(&text) != Some(id) {
            return Err(format!("tokenizer_config.json gives {text:?} the id {id}, which does not fit tokenizer.json"));
        }
    }
    for text in roles.iter().flatten() {
        if !known(inner, text) {
            let token = AddedToken::from(text.clone(), true);
            inner.add_special_tokens([token]).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
