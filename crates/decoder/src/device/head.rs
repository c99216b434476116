//! What is read off hidden states on a GPU: logits, scores, the most probable tokens.

use harness_kernels::{
    KernelError,
    cuda::{DeviceBuffer, Float, View},
};

use super::{
    DeviceAdapter, DeviceModel,
    linear::{Addition, Done},
};

/// Elements of f32 logits in memory at once.
const LOGITS: usize = 128 << 20;

/// Last hidden states, before the final norm.
#[derive(Clone, Copy)]
pub(crate) enum States<'a> {
    Host(&'a [f32]),
    /// On the GPU, in the model's type.
    Device(View<'a>),
}

impl DeviceModel {
    /// Runs `f` with f32 logits of hidden states, some rows at a time: the first of the rows, and their logits.
    pub(super) fn each_logits(
        &self,
        adapter: Option<&DeviceAdapter>,
        states: States<'_>,
        mut f: impl FnMut(usize, View<'_>) -> Done,
    ) -> Done {
        let (c, device) = (&self.config, &self.device);
        let width = c.hidden_size;
        let own = adapter.and_then(|adapter| adapter.head.as_ref());
        let (head, bias) = match own {
            Some((head, bias)) => (head, bias),
            None => (self.head.as_ref().unwrap_or(&self.embed), &self.head_bias),
        };
        let vocab = head.rows();
        let chunk = (LOGITS / vocab.max(1)).max(1);
        let all = match states {
            States::Host(states) => states.len() / width,
            States::Device(view) => view.height(),
        };
        for from in (0..all).step_by(chunk) {
            let rows = chunk.min(all - from);
            let (uploaded, normed);
            let mut view = match states {
                States::Host(states) => {
                    uploaded = device.alloc(rows * width, self.float)?;
                    device.write(&states[from * width..(from + rows) * width], uploaded.row())?;
                    uploaded.view(0, rows, width, width)
                }
                States::Device(states) => states.rows(from, rows),
            };
            if c.block.final_norm {
                normed = device.alloc(rows * width, self.float)?;
                let y = normed.view(0, rows, width, width);
                self.norm.run(device, c.block.norm, 1, c.norm_eps, view, y)?;
                view = y;
            }
            let narrow;
            if let Some((_, from_hidden)) = &self.projections {
                let width = from_hidden.out();
                narrow = device.alloc(rows * width, self.float)?;
                let to = narrow.view(0, rows, width, width);
                from_hidden.forward(device, Addition::None, view, to)?;
                view = to;
            }
            let logits = device.alloc(rows * vocab, Float::F32)?;
            let logits = logits.view(0, rows, vocab, vocab);
            head.multiply(device, view, logits)?;
            if let Some(bias) = bias {
                device.add_bias(bias.row(), logits)?;
            }
            if c.block.logit_scale != 1.0 {
                device.scale(c.block.logit_scale, logits)?;
            }
            if let Some(cap) = c.block.logit_cap {
                device.soft_limit(cap, logits)?;
            }
            f(from, logits)?;
        }
        Ok(())
    }

    /// Logits `[rows, vocab]` of last hidden states.
    pub(crate) fn logits(&self, adapter: Option<&DeviceAdapter>, hidden: &[f32]) -> Result<Vec<f32>, KernelError> {
        let mut all = vec![];
        self.each_logits(adapter, States::Host(hidden), |_, logits| {
            all.extend(self.device.read(logits)?);
            Ok(())
        })?;
        Ok(all)
    }

    /// The most probable token of every row and its log-probability.
    pub(crate) fn greedy(
        &self,
        adapter: Option<&DeviceAdapter>,
        states: States<'_>,
    ) -> Result<Vec<(u32, f32)>, KernelError> {
        let mut all = vec![];
        self.each_logits(adapter, states, |_, logits| {
            let rows = logits.height();
            let best = self.device.alloc_bytes(8 * rows)?;
            self.device.read_best(logits, &best)?;
            let found = self.device.read_ints(&best, 2 * rows)?;
            all.extend(found.as_chunks().0.iter().map(|&[token, logprob]| (token, f32::from_bits(logprob))));
            Ok(())
        })?;
        Ok(all)
    }

    /// Tokens that the head knows.
    pub(super) fn vocab(&self, adapter: Option<&DeviceAdapter>) -> usize {
        let own = adapter.and_then(|adapter| adapter.head.as_ref()).map(|(head, _)| head);
        own.unwrap_or_else(|| self.head.as_ref().unwrap_or(&self.embed)).rows()
    }

    /// Whether so many rows of logits are in memory at once.
    pub(super) fn holds_logits(&self, adapter: Option<&DeviceAdapter>, rows: usize) -> bool {
        rows * self.vocab(adapter) <= LOGITS
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
        self.each_logits(adapter, States::Host(hidden), |first, logits| {
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
