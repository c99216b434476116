//! What a `tokenizer.json` may say that the library which reads it takes for granted, and panics or allocates over.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fancy_regex::Regex;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use super::{charsmap, largest_id::LargestId};

/// The largest id that a vocabulary may name: it is written out, hole by hole, for its hash.
const IDS: u64 = 1 << 24;

/// A kind of part: its key, the key of the parts that a sequence of them holds, and the types that the library knows.
/// It reads a part of another type as the first one whose fields fit.
struct Kind(&'static str, &'static str, &'static str);

const NORMALIZER: Kind = Kind(
    "normalizer",
    "normalizers",
    "Bert BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace Sequence \
     Strip StripAccents",
);
const PRE_TOKENIZER: Kind = Kind(
    "pre_tokenizer",
    "pretokenizers",
    "BertPreTokenizer ByteLevel CharDelimiterSplit Delimiter Digits FixedLength Metaspace Punctuation \
     Sequence Split UnicodeScripts Whitespace WhitespaceSplit",
);
const POST_PROCESSOR: Kind =
    Kind("post_processor", "processors", "BertProcessing ByteLevel RobertaProcessing Sequence TemplateProcessing");
const DECODER: Kind = Kind(
    "decoder",
    "decoders",
    "BPEDecoder ByteFallback ByteLevel CTC Fuse Metaspace Replace Sequence Strip WordPiece",
);
const MODELS: &str = "BPE Unigram WordLevel WordPiece";

/// The parts of a file that are looked at; vocabularies are passed over.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Model {
    /// Files of 2020 lack it.
    #[serde(rename = "type")]
    kind: Option<String>,
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    vocab: LargestId,
}

/// The merges of a model.
#[derive(Deserialize)]
struct Merging {
    model: Merges,
}

#[derive(Deserialize)]
struct Merges {
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(IgnoredAny, String),
    Joined(String),
}

/// What is wrong with a `tokenizer.json`, if anything of this kind; what else is wrong the library says.
///
/// # Errors
/// The key, what was found, and what was expected; a key that is there twice.
pub(super) fn check(json: &[u8]) -> Result<(), String> {
    let outline: Outline = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let parts = [
        (NORMALIZER, &outline.normalizer),
        (PRE_TOKENIZER, &outline.pre_tokenizer),
        (POST_PROCESSOR, &outline.post_processor),
        (DECODER, &outline.decoder),
    ];
    parts.into_iter().try_for_each(|(kind, part)| check_part(&kind, part))?;
    let Some(model) = outline.model else { return Ok(()) };
    if let Some(kind) = model.kind.filter(|kind| !names(MODELS, kind)) {
        return Err(format!("`model`: the type {kind:?}, expected one of {}", MODELS.replace(' ', ", ")));
    }
    if let Some(id) = model.vocab.0.filter(|&id| id > IDS) {
        return Err(format!("`model.vocab`: a token has the id {id}, expected at most {IDS}"));
    }
    let prefix = model.continuing_subword_prefix.filter(|prefix| !prefix.is_empty());
    prefix.map_or(Ok(()), |prefix| check_prefix(json, &prefix))
}

/// Whether a type is one of these.
fn names(types: &str, found: &str) -> bool {
    types.split(' ').any(|name| name == found)
}

/// A sequence may hold sequences; the depth of JSON is bounded.
fn check_part(kind: &Kind, part: &Value) -> Result<(), String> {
    let Value::Object(fields) = part else { return Ok(()) };
    let Kind(key, parts, types) = kind;
    let number = |name: &str| fields.get(name).and_then(Value::as_u64);
    let found = fields.get("type").and_then(Value::as_str).unwrap_or_default();
    match found {
        _ if !names(types, found) => {
            return Err(format!("`{key}`: the type {found:?}, expected one of {}", types.replace(' ', ", ")));
        }
        "Sequence" => {
            let parts = fields.get(*parts).and_then(Value::as_array);
            return parts.into_iter().flatten().try_for_each(|part| check_part(kind, part));
        }
        // It is cut off without a look at how long a token is.
        "Strip" if number("stop").is_some_and(|stop| stop > 0) => {
            return Err(format!("`{key}`: Strip with stop {}, expected 0", fields["stop"]));
        }
        "FixedLength" if number("length") == Some(0) => {
            return Err(format!("`{key}`: FixedLength with length 0, expected a positive integer"));
        }
        "Prepend" if fields.get("prepend").is_some_and(|text| text == "") => {
            return Err(format!("`{key}`: Prepend with \"\", expected a text"));
        }
        // What is put in at the end of a text lies beyond it for the next normalizer.
        "Replace" if *key == "normalizer" && fields.get("pattern").is_some_and(matches_nothing) => {
            return Err(format!("`{key}`: Replace of {}, which matches the empty text", fields["pattern"]));
        }
        "TemplateProcessing" => {
            let reason = unknown_piece(fields, "single", &["A"]).or_else(|| unknown_piece(fields, "pair", &["A", "B"]));
            if let Some(reason) = reason {
                return Err(format!("`{key}`: TemplateProcessing: {reason}"));
            }
        }
        "Precompiled" => {
            let map = fields.get("precompiled_charsmap").and_then(Value::as_str).unwrap_or_default();
            let map = BASE64_STANDARD.decode(map).map_err(|error| error.to_string());
            map.and_then(|map| charsmap::check(&map))
                .map_err(|reason| format!("`{key}`: `precompiled_charsmap` cannot be read: {reason}"))?;
        }
        _ => {}
    }
    Ok(())
}

