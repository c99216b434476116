//! Log-probabilities of given tokens over a forest of sequences.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Forest, Limits, Sequence};
use crate::EngineError;
use harness_core::Control;
use harness_decoder::{Decoder, KvBlock, Piece};

/// The log-probabilities of one sequence's targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scored {
    /// Log-probability of each target.
    pub(crate) logprobs: Vec<f32>,
    /// Whether every target is the most probable token.
    pub(crate) is_greedy: bool,
}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Token positions computed, wrong drafts apart.
    pub(crate) computed_tokens: u64,
    /// Rows of logits computed.
    pub(crate) scored_positions: u64,
    /// Tokens that were drafted.
    pub(crate) drafted_tokens: u64,
    /// Drafted tokens that were drawn.
    pub(crate) accepted_tokens: u64,
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::default(), |a, b| Self {
            computed_tokens: a.computed_tokens + b.computed_tokens,
            scored_positions: a.scored_positions + b.scored_positions,
            drafted_tokens: a.drafted_tokens + b.drafted_tokens,
            accepted_tokens: a.accepted_tokens + b.accepted_tokens,
        })
    }
}

/// A target of one sequence at one wanted row of a node.
struct Target {
    /// Index into the node's wanted rows.
    row: usize,
    sequence: usize,
    /// Index into the sequence's targets.
    slot: usize,
}

struct Run<'a> {
    decoder: &'a Decoder,
    sequences: &'a [Sequence],
    targets: &'a [Vec<u32>],
    forest: Forest,
    by_node: Vec<Vec<Target>>,
    /// Keys and values of computed nodes that are still needed.
    live: Vec<Option<KvBlock>>,
    /// Children whose subtrees are not finished.
    open: Vec<usize>,
    live_bytes: usize,
    results: Vec<Scored>,
    missing: Vec<usize>,
    work: Work,
}

/// Scores `targets[i]` at the wanted rows of `sequences[i]`: the model reads row p and predicts the target of row p. Each
/// result goes to `done` as soon as it is complete, with the work done so far. `stop` ends the work before the next batch.
///
/// # Errors
/// If a token lies outside of the vocabulary, or a GPU fails.
pub(crate) fn score(
    decoder: &Decoder,
    sequences: &[Sequence],
    targets: &[Vec<u32>],
    limits: Limits,
    stop: &AtomicBool,
    done: &mut dyn FnMut(usize, Scored, Work) -> Control,
) -> Result<Work, EngineError> {
    let limits = Limits { kv_bytes: limits.kv_bytes.min(decoder.kv_room()?), ..limits };
    let forest = Forest::build(sequences, decoder.longest_short()).prune();
    let by_node = assign(&forest, sequences);
    let mut run = Run {
        decoder,
        sequences,
        targets,
        by_node,
        live: forest.nodes.iter().map(|_| None).collect(),
        open: forest.nodes.iter().map(|node| node.children.len()).collect(),
        live_bytes: 0,
        results: targets.iter().map(|t| Scored { logprobs: vec![0.0; t.len()], is_greedy: true }).collect(),
        missing: targets.iter().map(Vec::len).collect(),
        work: Work::default(),
        forest,
    };
    for (index, targets) in targets.iter().enumerate() {
        if targets.is_empty() && done(index, run.results[index].clone(), run.work) == Control::Stop {
            return Ok(run.work);
        }
    }
    // The deepest node is on top: children are computed before new roots are begun, which bounds what is live.
    let mut ready: Vec<usize> = run.forest.roots.iter().rev().copied().collect();
    while !ready.is_empty() && !stop.load(Ordering::Relaxed) {
        let batch = run.next_batch(&mut ready, limits);
        if run.compute(&batch, done)? == Control::Stop {
            break;
        }
        for &node in batch.iter().rev() {
            ready.extend(run.forest.nodes[node].children.iter().rev());
        }
    }
    Ok(run.work)
}

/// The targets at the wanted rows of every node.
fn assign(forest: &Forest, sequences: &[Sequence]) -> Vec<Vec<Target>> {
    let mut by_node: Vec<Vec<Target>> = forest.nodes.iter().map(|_| vec![]).collect();
    for (index, sequence) in sequences.iter().enumerate() {
        let mut at = forest.ends[index];
        while let Some(id) = at {
            let node = &forest.nodes[id];
            if node.span.end <= sequence.wanted.start {
                break;
            }
            for row in sequence.wanted.start.max(node.span.start)..sequence.wanted.end.min(node.span.end) {
                let at = node.wanted.partition_point(|&r| r < row - node.span.start);
                by_node[id].push(Target { row: at, sequence: index, slot: row - sequence.wanted.start });
            }
            at = node.parent;
        }
    }
    by_node
}

