//! Generation in batches with a cache of keys and values.

mod automaton;
mod pattern;
mod sampler;
mod thinking;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use harness_core::{Control, Finish, Sampling, TopLogprob, cut_at_stops};
use pattern::Progress;
pub(crate) use pattern::{Pattern, Vocabulary};
use rayon::prelude::*;
use sampler::{Drawn, Sampler};
pub(crate) use thinking::ThinkEnd;

use crate::{
    EngineError, TextStream, TextTokenizer,
    schedule::{Forest, Limits, Sequence, Work},
};
use harness_decoder::{Decoder, KvBlock, Piece};

/// One prompt in tokens and how to go on from it.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    pub(crate) stop: Vec<String>,
    pub(crate) sampling: Sampling,
    /// What the whole text must match.
    pub(crate) pattern: Option<Arc<Pattern>>,
    /// How the model thinks before it answers.
    pub(crate) thinking: Option<ThinkEnd>,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Generated {
    /// All new tokens, the end-of-sequence token included.
    pub(crate) token_ids: Vec<u32>,
    pub(crate) token_logprobs: Vec<f32>,
    /// Decoded text before the first stop string, that of its answer where the model thinks.
    pub(crate) text: String,
    pub(crate) finish: Finish,
    /// The likeliest tokens at every place, where they were asked for.
    pub(crate) top_logprobs: Vec<Vec<TopLogprob>>,
}

/// What generations are made with.
#[derive(Clone, Copy)]
pub(crate) struct Generator<'a> {
    pub(crate) decoder: &'a Decoder,
    pub(crate) tokenizer: &'a TextTokenizer,
    pub(crate) end_tokens: &'a [u32],
    pub(crate) limits: Limits,
    /// Ends the work before the next pass through the decoder; what is not finished is lost.
    pub(crate) stop: &'a AtomicBool,
}

/// Who hears of progress.
pub(crate) trait Listener {
    /// New text of a generation, as it comes; stop strings are not cut yet. [`Control::Stop`] ends the work as
    /// [`Generator::stop`] does.
    fn text(&mut self, _index: usize, _text: &str) -> Control {
        Control::Continue
    }
    /// A finished generation, with the work done so far.
    fn done(&mut self, index: usize, generated: Generated, work: Work) -> Control;
}

/// A sequence that is being continued.
struct Active<'a> {
    index: usize,
    prompt: &'a Prompt,
    path: Vec<Arc<KvBlock>>,
    tail: Option<KvBlock>,
    sampler: Sampler,
    stream: TextStream<'a>,
    text: String,
    /// Whether an end of thinking has come.
    thought: bool,
    token_ids: Vec<u32>,
    token_logprobs: Vec<f32>,
    top: Vec<Vec<(u32, f32)>>,
    progress: Option<Progress<'a>>,
    finish: Option<Finish>,
}

