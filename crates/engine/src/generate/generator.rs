//! The loop that admits prompts, computes them and draws tokens.

use std::{
    cell::LazyCell,
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use harness_core::Control;
use harness_decoder::KvBlock;

use super::{
    active::Active,
    draft::{Drafting, Drafts},
    filling::{Filling, Share},
    listener::Listener,
    model::Model,
    prompt::Prompt,
    source::Source,
    step::{begin, go_on, step},
};
use crate::{
    EngineError,
    schedule::{Limits, Work, shared},
};

/// Most tokens between two looks at what else is to be done, where nobody is to wait.
const BETWEEN: usize = 8;

/// What generations are made with.
#[derive(Clone, Copy)]
pub(crate) struct Generator<'a> {
    /// Models over one base, which share the places and the memory.
    pub(crate) models: &'a [Model<'a>],
    pub(crate) limits: Limits,
    pub(crate) pace: Pace,
    /// Whether tokens are drafted. No answer depends on it on the processor.
    pub(crate) drafting: Drafting,
    /// Ends the work before the next pass through the decoder; what is not finished is lost.
    pub(crate) stop: &'a AtomicBool,
}

/// When prompts are computed while others are decoded. No answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All ends as soon as possible: prompts are admitted when a quarter of the places is free, and computed at once.
    Throughput,
    /// Nobody waits for long: prompts are admitted when there is a place, and at most so many of their tokens are computed
    /// between two tokens of the sequences that are decoded.
    Latency {
        /// Tokens of prompts.
        tokens: usize,
    },
}

