//! The steps of one block in the host's memory, over pieces of sequences.

use std::{convert::Infallible, ops::Range};

use rayon::prelude::*;

use super::{
    KvBlock,
    cache::HostKv,
    host::{Adapted, AttentionLayer, FeedForward, Host, HostNorm, Layer, Mixer, Projections, lora},
    linear::Lora,
    piece::{Piece, consecutive},
    places::{Places, Rotated},
};
use crate::{
    Projection, QueryScale, Rotation, Span,
    steps::{BlockNorm, Steps},
};
use harness_kernels::cpu::{
    attention::{Job, Segment, Strided, attention_with},
    elementwise::add_scaled,
};

/// Buffers of one pass, reused from layer to layer.
pub(super) struct Activations {
    /// Residual stream `[n, hidden]`.
    pub(super) x: Vec<f32>,
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

impl Activations {
    /// Buffers for `rows` rows, whose residual stream is `x`.
    pub(super) fn new(host: &Host<'_>, x: Vec<f32>, rows: usize) -> Self {
        let config = host.config;
        let mixed = host.model.layers.iter().map(|l| l.mixer.width(config)).max().unwrap_or(0);
        Self {
            normed: vec![0.0; x.len()],
            qkv: vec![0.0; rows * (config.q_dim() + 2 * config.kv_dim())],
            keys: vec![0.0; rows * config.kv_dim()],
            attended: vec![0.0; rows * mixed],
            gate_up: vec![0.0; rows * if config.block.gated { 2 } else { 1 } * config.intermediate_size],
            inner: vec![0.0; rows * config.intermediate_size],
            x,
        }
    }
}

/// One block of a pass.
pub(super) struct HostSteps<'p, 'h, 't> {
    host: &'p Host<'h>,
    index: usize,
    layer: &'h Layer,
    lora: Lora<'h>,
    /// The adapters of the wanted rows.
    wanted: &'p Adapted<'h>,
    acts: &'p mut Activations,
    pieces: &'p mut [Piece<'t>],
    places: &'p Places,
    /// First row of every piece.
    starts: &'p [usize],
    /// The rows of every piece that go on after the mixer.
    runs: Vec<Vec<Range<usize>>>,
    /// Rows there are now.
    rows: usize,
}

