//! Prompts that are being computed.

use std::sync::Arc;

use harness_decoder::{KvBlock, Piece};
use harness_kernels::cpu::logits::{log_prob, log_sum_exp};
use rayon::prelude::*;

use super::{
    model::{Filled, Model},
    prompt::{Given, Prompt},
    sampler::likeliest,
};
use crate::{
    EngineError,
    schedule::{Forest, Sequence, Work},
};

/// Rows whose logits are computed together.
const LOGIT_ROWS: usize = 64;

/// How many tokens one pass computes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) tokens: usize,
    /// Whether a longer run is computed in several passes; otherwise it is a pass of its own.
    pub(super) split: bool,
}

/// Prompts of one model that were admitted together, as far as they are computed. What they begin with in common is computed once.
pub(super) struct Filling<'a> {
    pub(super) model: Model<'a>,
    /// Those that wait for their keys and values.
    prompts: Vec<Option<(usize, Prompt)>>,
    /// Keys and values of what all of them begin with, where sequences that are decoded have them.
    begun: Vec<Arc<KvBlock>>,
    /// Their tokens behind that.
    sequences: Vec<Sequence>,
    forest: Forest,
    nodes: Vec<Node>,
    /// Nodes whose ancestors are computed, the next one last.
    ready: Vec<usize>,
    /// What the model thinks of the tokens of prompts whose tokens are scored, from the second on.
    given: Vec<Vec<Given>>,
}

/// A node of the forest.
struct Node {
    /// Prompts that end here.
    ends: Vec<usize>,
    /// Prompts that pass through or end here, and still wait.
    waiting: usize,
    /// Of those that pass through or end here the ones whose tokens are scored.
    scored: Vec<usize>,
    /// Tokens computed.
    computed: usize,
    /// Their keys and values: of some of the tokens, then of all.
    tail: Option<KvBlock>,
    block: Option<Arc<KvBlock>>,
}

impl<'a> Filling<'a> {
    /// Begins with prompts, of which nothing is computed yet but what all begin with: `begun`.
    ///
    /// # Errors
    /// If a prompt is empty.
    pub(super) fn new(
        prompts: Vec<(usize, Prompt)>,
        model: Model<'a>,
        begun: Vec<Arc<KvBlock>>,
    ) -> Result<Self, EngineError> {
        let from: usize = begun.iter().map(|block| block.len()).sum();
        let sequence = |(_, prompt): &(usize, Prompt)| {
            let tokens = prompt.tokens[from..].to_vec();
            let n = tokens.len();
            let first = if prompt.scored.is_some() { 0 } else { n.saturating_sub(1) };
            Sequence { tokens, wanted: first..n }
        };
        let sequences: Vec<Sequence> = prompts.iter().map(sequence).collect();
        let forest = Forest::build(&sequences, model.decoder.longest_short()).prune();
        let node = |_| Node { ends: vec![], waiting: 0, scored: vec![], computed: 0, tail: None, block: None };
        let mut nodes: Vec<Node> = forest.nodes.iter().map(node).collect();
        for (at, end) in forest.ends.iter().enumerate() {
            let end = end.ok_or(EngineError::EmptyPrompt)?;
            nodes[end].ends.push(at);
            let is_scored = prompts[at].1.scored.is_some();
            for node in forest.path(end) {
                nodes[node].waiting += 1;
                nodes[node].scored.extend(is_scored.then_some(at));
            }
        }
        let ready = forest.roots.iter().rev().copied().collect();
        let given = prompts.iter().map(|_| vec![]).collect();
        let prompts = prompts.into_iter().map(Some).collect();
        Ok(Self { model, prompts, begun, sequences, forest, nodes, ready, given })
    }

    /// Which of the models goes on from its prompts.
    pub(super) fn number(&self) -> usize {
        self.prompts().next().map_or(0, |prompt| prompt.model)
    }

    /// The prompts that wait.
    pub(super) fn prompts(&self) -> impl Iterator<Item = &Prompt> {
        self.prompts.iter().flatten().map(|(_, prompt)| prompt)
    }

    /// Positions of what the prompts that wait begin with, what they share once, and of what follows them.
    pub(super) fn positions(&self) -> usize {
        let nodes = self.nodes.iter().zip(&self.forest.nodes).filter(|(node, _)| node.waiting > 0);
        let begun: usize = self.begun.iter().map(|block| block.len()).sum();
        begun
            + nodes.map(|(_, node)| node.span.len()).sum::<usize>()
            + self.prompts().map(|prompt| prompt.positions() - prompt.tokens.len()).sum::<usize>()
    }