impl<'a> Generator<'a> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Continues all prompts of a source and returns the work of each model. Prompts that begin alike share what they begin
    /// with when they are admitted together.
    ///
    /// # Errors
    /// If a token lies outside of the vocabulary, or the tokenizer fails.
    pub(crate) fn generate(
        &self,
        source: &mut dyn Source,
        listener: &mut dyn Listener,
    ) -> Result<Vec<Work>, EngineError> {
        let mut work = vec![Work::default(); self.models.len()];
        let mut drafts = Drafts::new(self.drafting);
        let mut active: Vec<Active<'a>> = vec![];
        // Groups take turns, so that a short prompt does not wait for a long one that came before it.
        let mut filling: VecDeque<Filling<'a>> = VecDeque::new();
        while !self.stopped() {
            leave(&mut active, source, &mut drafts);
            filling.iter_mut().for_each(|group| group.retain(|index| source.wants(index)));
            filling.retain(|group| group.prompts().next().is_some());
            let admitted = self.admit(source, &active, &filling);
            for group in admitted.chunk_by(|a, b| a.1.model == b.1.model) {
                let begun = self.begun(group, &active);
                filling.push_back(Filling::new(group.to_vec(), self.models[group[0].1.model], begun)?);
            }
            if let Some(mut group) = filling.pop_front() {
                let work_of = &mut work[group.number()];
                let filled = group.advance(self.share(&active), work_of)?;
                let begun = begin(self.models, filled, &mut drafts, work_of)?;
                filling.push_back(group);
                let Some(going) = self.tell(begun, listener, &mut drafts, &work)? else { return Ok(work) };
                active.extend(going);
                if self.pace == Pace::Throughput || self.stopped() {
                    continue;
                }
            } else if active.is_empty() {
                if source.wait() {
                    continue;
                }
                return Ok(work);
            }
            leave(&mut active, source, &mut drafts);
            if !active.is_empty() {
                let control = self.step(&mut active, &mut drafts, &mut work, listener)?;
                if control == Control::Stop {
                    return Ok(work);
                }
                let Some(going) = self.tell(active, listener, &mut drafts, &work)? else { return Ok(work) };
                active = going;
            }
        }
        Ok(work)
    }

    /// The next prompts that fit beside those that are computed and decoded, by model; at least one if there are none.
    fn admit(
        &self,
        source: &mut dyn Source,
        active: &[Active<'_>],
        filling: &VecDeque<Filling<'_>>,
    ) -> Vec<(usize, Prompt)> {
        let most = self.limits.batch_sequences.max(1);
        let prompts = || active.iter().map(|s| &s.prompt).chain(filling.iter().flat_map(Filling::prompts));
        let mut count = prompts().count();
        let waits = !filling.is_empty() || (count > 0 && (most - count.min(most)) * 4 < most);
        if self.pace == Pace::Throughput && waits {
            return vec![];
        }
        // What is held and free is looked at where a prompt waits. A GPU that fails says so in the next pass.
        let room = LazyCell::new(|| {
            let limit = self.limits.kv_bytes.min(self.models[0].decoder.kv_room().unwrap_or(0));
            limit.saturating_sub(self.held(active, filling))
        });
        let (mut bytes, mut admitted): (usize, Vec<(usize, Prompt)>) = (0, vec![]);
        loop {
            let need = |prompt: &Prompt| {
                let before = admitted.last().map(|(_, last)| last).filter(|last| last.model == prompt.model);
                let shared = before.map_or(0, |last| shared(&last.tokens, &prompt.tokens));
                self.models[prompt.model].decoder.kv_bytes(prompt.positions() - shared)
            };
            let fits = |prompt: &Prompt| count == 0 || (count < most && bytes + need(prompt) <= *room);
            let Some((index, prompt)) = source.next(&fits) else { break };
            count += 1;
            bytes += need(&prompt);
            admitted.push((index, prompt));
        }
        admitted.sort_by_key(|(_, prompt)| prompt.model);
        admitted
    }

    /// Bytes of keys and values that sequences and prompts hold, or will. What they begin with in common counts once.
    fn held(&self, active: &[Active<'_>], filling: &VecDeque<Filling<'_>>) -> usize {
        let mut known = BTreeSet::new();
        let of_active = active.iter().map(|sequence| {
            let (mut own, mut held) = (sequence.prompt.positions(), 0);
            for block in sequence.path() {
                own -= block.len().min(own);
                held += if known.insert(Arc::as_ptr(block)) { block.len() } else { 0 };
            }
            self.models[sequence.prompt.model].decoder.kv_bytes(own + held)
        });
        let of_filling = filling.iter().map(|group| group.model.decoder.kv_bytes(group.positions()));
        of_active.sum::<usize>() + of_filling.sum::<usize>()
    }

    /// Keys and values that a sequence of the same model has of what all these prompts begin with: the longest such run of whole
    /// blocks, so that what prompts share is computed once although they come one after the other.
    fn begun(&self, group: &[(usize, Prompt)], active: &[Active<'_>]) -> Vec<Arc<KvBlock>> {
        let first = &group[0].1;
        // Tokens that are scored are computed; positions of long inputs can be others.
        let whole = group.iter().any(|(_, prompt)| prompt.scored.is_some());
        if whole || self.models[first.model].decoder.longest_short() != usize::MAX {
            return vec![];
        }
        let common = |(_, prompt): &(usize, Prompt)| {
            shared(&first.tokens, &prompt.tokens).min(prompt.tokens.len().saturating_sub(1))
        };
        let common = group.iter().map(common).min().unwrap_or(0);
        let mut found: (usize, &[Arc<KvBlock>]) = (0, &[]);
        for sequence in active.iter().filter(|sequence| sequence.prompt.model == first.model) {
            let same = shared(&first.tokens[..common], &sequence.prompt.tokens);
            let (mut tokens, mut blocks) = (0, 0);
            while let Some(block) = sequence.path().get(blocks).filter(|block| tokens + block.len() <= same) {
                (tokens, blocks) = (tokens + block.len(), blocks + 1);
            }
            if tokens > found.0 {
                found = (tokens, &sequence.path()[..blocks]);
            }
        }
        found.1.to_vec()
    }

    /// How much of a prompt the next pass computes.
    fn share(&self, active: &[Active<'_>]) -> Share {
        match self.pace {
            Pace::Throughput => Share { tokens: self.limits.batch_tokens, split: false },
            Pace::Latency { tokens } if active.is_empty() => {
                Share { tokens: self.limits.batch_tokens.max(tokens), split: true }
            }
            Pace::Latency { tokens } => Share { tokens, split: true },
        }
    }

    /// Computes the last token of every sequence, and what is drafted after it, and draws the next ones: several of each
    /// where the decoder goes on by itself, whose texts but for the last ones are told.
    fn step(
        &self,
        active: &mut [Active<'_>],
        drafts: &mut Drafts,
        work: &mut [Work],
        listener: &mut dyn Listener,
    ) -> Result<Control, EngineError> {
        active.sort_by_key(|sequence| sequence.prompt.model);
        let before: Vec<usize> = active.iter().map(|sequence| sequence.token_ids().len()).collect();
        let sequences = active.iter_mut();
        drafts.propose(
            before.len(),
            sequences.filter_map(|sequence| {
                let decoder = self.models[sequence.prompt.model].decoder;
                sequence.current(decoder)
            }),
        );
        active.iter_mut().for_each(Active::prepare);
        let rows = active.iter().map(Active::rows).sum();
        let start = Instant::now();
        let (mut control, mut more) = (
            Control::Continue,
            match self.pace {
                Pace::Throughput => usize::MAX,
                Pace::Latency { .. } => BETWEEN,
            },
        );
        let went_on = go_on(self.models, active, more, &mut |active| {
            more -= 1;
            for sequence in active {
                let index = sequence.index;
                if control == Control::Continue
                    && more > 0
                    && let Some(fresh) = sequence.fresh()
                {
                    control = listener.text(index, fresh);
                }
            }
            more > 0 && control == Control::Continue && !self.stopped()
        })?;
        if !went_on {
            step(self.models, active)?;
        }
        drafts.took(rows, start.elapsed().as_secs_f64());
        for (sequence, before) in active.iter().zip(before) {
            let (drawn, work) = (&sequence.token_ids()[before..], &mut work[sequence.prompt.model]);
            work.computed_tokens += drawn.len() as u64;
            work.scored_positions += drawn.len() as u64;
            work.drafted_tokens += sequence.rows() as u64 - 1;
            work.accepted_tokens += (drawn.len() as u64 - 1).min(sequence.rows() as u64 - 1);
            if let Some(drafter) = &sequence.drafter {
                drafts.learn(drafter, drawn);
            }
        }
        Ok(control)
    }

    /// Hands on what the tokens drawn last say, and returns the sequences that go on; `None` if the listener wants no more.
    fn tell(
        &self,
        drawn: Vec<Active<'a>>,
        listener: &mut dyn Listener,
        drafts: &mut Drafts,
        work: &[Work],
    ) -> Result<Option<Vec<Active<'a>>>, EngineError> {
        let mut going = Vec::with_capacity(drawn.len());
        for mut sequence in drawn {
            let index = sequence.index;
            let tokenizer = self.models[sequence.prompt.model].tokenizer;
            if let Some(given) = sequence.given.take() {
                listener.prompt(index, &sequence.prompt.tokens, given);
            }
            let failure = sequence.failure.take();
            if let Some(drafter) = sequence.drafter.as_ref().filter(|_| failure.is_some() || sequence.finish.is_some())
            {
                drafts.end(drafter, sequence.token_ids(), sequence.token_logprobs());
            }
            let read = match (failure, sequence.finish) {
                (Some(error), _) => Err(error),
                (None, Some(_)) => sequence.conclude(tokenizer),
                (None, None) => Ok(()),
            };
            if let Err(error) = read {
                if listener.failed(index, error)? == Control::Stop {
                    return Ok(None);
                }
                continue;
            }
            if let Some(fresh) = sequence.fresh()
                && listener.text(index, fresh) == Control::Stop
            {
                return Ok(None);
            }
            if sequence.finish.is_none() {
                going.push(sequence);
            } else if listener.done(index, sequence.generated(tokenizer), work.iter().copied().sum()) == Control::Stop {
                return Ok(None);
            }
        }
        Ok(Some(going))
    }
}

/// Frees the places of sequences that nobody wants any more.
fn leave(active: &mut Vec<Active<'_>>, source: &dyn Source, drafts: &mut Drafts) {
    for sequence in active.extract_if(.., |sequence| !source.wants(sequence.index)) {
        if let Some(drafter) = &sequence.drafter {
            drafts.end(drafter, sequence.token_ids(), sequence.token_logprobs());
        }
    }
}