impl<'p, 'h, 't> HostSteps<'p, 'h, 't> {
    pub(super) fn new(
        host: &'p Host<'h>,
        index: usize,
        acts: &'p mut Activations,
        pieces: &'p mut [Piece<'t>],
        places: &'p Places,
        starts: &'p [usize],
        [adapted, wanted]: [&'p Adapted<'h>; 2],
    ) -> Self {
        // In the last layer only the wanted rows go on.
        let last = index + 1 == host.config.num_layers;
        let of = |piece: &Piece<'_>| match last {
            true => consecutive(&piece.wanted),
            false => std::iter::once(0..piece.tokens.len()).collect(),
        };
        let runs = pieces.iter().map(of).collect();
        let (layer, rows) = (&host.model.layers[index], places.positions.len());
        Self { host, index, layer, lora: lora(adapted, index), wanted, acts, pieces, places, starts, runs, rows }
    }

    /// The residual stream and the input of the next part.
    fn x_and_normed(&mut self) -> (&mut [f32], &mut [f32]) {
        let elements = self.rows * self.host.config.hidden_size;
        (&mut self.acts.x[..elements], &mut self.acts.normed[..elements])
    }

    fn weights(&self, norm: BlockNorm) -> &'h HostNorm {
        match norm {
            BlockNorm::First => &self.layer.input_norm,
            BlockNorm::Second => &self.layer.post_attention_norm,
        }
    }

    fn attention(&self) -> Option<&'h AttentionLayer> {
        match &self.layer.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Convolution(_) => None,
        }
    }

    /// Elements of a row of queries, keys and values.
    fn qkv_width(&self) -> usize {
        self.host.config.q_dim() + 2 * self.host.config.kv_dim()
    }

    fn transpose_keys(&mut self) {
        let (rows, first, stride) = (self.rows, self.host.config.q_dim(), self.qkv_width());
        let qkv = &self.acts.qkv;
        let channels = (1 << 15) / rows.max(1) + 1;
        self.acts.keys.par_chunks_exact_mut(rows.max(1)).with_min_len(channels).enumerate().for_each(
            |(channel, to)| {
                for (row, x) in to.iter_mut().enumerate() {
                    *x = qkv[row * stride + first + channel];
                }
            },
        );
    }

    /// What every run of rows attends to.
    fn jobs(&self) -> Vec<Job<'_>> {
        let config = self.host.config;
        let (q_dim, kv_dim, width) = (config.q_dim(), config.kv_dim(), self.qkv_width());
        let mut jobs = Vec::with_capacity(self.pieces.len());
        for ((piece, &start), runs) in self.pieces.iter().zip(self.starts).zip(&self.runs) {
            if runs.is_empty() || piece.tokens.is_empty() {
                continue;
            }
            let own = Segment {
                keys: Strided { data: &self.acts.keys[start..], position_stride: 1, channel_stride: self.rows },
                values: Strided {
                    data: &self.acts.qkv[start * width + q_dim + kv_dim..],
                    position_stride: width,
                    channel_stride: 1,
                },
                len: piece.tokens.len(),
            };
            let mut segments: Vec<Segment<'_>> = Vec::with_capacity(piece.path.len() + 2);
            for block in piece.path.iter().copied().chain(&piece.tail).filter_map(KvBlock::host) {
                if block.len() > 0 {
                    segments.push(block_segment(block, self.index, kv_dim));
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
        jobs
    }

    /// Appends the new keys and values to the tails.
    fn store(&mut self) {
        let config = self.host.config;
        let (q_dim, kv_dim, width, rows, layer) =
            (config.q_dim(), config.kv_dim(), self.qkv_width(), self.rows, self.index);
        let acts = &*self.acts;
        self.pieces.par_iter_mut().zip(self.starts).for_each(|(piece, &start)| {
            let len = piece.tokens.len();
            if let (Some(tail), true) = (piece.tail.as_mut().and_then(KvBlock::host_mut), len > 0) {
                let values = acts.qkv[start * width..(start + len) * width].chunks_exact(width);
                tail.write(layer, &acts.keys[start..], rows, values.map(|row| &row[q_dim + kv_dim..]));
            }
        });
    }

    /// Moves the rows that go on to the front, of the residual stream and of what the mixer computed.
    fn compact(&mut self) {
        if self.index + 1 < self.host.config.num_layers {
            return;
        }
        let (width, hidden) = (self.layer.mixer.width(self.host.config), self.host.config.hidden_size);
        let mut to = 0;
        for (start, runs) in self.starts.iter().zip(&self.runs) {
            for run in runs {
                let from = start + run.start..start + run.end;
                self.acts.attended.copy_within(from.start * width..from.end * width, to * width);
                self.acts.x.copy_within(from.start * hidden..from.end * hidden, to * hidden);
                to += run.len();
            }
        }
        self.rows = to;
        self.lora = lora(self.wanted, self.index);
        self.acts.x.truncate(to * hidden);
    }
}

impl Steps for HostSteps<'_, '_, '_> {
    type Error = Infallible;

    fn norm(&mut self, norm: BlockNorm) -> Result<(), Infallible> {
        let (host, weights) = (self.host, self.weights(norm));
        let (x, normed) = self.x_and_normed();
        host.norm(weights, x, normed);
        host.round(normed);
        Ok(())
    }

    fn copy(&mut self) -> Result<(), Infallible> {
        let host = self.host;
        let (x, normed) = self.x_and_normed();
        normed.copy_from_slice(x);
        host.round(normed);
        Ok(())
    }

    fn replace(&mut self) -> Result<(), Infallible> {
        let (x, normed) = self.x_and_normed();
        x.copy_from_slice(normed);
        Ok(())
    }

    fn keep_first(&mut self) -> Result<(), Infallible> {
        // Rows may have been left out since.
        self.norm(BlockNorm::First)
    }

    fn project(&mut self) -> Result<(), Infallible> {
        if let Some(Projections::Merged(linear)) = self.attention().map(|layer| &layer.projections) {
            linear.forward(&self.acts.normed, self.rows, &self.lora.at(Projection::Q), false, &mut self.acts.qkv);
            self.host.round(&mut self.acts.qkv);
        }
        Ok(())
    }

    fn project_latent(&mut self) -> Result<(), Infallible> {
        if let Some(Projections::Latent(latent)) = self.attention().map(|layer| &layer.projections) {
            let rotation = self.host.config.block.rotation(self.index);
            let Rotated { table, at } = self.places.of(rotation).unwrap_or(&self.places.main);
            latent.project(&self.acts.normed, self.rows, &self.lora, table, at, &mut self.acts.qkv);
        }
        Ok(())
    }

    fn norm_heads(&mut self) -> Result<(), Infallible> {
        let config = self.host.config;
        let (Some(norm), Some(layer)) = (config.block.qk_norm, self.attention()) else { return Ok(()) };
        let stride = self.qkv_width();
        let heads = [(&layer.q_norm, 0, config.q_dim()), (&layer.k_norm, config.q_dim(), config.kv_dim())];
        for (weights, first, width) in heads {
            let Some(weights) = weights else { continue };
            let span = if norm.span == Span::Whole { width } else { config.head_dim };
            self.acts
                .qkv
                .par_chunks_exact_mut(stride)
                .for_each(|row| weights.in_place(norm.norm, &mut row[first..first + width], span, config.norm_eps));
        }
        Ok(())
    }

    fn clip(&mut self, limit: f32) -> Result<(), Infallible> {
        self.acts.qkv.par_iter_mut().with_min_len(1 << 14).for_each(|x| *x = x.clamp(-limit, limit));
        Ok(())
    }

    fn rotate(&mut self, rotation: Rotation) -> Result<(), Infallible> {
        let (config, width) = (self.host.config, self.qkv_width());
        if let Some(Rotated { table, at }) = self.places.of(rotation) {
            table.rotate(&mut self.acts.qkv, width, config.num_heads + config.num_kv_heads, at, false);
        }
        Ok(())
    }

    fn scale_queries(&mut self, scale: QueryScale) -> Result<(), Infallible> {
        let (width, q) = (self.qkv_width(), self.host.config.q_dim());
        self.acts.qkv.par_chunks_exact_mut(width).zip(&self.places.positions).for_each(|(row, &position)| {
            let factor = scale.at(position);
            row[..q].iter_mut().for_each(|x| *x *= factor);
        });
        Ok(())
    }

    fn attend(&mut self) -> Result<(), Infallible> {
        let Some(layer) = self.attention() else { return Ok(()) };
        let config = self.host.config;
        self.host.round(&mut self.acts.qkv);
        self.transpose_keys();
        // Out of the pass while the jobs look at it.
        let mut attended = std::mem::take(&mut self.acts.attended);
        let (shape, scores) = (config.attention(self.index), self.host.scores(self.index, &layer.sinks));
        let (jobs, q) = (self.jobs(), config.q_dim());
        attention_with(shape, scores, &self.acts.qkv, self.qkv_width(), &jobs, &mut attended, q, None);
        drop(jobs);
        self.host.round(&mut attended);
        self.acts.attended = attended;
        self.store();
        self.compact();
        Ok(())
    }

    fn convolve(&mut self) -> Result<(), Infallible> {
        let Mixer::Convolution(layer) = &self.layer.mixer else { return Ok(()) };
        let (width, index) = (layer.width(), self.index);
        let (convolved, gate) = layer.gates(&self.acts.normed, self.rows, &self.lora);
        for (piece, &start) in self.pieces.iter_mut().zip(self.starts) {
            let len = piece.tokens.len();
            let own = &convolved[start * width..(start + len) * width];
            let held = piece.path.iter().copied().chain(&piece.tail).filter_map(KvBlock::host);
            let before: Vec<&[f32]> =
                held.flat_map(|block| block.layer(index).values[..block.len() * width].chunks_exact(width)).collect();
            let needed = before.len().saturating_sub(layer.taps() - 1);
            let context: Vec<&[f32]> = before[needed..].iter().copied().chain(own.chunks_exact(width)).collect();
            let range = start * width..(start + len) * width;
            layer.convolve(&context, len, &gate[range.clone()], &mut self.acts.attended[range]);
            if let (Some(tail), true) = (piece.tail.as_mut().and_then(KvBlock::host_mut), len > 0) {
                tail.write(index, &[], 0, own.chunks_exact(width));
            }
        }
        self.compact();
        Ok(())
    }

    fn add_mixed(&mut self) -> Result<(), Infallible> {
        let (host, config, rows) = (self.host, self.host.config, self.rows);
        let norm = self.layer.attention_out_norm.as_ref();
        let (x, attended) = (&mut self.acts.x[..], &mut self.acts.attended);
        match &self.layer.mixer {
            Mixer::Attention(attention) => {
                if let Some(latent) = config.block.latent {
                    keep_values(&mut attended[..rows * config.q_dim()], config.head_dim, latent.value);
                }
                let (attended, lora) = (&attended[..rows * config.o_dim()], self.lora.at(Projection::O));
                add_to(host, norm, x, |add, y| attention.o.forward(attended, rows, &lora, add, y));
            }
            Mixer::Convolution(convolution) => {
                let (gated, lora) = (&attended[..rows * config.hidden_size], &self.lora);
                add_to(host, norm, x, |add, y| convolution.output(gated, rows, lora, add, y));
            }
        }
        host.round(x);
        Ok(())
    }

    fn feed_forward(&mut self) -> Result<(), Infallible> {
        let (host, layer, rows, hidden) = (self.host, self.layer, self.rows, self.host.config.hidden_size);
        let norm = layer.feed_forward_out_norm.as_ref();
        let Activations { x, normed, gate_up, inner, .. } = &mut *self.acts;
        let normed = &normed[..rows * hidden];
        match &layer.feed_forward {
            FeedForward::Dense(dense) => {
                let (wide, activated) = (&mut gate_up[..rows * dense.wide()], &mut inner[..rows * dense.inner()]);
                let lora = self.lora.at(if dense.is_gated() { Projection::Gate } else { Projection::Up });
                dense.activate(normed, rows, &lora, |x| host.round(x), wide, activated);
                let down = self.lora.at(Projection::Down);
                add_to(host, norm, x, |add, y| dense.down(activated, rows, &down, add, y));
            }
            FeedForward::Experts(experts) => {
                let lora = &self.lora;
                add_to(host, norm, x, |_, y| experts.add(normed, hidden, lora, y));
            }
        }
        host.round(x);
        Ok(())
    }
}

/// Adds to the residual stream what `run` computes: into it where nothing else becomes of that, else through a norm and
/// multiplied. `run` is told whether to add to its buffer, which is zero if not.
fn add_to(host: &Host<'_>, norm: Option<&HostNorm>, x: &mut [f32], run: impl FnOnce(bool, &mut [f32])) {
    let block = &host.config.block;
    if norm.is_none() && block.residual_scale == 1.0 {
        return run(true, x);
    }
    let mut branch = vec![0.0; x.len()];
    run(false, &mut branch);
    host.round(&mut branch);
    if let Some(norm) = norm {
        norm.in_place(block.norm, &mut branch, host.config.hidden_size, host.config.norm_eps);
        host.round(&mut branch);
    }
    add_scaled(x, block.residual_scale, &branch);
}

/// Of heads of `width` elements the first `kept`, moved together.
fn keep_values(attended: &mut [f32], width: usize, kept: usize) {
    for head in 0..attended.len() / width {
        attended.copy_within(head * width..head * width + kept, head * kept);
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
