//! The forward pass over pieces of sequences.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    KvBlock,
    cache::HostKv,
    host::{FeedForward, Host, Layer, LayerLora},
};
use crate::DecoderError;
use harness_kernels::KernelError;
use harness_kernels::cpu::{
    attention::{Job, Segment, Strided, attention},
    elementwise::{rms_norm, rms_norm_inplace, swiglu_rows},
    logits::{log_prob, log_sum_exp},
};

/// Rows whose logits are computed together.
const LOGIT_ROWS: usize = 112;

/// A run of tokens of one sequence, computed together with other pieces.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// Keys and values of everything before, in order.
    pub path: Vec<&'a KvBlock>,
    /// Comes after `path`; the new positions are appended to it. `None` if nobody will need them.
    pub tail: Option<KvBlock>,
    /// Rows whose last hidden state is wanted, ascending.
    pub wanted: Vec<usize>,
}

impl Piece<'_> {
    pub(crate) fn position(&self) -> usize {
        self.path.iter().map(|block| block.len()).sum::<usize>() + self.tail.as_ref().map_or(0, KvBlock::len)
    }
}

/// Buffers of one pass, reused from layer to layer.
struct Activations {
    /// Residual stream `[n, hidden]`.
    x: Vec<f32>,
    /// Normalised input of a linear.
    normed: Vec<f32>,
    /// Queries, keys and values side by side.
    qkv: Vec<f32>,
    /// Keys channel by channel, `[kv_dim, n]`.
    keys: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
}

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
        let mut x = Vec::with_capacity(rows * config.hidden_size);
        self.embedding().lookup(pieces.iter().flat_map(|p| p.tokens.iter().copied()), &mut x)?;
        self.round(&mut x);
        let positions: Vec<u32> = pieces
            .iter()
            .flat_map(|p| (p.position()..p.position() + p.tokens.len()).map(|position| position as u32))
            .collect();
        let table = self.model.rotary.table(positions.iter().max().map_or(0, |&p| p as usize + 1));
        let mut starts = Vec::with_capacity(pieces.len());
        let mut start = 0;
        for piece in pieces.iter() {
            starts.push(start);
            start += piece.tokens.len();
        }
        let qkv_width = config.q_dim() + 2 * config.kv_dim();
        let mut acts = Activations {
            normed: vec![0.0; x.len()],
            qkv: vec![0.0; rows * qkv_width],
            keys: vec![0.0; rows * config.kv_dim()],
            attended: vec![0.0; rows * config.q_dim()],
            gate_up: vec![0.0; rows * 2 * config.intermediate_size],
            inner: vec![0.0; rows * config.intermediate_size],
            x,
        };
        let last = self.model.layers.len() - 1;
        for (index, layer) in self.model.layers.iter().enumerate() {
            let lora = self.lora(index);
            acts.project(self, layer, lora, rows);
            table.rotate(&mut acts.qkv, qkv_width, config.num_heads + config.num_kv_heads, &positions, false);
            self.round(&mut acts.qkv);
            acts.transpose_keys(config.q_dim(), config.kv_dim(), rows);
            // In the last layer only the wanted rows go on.
            let runs: Vec<Vec<Range<usize>>> =
                pieces
                    .iter()
                    .map(|p| {
                        if index == last {
                            consecutive(&p.wanted)
                        } else {
                            std::iter::once(0..p.tokens.len()).collect()
                        }
                    })
                    .collect();
            acts.attend(self, index, pieces, &starts, &runs, rows);
            acts.store(self, index, pieces, &starts, rows);
            let rows =
                if index == last { acts.compact(&starts, &runs, config.q_dim(), config.hidden_size) } else { rows };
            acts.feed_forward(self, layer, lora, rows);
            if index == last {
                acts.x.truncate(rows * config.hidden_size);
            }
        }
        for piece in pieces.iter_mut() {
            if let Some(tail) = piece.tail.as_mut().and_then(KvBlock::host_mut) {
                tail.advance(piece.tokens.len());
            }
        }
        Ok(acts.x)
    }

    /// Logits `[rows, vocab]` of last hidden states.
    pub(super) fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let config = self.config;
        let rows = hidden.len() / config.hidden_size;
        let mut normed = vec![0.0; hidden.len()];
        rms_norm(hidden, &self.model.norm, config.rms_norm_eps, &mut normed, None);
        self.round(&mut normed);
        let head = self.head();
        let mut logits = vec![0.0; rows * head.out()];
        head.forward(&normed, rows, None, false, &mut logits);
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

impl Activations {
    /// Norm, then queries, keys and values with their norms.
    fn project(&mut self, host: &Host<'_>, layer: &Layer, lora: Option<&LayerLora>, rows: usize) {
        let config = host.config;
        rms_norm(&self.x, &layer.input_norm, config.rms_norm_eps, &mut self.normed, None);
        host.round(&mut self.normed);
        layer.qkv.forward(&self.normed, rows, lora.and_then(|l| l.qkv.as_ref()), false, &mut self.qkv);
        host.round(&mut self.qkv);
        let heads = [(&layer.q_norm, 0, config.q_dim()), (&layer.k_norm, config.q_dim(), config.kv_dim())];
        for (norm, first, width) in heads {
            if let Some(norm) = norm {
                let stride = config.q_dim() + 2 * config.kv_dim();
                self.qkv
                    .par_chunks_exact_mut(stride)
                    .for_each(|row| rms_norm_inplace(&mut row[first..first + width], norm, config.rms_norm_eps));
            }
        }
    }

