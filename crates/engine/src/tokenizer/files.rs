//! `tokenizer.json` and what stands beside it in a Hugging Face directory.

use std::path::Path;

use harness_core::guarded;
use serde_json::{Map, Value};
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

use super::{
    Parts, TextTokenizer,
    bytes::{names, names_byte_level},
    check::check,
    class::Class,
    post_processor,
};
use crate::EngineError;
use harness_decoder::{DecoderError, read_json};

/// Lengths above this are transformers' way to say "none".
const NO_LIMIT: f64 = 1e9;

/// Roles that transformers knows, in the order in which it adds their tokens.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The files beside `tokenizer.json`.
#[derive(Default)]
struct Beside {
    /// `tokenizer_config.json`.
    config: Map<String, Value>,
    /// `special_tokens_map.json`.
    special: Map<String, Value>,
    /// `added_tokens.json`.
    added: Map<String, Value>,
    /// `config.json`, which an adapter's folder lacks.
    model: Map<String, Value>,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, with the files beside it that say more about its tokens.
    ///
    /// As in transformers 5, what is put around a text is what `tokenizer.json` says, whatever `add_bos_token` and
    /// `add_eos_token` say, but for the classes of tokenizers that decide it themselves; and tokens that are named beside
    /// `tokenizer.json` only are added.
    ///
    /// # Errors
    /// If a file is missing or broken, or a special token is not in the vocabulary.
    pub fn load(dir: &Path) -> Result<Self, EngineError> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            let other = ["tokenizer.model", "vocab.json"].into_iter().find(|name| dir.join(name).exists());
            return Err(DecoderError::Missing {
                path: dir.to_owned(),
                what: "tokenizer.json".to_owned(),
                hint: match other {
                    Some(other) => format!("{other} alone is not read; save the fast tokenizer with transformers"),
                    None => "copy it from where the model comes from".to_owned(),
                },
            }
            .into());
        }
        let json = harness_core::read_file(&path).map_err(|error| DecoderError::read(&path, error))?;
        let inner = read(&json).map_err(|reason| EngineError::TokenizerFile { path: path.clone(), reason })?;
        let beside = |name: &str| -> Result<Map<String, Value>, DecoderError> {
            let path = dir.join(name);
            if path.exists() { read_json(&path) } else { Ok(Map::new()) }
        };
        let beside = Beside {
            config: beside("tokenizer_config.json")?,
            special: beside("special_tokens_map.json")?,
            added: beside("added_tokens.json")?,
            model: beside("config.json")?,
        };
        from_json(inner, beside).map_err(|reason| EngineError::TokenizerFile { path, reason })
    }

    /// A tokenizer from the text of a `tokenizer.json` and, if given, of a `tokenizer_config.json`.
    ///
    /// # Errors
    /// If either is broken, or a special token is not in the vocabulary.
    pub fn from_json(tokenizer: &str, config: Option<&str>) -> Result<Self, EngineError> {
        let failed = |reason: String| EngineError::TokenizerFile { path: "tokenizer.json".into(), reason };
        let inner = read(tokenizer.as_bytes()).map_err(failed)?;
        let config = serde_json::from_str(config.unwrap_or("{}"))
            .map_err(|source| DecoderError::Json { path: "tokenizer_config.json".into(), source })?;
        from_json(inner, Beside { config, ..Beside::default() }).map_err(failed)
    }
}

/// A tokenizer without truncation and padding, whose lengths nothing bounds, and which transformers switches off too.
fn read(json: &[u8]) -> Result<Tokenizer, String> {
    check(json)?;
    let mut inner = guarded(|| Tokenizer::from_bytes(json))?.map_err(|error| error.to_string())?;
    inner.with_truncation(None).map_err(|error| error.to_string())?;
    inner.with_padding(None);
    Ok(inner)
}

fn from_json(mut inner: Tokenizer, beside: Beside) -> Result<TextTokenizer, String> {
    let Beside { mut config, special, added, model } = beside;
    // A configuration that lists all added tokens is newer than the two older files.
    let lists_tokens = config.contains_key("added_tokens_decoder");
    if !lists_tokens {
        config.extend(special);
    }
    let byte_level = names_byte_level(inner.get_pre_tokenizer())
        || names_byte_level(inner.get_decoder())
        || names_byte_level(inner.get_post_processor());
    let class = Class::of(&config, &model, byte_level)?;
    if class.splits_bytes && names(inner.get_pre_tokenizer(), "Metaspace") {
        return Err("transformers gives this model the class Qwen2Tokenizer, which splits texts into bytes, but \
                    tokenizer.json splits them at spaces (Metaspace); expected a byte-level pre-tokenizer"
            .to_owned());
    }
    let keys = ["bos_token", "eos_token", "unk_token", "pad_token"];
    for (key, usual) in keys.into_iter().zip(class.roles) {
        if let Some(usual) = usual.filter(|usual| inner.token_to_id(usual).is_some()) {
            config.entry(key).or_insert_with(|| usual.into());
        }
    }
    let named = named(&config);
    let listed = if lists_tokens { listed(&config, &named) } else { legacy(&inner, &added, &named) };
    add_tokens(&mut inner, listed, &named)?;

    let [bos, eos, unk, pad] = keys.map(|key| token_text(config.get(key)));
    if let Some(adds) = class.adds_bos {
        let processor = post_processor(&inner, bos.as_deref().filter(|_| adds), None)?;
        inner.with_post_processor(Some(processor));
    }
    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    if let (Some(_), _) | (_, Some(_)) = (flag("add_bos_token"), flag("add_eos_token")) {
        let given = |key, token: &Option<String>| token.clone().filter(|_| flag(key) == Some(true));
        let (before, after) = (given("add_bos_token", &bos), given("add_eos_token", &eos));
        let flags = post_processor(&inner, before.as_deref(), after.as_deref())?;
        same_around(&mut inner, flags)?;
    }
    let model_max_length =
        config.get("model_max_length").and_then(Value::as_f64).filter(|&n| (1.0..NO_LIMIT).contains(&n));
    let others = config.iter().filter(|(key, _)| key.ends_with("_token") && !keys.contains(&key.as_str()));
    let others = others.filter_map(|(key, value)| Some((key.clone(), token_text(Some(value))?))).collect();
    Parts { inner, bos, eos, unk, pad, others, model_max_length: model_max_length.map(|n| n as usize) }.build()
}

