//! The forward pass over pieces of sequences.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    KvBlock,
    host::{Adapted, Host, HostAdapter},
    pass::{Activations, HostSteps},
    piece::Piece,
    places::Places,
};
use crate::{DecoderError, Positions, steps::block};
use harness_kernels::KernelError;
use harness_kernels::cpu::{
    activation::soft_limit,
    elementwise::add_assign,
    logits::{log_prob, log_sum_exp},
};

/// The rows of models, which have runs of pieces, where `count` says how many rows a piece has.
fn rows_of<'a>(models: &Adapted<'a>, pieces: &[Piece<'_>], count: impl Fn(&Piece<'_>) -> usize) -> Adapted<'a> {
    let mut start = 0;
    let of = |(run, adapter): &(Range<usize>, Option<&'a HostAdapter>)| {
        let rows = start..start + pieces[run.clone()].iter().map(&count).sum::<usize>();
        start = rows.end;
        (rows, *adapter)
    };
    models.iter().map(of).collect()
}

/// Rows whose logits are computed together.
const LOGIT_ROWS: usize = 112;

/// Runs work that has many short parallel parts on one of the threads that compute them: from outside, each part would wait
/// for a thread to wake.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

impl Host<'_> {
    /// Computes the pieces, of which runs belong to models with different adapters, and returns the last hidden states
    /// (before the final norm) of all wanted rows, in order of pieces and rows. Tails receive the new keys and values.
    ///
    /// # Errors
    /// If a token lies outside of the vocabulary, or keys and values are on a GPU.
    pub(super) fn forward(&self, pieces: &mut [Piece<'_>], models: &Adapted<'_>) -> Result<Vec<f32>, DecoderError> {
        in_pool(|| self.compute(pieces, models))
    }

    fn compute(&self, pieces: &mut [Piece<'_>], models: &Adapted<'_>) -> Result<Vec<f32>, DecoderError> {
        let config = self.config;
        if pieces.iter().flat_map(|p| p.path.iter().copied().chain(&p.tail)).any(|block| block.host().is_none()) {
            let (device, reason) = ("cpu".to_owned(), "keys and values of another device".to_owned());
            return Err(KernelError::Device { device, reason }.into());
        }
        let rows: usize = pieces.iter().map(|p| p.tokens.len()).sum();
        let places = Places::new(self, pieces);
        let adapted = rows_of(models, pieces, |piece| piece.tokens.len());
        let wanted = rows_of(models, pieces, |piece| piece.wanted.len());
        let x = self.embed(pieces, &places.positions, &adapted)?;
        let mut starts = Vec::with_capacity(pieces.len());
        let mut start = 0;
        for piece in pieces.iter() {
            starts.push(start);
            start += piece.tokens.len();
        }
        let mut acts = Activations::new(self, x, rows);
        for layer in 0..config.num_layers {
            let mut steps = HostSteps::new(self, layer, &mut acts, pieces, &places, &starts, [&adapted, &wanted]);
            let Ok(()) = block(&mut steps, config, layer);
        }
        for piece in pieces.iter_mut() {
            if let Some(tail) = piece.tail.as_mut().and_then(KvBlock::host_mut) {
                tail.advance(piece.tokens.len());
            }
        }
        Ok(acts.x)
    }

    /// The residual stream before the first layer.
    fn embed(&self, pieces: &[Piece<'_>], positions: &[u32], adapted: &Adapted<'_>) -> Result<Vec<f32>, DecoderError> {
        let (config, block) = (self.config, &self.config.block);
        let tokens: Vec<u32> = pieces.iter().flat_map(|p| p.tokens.iter().copied()).collect();
        let mut x = self.look_up(&tokens, adapted)?;
        if let Some((to_hidden, _)) = &self.model.projections {
            let mut wide = vec![0.0; positions.len() * config.hidden_size];
            to_hidden.forward(&x, positions.len(), &[], false, &mut wide);
            x = wide;
        }
        if block.embedding_scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= block.embedding_scale);
        }
        if let (Some(table), Positions::Learned { offset }) = (&self.model.positions, &block.positions) {
            let mut added = Vec::with_capacity(x.len());
            table.lookup(positions.iter().map(|&position| position + *offset as u32), &mut added)?;
            add_assign(&mut x, &added);
        }
        if block.embedding_norm {
            self.model.embedding_norm.in_place(block.norm, &mut x, config.hidden_size, config.norm_eps);
        }
        self.round(&mut x);
        Ok(x)
    }

    /// Logits of last hidden states, of which runs belong to models with different adapters: a row has as many as its
    /// model has tokens.
    pub(super) fn logits(&self, hidden: &[f32], adapted: &Adapted<'_>) -> Vec<f32> {
        in_pool(|| self.compute_logits(hidden, adapted))
    }

    fn compute_logits(&self, hidden: &[f32], adapted: &Adapted<'_>) -> Vec<f32> {
        let config = self.config;
        let rows = hidden.len() / config.hidden_size;
        let mut normed = vec![0.0; hidden.len()];
        match config.block.final_norm {
            true => self.norm(&self.model.norm, hidden, &mut normed),
            false => normed.copy_from_slice(hidden),
        }
        if let Some((_, from_hidden)) = &self.model.projections {
            let mut narrow = vec![0.0; rows * from_hidden.out()];
            from_hidden.forward(&normed, rows, &[], false, &mut narrow);
            normed = narrow;
        }
        self.round(&mut normed);
        let mut logits = self.head(&normed, adapted);
        if config.block.logit_scale != 1.0 {
            logits.par_iter_mut().with_min_len(1 << 14).for_each(|x| *x *= config.block.logit_scale);
        }
        if let Some(cap) = config.block.logit_cap {
            logits.par_chunks_mut(1 << 14).for_each(|row| soft_limit(row, cap));
        }
        logits
    }

    /// Log-probability of every target (row of `hidden`, token), rows ascending, and whether it is the most probable
    /// token of its row, all by the model with this adapter.
    pub(super) fn score(
        &self,
        adapter: Option<&HostAdapter>,
        hidden: &[f32],
        targets: &[(usize, u32)],
    ) -> Vec<(f32, bool)> {
        let (width, vocab) = (self.config.hidden_size, self.vocab(adapter));
        let mut answers = Vec::with_capacity(targets.len());
        for (chunk, states) in hidden.chunks(LOGIT_ROWS * width).enumerate() {
            let logits = self.logits(states, &vec![(0..states.len() / width, adapter)]);
            let base = chunk * LOGIT_ROWS;
            let found: Vec<Vec<(f32, bool)>> = logits
                .par_chunks_exact(vocab)
                .enumerate()
                .map(|(row, logits)| {
                    let row = base + row;
                    let from = targets.partition_point(|(r, _)| *r < row);
                    let normaliser = log_sum_exp(logits);
                    let here = targets[from..].iter().take_while(|(r, _)| *r == row);
                    here.map(|&(_, token)| log_prob(logits, normaliser, token as usize)).collect()
                })
                .collect();
            answers.extend(found.into_iter().flatten());
        }
        answers
    }
}