impl Run<'_> {
    fn kv_bytes(&self, node: usize) -> usize {
        let node = &self.forest.nodes[node];
        if node.children.is_empty() { 0 } else { self.decoder.kv_bytes(node.span.len()) }
    }

    /// Takes nodes from the top of the stack while they fit.
    fn next_batch(&self, ready: &mut Vec<usize>, limits: Limits) -> Vec<usize> {
        let (mut batch, mut tokens, mut bytes) = (vec![], 0, self.live_bytes);
        while let Some(&node) = ready.last() {
            let len = self.forest.nodes[node].span.len();
            bytes += self.kv_bytes(node);
            tokens += len;
            let fits = tokens <= limits.batch_tokens && (bytes <= limits.kv_bytes || self.kv_bytes(node) == 0);
            if !batch.is_empty() && !fits {
                break;
            }
            batch.push(node);
            ready.pop();
        }
        batch
    }

    fn compute(
        &mut self,
        batch: &[usize],
        done: &mut dyn FnMut(usize, Scored, Work) -> Control,
    ) -> Result<Control, EngineError> {
        let mut pieces: Vec<Piece<'_>> = batch
            .iter()
            .map(|&id| {
                let node = &self.forest.nodes[id];
                let mut path = self.forest.path(id);
                path.pop();
                Piece {
                    tokens: &self.sequences[node.sequence].tokens[node.span.clone()],
                    path: path.iter().filter_map(|&ancestor| self.live[ancestor].as_ref()).collect(),
                    tail: (!node.children.is_empty()).then(|| self.decoder.kv_block(node.span.len())),
                    wanted: node.wanted.clone(),
                    length: self.sequences[node.sequence].tokens.len(),
                }
            })
            .collect();
        let hidden = self.decoder.forward(&mut pieces)?;
        self.work.computed_tokens += pieces.iter().map(|p| p.tokens.len() as u64).sum::<u64>();
        let tails: Vec<Option<KvBlock>> = pieces.into_iter().map(|p| p.tail).collect();
        for (&node, tail) in batch.iter().zip(tails) {
            self.live_bytes += self.kv_bytes(node);
            self.live[node] = tail;
            if self.open[node] == 0 {
                self.finish(node);
            }
        }
        self.read_logits(batch, &hidden, done)
    }

    /// Frees a node whose subtree is computed, and its ancestors if this was the last of theirs.
    fn finish(&mut self, node: usize) {
        let mut at = Some(node);
        while let Some(id) = at {
            if self.live[id].take().is_some() {
                self.live_bytes -= self.kv_bytes(id);
            }
            at = self.forest.nodes[id].parent.filter(|&parent| {
                self.open[parent] -= 1;
                self.open[parent] == 0
            });
        }
    }

    fn read_logits(
        &mut self,
        batch: &[usize],
        hidden: &[f32],
        done: &mut dyn FnMut(usize, Scored, Work) -> Control,
    ) -> Result<Control, EngineError> {
        // All targets of the batch by their row in `hidden`.
        let mut wanted: Vec<(usize, &Target)> = vec![];
        let mut first = 0;
        for &node in batch {
            wanted.extend(self.by_node[node].iter().map(|target| (first + target.row, target)));
            first += self.forest.nodes[node].wanted.len();
        }
        wanted.sort_by_key(|(row, _)| *row);
        self.work.scored_positions += first as u64;
        let read: Vec<(usize, u32)> =
            wanted.iter().map(|(row, target)| (*row, self.targets[target.sequence][target.slot])).collect();
        let answers: Vec<(usize, usize)> = wanted.iter().map(|(_, target)| (target.sequence, target.slot)).collect();
        let found = self.decoder.score(hidden, &read)?;
        for ((sequence, slot), (logprob, greedy)) in answers.into_iter().zip(found) {
            let result = &mut self.results[sequence];
            result.logprobs[slot] = logprob;
            result.is_greedy &= greedy;
            self.missing[sequence] -= 1;
            if self.missing[sequence] == 0 {
                let result = std::mem::take(result);
                if done(sequence, result, self.work) == Control::Stop {
                    return Ok(Control::Stop);
                }
            }
        }
        Ok(Control::Continue)
    }
}
