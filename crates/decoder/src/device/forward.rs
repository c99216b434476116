//! The forward pass over pieces of sequences, on a GPU.

use std::ops::Range;

use super::{DeviceAdapter, DeviceLinear, DeviceLora, DeviceModel};
use harness_kernels::{
    KernelError,
    cuda::{AttentionWork, DeviceBuffer, Float, Query, View},
};

use super::cache::lock;
use crate::{DecoderError, Piece};

/// Elements of f32 logits in memory at once.
const LOGITS: usize = 128 << 20;

type Done = Result<(), KernelError>;

/// Buffers of one pass, reused from layer to layer.
struct Activations {
    /// Residual stream `[rows, hidden]`.
    x: DeviceBuffer,
    normed: DeviceBuffer,
    qkv: DeviceBuffer,
    attended: DeviceBuffer,
    /// Output of a linear into the residual stream.
    out: DeviceBuffer,
    gate_up: DeviceBuffer,
    inner: DeviceBuffer,
}

impl DeviceModel {
    /// Last hidden states of all wanted rows, before the final norm; keys and values go to the tails.
    pub(crate) fn forward(
        &self,
        adapter: Option<&DeviceAdapter>,
        pieces: &mut [Piece<'_>],
    ) -> Result<Vec<f32>, DecoderError> {
        let c = &self.config;
        let rows: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
        let tokens: Vec<u32> = pieces.iter().flat_map(|piece| piece.tokens.iter().copied()).collect();
        let embed = adapter.and_then(|adapter| adapter.embed.as_ref()).unwrap_or(&self.embed);
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= embed.rows()) {
            return Err(DecoderError::TokenOutOfRange { token: token as usize, vocab_size: embed.rows() });
        }
        let positions: Vec<u32> = pieces
            .iter()
            .flat_map(|piece| (piece.position()..piece.position() + piece.tokens.len()).map(|p| p as u32))
            .collect();
        let last = positions.iter().max().map_or(0, |&p| p as usize + 1);
        if last > self.rope.len() / c.head_dim {
            return Err(self
                .device
                .fail(format!(
                    "an input of {last} tokens is longer than the longest allowed, {}",
                    self.rope.len() / c.head_dim
                ))
                .into());
        }

        // Every piece writes its keys and values; those that nobody needs are freed after the pass.
        let mut temporary = vec![];
        let mut cache = lock(&self.cache);
        let (mut slots, mut queries, mut wanted_queries, mut row) = (vec![], vec![], vec![], 0);
        for piece in pieces.iter_mut() {
            let (len, position) = (piece.tokens.len(), piece.position());
            let mut segments: Vec<_> =
                piece.path.iter().filter_map(|block| block.device()).flat_map(|kv| kv.segments()).collect();
            match &mut piece.tail {
                Some(tail) => {
                    let kv = tail.device_mut().ok_or_else(|| self.device.fail("keys and values of another device"))?;
                    cache.extend(&self.device, kv, len, &mut slots)?;
                    segments.extend(kv.segments());
                }
                None => {
                    // Owned by the list at once: it is dropped after the lock on the cache is given up.
                    temporary.push(self.kv());
                    if let Some(kv) = temporary.last_mut() {
                        cache.extend(&self.device, kv, len, &mut slots)?;
                        segments.extend(kv.segments());
                    }
                }
            }
            for run in consecutive(&piece.wanted) {
                let segments = segments.clone();
                wanted_queries.push(Query {
                    row: row + run.start,
                    rows: run.len(),
                    position: position + run.start,
                    segments,
                });
            }
            queries.push(Query { row, rows: len, position, segments });
            row += len;
        }
        let wanted: Vec<u32> = wanted_queries.iter().flat_map(|q| (q.row..q.row + q.rows).map(|r| r as u32)).collect();
        let work = AttentionWork::cached(&self.device, &queries)?;
        let last_work = AttentionWork::cached(&self.device, &wanted_queries)?;
        let (tokens, positions) = (self.device.bytes(&tokens)?, self.device.bytes(&positions)?);
        let (slots, wanted_rows) = (self.device.bytes(&slots)?, self.device.bytes(&wanted)?);

        let alloc = |cols: usize| self.device.alloc(rows * cols, self.float);
        let (hidden, inner, width) = (c.hidden_size, c.intermediate_size, c.q_dim() + 2 * c.kv_dim());
        let mut a = Activations {
            x: alloc(hidden)?,
            normed: alloc(hidden)?,
            qkv: alloc(width)?,
            attended: alloc(c.q_dim())?,
            out: alloc(hidden)?,
            gate_up: alloc(2 * inner)?,
            inner: alloc(inner)?,
        };
        embed.with(&self.device, |table| self.device.gather(table, &tokens, a.x.view(0, rows, hidden, hidden)))?;
        let all = rows;
        let mut rows = rows;
        for layer in 0..c.num_layers {
            let is_last = layer + 1 == c.num_layers;
            self.project(adapter, layer, &a, all, &positions)?;
            let [keys, values] = cache.layer(layer);
            let qkv = a.qkv.view(0, all, width, width);
            self.device.store_kv(qkv, c.q_dim(), &slots, keys, values)?;
            let work = if is_last { &last_work } else { &work };
            let q = qkv.columns(0, c.q_dim());
            let o = a.attended.view(0, all, c.q_dim(), c.q_dim());
            self.device.attention([q, keys, values], c.attention(layer), work, o, None)?;
            if is_last {
                // In the last layer only the wanted rows go on.
                rows = wanted.len();
                for (buffer, cols) in [(&mut a.x, hidden), (&mut a.attended, c.q_dim())] {
                    let kept = self.device.alloc(rows * cols, self.float)?;
                    self.device.gather(
                        buffer.view(0, all, cols, cols),
                        &wanted_rows,
                        kept.view(0, rows, cols, cols),
                    )?;
                    *buffer = kept;
                }
            }
            self.feed_forward(adapter, layer, &a, rows)?;
        }
        Ok(self.device.read(a.x.view(0, 1, rows * hidden, (rows * hidden).max(1)))?)
    }

