//! What every token adds to a decoded text, in bytes.

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::TextTokenizer;

/// The bytes of every token by id; `None` for tokens that add nothing or are special.
#[derive(Debug)]
pub(crate) struct TokenBytes {
    /// As the first token of a text, where many tokenizers drop a leading space.
    pub(crate) first: Vec<Option<Box<[u8]>>>,
    /// After another token.
    pub(crate) later: Vec<Option<Box<[u8]>>>,
}

impl TokenBytes {
    /// The bytes of the whole vocabulary. Byte-level vocabularies are read by their alphabet; of others each token is
    /// decoded alone and behind another one, and `<0xE2>` is a byte.
    pub(crate) fn new(tokenizer: &TextTokenizer) -> Self {
        let ids: Vec<u32> = (0..=tokenizer.largest_id().unwrap_or(0)).collect();
        let form = |id: u32| if tokenizer.is_special(id) { None } else { tokenizer.inner.id_to_token(id) };
        if is_byte_level(tokenizer) {
            let symbols = byte_symbols();
            let bytes: Vec<_> =
                ids.par_iter().map(|&id| form(id).and_then(|form| given(bytes_of(&form, &symbols)))).collect();
            return Self { first: bytes.clone(), later: bytes };
        }
        let anchor = anchor(tokenizer, &ids);
        let decoded = |id: u32, before: Option<&(u32, String)>| {
            let form = form(id)?;
            let (ids, skip): (Vec<u32>, &str) = match before {
                Some((anchor, text)) => (vec![*anchor, id], text),
                None => (vec![id], ""),
            };
            let text = tokenizer.decode(&ids, false).ok()?;
            let text = text.strip_prefix(skip)?;
            if text.contains('\u{fffd}') {
                byte_token(&form).and_then(|byte| given(vec![byte]))
            } else {
                given(text.into())
            }
        };
        Self {
            first: ids.par_iter().map(|&id| decoded(id, None)).collect(),
            later: ids.par_iter().map(|&id| decoded(id, anchor.as_ref())).collect(),
        }
    }
}

fn given(bytes: Vec<u8>) -> Option<Box<[u8]>> {
    (!bytes.is_empty()).then(|| bytes.into_boxed_slice())
}

/// Whether the decoder joins tokens by the byte-level alphabet.
fn is_byte_level(tokenizer: &TextTokenizer) -> bool {
    names_byte_level(tokenizer.inner.get_decoder())
}

/// Whether a part of a tokenizer is byte-level, or holds one that is.
pub(super) fn names_byte_level(part: Option<&impl Serialize>) -> bool {
    names(part, "ByteLevel")
}

/// Whether a part of a tokenizer is of a kind, or holds one that is.
pub(super) fn names(part: Option<&impl Serialize>, kind: &str) -> bool {
    fn holds(value: &Value, kind: &str) -> bool {
        match value {
            Value::Object(map) => {
                map.get("type").is_some_and(|found| found == kind) || map.values().any(|value| holds(value, kind))
            }
            Value::Array(items) => items.iter().any(|value| holds(value, kind)),
            _ => false,
        }
    }
    part.and_then(|part| serde_json::to_value(part).ok()).is_some_and(|json| holds(&json, kind))
}

/// The letters by which byte-level vocabularies write the 256 bytes: printable ones stand for themselves, the others
/// for the letters from U+0100 on (GPT-2).
fn byte_symbols() -> Vec<char> {
    let mut others = 256..;
    (0..256u32)
        .map(|byte| {
            let own = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            let code = if own { Some(byte) } else { others.next() };
            code.and_then(char::from_u32).unwrap_or('\0')
        })
        .collect()
}

/// A token's bytes; a token with other letters (an added one) stands for itself.
fn bytes_of(form: &str, symbols: &[char]) -> Vec<u8> {
    let byte = |letter: char| symbols.iter().position(|&symbol| symbol == letter).map(|at| at as u8);
    form.chars().map(byte).collect::<Option<Vec<u8>>>().unwrap_or_else(|| form.as_bytes().to_vec())
}

/// The byte that `<0xE2>` stands for.
fn byte_token(form: &str) -> Option<u8> {
    u8::from_str_radix(form.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

/// A token with its text that stays the same when another follows it.
fn anchor(tokenizer: &TextTokenizer, ids: &[u32]) -> Option<(u32, String)> {
    // Neighbouring bytes are decoded together, so that a byte stands for itself behind a word only.
    let is_byte = |id: u32| tokenizer.inner.id_to_token(id).is_none_or(|form| byte_token(&form).is_some());
    ids.iter().filter(|&&id| !tokenizer.is_special(id) && !is_byte(id)).find_map(|&id| {
        let text = tokenizer.decode(&[id], false).ok()?;
        let twice = tokenizer.decode(&[id, id], false).ok()?;
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (plain && twice.len() > text.len() && twice.starts_with(&text)).then_some((id, text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_those_of_gpt2() {
        let symbols = byte_symbols();
        assert_eq!((symbols[usize::from(b' ')], symbols[usize::from(b'\n')], symbols[0x41]), ('Ġ', 'Ċ', 'A'));
        assert_eq!(bytes_of("Ġan", &symbols), b" an");
        assert_eq!(bytes_of("Ã©", &symbols), "é".as_bytes());
        assert_eq!(bytes_of("漢", &symbols), "漢".as_bytes(), "an added token stands for itself");
        assert_eq!((byte_token("<0xE2>"), byte_token("<s>")), (Some(0xE2), None));
    }
}