impl<'a> Generator<'a> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Continues all prompts. Prompts that begin alike share what they begin with when they are generated together.
    ///
    /// # Errors
    /// If a token lies outside of the vocabulary, or the tokenizer fails.
    pub(crate) fn generate(&self, prompts: &'a [Prompt], listener: &mut dyn Listener) -> Result<Work, EngineError> {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        // Neighbours share most; the order is reversed because sequences are taken from the end.
        order.sort_by(|&a, &b| prompts[b].tokens.cmp(&prompts[a].tokens).then(b.cmp(&a)));
        let mut work = Work::default();
        let mut active: Vec<Active<'_>> = vec![];
        while !self.stopped() {
            let most = self.limits.batch_sequences;
            let free = most.max(1) - active.len();
            let room = active.is_empty() || free * 4 >= most;
            let group = if room { self.admit(prompts, &mut order, &active) } else { vec![] };
            // Only sequences with a new token are looked at: a prefill draws for the new ones alone.
            let drawn = if !group.is_empty() {
                let before = active.len();
                active.extend(self.prefill(prompts, &group, &mut work)?);
                before
            } else if active.is_empty() {
                return Ok(work);
            } else {
                self.step(&mut active, &mut work)?;
                0
            };
            for sequence in &mut active[drawn..] {
                if sequence.read(self.end_tokens, listener)? == Control::Stop {
                    return Ok(work);
                }
            }
            let (finished, going): (Vec<_>, Vec<_>) = active.into_iter().partition(|s| s.finish.is_some());
            active = going;
            for sequence in finished {
                let index = sequence.index;
                let generated = sequence.finish(self.tokenizer, self.end_tokens)?;
                if listener.done(index, generated, work) == Control::Stop {
                    return Ok(work);
                }
            }
        }
        Ok(work)
    }

    /// The next prompts that fit beside the active ones; at least one if nothing is active.
    fn admit(&self, prompts: &[Prompt], order: &mut Vec<usize>, active: &[Active<'_>]) -> Vec<usize> {
        let Self { decoder, limits, .. } = self;
        let need = |prompt: &Prompt| decoder.kv_bytes(prompt.tokens.len() + prompt.sampling.max_new_tokens);
        let mut bytes: usize = active.iter().map(|s| need(s.prompt)).sum();
        let mut group = vec![];
        while let Some(&next) = order.last() {
            bytes += need(&prompts[next]);
            let full = active.len() + group.len() >= limits.batch_sequences.max(1);
            if !(active.is_empty() && group.is_empty()) && (full || bytes > limits.kv_bytes) {
                break;
            }
            order.pop();
            group.push(next);
        }
        group
    }

    /// Computes the prompts of a group and draws the first token of each; of none if it is stopped.
    fn prefill(&self, prompts: &'a [Prompt], group: &[usize], work: &mut Work) -> Result<Vec<Active<'a>>, EngineError> {
        let Self { decoder, tokenizer, limits, .. } = *self;
        let sequences: Vec<Sequence> = group
            .iter()
            .map(|&index| {
                let tokens = prompts[index].tokens.clone();
                let n = tokens.len();
                Sequence { tokens, wanted: n - 1..n }
            })
            .collect();
        let forest = Forest::build(&sequences, decoder.longest_short()).prune();
        let width = decoder.base().config().hidden_size;
        let mut blocks: Vec<Option<Arc<KvBlock>>> = forest.nodes.iter().map(|_| None).collect();
        let mut last_states: Vec<Vec<f32>> = forest.nodes.iter().map(|_| vec![]).collect();
        let mut ready: Vec<usize> = forest.roots.iter().rev().copied().collect();
        while !ready.is_empty() {
            if self.stopped() {
                return Ok(vec![]);
            }
            let (mut batch, mut tokens) = (vec![], 0);
            while let Some(&node) = ready.last() {
                tokens += forest.nodes[node].span.len();
                if !batch.is_empty() && tokens > limits.batch_tokens {
                    break;
                }
                batch.push(node);
                ready.pop();
            }
            let mut pieces: Vec<Piece<'_>> = batch
                .iter()
                .map(|&id| {
                    let node = &forest.nodes[id];
                    let mut path = forest.path(id);
                    path.pop();
                    Piece {
                        tokens: &sequences[node.sequence].tokens[node.span.clone()],
                        path: path.iter().filter_map(|&ancestor| blocks[ancestor].as_deref()).collect(),
                        tail: Some(decoder.kv_block(node.span.len())),
                        wanted: node.wanted.clone(),
                        length: sequences[node.sequence].tokens.len(),
                    }
                })
                .collect();
            let hidden = decoder.forward(&mut pieces)?;
            work.computed_tokens += pieces.iter().map(|p| p.tokens.len() as u64).sum::<u64>();
            let tails: Vec<Option<KvBlock>> = pieces.into_iter().map(|p| p.tail).collect();
            let mut from = 0;
            for (&node, tail) in batch.iter().zip(tails) {
                blocks[node] = tail.map(Arc::new);
                let to = from + forest.nodes[node].wanted.len() * width;
                last_states[node] = hidden[from..to].to_vec();
                from = to;
            }
            for &node in batch.iter().rev() {
                ready.extend(forest.nodes[node].children.iter().rev());
            }
        }
        let mut states = Vec::with_capacity(group.len() * width);
        let mut begun: Vec<Active<'a>> = vec![];
        for (&index, (sequence, end)) in group.iter().zip(sequences.iter().zip(&forest.ends)) {
            let Some(end) = *end else { return Err(EngineError::EmptyPrompt) };
            let node = &forest.nodes[end];
            // The wanted rows of a node are all last rows of sequences; this sequence's is the node's last.
            debug_assert_eq!(node.span.end, sequence.tokens.len());
            states.extend_from_slice(&last_states[end][last_states[end].len() - width..]);
            let prompt = &prompts[index];
            begun.push(Active {
                index,
                prompt,
                path: forest.path(end).iter().filter_map(|&node| blocks[node].clone()).collect(),
                tail: Some(decoder.kv_block(0)),
                sampler: Sampler::new(&prompt.sampling, &prompt.tokens),
                stream: tokenizer.stream(true),
                text: String::new(),
                thought: false,
                token_ids: vec![],
                token_logprobs: vec![],
                top: vec![],
                progress: prompt.pattern.as_deref().map(Progress::new),
                finish: None,
            });
        }
        self.draw(&mut begun, &states, work)?;
        Ok(begun)
    }

    /// Computes the last token of every active sequence and draws the next.
    fn step(&self, active: &mut [Active<'_>], work: &mut Work) -> Result<(), EngineError> {
        let greedy = take_the_most_probable(active);
        let mut pieces: Vec<Piece<'_>> = active
            .iter_mut()
            .map(|sequence| Piece {
                tokens: &sequence.token_ids[sequence.token_ids.len() - 1..],
                path: sequence.path.iter().map(|block| &**block).collect(),
                tail: sequence.tail.take(),
                wanted: vec![0],
                length: sequence.prompt.tokens.len() + sequence.token_ids.len(),
            })
            .collect();
        let found = if greedy { self.decoder.forward_greedy(&mut pieces)? } else { None };
        let hidden = if found.is_some() { vec![] } else { self.decoder.forward(&mut pieces)? };
        work.computed_tokens += pieces.len() as u64;
        let tails: Vec<Option<KvBlock>> = pieces.into_iter().map(|p| p.tail).collect();
        for (sequence, tail) in active.iter_mut().zip(tails) {
            sequence.tail = tail;
        }
        match found {
            Some(found) => {
                work.scored_positions += active.len() as u64;
                active.iter_mut().zip(found).for_each(|(sequence, found)| sequence.push(found.into()));
                Ok(())
            }
            None => self.draw(active, &hidden, work),
        }
    }

    /// Draws a token for every sequence from its last hidden state.
    fn draw(&self, active: &mut [Active<'_>], states: &[f32], work: &mut Work) -> Result<(), EngineError> {
        let Self { decoder, end_tokens, .. } = *self;
        let vocab = decoder.vocab_size();
        work.scored_positions += active.len() as u64;
        let drawn: Vec<Drawn> = match if take_the_most_probable(active) { decoder.greedy(states)? } else { None } {
            Some(found) => found.into_iter().map(Drawn::from).collect(),
            None => decoder
                .logits(states)?
                .par_chunks_exact_mut(vocab)
                .zip(active.par_iter_mut())
                .map(|(logits, sequence)| {
                    let left = sequence.prompt.sampling.max_new_tokens.saturating_sub(sequence.token_ids.len());
                    let allowed = sequence.progress.as_ref().map(|progress| progress.allowed(left, end_tokens));
                    sequence.sampler.next(logits, allowed.as_deref())
                })
                .collect(),
        };
        active.iter_mut().zip(drawn).for_each(|(sequence, drawn)| sequence.push(drawn));
        Ok(())
    }
}

/// Whether the next token of every sequence is the most probable one, whatever the other logits are.
fn take_the_most_probable(active: &[Active<'_>]) -> bool {
    active.iter().all(|sequence| sequence.sampler.takes_the_most_probable())
}

impl Active<'_> {
    fn push(&mut self, drawn: Drawn) {
        self.token_ids.push(drawn.token);
        self.token_logprobs.push(drawn.logprob);
        if self.prompt.sampling.top_logprobs.is_some() {
            self.top.push(drawn.top);
        }
    }

    /// Looks at the token drawn last: is the sequence finished?
    fn read(&mut self, end_tokens: &[u32], listener: &mut dyn Listener) -> Result<Control, EngineError> {
        let mut control = Control::Continue;
        let token = self.token_ids[self.token_ids.len() - 1];
        if end_tokens.contains(&token) {
            self.finish = Some(Finish::EndOfSequence);
            return Ok(control);
        }
        let mark = self.prompt.thinking.as_ref().and_then(|thinking| thinking.special(token));
        let new = mark.map_or_else(|| self.stream.push(token), |mark| Ok(mark.to_owned()))?;
        if let Some(progress) = &mut self.progress {
            control = listener.text(self.index, &new);
            if progress.advance(token) {
                self.finish = Some(Finish::Stop);
            }
        } else if !new.is_empty() {
            control = listener.text(self.index, &new);
            let marks = self.prompt.thinking.as_ref().map(ThinkEnd::len);
            let longest = self.prompt.stop.iter().map(String::len).chain(marks).max().unwrap_or(0);
            let mut from = self.text.len().saturating_sub(longest);
            while !self.text.is_char_boundary(from) {
                from -= 1;
            }
            self.text.push_str(&new);
            let from = match &self.prompt.thinking {
                Some(thinking) => thinking.answer(&self.text, from, &mut self.thought),
                None => Some(from),
            };
            let recent = from.map_or("", |from| &self.text[from..]);
            if self.prompt.stop.iter().any(|stop| !stop.is_empty() && recent.contains(stop.as_str())) {
                self.finish = Some(Finish::Stop);
                return Ok(control);
            }
        }
        if self.finish.is_none() && self.token_ids.len() >= self.prompt.sampling.max_new_tokens {
            self.finish = Some(Finish::Length);
        }
        Ok(control)
    }

    fn finish(self, tokenizer: &TextTokenizer, end_tokens: &[u32]) -> Result<Generated, EngineError> {
        let given = match self.token_ids.split_last() {
            Some((last, rest)) if end_tokens.contains(last) => rest,
            _ => &self.token_ids[..],
        };
        let mut finish = self.finish.unwrap_or(Finish::Length);
        let mut text = match &self.prompt.thinking {
            Some(thinking) => thinking.decode(given, tokenizer)?,
            None => tokenizer.decode(given, true)?,
        };
        if let Some(pattern) = &self.prompt.pattern {
            if !pattern.matches(&text) {
                let expression = self.prompt.sampling.pattern.clone().unwrap_or_default();
                return Err(EngineError::PatternLost { expression, text });
            }
        } else if let Some(thinking) = &self.prompt.thinking {
            // A text without any mark is an answer after all, which ended at the stop string.
            if thinking.cut(&mut text, &self.prompt.stop) {
                finish = Finish::Stop;
            }
        } else {
            cut_at_stops(&mut text, &self.prompt.stop, None, false);
        }
        let top_logprobs = self.top.iter().enumerate().map(|(at, top)| readable(tokenizer, at, top)).collect();
        Ok(Generated { top_logprobs, text, finish, token_ids: self.token_ids, token_logprobs: self.token_logprobs })
    }
}

/// Likeliest tokens with their texts as they stand in a generation; tokens of equal text are one, with the sum of their
/// probabilities.
fn readable(tokenizer: &TextTokenizer, at: usize, top: &[(u32, f32)]) -> Vec<TopLogprob> {
    let mut found: Vec<TopLogprob> = vec![];
    for &(id, logprob) in top {
        let alone = if at == 0 && !tokenizer.is_special(id) { tokenizer.decode(&[id], false).ok() } else { None };
        let alone = alone.filter(|text| !text.is_empty() && !text.contains('\u{fffd}'));
        let token = alone.unwrap_or_else(|| tokenizer.token_text(id));
        match found.iter_mut().find(|other| other.token == token) {
            Some(other) => other.logprob = (other.logprob.exp() + logprob.exp()).ln().max(other.logprob),
            None => found.push(TopLogprob { token, logprob }),
        }
    }
    found.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    found
}
