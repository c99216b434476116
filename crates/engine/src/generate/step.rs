//! First tokens, and passes over all sequences.

use harness_core::Finish;
use harness_decoder::{Draw, KvBlock, Piece, Together};
use rayon::prelude::*;

use super::{
    active::{Active, Lent},
    draft::Drafts,
    model::{Filled, Model},
};
use crate::{EngineError, schedule::Work};

/// Most steps for which random numbers are drawn at once.
const AHEAD: usize = 64;

/// Draws the first token of every prompt that is computed and has new tokens; all are of one model.
pub(super) fn begin<'a>(
    models: &[Model<'a>],
    filled: Vec<Filled>,
    drafts: &mut Drafts,
    work: &mut Work,
) -> Result<Vec<Active<'a>>, EngineError> {
    let (mut states, mut begun, mut ended) = (vec![], vec![], vec![]);
    for Filled { index, prompt, path, state, given } in filled {
        let nothing_new = prompt.sampling.max_new_tokens == 0;
        let Model { decoder, tokenizer, .. } = models[prompt.model];
        let mut sequence = Active::new(index, prompt, path, decoder, tokenizer);
        sequence.given = given;
        if nothing_new {
            sequence.finish = Some(Finish::Length);
            ended.push(sequence);
        } else {
            states.extend(state);
            let prompt = &sequence.prompt;
            let drafter = || drafts.drafter(&prompt.tokens, &prompt.known);
            sequence.drafter = prompt.sampling.is_greedy().then(drafter).flatten();
            begun.push(sequence);
        }
    }
    if let Some(first) = begun.first() {
        let Model { decoder, end_tokens, .. } = models[first.prompt.model];
        work.scored_positions += begun.len() as u64;
        match if take_the_most_probable(&begun) { decoder.greedy(&states)? } else { None } {
            Some(found) => begun.iter_mut().zip(found).for_each(|(sequence, one)| sequence.take(&[one], end_tokens)),
            None => draw(models, &mut begun, &states)?,
        }
    }
    begun.extend(ended);
    Ok(begun)
}

/// Computes the last token of every sequence, with what is drafted after it, and draws what comes next. Sequences of one
/// model stand together; the base's weights are read once for all.
pub(super) fn step(models: &[Model<'_>], active: &mut [Active<'_>]) -> Result<(), EngineError> {
    let runs: Vec<(usize, usize)> =
        active.chunk_by(|a, b| a.prompt.model == b.prompt.model).map(|run| (run[0].prompt.model, run.len())).collect();
    let together = Together::new(runs.iter().map(|&(model, count)| (models[model].decoder, count)));
    let greedy = take_the_most_probable(active);
    let rows: Vec<usize> = active.iter().map(Active::rows).collect();
    let mut pieces: Vec<Piece<'_>> = active.iter_mut().map(Active::piece).collect();
    let found = if greedy { together.forward_greedy(&mut pieces)? } else { None };
    let hidden = if found.is_some() { vec![] } else { together.forward(&mut pieces)? };
    let tails: Vec<Option<KvBlock>> = pieces.into_iter().map(|piece| piece.tail).collect();
    active.iter_mut().zip(tails).for_each(|(sequence, tail)| sequence.give_back(tail));
    match found {
        Some(found) => {
            let mut found = found.into_iter();
            for (sequence, rows) in active.iter_mut().zip(rows) {
                let found: Vec<(u32, f32)> = found.by_ref().take(rows).collect();
                sequence.take(&found, models[sequence.prompt.model].end_tokens);
            }
        }
        None => draw(models, active, &hidden)?,
    }
    Ok(())
}

/// As [`step`], where the decoder draws by itself: tokens of every sequence, up to `most`, as long as none ends and `heard`,
/// which is called after each of them, wants more. False, and nothing is computed, where it cannot.
pub(super) fn go_on(
    models: &[Model<'_>],
    active: &mut [Active<'_>],
    most: usize,
    heard: &mut dyn FnMut(&mut [Active<'_>]) -> bool,
) -> Result<bool, EngineError> {
    let decoder = |sequence: &Active<'_>| models[sequence.prompt.model].decoder;
    if active.iter().any(|sequence| sequence.rows() > 1 || !decoder(sequence).goes_on()) {
        return Ok(false);
    }
    let greedy = take_the_most_probable(active);
    let most = active.iter().map(Active::left).chain([most]).min().unwrap_or(0);
    let steps = if greedy { most } else { most.min(AHEAD) };
    let draws: Option<Vec<Draw>> = match greedy {
        true => Some(vec![]),
        false => active.iter().map(|sequence| sequence.ahead(steps)).collect(),
    };
    let Some(draws) = draws else { return Ok(false) };
    let runs = active.chunk_by(|a, b| a.prompt.model == b.prompt.model).map(|run| (decoder(&run[0]), run.len()));
    let together = Together::new(runs);
    let mut lent: Vec<Lent> = active.iter_mut().map(Active::lend).collect();
    let mut pieces: Vec<Piece<'_>> = lent.iter_mut().map(Lent::piece).collect();
    let went_on = together.go_on(&mut pieces, &draws, steps, &mut |found| {
        for (sequence, one) in active.iter_mut().zip(found) {
            sequence.take(&[*one], models[sequence.prompt.model].end_tokens);
            sequence.took(one.0);
        }
        let all = active.iter().all(|sequence| sequence.finish.is_none() && sequence.failure.is_none());
        all && heard(active)
    });
    let tails: Vec<Option<KvBlock>> = pieces.into_iter().map(|piece| piece.tail).collect();
    active.iter_mut().zip(tails).for_each(|(sequence, tail)| sequence.give_back(tail));
    Ok(went_on?)
}

/// Draws from the last hidden states of the sequences, as far as what is drawn is what was drafted. Sequences of one model
/// stand together.
fn draw(models: &[Model<'_>], active: &mut [Active<'_>], hidden: &[f32]) -> Result<(), EngineError> {
    let runs = active.chunk_by(|a, b| a.prompt.model == b.prompt.model);
    let counts = runs.map(|run| (models[run[0].prompt.model].decoder, run.iter().map(Active::rows).sum()));
    let mut logits = Together::new(counts).logits(hidden)?;
    let mut left = logits.as_mut_slice();
    let mut each: Vec<(&mut [f32], &mut Active<'_>)> = Vec::with_capacity(active.len());
    for sequence in active {
        let own;
        (own, left) = left.split_at_mut(sequence.rows() * models[sequence.prompt.model].decoder.vocab_size());
        each.push((own, sequence));
    }
    each.into_par_iter().for_each(|(logits, sequence)| {
        let Model { decoder, end_tokens, .. } = models[sequence.prompt.model];
        sequence.draw(logits, decoder.vocab_size(), end_tokens);
    });
    Ok(())
}

/// Whether every token of every sequence is the most probable one, whatever the other logits are.
fn take_the_most_probable(active: &[Active<'_>]) -> bool {
    active.iter().all(Active::takes_the_most_probable)
}