    /// Norm, merged projections, norms of the heads, rotation.
    fn project(
        &self,
        adapter: Option<&DeviceAdapter>,
        layer: usize,
        a: &Activations,
        rows: usize,
        positions: &DeviceBuffer,
    ) -> Done {
        let (c, w) = (&self.config, &self.layers[layer]);
        let (hidden, width, eps) = (c.hidden_size, c.q_dim() + 2 * c.kv_dim(), c.norm_eps);
        let (normed, qkv) = (a.normed.view(0, rows, hidden, hidden), a.qkv.view(0, rows, width, width));
        self.device.rmsnorm(a.x.view(0, rows, hidden, hidden), 1, w.input_norm.row(), eps, normed, None)?;
        self.linear(&w.qkv, adapter.and_then(|a| a.layers[layer].qkv.as_ref()), normed, qkv)?;
        for (norm, from, heads) in [(&w.q_norm, 0, c.num_heads), (&w.k_norm, c.q_dim(), c.num_kv_heads)] {
            if let Some(norm) = norm {
                let part = qkv.columns(from, heads * c.head_dim);
                self.device.head_norm_in_place(part, heads, norm.row(), eps)?;
            }
        }
        let heads = c.num_heads + c.num_kv_heads;
        self.device.rope(qkv.columns(0, heads * c.head_dim), heads, positions, &self.rope, false)
    }

    /// Output projection, residual, norm, SwiGLU block, residual.
    fn feed_forward(&self, adapter: Option<&DeviceAdapter>, layer: usize, a: &Activations, rows: usize) -> Done {
        let (c, w, lora) = (&self.config, &self.layers[layer], adapter.map(|a| &a.layers[layer]));
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let attended = a.attended.view(0, rows, c.q_dim(), c.q_dim());
        self.linear(&w.o, lora.and_then(|l| l.o.as_ref()), attended, a.out.view(0, rows, hidden, hidden))?;
        let norm = w.post_attention_norm.row();
        self.device.add_rmsnorm(
            a.out.view(0, rows, hidden, hidden),
            a.x.view(0, rows, hidden, hidden),
            norm,
            c.norm_eps,
            a.normed.view(0, rows, hidden, hidden),
            None,
        )?;
        let gate_up = a.gate_up.view(0, rows, 2 * inner, 2 * inner);
        self.linear(
            &w.gate_up,
            lora.and_then(|l| l.gate_up.as_ref()),
            a.normed.view(0, rows, hidden, hidden),
            gate_up,
        )?;
        let activated = a.inner.view(0, rows, inner, inner);
        self.device.swiglu(gate_up, activated)?;
        self.linear(&w.down, lora.and_then(|l| l.down.as_ref()), activated, a.out.view(0, rows, hidden, hidden))?;
        let n = rows * hidden;
        self.device.add(a.out.view(0, 1, n, n.max(1)), a.x.view(0, 1, n, n.max(1)))
    }

    fn linear(&self, linear: &DeviceLinear, lora: Option<&DeviceLora>, x: View<'_>, y: View<'_>) -> Done {
        let device = &self.device;
        linear.weight.with(device, |w| device.gemm(1.0, x, w.t(), 0.0, y))?;
        if let Some(bias) = &linear.bias {
            device.add_bias(bias.row(), y)?;
        }
        let Some(lora) = lora else { return Ok(()) };
        let (rows, ranks) = (x.height(), lora.a.rows());
        let u = device.alloc(rows * ranks, self.float)?;
        let u = u.view(0, rows, ranks, ranks);
        lora.a.with(device, |a| device.gemm(1.0, x, a.t(), 0.0, u))?;
        lora.parts.iter().try_for_each(|part| {
            let u = u.columns(part.first_rank, part.b.cols());
            let y = y.columns(part.first_column, part.b.rows());
            part.b.with(device, |b| device.gemm(part.scale, u, b.t(), 1.0, y))
        })
    }

