//! Generations that are asked for while others are computed, as a server has them.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use harness_core::{Control, Response, Sampling, TopLogprob, Usage};

use super::{LoadedBase, LocalModel, check_maps, text_response};
use crate::{
    EngineError, TextTokenizer, encode_prompt,
    generate::{
        Fresh, Generated, Generator, Given, Listener, Model, Pace, Prompt, Source, ThinkEnd, readable, token_text,
    },
    schedule::Work,
};

/// What is continued.
#[derive(Clone, Copy, Debug)]
pub enum PromptText<'a> {
    /// A text, which gets the special tokens that a prompt begins with.
    Text(&'a str),
    /// Tokens as they are.
    Tokens(&'a [u32]),
}

/// A generation that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What is continued.
    pub prompt: PromptText<'a>,
    /// Strings that end the text.
    pub stop: &'a [String],
    /// How tokens are chosen; its `max_new_tokens` are not looked at.
    pub sampling: &'a Sampling,
    /// Most new tokens; `None` = as many as the context has room for, 0 only with `prompt_logprobs` or for the prompt alone.
    pub max_new_tokens: Option<usize>,
    /// Whether log-probabilities of the prompt's tokens are wanted, and how many of the likeliest at every place.
    pub prompt_logprobs: Option<usize>,
}

/// A generation that is ready for a queue.
#[derive(Clone, Debug)]
pub struct Prepared {
    prompt: Prompt,
    text: Arc<str>,
}

impl Prepared {
    /// The prompt's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The prompt's tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.prompt.tokens
    }

    /// The same for the model of this place among those of [`serve`].
    #[must_use]
    pub fn for_model(mut self, model: usize) -> Self {
        self.prompt.model = model;
        self
    }

    /// The same with another seed.
    #[must_use]
    pub fn with_seed(&self, seed: u64) -> Self {
        let mut other = self.clone();
        other.prompt.sampling.seed = seed;
        other
    }
}

/// A token as it stands in a text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextToken {
    /// Its text.
    pub token: String,
    /// Its id.
    pub id: u32,
    /// Where it begins, in bytes of the prompt or of the generated text.
    pub start: usize,
    /// Its log-probability under the model, before temperature and filters; `None` for the first token of a prompt.
    pub logprob: Option<f32>,
    /// The likeliest tokens in its place, best first, where they were asked for.
    pub top: Vec<TopLogprob>,
}

/// New text, with the tokens that begin in it. All pieces of a generation together are its text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextPiece {
    /// The text.
    pub text: String,
    /// The tokens.
    pub tokens: Vec<TextToken>,
}

/// Where generations come from and their texts go to. Each has a number, which the queue gives.
pub trait Queue: Sync {
    /// The next generation, if there is one now and it fits.
    fn next(&self, fits: &dyn Fn(&Prepared) -> bool) -> Option<(usize, Prepared)>;

    /// Called when nothing is left to do: waits until there may be a generation. False if none will come.
    fn wait(&self) -> bool;

    /// Whether somebody still wants a generation; asked before every pass. If not, its place is free at once.
    fn wants(&self, index: usize) -> bool;

    /// The prompt's tokens with their log-probabilities, where they were asked for; before any text.
    fn prompt(&self, index: usize, tokens: Vec<TextToken>);

    /// New text.
    fn text(&self, index: usize, piece: TextPiece);

    /// The end of a generation.
    fn done(&self, index: usize, response: Response);

    /// A generation that failed while others go on.
    fn failed(&self, index: usize, error: EngineError);
}

impl LocalModel {
    /// Prepares a generation for [`serve`].
    ///
    /// # Errors
    /// If the prompt is empty or does not fit into the context with the new tokens, a token id or the pattern is wrong, or
    /// the tokenizer fails.
    pub fn prepare(&self, ask: Ask<'_>) -> Result<Prepared, EngineError> {
        let base = self.base();
        let tokenizer = base.tokenizer();
        let (mut tokens, text) = match ask.prompt {
            PromptText::Text(text) => (encode_prompt(tokenizer, text, base.pair())?, text.to_owned()),
            PromptText::Tokens(ids) => {
                let known = base.model().config().vocab_size.min(self.decoder.vocab_size());
                if let Some(&id) = ids.iter().find(|&&id| id as usize >= known) {
                    return Err(EngineError::NoSuchToken { id, tokens: known });
                }
                (ids.to_vec(), tokenizer.decode(ids, true)?)
            }
        };
        if tokens.is_empty() {
            tokens.push(base.prefix().ok_or(EngineError::EmptyPrompt)?);
        }
        let (prompt, context) = (tokens.len(), base.model().max_length());
        let new = ask.max_new_tokens.unwrap_or(context.saturating_sub(prompt).max(1));
        if prompt.saturating_add(new) > context {
            return Err(EngineError::TooLong { prompt, new, context });
        }
        let sampling = Sampling { max_new_tokens: new, ..ask.sampling.clone() };
        let pattern = self.pattern(&sampling)?;
        let thinking = ThinkEnd::new(&text, &sampling, tokenizer).filter(|_| pattern.is_none());
        let (stop, scored) = (ask.stop.to_vec(), ask.prompt_logprobs);
        let prompt = Prompt { model: 0, tokens, stop, sampling, pattern, thinking, scored, known: vec![] };
        Ok(Prepared { prompt, text: text.into() })
    }
}

