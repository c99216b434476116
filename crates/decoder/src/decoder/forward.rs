//! The forward pass over pieces of sequences.

use rayon::prelude::*;

use super::{
    KvBlock,
    host::Host,
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

/// Rows whose logits are computed together.
const LOGIT_ROWS: usize = 112;

impl Host<'_> {
    /// Computes the pieces and returns the last hidden states (before the final norm) of all wanted rows, in order of
    /// pieces and rows. Tails receive the new keys and values.
    ///
    /// # Errors
    /// If a token lies outside of the vocabulary, or keys and values are on a GPU.
    pub(super) fn forward(&self, pieces: &mut [Piece<'_>]) -> Result<Vec<f32>, DecoderError> {
        let config = self.config;
        if pieces.iter().flat_map(|p| p.path.iter().copied().chain(&p.tail)).any(|block| block.host().is_none()) {
            let (device, reason) = ("cpu".to_owned(), "keys and values of another device".to_owned());
            return Err(KernelError::Device { device, reason }.into());
        }
        let rows: usize = pieces.iter().map(|p| p.tokens.len()).sum();
        let places = Places::new(self, pieces);
        let x = self.embed(pieces, &places.positions)?;
        let mut starts = Vec::with_capacity(pieces.len());
        let mut start = 0;
        for piece in pieces.iter() {
            starts.push(start);
            start += piece.tokens.len();
        }
        let mut acts = Activations::new(self, x, rows);
        for layer in 0..config.num_layers {
            let mut steps = HostSteps::new(self, layer, &mut acts, pieces, &places, &starts);
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
    fn embed(&self, pieces: &[Piece<'_>], positions: &[u32]) -> Result<Vec<f32>, DecoderError> {
        let (config, block) = (self.config, &self.config.block);
        let mut x = Vec::with_capacity(positions.len() * config.hidden_size);
        self.embedding().lookup(pieces.iter().flat_map(|p| p.tokens.iter().copied()), &mut x)?;
        if let Some((to_hidden, _)) = &self.model.projections {
            let mut wide = vec![0.0; positions.len() * config.hidden_size];
            to_hidden.forward(&x, positions.len(), None, false, &mut wide);
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

    /// Logits `[rows, vocab]` of last hidden states.
    pub(super) fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let config = self.config;
        let rows = hidden.len() / config.hidden_size;
        let mut normed = vec![0.0; hidden.len()];
        match config.block.final_norm {
            true => self.norm(&self.model.norm, hidden, &mut normed),
            false => normed.copy_from_slice(hidden),
        }
        if let Some((_, from_hidden)) = &self.model.projections {
            let mut narrow = vec![0.0; rows * from_hidden.out()];
            from_hidden.forward(&normed, rows, None, false, &mut narrow);
            normed = narrow;
        }
        self.round(&mut normed);
        let head = self.head();
        let mut logits = vec![0.0; rows * head.out()];
        head.forward(&normed, rows, None, false, &mut logits);
        if config.block.logit_scale != 1.0 {
            logits.par_iter_mut().with_min_len(1 << 14).for_each(|x| *x *= config.block.logit_scale);
        }
        if let Some(cap) = config.block.logit_cap {
            logits.par_chunks_mut(1 << 14).for_each(|row| soft_limit(row, cap));
        }
        logits
    }

    /// Log-probability of every target (row of `hidden`, token), rows ascending, and whether it is the most probable
    /// token of its row.
    pub(super) fn score(&self, hidden: &[f32], targets: &[(usize, u32)]) -> Vec<(f32, bool)> {
        let (width, vocab) = (self.config.hidden_size, self.head().out());
        let mut answers = Vec::with_capacity(targets.len());
        for (chunk, states) in hidden.chunks(LOGIT_ROWS * width).enumerate() {
            let logits = self.logits(states);
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
