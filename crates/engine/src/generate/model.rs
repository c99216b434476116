//! What prompts are continued with.

use std::sync::Arc;

use harness_core::Finish;
use harness_decoder::{Decoder, KvBlock, Piece};
use rayon::prelude::*;

use super::{
    active::Active,
    prompt::{Given, Prompt},
};
use crate::{EngineError, TextTokenizer, schedule::Work};

/// A model whose prompts are continued.
#[derive(Clone, Copy)]
pub(crate) struct Model<'a> {
    pub(crate) decoder: &'a Decoder,
    pub(crate) tokenizer: &'a TextTokenizer,
    pub(crate) end_tokens: &'a [u32],
}

/// A prompt that is computed.
pub(super) struct Filled {
    pub(super) index: usize,
    pub(super) prompt: Prompt,
    /// Its keys and values.
    pub(super) path: Vec<Arc<KvBlock>>,
    /// The last hidden state of its last token.
    pub(super) state: Vec<f32>,
    /// What the model thinks of its tokens, where that is wanted.
    pub(super) given: Option<Vec<Given>>,
}

impl<'a> Model<'a> {
    /// Draws the first token of every prompt that is computed and has new tokens.
    pub(super) fn begin(&self, filled: Vec<Filled>, work: &mut Work) -> Result<Vec<Active<'a>>, EngineError> {
        let (mut states, mut begun, mut ended) = (vec![], vec![], vec![]);
        for Filled { index, prompt, path, state, given } in filled {
            let nothing_new = prompt.sampling.max_new_tokens == 0;
            let mut sequence = Active::new(index, prompt, path, self.decoder, self.tokenizer);
            sequence.given = given;
            if nothing_new {
                sequence.finish = Some(Finish::Length);
                ended.push(sequence);
            } else {
                states.extend(state);
                begun.push(sequence);
            }
        }
        if !begun.is_empty() {
            self.draw(&mut begun, &states, work)?;
        }
        begun.extend(ended);
        Ok(begun)
    }

    /// Computes the last token of every sequence and draws the next.
    pub(super) fn step(&self, active: &mut [Active<'_>], work: &mut Work) -> Result<(), EngineError> {
        let greedy = take_the_most_probable(active);
        let mut pieces: Vec<Piece<'_>> = active.iter_mut().map(Active::piece).collect();
        let found = if greedy { self.decoder.forward_greedy(&mut pieces)? } else { None };
        let hidden = if found.is_some() { vec![] } else { self.decoder.forward(&mut pieces)? };
        work.computed_tokens += pieces.len() as u64;
        let tails: Vec<Option<KvBlock>> = pieces.into_iter().map(|piece| piece.tail).collect();
        active.iter_mut().zip(tails).for_each(|(sequence, tail)| sequence.give_back(tail));
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
        work.scored_positions += active.len() as u64;
        let found = if take_the_most_probable(active) { self.decoder.greedy(states)? } else { None };
        match found {
            Some(found) => active.iter_mut().zip(found).for_each(|(sequence, found)| sequence.push(found.into())),
            None => self
                .decoder
                .logits(states)?
                .par_chunks_exact_mut(self.decoder.vocab_size())
                .zip(active.par_iter_mut())
                .for_each(|(logits, sequence)| sequence.draw(logits, self.end_tokens)),
        }
        Ok(())
    }
}

/// Whether the next token of every sequence is the most probable one, whatever the other logits are.
fn take_the_most_probable(active: &[Active<'_>]) -> bool {
    active.iter().all(Active::takes_the_most_probable)
}
