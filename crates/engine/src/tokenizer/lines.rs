//! Encoding line by line, each line once.
//!
//! Requests of one task share most of their lines (description, few-shot examples, choices). Where a tokenizer always
//! splits between a line feed and what follows, the tokens of a text are those of its lines one after the other, and
//! lines can be remembered. Whether it does so is found out when it is loaded. How the line feeds themselves are split may
//! depend on what follows, so a line that is not the last is encoded, and remembered, with the first character behind it.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use tokenizers::{NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

/// Most bytes of remembered lines.
const CAPACITY: usize = 64 << 20;

/// Longest line that is remembered, in bytes.
const LONGEST: usize = 8 << 10;

/// Ends of a line as they occur before a line feed, and beginnings of the next one: letters, numbers, marks, symbols.
const LEFT: [&str; 12] = ["a\n", "a \n", "a\n\n", "1\n", ".\n", "\n", " \n", "'\n", "é\n", "中\n", "\t\n", "a\r\n"];
const RIGHT: [&str; 16] = ["b", "Bc", "1", "12", ".", "'s", "(", "_", "é", "中", "ж", "\u{301}", "🙂", "<", "=", "--"];

/// Remembered lines of a tokenizer that splits at their ends.
#[derive(Debug)]
pub(super) struct Lines {
    /// Special tokens before and after every text.
    around: (Vec<u32>, Vec<u32>),
    /// First characters of added tokens: these are cut out of a text before it is split, so no line begins with one.
    barred: Vec<char>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    inner: HashMap<Box<str>, Arc<[u32]>>,
    last: HashMap<Box<str>, Arc<[u32]>>,
    bytes: usize,
}

impl Lines {
    /// `None` where the tokenizer may not split at a line's end, or adds tokens elsewhere than around a text.
    pub(super) fn of(inner: &Tokenizer) -> Option<Self> {
        if !matches!(inner.get_normalizer(), None | Some(NormalizerWrapper::NFC(_))) {
            return None;
        }
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        if added.values().any(|token| token.lstrip || token.content.contains('\n')) {
            return None;
        }
        let ids = |text: &str, special: bool| Some(inner.encode_fast(text, special).ok()?.get_ids().to_vec());
        let (plain, special) = (ids("a", false)?, ids("a", true)?);
        let at = special.windows(plain.len().max(1)).position(|window| window == plain)?;
        let around = (special[..at].to_vec(), special[at + plain.len()..].to_vec());
        let pre_tokenizer = inner.get_pre_tokenizer()?;
        for left in LEFT {
            for right in RIGHT {
                let text = format!("{left}{right}");
                let mut split = PreTokenizedString::from(text.as_str());
                pre_tokenizer.pre_tokenize(&mut split).ok()?;
                let pieces = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
                let parted = pieces.iter().any(|(_, (start, _), _)| *start == left.len());
                let next: String = right.chars().take(1).collect();
                let mut whole = ids(&format!("{left}{next}"), false)?;
                let same = cut_end(&mut whole, &ids(&next, false)?)
                    && [whole, ids(right, false)?].concat() == ids(&text, false)?;
                if !parted || !same {
                    return None;
                }
            }
        }
        let mut barred: Vec<char> = added.values().filter_map(|token| token.content.chars().next()).collect();
        barred.sort_unstable();
        barred.dedup();
        Some(Self { around, barred, known: RwLock::default() })
    }

    /// Tokens of a text; `whole` encodes a piece that is not known. `None` where the text has one line only.
    pub(super) fn encode<E>(
        &self,
        text: &str,
        special: bool,
        whole: impl Fn(&str) -> Result<Vec<u32>, E>,
    ) -> Option<Result<Vec<u32>, E>> {
        let mut lines = split(text, &self.barred).peekable();
        let first = lines.next()?;
        lines.peek()?;
        let mut out: Vec<u32> = Vec::with_capacity(text.len() / 3);
        if special {
            out.extend(&self.around.0);
        }
        let mut fresh: Vec<(&str, bool, Vec<u32>)> = Vec::new();
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let (mut line, mut end) = (first, first.len());
            loop {
                // A line with the first character of the next one.
                let next = lines.next();
                let behind = next.and_then(|next| next.chars().next());
                let key = &text[end - line.len()..end + behind.map_or(0, char::len_utf8)];
                let remembered = if behind.is_none() { &known.last } else { &known.inner };
                match remembered.get(key) {
                    Some(ids) => out.extend(ids.iter()),
                    None => {
                        let mut ids = match whole(key) {
                            Ok(ids) => ids,
                            Err(error) => return Some(Err(error)),
                        };
                        if let Some(character) = behind {
                            match whole(character.encode_utf8(&mut [0; 4])) {
                                Ok(tail) if cut_end(&mut ids, &tail) => {}
                                _ => return None,
                            }
                        }
                        out.extend(&ids);
                        if key.len() <= LONGEST {
                            fresh.push((key, behind.is_none(), ids));
                        }
                    }
                }
                match next {
                    Some(next) => (line, end) = (next, end + next.len()),
                    None => break,
                }
            }
        }
        if special {
            out.extend(&self.around.1);
        }
        self.remember(fresh);
        Some(Ok(out))
    }

    fn remember(&self, fresh: Vec<(&str, bool, Vec<u32>)>) {
        if fresh.is_empty() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (line, last, ids) in fresh {
            let size = line.len() + 4 * ids.len() + 64;
            if known.bytes + size > CAPACITY {
                return;
            }
            let lines = if last { &mut known.last } else { &mut known.inner };
            if lines.insert(line.into(), ids.into()).is_none() {
                known.bytes += size;
            }
        }
    }
}

/// Takes tokens from the end; false where they are not there.
fn cut_end(ids: &mut Vec<u32>, tail: &[u32]) -> bool {
    let ends = ids.ends_with(tail);
    if ends {
        ids.truncate(ids.len() - tail.len());
    }
    ends
}

/// The pieces between line ends: each but the last ends in a line feed, and the next begins with no white space and none
/// of the barred characters.
fn split<'t>(text: &'t str, barred: &'t [char]) -> impl Iterator<Item = &'t str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = rest.match_indices('\n').map(|(at, _)| at + 1).find(|&at| {
            rest[at..].chars().next().is_some_and(|c| !c.is_whitespace() && !c.is_control() && !barred.contains(&c))
        });
        let (line, after) = rest.split_at(cut.unwrap_or(rest.len()));
        rest = after;
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_text_begins() {
        let lines: Vec<&str> = split("a\n\nb\n c\nd\n<e>\nf", &['<']).collect();
        assert_eq!(lines, ["a\n\n", "b\n c\n", "d\n<e>\n", "f"]);
        assert_eq!(split("", &[]).count(), 0);
        assert_eq!(split("\n", &[]).collect::<Vec<_>>(), ["\n"]);
    }
}
