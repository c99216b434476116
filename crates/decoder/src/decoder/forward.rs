//! The forward pass over pieces of sequences.

use std::{ops::Range, sync::Arc};

use rayon::prelude::*;

use super::{
    KvBlock,
    cache::HostKv,
    convolution::ConvolutionLayer,
    host::{AttentionLayer, FeedForward, Host, HostNorm, Layer, Mixer, Projections},
    linear::Lora,
};
use crate::{
    DecoderConfig, DecoderError, Placement, Positions, Projection, QueryScale, Rotation, Span, decoder::Rotary,
};
use harness_kernels::KernelError;
use harness_kernels::cpu::{
    activation::soft_limit,
    attention::{Job, Segment, Strided, attention_with},
    elementwise::{add_assign, add_scaled},
    logits::{log_prob, log_sum_exp},
    rope::RopeTable,
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
    /// Tokens of the whole input that these are of, which some rotary embeddings depend on.
    pub length: usize,
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
    /// What a short convolution sees.
    convolved: Vec<f32>,
}

/// Where the rows of a pass stand.
struct Places {
    positions: Vec<u32>,
    main: Rotated,
    local: Option<Rotated>,
}

/// A rotary table and the rows' places in it.
struct Rotated {
    table: Arc<RopeTable>,
    at: Vec<u32>,
}