    /// Runs `f` with f32 logits of hidden states, some rows at a time: the first of the rows, and their logits.
    fn each_logits(
        &self,
        adapter: Option<&DeviceAdapter>,
        hidden: &[f32],
        mut f: impl FnMut(usize, View<'_>) -> Done,
    ) -> Done {
        let (c, device) = (&self.config, &self.device);
        let width = c.hidden_size;
        let own = adapter.and_then(|adapter| adapter.head.as_ref());
        let head = own.or(self.head.as_ref()).unwrap_or(&self.embed);
        let vocab = head.rows();
        let chunk = (LOGITS / vocab.max(1)).max(1);
        for (number, states) in hidden.chunks(chunk * width).enumerate() {
            let rows = states.len() / width;
            let x = device.alloc(rows * width, self.float)?;
            device.write(states, x.row())?;
            let normed = device.alloc(rows * width, self.float)?;
            let view = normed.view(0, rows, width, width);
            device.rmsnorm(x.view(0, rows, width, width), 1, self.norm.row(), c.norm_eps, view, None)?;
            let logits = device.alloc(rows * vocab, Float::F32)?;
            let logits = logits.view(0, rows, vocab, vocab);
            head.with(device, |w| device.gemm(1.0, view, w.t(), 0.0, logits))?;
            f(number * chunk, logits)?;
        }
        Ok(())
    }

    /// Logits `[rows, vocab]` of last hidden states.
    pub(crate) fn logits(&self, adapter: Option<&DeviceAdapter>, hidden: &[f32]) -> Result<Vec<f32>, KernelError> {
        let mut all = vec![];
        self.each_logits(adapter, hidden, |_, logits| {
            all.extend(self.device.read(logits)?);
            Ok(())
        })?;
        Ok(all)
    }

    /// The most probable token of every row and its log-probability.
    pub(crate) fn greedy(
        &self,
        adapter: Option<&DeviceAdapter>,
        hidden: &[f32],
    ) -> Result<Vec<(u32, f32)>, KernelError> {
        let mut all = vec![];
        self.each_logits(adapter, hidden, |_, logits| {
            let rows = logits.height();
            let (lse, best) = (self.device.alloc(rows, Float::F32)?, self.device.alloc_bytes(4 * rows)?);
            self.device.read_logits(logits, &lse, &best)?;
            let tokens = self.device.read_ints(&best, rows)?;
            let own: Vec<u32> = (0..rows as u32).collect();
            let found = self.targets(logits, [&lse, &best], &own, &tokens)?;
            all.extend(tokens.into_iter().zip(found).map(|(token, (logprob, _))| (token, logprob)));
            Ok(())
        })?;
        Ok(all)
    }

    fn targets(
        &self,
        logits: View<'_>,
        sums: [&DeviceBuffer; 2],
        rows: &[u32],
        tokens: &[u32],
    ) -> Result<Vec<(f32, bool)>, KernelError> {
        let n = rows.len();
        let (rows, tokens) = (self.device.bytes(rows)?, self.device.bytes(tokens)?);
        let (logprobs, greedy) = (self.device.alloc(n, Float::F32)?, self.device.alloc_bytes(4 * n)?);
        self.device.read_targets(logits, sums, [&rows, &tokens], [&logprobs, &greedy])?;
        let flags = self.device.read_ints(&greedy, n)?;
        Ok(self.device.read(logprobs.row())?.into_iter().zip(flags).map(|(x, flag)| (x, flag != 0)).collect())
    }

    /// Log-probability of every target (row of `hidden`, token), rows ascending, and whether it is the most probable token.
    pub(crate) fn score(
        &self,
        adapter: Option<&DeviceAdapter>,
        hidden: &[f32],
        targets: &[(usize, u32)],
    ) -> Result<Vec<(f32, bool)>, KernelError> {
        let mut found = Vec::with_capacity(targets.len());
        self.each_logits(adapter, hidden, |first, logits| {
            let rows = logits.height();
            let from = targets.partition_point(|(row, _)| *row < first);
            let to = targets.partition_point(|(row, _)| *row < first + rows);
            let here = &targets[from..to];
            let (lse, best) = (self.device.alloc(rows, Float::F32)?, self.device.alloc_bytes(4 * rows)?);
            self.device.read_logits(logits, &lse, &best)?;
            let own: Vec<u32> = here.iter().map(|(row, _)| (row - first) as u32).collect();
            let tokens: Vec<u32> = here.iter().map(|(_, token)| *token).collect();
            found.extend(self.targets(logits, [&lse, &best], &own, &tokens)?);
            Ok(())
        })?;
        Ok(found)
    }
}

/// Runs of consecutive numbers.
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