/// Whether a pattern, a text or an expression, matches the empty text.
fn matches_nothing(pattern: &Value) -> bool {
    let expression = pattern.get("Regex").and_then(Value::as_str).and_then(|text| Regex::new(text).ok());
    pattern.get("String").is_some_and(|text| text == "")
        || expression.is_some_and(|expression| expression.is_match("").unwrap_or(false))
}

/// A piece of a template that stands for none of these texts, nor for a special token that is described beside it.
fn unknown_piece(fields: &Map<String, Value>, template: &str, texts: &[&str]) -> Option<String> {
    let tokens = fields.get("special_tokens").and_then(Value::as_object);
    let pieces = fields.get(template).and_then(Value::as_array)?;
    pieces.iter().find_map(|piece| {
        let id = |kind: &str| piece.get(kind)?.get("id")?.as_str();
        match (id("Sequence"), id("SpecialToken")) {
            (Some(text), _) if !texts.contains(&text) => {
                Some(format!("`{template}` has the text {text}, expected {}", texts.join(" or ")))
            }
            (_, Some(token)) if !tokens.is_some_and(|tokens| tokens.contains_key(token)) => {
                Some(format!("`{template}` has {token:?}, which `special_tokens` lacks"))
            }
            _ => None,
        }
    })
}

/// The prefix of tokens that go on a word is cut off the right part of every merge.
fn check_prefix(json: &[u8], prefix: &str) -> Result<(), String> {
    let Merging { model } = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let right = |merge: &Merge| match merge {
        Merge::Pair(_, right) => right.clone(),
        Merge::Joined(both) => both.split_once(' ').map(|(_, right)| right.to_owned()).unwrap_or_default(),
    };
    match model.merges.iter().map(right).find(|right| !right.starts_with(prefix)) {
        Some(right) => {
            Err(format!("`model.merges`: a right part {right:?}, expected one that begins with {prefix:?}, the prefix"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_library_would_panic_over_is_refused() {
        let refused = |value: Value| check(value.to_string().as_bytes()).unwrap_err();
        let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 3});
        let found = refused(json!({"decoder": {"type": "Sequence", "decoders": [strip]}}));
        assert_eq!(found, "`decoder`: Strip with stop 3, expected 0");
        let guessed = json!({"type": "Stripe", "content": " ", "start": 1, "stop": 0});
        let found = refused(json!({"decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}, guessed]}}));
        assert!(found.starts_with("`decoder`: the type \"Stripe\", expected one of BPEDecoder, "), "{found}");
        let found = refused(json!({"model": {"type": "BPEv2", "vocab": {}, "merges": []}}));
        assert_eq!(found, "`model`: the type \"BPEv2\", expected one of BPE, Unigram, WordLevel, WordPiece");
        assert!(refused(json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}})).contains("length 0"));
        assert!(refused(json!({"normalizer": {"type": "Prepend", "prepend": ""}})).contains("Prepend with \"\""));
        let replace = |pattern| json!({"normalizer": {"type": "Replace", "pattern": pattern, "content": "x"}});
        assert!(refused(replace(json!({"Regex": " *"}))).contains("matches the empty text"));
        assert!(refused(replace(json!({"String": ""}))).contains("matches the empty text"));
        check(replace(json!({"Regex": " +"})).to_string().as_bytes()).unwrap();
        let template = |piece: Value| json!({"type": "TemplateProcessing", "single": [piece], "pair": [], "special_tokens": {"<s>": {}}});
        let found = refused(json!({"post_processor": template(json!({"SpecialToken": {"id": "<S>", "type_id": 0}}))}));
        assert_eq!(found, "`post_processor`: TemplateProcessing: `single` has \"<S>\", which `special_tokens` lacks");
        let found = refused(json!({"post_processor": template(json!({"Sequence": {"id": "B", "type_id": 0}}))}));
        assert!(found.ends_with("`single` has the text B, expected A"), "{found}");
        for id in [IDS + 1, u32::MAX.into()] {
            let found = refused(json!({"model": {"vocab": {"a": 3, "b": id, "c": 1}}}));
            assert_eq!(found, format!("`model.vocab`: a token has the id {id}, expected at most 16777216"));
        }
        check(json!({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}).to_string().as_bytes()).unwrap();
        let twice = br#"{"decoder": {"type": "Strip", "content": " ", "start": 0, "stop": 9}, "decoder": null}"#;
        assert!(check(twice).unwrap_err().contains("duplicate field `decoder`"));
        // A trie of 2³² − 4 bytes, of which nothing follows.
        let map = json!({"type": "Precompiled", "precompiled_charsmap": "/P///w=="});
        assert!(refused(json!({"normalizer": map})).contains("precompiled_charsmap"));
        let merges = |right: &str| json!({"model": {"continuing_subword_prefix": "##", "merges": [["a", right]]}});
        assert!(refused(merges("b")).contains("`model.merges`: a right part \"b\""));
        check(merges("##b").to_string().as_bytes()).unwrap();
        check(json!({"decoder": {"type": "Strip", "content": " ", "start": 1, "stop": 0}}).to_string().as_bytes())
            .unwrap();
    }
}
