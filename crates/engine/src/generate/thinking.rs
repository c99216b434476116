//! Thinking before the answer, in which stop strings end nothing.

use harness_core::{Finish, Sampling, begins_in_thinking, cut_at_stops, split_thinking, thinking_marks};

use crate::{EngineError, TextTokenizer};

/// How a generation marks the end of its thinking.
#[derive(Clone, Debug)]
pub(crate) struct ThinkEnd {
    mark: String,
    /// Whether the prompt opened the thinking.
    opened: bool,
    /// Marks that are special tokens, which decoding would leave out.
    special: Vec<(u32, String)>,
}

impl ThinkEnd {
    /// What a request says of it; `None` where the model does not think.
    pub(crate) fn new(prompt: &str, sampling: &Sampling, tokenizer: &TextTokenizer) -> Option<Self> {
        let mark = sampling.think_end.clone()?;
        let opened = begins_in_thinking(prompt, &mark, Finish::EndOfSequence);
        let id = |mark: String| Some((tokenizer.token_to_id(&mark).filter(|&id| tokenizer.is_special(id))?, mark));
        let special = thinking_marks(&mark).into_iter().filter_map(id).collect();
        Some(Self { mark, opened, special })
    }

    /// The text of a token that is a mark and special.
    pub(crate) fn special(&self, token: u32) -> Option<&str> {
        self.special.iter().find(|(id, _)| *id == token).map(|(_, mark)| mark.as_str())
    }

    /// The text of tokens, with marks that are special tokens in it.
    pub(crate) fn decode(&self, tokens: &[u32], tokenizer: &TextTokenizer) -> Result<String, EngineError> {
        let mut text = String::new();
        for part in tokens.split_inclusive(|&token| self.special(token).is_some()) {
            text.push_str(&tokenizer.decode(part, true)?);
            text.push_str(part.last().and_then(|&token| self.special(token)).unwrap_or_default());
        }
        Ok(text)
    }

    /// Where what is new since the byte `from` may hold a stop string: the answer's part of it; `None` while the model
    /// thinks. `ended` says, and is told, whether an end mark has come.
    pub(crate) fn answer(&self, text: &str, from: usize, ended: &mut bool) -> Option<usize> {
        *ended |= text[from..].contains(&self.mark);
        let start = ended.then(|| text.len() - split_thinking(text, &self.mark, self.opened).answer().len())?;
        Some(start.max(from))
    }

    /// Cuts a finished text; see [`cut_at_stops`].
    pub(crate) fn cut(&self, text: &mut String, stop: &[String]) -> bool {
        cut_at_stops(text, stop, Some(&self.mark), self.opened)
    }

    /// Bytes that the mark may stand across two pieces of text.
    pub(crate) fn len(&self) -> usize {
        self.mark.len()
    }
}

#[cfg(test)]
mod tests {
    use harness_test_support::workspace_root;

    use super::*;

    #[test]
    fn marks_that_are_special_tokens_stay_in_the_text() {
        let tokenizer = TextTokenizer::load(&workspace_root().join("models/tiny")).unwrap();
        let mark = tokenizer.eos().unwrap().clone();
        let sampling = Sampling { think_end: Some(mark.text.clone()), ..Sampling::default() };
        let thinking = ThinkEnd::new("The river", &sampling, &tokenizer).unwrap();
        let mut tokens = tokenizer.encode("It runs.", false).unwrap();
        tokens.push(mark.id);
        tokens.extend(tokenizer.encode("Yes.", false).unwrap());
        let mut text = thinking.decode(&tokens, &tokenizer).unwrap();
        assert_eq!(text, format!("It runs.{}Yes.", mark.text));
        assert!(!thinking.cut(&mut text, &["runs".to_owned()]) && thinking.cut(&mut text, &["s.".to_owned()]));
        assert_eq!(text, format!("It runs.{}Ye", mark.text));
        let mut ended = false;
        assert_eq!(thinking.answer("It runs.", 0, &mut ended), None);
        assert_eq!(thinking.answer(&text, 3, &mut ended), Some(text.len() - "Ye".len()));
    }
}