/// Where the flags of a configuration ask for what the file does anyway, it is written as the flags have it: digests are
/// those of versions that followed the flags.
fn same_around(inner: &mut Tokenizer, flags: impl Into<PostProcessorWrapper>) -> Result<(), String> {
    let around = |inner: &Tokenizer| {
        let ids = inner.encode_fast("a", true).map_err(|error| error.to_string())?;
        Ok::<_, String>(ids.get_ids().to_vec())
    };
    let own = inner.get_post_processor().cloned();
    let before = around(inner)?;
    inner.with_post_processor(Some(flags));
    if around(inner)? != before {
        inner.with_post_processor(own);
    }
    Ok(())
}

/// A special token is written as a string or as an object with `content`.
fn token_text(value: Option<&Value>) -> Option<String> {
    let value = value?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// An added token with the attributes that its object gives.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    let flag = |key: &str, default: bool| value.get(key).and_then(Value::as_bool).unwrap_or(default);
    let token = AddedToken::from(token_text(Some(value))?, special)
        .single_word(flag("single_word", false))
        .lstrip(flag("lstrip", false))
        .rstrip(flag("rstrip", false))
        .normalized(flag("normalized", !special));
    Some(token)
}

/// The special tokens that a configuration names: roles, tokens of the model's own, further ones.
fn named(config: &Map<String, Value>) -> Vec<AddedToken> {
    let own = config.iter().filter(|(key, value)| {
        key.ends_with("_token")
            && !ROLES.contains(&key.as_str())
            && (value.is_string() || value.get("content").is_some())
    });
    let extra = config.get("extra_special_tokens").filter(|extra| match extra {
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        _ => false,
    });
    let extra: Vec<&Value> = match extra.or(config.get("additional_special_tokens")) {
        Some(Value::Array(items)) => items.iter().collect(),
        Some(Value::Object(items)) => items.values().collect(),
        _ => vec![],
    };
    let roles = ROLES.iter().filter_map(|role| config.get(*role));
    let all = roles.chain(own.map(|(_, value)| value)).chain(extra);
    all.filter_map(|value| added_token(value, true)).collect()
}

/// The tokens of `added_tokens_decoder` by id; those that are named are special whatever stands there.
fn listed(config: &Map<String, Value>, named: &[AddedToken]) -> Vec<(u32, AddedToken)> {
    let Some(Value::Object(tokens)) = config.get("added_tokens_decoder") else { return vec![] };
    let mut listed: Vec<(u32, AddedToken)> = tokens
        .iter()
        .filter_map(|(id, value)| {
            let text = token_text(Some(value))?;
            let special = value.get("special").and_then(Value::as_bool).unwrap_or(false);
            let token =
                added_token(value, special)?.special(special || named.iter().any(|token| token.content == text));
            Some((id.parse().ok()?, token))
        })
        .collect();
    listed.sort_by_key(|&(id, _)| id);
    listed
}

/// The tokens of `added_tokens.json` by id that `tokenizer.json` does not list.
fn legacy(inner: &Tokenizer, added: &Map<String, Value>, named: &[AddedToken]) -> Vec<(u32, AddedToken)> {
    let mut listed: Vec<(u32, AddedToken)> = added
        .iter()
        .filter(|(text, _)| find(inner, text).is_none())
        .filter_map(|(text, id)| {
            let special = named.iter().any(|token| token.content == *text);
            Some((u32::try_from(id.as_u64()?).ok()?, AddedToken::from(text.clone(), special)))
        })
        .collect();
    listed.sort_by_key(|&(id, _)| id);
    listed
}

/// The added token of this text.
fn find(inner: &Tokenizer, text: &str) -> Option<AddedToken> {
    inner.get_added_vocabulary().get_added_tokens_decoder().values().find(|token| token.content == text).cloned()
}

/// Adds tokens by id, then the named ones where they are not added yet; a named one is special.
fn add_tokens(inner: &mut Tokenizer, listed: Vec<(u32, AddedToken)>, named: &[AddedToken]) -> Result<(), String> {
    for (id, token) in listed {
        let text = token.content.clone();
        inner.add_tokens([token]).map_err(|error| error.to_string())?;
        if inner.token_to_id(&text) != Some(id) {
            return Err(format!("{text:?} has the id {id} beside tokenizer.json, which does not fit tokenizer.json"));
        }
    }
    for token in named {
        let token = match find(inner, &token.content) {
            Some(known) if known.special => continue,
            Some(known) => known.special(true),
            None => token.clone(),
        };
        inner.add_special_tokens([token]).map_err(|error| error.to_string())?;
    }
    Ok(())
}
