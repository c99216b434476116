//! A sequence that is being continued.

use std::sync::Arc;

use harness_core::{Finish, before_a_beginning, cut_at_stops};
use harness_decoder::{Decoder, Draw, KvBlock, Piece};

use super::{
    draft::{Current, Drafter},
    listener::{Fresh, readable},
    pattern::Progress,
    prompt::{Generated, Given, Prompt},
    sampler::{Drawn, Sampler},
    thinking::ThinkEnd,
};
use crate::{EngineError, TextStream, TextTokenizer};

/// A sequence that is being continued: its keys and values, and its text so far.
pub(super) struct Active<'a> {
    pub(super) index: usize,
    pub(super) prompt: Prompt,
    path: Vec<Arc<KvBlock>>,
    tail: Option<KvBlock>,
    sampler: Sampler,
    stream: TextStream<'a>,
    text: String,
    /// Bytes of the text that were told, and the tokens that begin in them.
    told: usize,
    told_tokens: usize,
    /// Where a stop string stands in what may be thinking or answer: nothing from here on is told until that is known.
    doubtful: Option<usize>,
    /// Whether an end of thinking has come.
    thought: bool,
    token_ids: Vec<u32>,
    token_logprobs: Vec<f32>,
    top: Vec<Vec<(u32, f32)>>,
    /// Where the text of each token begins.
    starts: Vec<usize>,
    /// Tokens but for the one that ends the sequence.
    spoken: usize,
    progress: Option<Progress>,
    pub(super) finish: Option<Finish>,
    /// What the model thinks of the prompt's tokens, until it is told.
    pub(super) given: Option<Vec<Given>>,
    /// What is computed next: the token drawn last, and what is drafted after it.
    pending: Vec<u32>,
    pub(super) drafter: Option<Drafter>,
    /// Why the text could not be read.
    pub(super) failure: Option<EngineError>,
}

/// What of a sequence is computed while it is used.
pub(super) struct Lent {
    token: Vec<u32>,
    path: Vec<Arc<KvBlock>>,
    tail: Option<KvBlock>,
    length: usize,
}

impl Lent {
    pub(super) fn piece(&mut self) -> Piece<'_> {
        Piece {
            tokens: &self.token,
            path: self.path.iter().map(|block| &**block).collect(),
            tail: self.tail.take(),
            wanted: vec![0],
            length: self.length,
        }
    }
}

impl<'a> Active<'a> {
    /// A sequence whose prompt is computed: its keys and values are `path`.
    pub(super) fn new(
        index: usize,
        prompt: Prompt,
        path: Vec<Arc<KvBlock>>,
        decoder: &Decoder,
        tokenizer: &'a TextTokenizer,
    ) -> Self {
        Self {
            index,
            path,
            tail: Some(decoder.kv_block(0)),
            sampler: Sampler::new(&prompt.sampling, &prompt.tokens),
            stream: tokenizer.stream(true),
            text: String::new(),
            told: 0,
            told_tokens: 0,
            doubtful: None,
            thought: false,
            token_ids: vec![],
            token_logprobs: vec![],
            top: vec![],
            starts: vec![],
            spoken: 0,
            progress: prompt.pattern.clone().map(Progress::new),
            finish: None,
            given: None,
            pending: vec![],
            drafter: None,
            failure: None,
            prompt,
        }
    }

    /// The keys and values that it goes on from, which others may share.
    pub(super) fn path(&self) -> &[Arc<KvBlock>] {
        &self.path
    }

    /// Whether the next token is the most probable one, whatever the other logits are.
    pub(super) fn takes_the_most_probable(&self) -> bool {
        self.sampler.takes_the_most_probable()
    }

