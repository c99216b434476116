//! Decoding token by token.

use super::TextTokenizer;
use crate::EngineError;

/// Turns a growing sequence of token ids into a growing text.
///
/// Text is held back while it ends in an incomplete character. What was given out plus [`TextStream::finish`] is the
/// decoded text of the whole sequence.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    skip_special_tokens: bool,
    ids: Vec<u32>,
    /// First token of the window that is decoded; what lies before it cannot change the text any more.
    window: usize,
    /// First token whose text is not given out yet.
    pending: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a TextTokenizer, skip_special_tokens: bool) -> Self {
        Self { tokenizer, skip_special_tokens, ids: Vec::new(), window: 0, pending: 0 }
    }

    /// Adds one token and returns the text that it completes, often empty.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, EngineError> {
        self.ids.push(id);
        let text = self.new_text()?;
        if text.is_empty() || text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        // Tokens whose text is cut off at the beginning of a window do not begin one: more would be cut off after them.
        if !self.tokenizer.decode(&self.ids[self.pending..], self.skip_special_tokens)?.is_empty() {
            self.window = self.pending;
        }
        self.pending = self.ids.len();
        Ok(text)
    }

    /// The text still held back.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn finish(mut self) -> Result<String, EngineError> {
        let text = self.new_text()?;
        self.pending = self.ids.len();
        Ok(text)
    }

    /// All tokens so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Text of the pending tokens, decoded after the tokens of the window, which decide about a leading space.
    fn new_text(&self) -> Result<String, EngineError> {
        let before = self.tokenizer.decode(&self.ids[self.window..self.pending], self.skip_special_tokens)?;
        let whole = self.tokenizer.decode(&self.ids[self.window..], self.skip_special_tokens)?;
        Ok(whole.get(before.len()..).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_cut_off_at_the_beginning_is_cut_off_once() {
        for start in 0..4 {
            let decoder = json!([
                {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": start, "stop": 0},
            ]);
            let json = json!({
                "version": "1.0", "added_tokens": [], "decoder": {"type": "Sequence", "decoders": decoder},
                "model": {"type": "BPE", "vocab": {"_": 0, "a": 1, "__": 2}, "merges": []},
            });
            let tokenizer = TextTokenizer::from_json(&json.to_string(), None).unwrap();
            for ids in [[0, 1, 0, 1, 0], [1, 0, 0, 1, 1], [0, 0, 0, 0, 1], [1, 2, 0, 2, 1], [2, 2, 2, 2, 2]] {
                let mut stream = tokenizer.stream(false);
                let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
                text += &stream.finish().unwrap();
                assert_eq!(text, tokenizer.decode(&ids, false).unwrap(), "{start} {ids:?}");
            }
        }
    }
}