    fn transpose_keys(&mut self, first: usize, width: usize, rows: usize) {
        let stride = first + 2 * width;
        let qkv = &self.qkv;
        self.keys.par_chunks_exact_mut(rows.max(1)).with_min_len(16).enumerate().for_each(|(channel, to)| {
            for (row, x) in to.iter_mut().enumerate() {
                *x = qkv[row * stride + first + channel];
            }
        });
    }

    fn attend(
        &mut self,
        host: &Host<'_>,
        layer: usize,
        pieces: &[Piece<'_>],
        starts: &[usize],
        runs: &[Vec<Range<usize>>],
        rows: usize,
    ) {
        let config = host.config;
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let width = q_dim + 2 * kv_dim;
        let mut jobs = Vec::with_capacity(pieces.len());
        for ((piece, &start), runs) in pieces.iter().zip(starts).zip(runs) {
            if runs.is_empty() || piece.tokens.is_empty() {
                continue;
            }
            let own = Segment {
                keys: Strided { data: &self.keys[start..], position_stride: 1, channel_stride: rows },
                values: Strided {
                    data: &self.qkv[start * width + q_dim + kv_dim..],
                    position_stride: width,
                    channel_stride: 1,
                },
                len: piece.tokens.len(),
            };
            let mut segments: Vec<Segment<'_>> = Vec::with_capacity(piece.path.len() + 2);
            for block in piece.path.iter().copied().chain(&piece.tail).filter_map(KvBlock::host) {
                if block.len() > 0 {
                    segments.push(block_segment(block, layer, kv_dim));
                }
            }
            segments.push(own);
            let position = piece.position();
            for run in runs {
                jobs.push(Job {
                    row: start + run.start,
                    len: run.len(),
                    position: position + run.start,
                    segments: segments.clone(),
                });
            }
        }
        attention(host.config.attention(layer), &self.qkv, width, &jobs, &mut self.attended, q_dim, None);
        host.round(&mut self.attended);
    }

    /// Appends the new keys and values to the tails.
    fn store(&self, host: &Host<'_>, layer: usize, pieces: &mut [Piece<'_>], starts: &[usize], rows: usize) {
        let config = host.config;
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let width = q_dim + 2 * kv_dim;
        pieces.par_iter_mut().zip(starts).for_each(|(piece, &start)| {
            let len = piece.tokens.len();
            if let (Some(tail), true) = (piece.tail.as_mut().and_then(KvBlock::host_mut), len > 0) {
                let values = self.qkv[start * width..(start + len) * width].chunks_exact(width);
                tail.write(layer, &self.keys[start..], rows, values.map(|row| &row[q_dim + kv_dim..]));
            }
        });
    }

    /// Moves the wanted rows of the residual stream and of the attention's result to the front.
    fn compact(&mut self, starts: &[usize], runs: &[Vec<Range<usize>>], q_dim: usize, hidden: usize) -> usize {
        let mut to = 0;
        for (start, runs) in starts.iter().zip(runs) {
            for run in runs {
                let from = start + run.start..start + run.end;
                self.attended.copy_within(from.start * q_dim..from.end * q_dim, to * q_dim);
                self.x.copy_within(from.start * hidden..from.end * hidden, to * hidden);
                to += run.len();
            }
        }
        to
    }

    /// Output projection, residual, norm, SwiGLU block, residual for the first `rows` rows.
    fn feed_forward(&mut self, host: &Host<'_>, layer: &Layer, lora: Option<&LayerLora>, rows: usize) {
        let config = host.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (x, normed) = (&mut self.x[..rows * hidden], &mut self.normed[..rows * hidden]);
        let attended = &self.attended[..rows * config.q_dim()];
        layer.o.forward(attended, rows, lora.and_then(|l| l.o.as_ref()), true, x);
        host.round(x);
        rms_norm(x, &layer.post_attention_norm, config.rms_norm_eps, normed, None);
        host.round(normed);
        match &layer.feed_forward {
            FeedForward::Dense { gate_up, down } => {
                let wide = &mut self.gate_up[..rows * 2 * inner];
                gate_up.forward(normed, rows, lora.and_then(|l| l.gate_up.as_ref()), false, wide);
                host.round(wide);
                let activated = &mut self.inner[..rows * inner];
                swiglu_rows(wide, inner, activated);
                host.round(activated);
                down.forward(activated, rows, lora.and_then(|l| l.down.as_ref()), true, x);
            }
            FeedForward::Experts(experts) => experts.add(normed, hidden, inner, x),
        }
        host.round(x);
    }
}

fn block_segment(block: &HostKv, layer: usize, kv_dim: usize) -> Segment<'_> {
    let kv = block.layer(layer);
    Segment {
        keys: Strided { data: &kv.keys, position_stride: 1, channel_stride: block.channel_stride() },
        values: Strided { data: &kv.values, position_stride: kv_dim, channel_stride: 1 },
        len: block.len(),
    }
}

/// Ascending numbers as runs of consecutive ones.
fn consecutive(rows: &[usize]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = vec![];
    for &row in rows {
        match runs.last_mut() {
            Some(run) if run.end == row => run.end += 1,
            _ => runs.push(row..row + 1),
        }
    }
    runs
}
