//! A tokenizer as metadata of a GGUF file: the other way round from reading it.

use std::collections::BTreeMap;

use harness_decoder::GgufValue;
use serde_json::Value;

use super::{BYTE, CONTROL, SPACE, UNKNOWN, USER_DEFINED, pre_tokenizer};
use crate::TextTokenizer;

const NORMAL: i64 = 1;
const UNUSED: i64 = 5;

/// The ways of cutting that are looked through for one that is the tokenizer's, most usual first.
const WAYS: [&str; 10] = [
    "llama-bpe",
    "qwen2",
    "gpt-2",
    "smollm",
    "tekken",
    "deepseek-llm",
    "deepseek-coder",
    "dbrx",
    "stablelm2",
    "default",
];

/// Texts in which tokenizers differ if they do: scripts, digits, runs of spaces and lines, code, signs, marks.
const SAMPLES: [&str; 8] = [
    "Hello world! It's 12345.678 o'clock, they'RE here; we'll see — \"no\"?",
    "  two spaces,   three,\ttab\n\nlines\r\n   end  ",
    "def f(x):\n    return x**2 + [1, 22, 333, 4444, 55555]  # ok\n",
    "Ünïcödé naïve façade Straße İstanbul Привет мир γειά σου שלום مرحبا",
    "你好，世界。こんにちは世界 안녕하세요 नमस्ते สวัสดี",
    "🚀👩‍👩‍👧‍👦 e\u{301}é \u{200b}\u{a0}x ½²³ ①②",
    "<|im_start|>user\n<s>[INST] {{x}} </s> <0x41> ▁a",
    "3 33 333 3333 33333 a1b2 A1B2 $100 50% C++ a_b-c/d\\e",
];

/// The metadata of a tokenizer for an embedding of so many rows; `ends` are the tokens that end a generation.
///
/// # Errors
/// A reason, if llama.cpp's files have no tokenizer of this kind.
pub(crate) fn metadata(
    tokenizer: &TextTokenizer,
    rows: usize,
    ends: &[u32],
) -> Result<Vec<(String, GgufValue)>, String> {
    let text = tokenizer.inner.to_string(false).map_err(|error| error.to_string())?;
    let json: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(format!("a tokenizer of the kind {} cannot be written, only BPE", model["type"]));
    }
    let added = added(&json)?;
    let (mut all, mut types) = (BTreeMap::<&str, GgufValue>::new(), vec![UNUSED; rows]);
    let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
    let byte_fallback = model["byte_fallback"] == true;
    let unknown = model["unk_token"].as_str();
    let vocabulary = model["vocab"].as_object().into_iter().flatten();
    let ids = vocabulary.filter_map(|(token, id)| Some((token.as_str(), id.as_u64()? as usize, None)));
    for (token, id, special) in ids.chain(added.iter().map(|&(token, id, special)| (token, id, Some(special)))) {
        let (Some(place), Some(kind)) = (tokens.get_mut(id), types.get_mut(id)) else {
            return Err(format!("token {token:?} has the id {id}, and the embedding {rows} rows"));
        };
        *place = token.to_owned();
        *kind = match special {
            Some(true) => CONTROL,
            Some(false) => USER_DEFINED,
            None if byte_fallback && is_byte(token) => BYTE,
            None => NORMAL,
        };
        if byte_fallback && unknown == Some(token) {
            *kind = UNKNOWN;
        }
    }
    let merges = merges(model)?;
    let strings = |list: Vec<String>| GgufValue::Array(list.into_iter().map(GgufValue::String).collect());
    if byte_fallback {
        let scores = scores(&tokens, &merges).into_iter().map(GgufValue::F32).collect();
        let prefix = begins_with_space(&json)?;
        all.insert("model", GgufValue::String("llama".to_owned()));
        all.insert("pre", GgufValue::String("default".to_owned()));
        all.insert("scores", GgufValue::Array(scores));
        all.insert("add_space_prefix", GgufValue::Bool(prefix));
    } else {
        all.insert("model", GgufValue::String("gpt2".to_owned()));
        all.insert("pre", GgufValue::String(way(&json)?.to_owned()));
        let joined = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        all.insert("merges", strings(joined));
    }
    all.insert("tokens", strings(tokens));
    all.insert("token_type", GgufValue::Array(types.into_iter().map(|kind| GgufValue::I32(kind as i32)).collect()));
    let around = tokenizer.inner.encode_fast("a", true).map_err(|error| error.to_string())?;
    let (bos, eos) = (tokenizer.bos().map(|token| token.id), tokenizer.eos().map(|token| token.id));
    all.insert("add_bos_token", GgufValue::Bool(tokenizer.adds_bos()));
    all.insert("add_eos_token", GgufValue::Bool(eos.is_some_and(|eos| around.get_ids().last() == Some(&eos))));
    let mut further = ends.iter().copied().filter(|end| Some(*end) != eos);
    let eos = eos.or_else(|| further.next());
    let roles = [
        ("bos_token_id", bos),
        ("eos_token_id", eos),
        ("eot_token_id", further.next()),
        ("eom_token_id", further.next()),
        ("unknown_token_id", tokenizer.unk().map(|token| token.id)),
        ("padding_token_id", tokenizer.pad().map(|token| token.id)),
    ];
    all.extend(roles.into_iter().filter_map(|(key, id)| Some((key, GgufValue::U32(id?)))));
    if let Some(end) = further.next() {
        return Err(format!("more tokens end a generation than a file can name, {end} among them"));
    }
    Ok(all.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect())
}