    /// Leaves out prompts that nobody wants any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(usize) -> bool) {
        for at in 0..self.prompts.len() {
            if self.prompts[at].take_if(|(index, _)| !wanted(*index)).is_some() {
                self.release(at);
            }
        }
    }

    /// Computes one pass and returns the prompts that it completes.
    ///
    /// # Errors
    /// If a token lies outside of the vocabulary, or a GPU fails.
    pub(super) fn advance(&mut self, share: Share, work: &mut Work) -> Result<Vec<Filled>, EngineError> {
        let decoder = self.model.decoder;
        let batch = self.next_batch(share);
        if batch.is_empty() {
            return Ok(vec![]);
        }
        let tail = |node: &mut Node, length| node.tail.take().unwrap_or_else(|| decoder.kv_block(length));
        let tails: Vec<KvBlock> =
            batch.iter().map(|&(id, _)| tail(&mut self.nodes[id], self.forest.nodes[id].span.len())).collect();
        let mut pieces: Vec<Piece<'_>> =
            batch.iter().zip(tails).map(|(&(id, count), tail)| self.piece(id, count, tail)).collect();
        let hidden = decoder.forward(&mut pieces)?;
        work.computed_tokens += pieces.iter().map(|piece| piece.tokens.len() as u64).sum::<u64>();
        let computed: Vec<(Option<KvBlock>, usize)> =
            pieces.into_iter().map(|piece| (piece.tail, piece.wanted.len())).collect();
        let width = decoder.base().config().hidden_size;
        let (mut hidden, mut filled) = (hidden.as_slice(), vec![]);
        for (&(id, count), (tail, wanted)) in batch.iter().zip(computed) {
            let states;
            (states, hidden) = hidden.split_at(wanted * width);
            self.score(id, states, work)?;
            // If a prompt ends in the node, the last row is wanted.
            let state = states.chunks_exact(width).last();
            let node = &mut self.nodes[id];
            node.computed += count;
            if node.computed < self.forest.nodes[id].span.len() {
                node.tail = tail;
                continue;
            }
            node.block = tail.map(Arc::new);
            for at in std::mem::take(&mut node.ends) {
                let (Some((index, prompt)), Some(state)) = (self.prompts[at].take(), state) else { continue };
                let own = self.forest.path(id).into_iter().filter_map(|node| self.nodes[node].block.clone());
                let path = self.begun.iter().cloned().chain(own).collect();
                let given = prompt.scored.map(|_| std::mem::take(&mut self.given[at]));
                filled.push(Filled { index, prompt, path, state: state.to_vec(), given });
                self.release(at);
            }
        }
        for &(id, _) in batch.iter().rev() {
            if self.nodes[id].computed < self.forest.nodes[id].span.len() {
                self.ready.push(id);
            } else {
                self.ready.extend(self.forest.nodes[id].children.iter().rev());
            }
        }
        Ok(filled)
    }

    /// Notes what the model thinks of the tokens after the next rows of a node, whose states these are, for the prompts
    /// whose tokens are scored.
    fn score(&mut self, id: usize, states: &[f32], work: &mut Work) -> Result<(), EngineError> {
        let (node, span) = (&self.nodes[id], &self.forest.nodes[id].span);
        let scored = || node.scored.iter().filter_map(|&at| Some((at, self.prompts[at].as_ref()?.1.scored?)));
        let Some(most) = scored().map(|(_, top)| top).max() else { return Ok(()) };
        let decoder = self.model.decoder;
        let (width, vocab) = (decoder.base().config().hidden_size, decoder.vocab_size());
        let mut found: Vec<(usize, Given)> = vec![];
        let mut row = span.start + node.computed;
        for states in states.chunks(LOGIT_ROWS * width) {
            let logits = decoder.logits(states)?;
            work.scored_positions += (states.len() / width) as u64;
            let of_row = |(after, logits): (usize, &[f32])| {
                let normaliser = log_sum_exp(logits);
                let top = likeliest(logits, most, normaliser);
                let given = |(at, count): (usize, usize)| {
                    let &token = self.sequences[at].tokens.get(row + after + 1)?;
                    let logprob = log_prob(logits, normaliser, token as usize).0;
                    Some((at, Given { logprob, top: top[..count.min(top.len())].to_vec() }))
                };
                scored().filter_map(given).collect::<Vec<_>>()
            };
            found.extend(logits.par_chunks_exact(vocab).enumerate().map(of_row).collect::<Vec<_>>().concat());
            row += states.len() / width;
        }
        found.into_iter().for_each(|(at, given)| self.given[at].push(given));
        Ok(())
    }

    /// Nodes for one pass, each with the number of its tokens that are computed.
    fn next_batch(&mut self, share: Share) -> Vec<(usize, usize)> {
        let (mut batch, mut tokens) = (vec![], 0);
        while let Some(&id) = self.ready.last() {
            let node = &self.nodes[id];
            let left = self.forest.nodes[id].span.len() - node.computed;
            if node.waiting > 0 {
                if !batch.is_empty() && tokens + left > share.tokens {
                    break;
                }
                let count = if share.split { left.min(share.tokens.max(1)) } else { left };
                batch.push((id, count));
                tokens += count;
            }
            self.ready.pop();
        }
        batch
    }

    fn piece(&self, id: usize, count: usize, tail: KvBlock) -> Piece<'_> {
        let (node, computed) = (&self.forest.nodes[id], self.nodes[id].computed);
        let Sequence { tokens, .. } = &self.sequences[node.sequence];
        let mut path = self.forest.path(id);
        path.pop();
        let own = path.iter().filter_map(|&ancestor| self.nodes[ancestor].block.as_deref());
        let begun: usize = self.begun.iter().map(|block| block.len()).sum();
        let within = |row: &&usize| (computed..computed + count).contains(*row);
        Piece {
            tokens: &tokens[node.span.start + computed..][..count],
            path: self.begun.iter().map(|block| &**block).chain(own).collect(),
            tail: Some(tail),
            wanted: node.wanted.iter().filter(within).map(|row| row - computed).collect(),
            length: begun + tokens.len(),
        }
    }

    /// Frees what only this prompt waited for.
    fn release(&mut self, at: usize) {
        let Some(end) = self.forest.ends[at] else { return };
        for id in self.forest.path(end) {
            let node = &mut self.nodes[id];
            node.waiting -= 1;
            if node.waiting == 0 {
                (node.tail, node.block) = (None, None);
            }
        }
    }
}