impl Places {
    fn new(host: &Host<'_>, pieces: &[Piece<'_>]) -> Self {
        let range = |piece: &Piece<'_>| piece.position()..piece.position() + piece.tokens.len();
        let positions: Vec<u32> = pieces.iter().flat_map(|p| range(p).map(|position| position as u32)).collect();
        let end = positions.iter().max().map_or(0, |&p| p as usize + 1);
        let rotated = |rotary: &Rotary| {
            let (table, long) = rotary.table(end);
            let shift = |piece: &Piece<'_>| if piece.length > rotary.longest_short() { long } else { 0 };
            let at = pieces.iter().flat_map(|p| range(p).map(move |position| (position + shift(p)) as u32)).collect();
            Rotated { table, at }
        };
        let local = host.model.local.as_ref().map(rotated);
        Self { main: rotated(&host.model.rotary), local, positions }
    }

    /// The rotation of a layer.
    fn of(&self, config: &DecoderConfig, layer: usize) -> Option<&Rotated> {
        match config.block.rotation(layer) {
            Rotation::Main => Some(&self.main),
            Rotation::Local => self.local.as_ref(),
            Rotation::None => None,
        }
    }
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
        let places = Places::new(self, pieces);
        let x = self.embed(pieces, &places.positions)?;
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
            attended: vec![0.0; rows * self.model.layers.iter().map(|l| l.mixer.width(config)).max().unwrap_or(0)],
            gate_up: vec![0.0; rows * if config.block.gated { 2 } else { 1 } * config.intermediate_size],
            inner: vec![0.0; rows * config.intermediate_size],
            convolved: vec![],
            x,
        };
        let last = self.model.layers.len() - 1;
        for (index, layer) in self.model.layers.iter().enumerate() {
            let lora = self.lora(index);
            acts.before(self, layer);
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
            let width = layer.mixer.width(config);
            match &layer.mixer {
                Mixer::Attention(attention) => {
                    acts.project(self, index, attention, lora, rows, &places);
                    acts.attend(self, index, attention, pieces, &starts, &runs, rows);
                    acts.store(self, index, pieces, &starts, rows);
                }
                Mixer::Convolution(convolution) => acts.convolve(convolution, index, pieces, &starts, rows, lora),
            }
            let rows = if index == last { acts.compact(&starts, &runs, width, config.hidden_size) } else { rows };
            acts.after(self, layer, lora, rows);
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

    /// The residual stream before the first layer.
    fn embed(&self, pieces: &[Piece<'_>], positions: &[u32]) -> Result<Vec<f32>, DecoderError> {
        let (config, block) = (self.config, &self.config.block);
        let mut x = Vec::with_capacity(positions.len() * config.hidden_size);
        self.look_up(pieces.iter().flat_map(|p| p.tokens.iter().copied()), &mut x)?;
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
        let mut logits = self.head(&normed, rows);
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
        let (width, vocab) = (self.config.hidden_size, self.vocab());
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
    /// What the attention sees of the residual stream.
    fn before(&mut self, host: &Host<'_>, layer: &Layer) {
        match host.config.block.placement {
            Placement::Post | Placement::AfterSum => self.normed.copy_from_slice(&self.x),
            _ => host.norm(&layer.input_norm, &self.x, &mut self.normed),
        }
        host.round(&mut self.normed);
        if host.config.block.placement == Placement::NormedResidual {
            self.x.copy_from_slice(&self.normed);
        }
    }

    /// Queries, keys and values with their norms and rotation.
    fn project(
        &mut self,
        host: &Host<'_>,
        index: usize,
        layer: &AttentionLayer,
        lora: Lora<'_>,
        rows: usize,
        places: &Places,
    ) {
        let (config, block) = (host.config, &host.config.block);
        let width = config.q_dim() + 2 * config.kv_dim();
        let rotated = places.of(config, index);
        match &layer.projections {
            Projections::Merged(linear) => {
                linear.forward(&self.normed, rows, lora.at(Projection::Q), false, &mut self.qkv);
                host.round(&mut self.qkv);
                let norm = block.qk_norm;
                let after = norm.is_some_and(|norm| norm.after_rotation);
                if !after {
                    self.norm_heads(host, layer);
                }
                if let Some(limit) = block.clip_qkv {
                    self.qkv.par_iter_mut().with_min_len(1 << 14).for_each(|x| *x = x.clamp(-limit, limit));
                }
                if let Some(Rotated { table, at }) = rotated {
                    table.rotate(&mut self.qkv, width, config.num_heads + config.num_kv_heads, at, false);
                    if after {
                        self.norm_heads(host, layer);
                    }
                }
            }
            Projections::Latent(latent) => {
                let Rotated { table, at } = rotated.unwrap_or(&places.main);
                latent.project(&self.normed, rows, lora, table, at, &mut self.qkv);
            }
        }
        if let Some(scale) = block.query_scale.filter(|scale| !scale.unrotated || rotated.is_none()) {
            let QueryScale { beta, length, ahead, .. } = scale;
            let q = config.q_dim();
            self.qkv.par_chunks_exact_mut(width).zip(&places.positions).for_each(|(row, &position)| {
                let turns = ((position as usize + ahead) / length) as f64;
                let factor = (1.0 + beta * turns.ln_1p()) as f32;
                row[..q].iter_mut().for_each(|x| *x *= factor);
            });
        }
        host.round(&mut self.qkv);
        self.transpose_keys(config.q_dim(), config.kv_dim(), rows);
    }

    /// The norms of queries and keys.
    fn norm_heads(&mut self, host: &Host<'_>, layer: &AttentionLayer) {
        let config = host.config;
        let Some(norm) = config.block.qk_norm else { return };
        let heads = [(&layer.q_norm, 0, config.q_dim()), (&layer.k_norm, config.q_dim(), config.kv_dim())];
        for (weights, first, width) in heads {
            let Some(weights) = weights else { continue };
            let stride = config.q_dim() + 2 * config.kv_dim();
            let span = if norm.span == Span::Whole { width } else { config.head_dim };
            self.qkv
                .par_chunks_exact_mut(stride)
                .for_each(|row| weights.in_place(norm.norm, &mut row[first..first + width], span, config.norm_eps));
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

    #[allow(clippy::too_many_arguments, reason = "a layer and the pieces with their places")]
    fn attend(
        &mut self,
        host: &Host<'_>,
        layer: usize,
        attention: &AttentionLayer,
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
        let (shape, scores) = (config.attention(layer), host.scores(layer, &attention.sinks));
        attention_with(shape, scores, &self.qkv, width, &jobs, &mut self.attended, q_dim, None);
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

    /// The short convolution of a layer, which sees what the pieces' paths hold; the tails receive what is new.
    fn convolve(
        &mut self,
        layer: &ConvolutionLayer,
        index: usize,
        pieces: &mut [Piece<'_>],
        starts: &[usize],
        rows: usize,
        lora: Lora<'_>,
    ) {
        let width = layer.width();
        let (convolved, gate) = layer.gates(&self.normed, rows, lora);
        self.convolved = convolved;
        for (piece, &start) in pieces.iter_mut().zip(starts) {
            let len = piece.tokens.len();
            let own = &self.convolved[start * width..(start + len) * width];
            let held = piece.path.iter().copied().chain(&piece.tail).filter_map(KvBlock::host);
            let before: Vec<&[f32]> =
                held.flat_map(|block| block.layer(index).values[..block.len() * width].chunks_exact(width)).collect();
            let needed = before.len().saturating_sub(layer.taps() - 1);
            let context: Vec<&[f32]> = before[needed..].iter().copied().chain(own.chunks_exact(width)).collect();
            let range = start * width..(start + len) * width;
            layer.convolve(&context, len, &gate[range.clone()], &mut self.attended[range]);
            if let (Some(tail), true) = (piece.tail.as_mut().and_then(KvBlock::host_mut), len > 0) {
                tail.write(index, &[], 0, own.chunks_exact(width));
            }
        }
    }

    /// What attention and feed-forward block add to the residual stream, and the norms around them, for the first `rows`
    /// rows.
    fn after(&mut self, host: &Host<'_>, layer: &Layer, lora: Lora<'_>, rows: usize) {
        let (config, block) = (host.config, &host.config.block);
        let hidden = config.hidden_size;
        let (x, normed) = (&mut self.x[..rows * hidden], &mut self.normed[..rows * hidden]);
        match block.placement {
            Placement::Parallel => host.norm(&layer.input_norm, x, normed),
            Placement::ParallelTwo => host.norm(&layer.post_attention_norm, x, normed),
            _ => {}
        }
        match &layer.mixer {
            Mixer::Attention(attention) => {
                let q = config.q_dim();
                if let Some(latent) = block.latent {
                    keep_values(&mut self.attended[..rows * q], config.head_dim, latent.value);
                }
                let attended = &self.attended[..rows * config.o_dim()];
                let o = lora.at(Projection::O);
                add_to(host, layer.attention_out_norm.as_ref(), x, |add, y| {
                    attention.o.forward(attended, rows, o, add, y);
                });
            }
            Mixer::Convolution(convolution) => {
                let gated = &self.attended[..rows * hidden];
                add_to(host, layer.attention_out_norm.as_ref(), x, |add, y| {
                    convolution.output(gated, rows, lora, add, y)
                });
            }
        }
        host.round(x);
        match block.placement {
            Placement::Pre | Placement::Sandwich => host.norm(&layer.post_attention_norm, x, normed),
            Placement::Post => normed.copy_from_slice(x),
            Placement::AfterSum => {
                host.norm(&layer.input_norm, x, normed);
                x.copy_from_slice(normed);
            }
            Placement::NormedResidual => {
                host.norm(&layer.post_attention_norm, x, normed);
                x.copy_from_slice(normed);
            }
            Placement::Parallel | Placement::ParallelTwo => {}
        }
        host.round(normed);
        match &layer.feed_forward {
            FeedForward::Dense(dense) => {
                let wide = &mut self.gate_up[..rows * dense.wide()];
                let activated = &mut self.inner[..rows * dense.inner()];
                let gate_up = lora.at(if dense.is_gated() { Projection::Gate } else { Projection::Up });
                dense.activate(normed, rows, gate_up, |x| host.round(x), wide, activated);
                let down = lora.at(Projection::Down);
                add_to(host, layer.feed_forward_out_norm.as_ref(), x, |add, y| {
                    dense.down(activated, rows, down, add, y)
                });
            }
            FeedForward::Experts(experts) => {
                let normed = &*normed;
                add_to(host, layer.feed_forward_out_norm.as_ref(), x, |_, y| experts.add(normed, hidden, lora, y));
            }
        }
        if block.placement == Placement::AfterSum {
            host.norm(&layer.post_attention_norm, x, normed);
            x.copy_from_slice(normed);
        }
        host.round(x);
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