/// Fails if two tokenizers give a text other ids: texts of all tokens, and texts in which tokenizers differ.
///
/// # Errors
/// What differs.
pub(crate) fn compare(wanted: &TextTokenizer, read: &TextTokenizer) -> Result<(), String> {
    let id = |token: Option<&crate::SpecialToken>| token.map(|token| token.id);
    if id(wanted.bos()) != id(read.bos()) || id(wanted.eos()) != id(read.eos()) {
        return Err("its BOS or EOS would be another token".to_owned());
    }
    let tokens = (0..wanted.largest_id().map_or(0, |id| id + 1)).filter_map(|id| wanted.decode(&[id], false).ok());
    for text in SAMPLES.iter().map(|text| (*text).to_owned()).chain(tokens) {
        let ids = |tokenizer: &TextTokenizer| tokenizer.encode_whole(&text, true).map_err(|error| error.to_string());
        if ids(wanted)? != ids(read)? {
            let text: String = text.chars().take(40).collect();
            return Err(format!("{text:?} would be cut into other tokens"));
        }
    }
    Ok(())
}

/// Added tokens with their ids, and whether they are special.
fn added(json: &Value) -> Result<Vec<(&str, usize, bool)>, String> {
    let mut all = vec![];
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(text), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) else { continue };
        if let Some(flag) = ["lstrip", "rstrip", "single_word"].iter().find(|flag| token[**flag] == true) {
            return Err(format!("the token {text:?} has the property `{flag}`, which the files cannot say"));
        }
        all.push((text, id as usize, token["special"] == true));
    }
    Ok(all)
}

/// The merges in their order, from either way of writing them.
fn merges(model: &Value) -> Result<Vec<(String, String)>, String> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(left), Value::String(right)] => Some((left.clone(), right.clone())),
            _ => None,
        },
        _ => None,
    };
    let merges = model["merges"].as_array().into_iter().flatten();
    merges.map(|merge| pair(merge).ok_or_else(|| format!("{merge} is no merge of two parts"))).collect()
}

/// Scores by which SentencePiece would merge in the same order: a piece has that of its first merge.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for (rank, (left, right)) in merges.iter().enumerate() {
        first.entry(format!("{left}{right}")).or_insert(rank);
    }
    tokens.iter().map(|token| -(first.get(token).copied().unwrap_or(merges.len()) as f32)).collect()
}

fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Whether a text gets a space before it, where spaces become [`SPACE`] and nothing else happens to the text.
fn begins_with_space(json: &Value) -> Result<bool, String> {
    let normalizer = &json["normalizer"];
    let steps: Vec<&Value> = match &normalizer["normalizers"] {
        Value::Array(steps) => steps.iter().collect(),
        _ if normalizer.is_null() => vec![],
        _ => vec![normalizer],
    };
    let mut prefix = false;
    for step in steps {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == SPACE => prefix = true,
            Some("Replace") if step["content"] == SPACE => {}
            other => return Err(format!("its normalizer {} cannot be written", other.unwrap_or("of no type"))),
        }
    }
    match json["pre_tokenizer"]["type"].as_str() {
        Some("Metaspace") => Ok(json["pre_tokenizer"]["prepend_scheme"] != "never"),
        _ => Ok(prefix),
    }
}

/// llama.cpp's name of the tokenizer's way to cut a text.
fn way(json: &Value) -> Result<&'static str, String> {
    // Offsets have no influence on ids.
    fn plain(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let kept = fields.iter().filter(|(key, _)| *key != "trim_offsets");
                Value::Object(kept.map(|(key, value)| (key.clone(), plain(value))).collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
            other => other.clone(),
        }
    }
    let nfc = match json["normalizer"]["type"].as_str() {
        None => false,
        Some("NFC") => true,
        Some(other) => return Err(format!("its normalizer {other} cannot be written")),
    };
    let ignore_merges = json["model"]["ignore_merges"] == true;
    let own = plain(&json["pre_tokenizer"]);
    for name in WAYS {
        let Some(known) = pre_tokenizer::pre_tokenizer(name) else { continue };
        let known = known?;
        let its = serde_json::to_value(&known.wrapper).map_err(|error| error.to_string())?;
        if (known.nfc, known.ignore_merges) == (nfc, ignore_merges) && plain(&its) == own {
            return Ok(name);
        }
    }
    Err("its way to cut a text into words is none that llama.cpp has a name for here".to_owned())
}