    /// The sequence as drafts look at it. `longest_short` is the longest input whose positions are those of shorter ones:
    /// a pass stays on one side of it.
    pub(super) fn current(&mut self, decoder: &Decoder) -> Option<Current<'_>> {
        let length = self.length();
        let new = self.prompt.sampling.max_new_tokens.saturating_sub(self.token_ids.len() + 1);
        let short = decoder.longest_short().checked_sub(length).unwrap_or(usize::MAX);
        let (tokens, logprobs) = (&self.token_ids[..], &self.token_logprobs[..]);
        let drafter = self.drafter.as_mut()?;
        Some(Current { drafter, tokens, logprobs, most: new.min(short), vocab: decoder.vocab_size() })
    }

    /// Makes the token drawn last, and the draft, what is computed next.
    pub(super) fn prepare(&mut self) {
        self.pending.clear();
        self.pending.extend(self.token_ids.last());
        self.pending.extend(self.drafter.iter().flat_map(Drafter::drafted));
    }

    /// Tokens of prompt and text.
    fn length(&self) -> usize {
        self.prompt.tokens.len() + self.token_ids.len()
    }

    /// Rows that the next pass computes of it; of a prompt it is the last one.
    pub(super) fn rows(&self) -> usize {
        self.pending.len().max(1)
    }

    /// What is to be computed; the tail is lent until [`Active::give_back`].
    pub(super) fn piece(&mut self) -> Piece<'_> {
        Piece {
            tokens: &self.pending,
            path: self.path.iter().map(|block| &**block).collect(),
            tail: self.tail.take(),
            wanted: (0..self.pending.len()).collect(),
            length: self.length(),
        }
    }

    /// Takes back the tail of [`Active::piece`].
    pub(super) fn give_back(&mut self, tail: Option<KvBlock>) {
        self.tail = tail;
    }

    /// The token drawn last, to be computed while the sequence is used; the tail is lent until [`Active::give_back`].
    pub(super) fn lend(&mut self) -> Lent {
        Lent {
            token: self.token_ids.last().copied().into_iter().collect(),
            path: self.path.clone(),
            tail: self.tail.take(),
            length: self.length(),
        }
    }

    /// New tokens that are still wanted.
    pub(super) fn left(&self) -> usize {
        self.prompt.sampling.max_new_tokens.saturating_sub(self.token_ids.len())
    }

    /// What the next tokens are drawn with, where the decoder draws them.
    pub(super) fn ahead(&self, steps: usize) -> Option<Draw> {
        self.sampler.ahead(steps)
    }

    /// Counts a token that the decoder drew.
    pub(super) fn took(&mut self, token: u32) {
        self.sampler.took(token);
    }

    /// Draws the next tokens from their logits, which are lost: one, and more as long as they are what was drafted.
    pub(super) fn draw(&mut self, logits: &mut [f32], vocab: usize, end_tokens: &[u32]) {
        let mut rows = 0;
        for logits in logits.chunks_exact_mut(vocab) {
            let left = self.prompt.sampling.max_new_tokens.saturating_sub(self.token_ids.len());
            let allowed = self.progress.as_ref().map(|progress| progress.allowed(left, end_tokens));
            let drawn = self.sampler.next(logits, allowed.as_deref());
            rows += 1;
            if !self.goes_on(drawn, rows, end_tokens) {
                break;
            }
        }
        self.keep(rows);
    }

    /// Takes the most probable tokens for the next ones: one, and more as long as they are what was drafted.
    pub(super) fn take(&mut self, found: &[(u32, f32)], end_tokens: &[u32]) {
        let mut rows = 0;
        for &found in found {
            rows += 1;
            if !self.goes_on(found.into(), rows, end_tokens) {
                break;
            }
        }
        self.keep(rows);
    }

    /// Goes on with a token, the one after the first `rows` that were computed; whether the row after it stands for what
    /// was drawn.
    fn goes_on(&mut self, drawn: Drawn, rows: usize, end_tokens: &[u32]) -> bool {
        let token = drawn.token;
        self.push(drawn);
        self.failure = self.read(end_tokens).err();
        self.failure.is_none() && self.finish.is_none() && self.pending.get(rows) == Some(&token)
    }

    /// Drops the positions of what was drafted and not drawn, after as many rows as were right.
    fn keep(&mut self, rows: usize) {
        let wrong = self.pending.len().saturating_sub(rows);
        if let Some(tail) = self.tail.as_mut().filter(|_| wrong > 0) {
            tail.drop_last(wrong);
        }
    }

    /// Tokens that were drawn.
    pub(super) fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    /// How likely the model found each of them.
    pub(super) fn token_logprobs(&self) -> &[f32] {
        &self.token_logprobs
    }

    fn push(&mut self, drawn: Drawn) {
        self.token_ids.push(drawn.token);
        self.token_logprobs.push(drawn.logprob);
        if self.prompt.sampling.top_logprobs.is_some() {
            self.top.push(drawn.top);
        }
    }

    /// Looks at the token drawn last: is the sequence finished?
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    fn read(&mut self, end_tokens: &[u32]) -> Result<(), EngineError> {
        self.starts.push(self.text.len());
        let token = self.token_ids[self.token_ids.len() - 1];
        if end_tokens.contains(&token) {
            self.finish = Some(Finish::EndOfSequence);
            return Ok(());
        }
        self.spoken = self.token_ids.len();
        let mark = self.prompt.thinking.as_ref().and_then(|thinking| thinking.special(token));
        let new = mark.map_or_else(|| self.stream.push(token), |mark| Ok(mark.to_owned()))?;
        if let Some(progress) = &mut self.progress {
            self.text.push_str(&new);
            if progress.advance(token) {
                self.finish = Some(Finish::Stop);
            }
        } else if !new.is_empty() && self.stops_in(&new) {
            self.finish = Some(Finish::Stop);
        }
        if self.finish.is_none() && self.token_ids.len() >= self.prompt.sampling.max_new_tokens {
            self.finish = Some(Finish::Length);
        }
        Ok(())
    }

    /// Adds new text; whether a stop string ends it.
    fn stops_in(&mut self, new: &str) -> bool {
        let marks = self.prompt.thinking.as_ref().map(ThinkEnd::len);
        let longest = self.prompt.stop.iter().map(String::len).chain(marks).max().unwrap_or(0);
        let mut from = self.text.len().saturating_sub(longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text.push_str(new);
        let answer = match &self.prompt.thinking {
            Some(thinking) => thinking.answer(&self.text, from, &mut self.thought),
            None => Some(from),
        };
        let stops = || self.prompt.stop.iter().filter(|stop| !stop.is_empty());
        match answer {
            Some(from) => {
                self.doubtful = None;
                stops().any(|stop| self.text[from..].contains(stop.as_str()))
            }
            None => {
                let first = stops().filter_map(|stop| self.text[from..].find(stop.as_str())).min();
                self.doubtful = self.doubtful.or(first.map(|at| from + at));
                false
            }
        }
    }

    /// Text that is certain and was not told yet, with its tokens.
    pub(super) fn fresh(&mut self) -> Option<Fresh<'_>> {
        let mut end = self.doubtful.unwrap_or(self.text.len());
        if self.finish.is_none() && self.progress.is_none() {
            end = end.min(before_a_beginning(&self.text, &self.prompt.stop));
        }
        let from = self.told;
        self.told = from.max(end);
        let text = self.text.get(from..end).filter(|text| !text.is_empty())?;
        let first = self.told_tokens;
        let begun = self.starts[first..self.spoken].iter().take_while(|&&start| start < end).count();
        self.told_tokens += begun;
        let tokens = first..self.told_tokens;
        Some(Fresh {
            text,
            first,
            starts: &self.starts[tokens.clone()],
            ids: &self.token_ids[tokens.clone()],
            logprobs: &self.token_logprobs[tokens.clone()],
            top: self.top.get(tokens).unwrap_or_default(),
        })
    }

    /// Decodes the text of a finished sequence and cuts it at its stop strings; what [`Active::fresh`] has not
    /// told is certain then.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails, or the text does not match its pattern.
    pub(super) fn conclude(&mut self, tokenizer: &TextTokenizer) -> Result<(), EngineError> {
        let spoken = &self.token_ids[..self.spoken];
        let mut text = match &self.prompt.thinking {
            Some(thinking) => thinking.decode(spoken, tokenizer)?,
            None => tokenizer.decode(spoken, true)?,
        };
        if let Some(pattern) = &self.prompt.pattern {
            if !pattern.matches(&text) {
                let expression = self.prompt.sampling.pattern.clone().unwrap_or_default();
                return Err(EngineError::PatternLost { expression, text });
            }
        } else if let Some(thinking) = &self.prompt.thinking {
            // A text without any mark is an answer after all, which ended at the stop string.
            if thinking.cut(&mut text, &self.prompt.stop) {
                self.finish = Some(Finish::Stop);
            }
        } else {
            cut_at_stops(&mut text, &self.prompt.stop, None, false);
        }
        (self.text, self.doubtful) = (text, None);
        Ok(())
    }

    /// The finished generation, after [`Active::conclude`].
    pub(super) fn generated(self, tokenizer: &TextTokenizer) -> Generated {
        let top_logprobs = self.top.iter().enumerate().map(|(at, top)| readable(tokenizer, at, top)).collect();
        Generated {
            top_logprobs,
            text: self.text,
            finish: self.finish.unwrap_or(Finish::Length),
            token_ids: self.token_ids,
            token_logprobs: self.token_logprobs,
        }
    }
}