/// Answers what comes into a queue, with models over one base, until no more comes. Generations are admitted while others
/// are decoded; between two tokens of those at most `prompt_tokens` tokens of prompts are computed. No answer depends on
/// what else is in the queue.
///
/// # Errors
/// If the device fails; what is in flight is lost then.
///
/// # Panics
/// If there is no model.
pub fn serve(models: &[&LocalModel], queue: &dyn Queue, prompt_tokens: usize) -> Result<(), EngineError> {
    let LoadedBase { options, .. } = &**models[0].base();
    let parts = |model: &&LocalModel| (model.base().tokenizer().clone(), model.base().end_tokens.clone());
    let texts: Vec<(TextTokenizer, Vec<u32>)> = models.iter().map(parts).collect();
    let together: Vec<Model<'_>> = models
        .iter()
        .zip(&texts)
        .map(|(model, (tokenizer, end_tokens))| Model { decoder: &model.decoder, tokenizer, end_tokens })
        .collect();
    let (pace, stop) = (Pace::Latency { tokens: prompt_tokens.max(1) }, &AtomicBool::new(false));
    let (limits, drafting) = (options.limits, models[0].base().drafting());
    let generator = Generator { models: &together, limits, pace, drafting, stop };
    let bridge = Bridge { queue, models: &together, known: RefCell::default() };
    generator.generate(&mut &bridge, &mut &bridge)?;
    check_maps()
}

/// A queue as the generator knows it.
struct Bridge<'a> {
    queue: &'a dyn Queue,
    models: &'a [Model<'a>],
    /// The generations that are computed.
    known: RefCell<BTreeMap<usize, Known>>,
}

#[derive(Clone)]
struct Known {
    model: usize,
    prompt_tokens: usize,
    text: Arc<str>,
}

impl Bridge<'_> {
    fn tokenizer(&self, index: usize) -> &TextTokenizer {
        let model = self.known.borrow().get(&index).map_or(0, |known| known.model);
        self.models[model].tokenizer
    }
}

impl Source for &Bridge<'_> {
    fn next(&mut self, fits: &dyn Fn(&Prompt) -> bool) -> Option<(usize, Prompt)> {
        let (index, Prepared { prompt, text }) = self.queue.next(&|prepared| fits(&prepared.prompt))?;
        let known = Known { model: prompt.model, prompt_tokens: prompt.tokens.len(), text };
        self.known.borrow_mut().insert(index, known);
        Some((index, prompt))
    }

    fn wait(&mut self) -> bool {
        self.queue.wait()
    }

    fn wants(&self, index: usize) -> bool {
        let wanted = self.queue.wants(index);
        if !wanted {
            self.known.borrow_mut().remove(&index);
        }
        wanted
    }
}

impl Listener for &Bridge<'_> {
    fn prompt(&mut self, index: usize, tokens: &[u32], given: Vec<Given>) {
        let tokenizer = self.tokenizer(index);
        let text = self.known.borrow().get(&index).map(|known| Arc::clone(&known.text)).unwrap_or_default();
        let starts = starts(tokenizer, tokens, &text);
        let given = std::iter::once(None).chain(given.into_iter().map(Some));
        let tokens = tokens.iter().zip(starts).zip(given).map(|((&id, start), given)| {
            let (logprob, top) = given.map_or((None, vec![]), |given| (Some(given.logprob), given.top));
            let top = if top.is_empty() { vec![] } else { readable(tokenizer, 1, &top) };
            TextToken { token: tokenizer.token_text(id), id, start, logprob, top }
        });
        self.queue.prompt(index, tokens.collect());
    }

    fn text(&mut self, index: usize, fresh: Fresh<'_>) -> Control {
        let tokenizer = self.tokenizer(index);
        let token = |at: usize| TextToken {
            token: token_text(tokenizer, fresh.first + at, fresh.ids[at]),
            id: fresh.ids[at],
            start: fresh.starts[at],
            logprob: Some(fresh.logprobs[at]),
            top: fresh.top.get(at).map_or_else(Vec::new, |top| readable(tokenizer, fresh.first + at, top)),
        };
        let tokens = (0..fresh.ids.len()).map(token).collect();
        self.queue.text(index, TextPiece { text: fresh.text.to_owned(), tokens });
        Control::Continue
    }

    fn done(&mut self, index: usize, generated: Generated, _: Work) -> Control {
        let prompt_tokens = self.known.borrow_mut().remove(&index).map_or(0, |known| known.prompt_tokens);
        let usage = Usage { prompt_tokens, ..Usage::default() };
        self.queue.done(index, text_response(generated, usage));
        Control::Continue
    }

    fn failed(&mut self, index: usize, error: EngineError) -> Result<Control, EngineError> {
        self.known.borrow_mut().remove(&index);
        self.queue.failed(index, error);
        Ok(Control::Continue)
    }
}

/// Where the tokens of a text begin in it. A token that stands before the text, or that it does not show, has no length.
fn starts(tokenizer: &TextTokenizer, tokens: &[u32], text: &str) -> Vec<usize> {
    let mut stream = tokenizer.stream(false);
    let mut at = 0;
    let start = |&id: &u32| {
        let start = at;
        let new = stream.push(id).unwrap_or_default();
        at += if text[at..].starts_with(&new) { new.len() } else { 0 };
        start
    };
    tokens.iter().map(start).collect()
}
