//! Who hears of progress.

use harness_core::{Control, TopLogprob};

use super::prompt::{Generated, Given};
use crate::{EngineError, TextTokenizer, schedule::Work};

/// Hears of texts while they are generated.
pub(crate) trait Listener {
    /// What the model thinks of the tokens of a prompt from the second on, where that is wanted; before its text.
    fn prompt(&mut self, _index: usize, _tokens: &[u32], _given: Vec<Given>) {}

    /// New text of a generation; all of it put together is the finished text. What may turn out to belong to a stop string
    /// is held back until that is known. [`Control::Stop`] ends all work.
    fn text(&mut self, _index: usize, _fresh: Fresh<'_>) -> Control {
        Control::Continue
    }

    /// A finished generation, with the work done so far.
    fn done(&mut self, index: usize, generated: Generated, work: Work) -> Control;

    /// A generation that failed while others go on.
    ///
    /// # Errors
    /// The error, if it is to end all work.
    fn failed(&mut self, _index: usize, error: EngineError) -> Result<Control, EngineError> {
        Err(error)
    }
}

/// New text, and the tokens whose text begins in it. The end-of-sequence token has no text and is in none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh<'a> {
    pub(crate) text: &'a str,
    /// Place of the first of these tokens among all new ones.
    pub(crate) first: usize,
    /// Where the text of each of them begins, in bytes of the whole text.
    pub(crate) starts: &'a [usize],
    pub(crate) ids: &'a [u32],
    pub(crate) logprobs: &'a [f32],
    /// The likeliest tokens at each of these places, where they were asked for.
    pub(crate) top: &'a [Vec<(u32, f32)>],
}

/// Likeliest tokens with their texts as they stand in a generation; tokens of equal text are one, with the sum of their
/// probabilities.
pub(crate) fn readable(tokenizer: &TextTokenizer, at: usize, top: &[(u32, f32)]) -> Vec<TopLogprob> {
    let mut found: Vec<TopLogprob> = vec![];
    for &(id, logprob) in top {
        let token = token_text(tokenizer, at, id);
        match found.iter_mut().find(|other| other.token == token) {
            Some(other) => other.logprob = (other.logprob.exp() + logprob.exp()).ln().max(other.logprob),
            None => found.push(TopLogprob { token, logprob }),
        }
    }
    found.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    found
}

/// The text of a token at a place of a generation; a space that the first token only seems to begin with is left out.
pub(crate) fn token_text(tokenizer: &TextTokenizer, at: usize, id: u32) -> String {
    let alone = if at == 0 && !tokenizer.is_special(id) { tokenizer.decode(&[id], false).ok() } else { None };
    let alone = alone.filter(|text| !text.is_empty() && !text.contains('\u{fffd}'));
    alone.unwrap_or_else(|| tokenizer.token_text(id))
}
