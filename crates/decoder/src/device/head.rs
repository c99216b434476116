//! What is read off hidden states on a GPU: logits, scores, the most probable tokens.

use harness_kernels::{
    KernelError,
    cuda::{DeviceBuffer, Float, View},
};

use super::{DeviceAdapter, DeviceModel, linear::Done};

/// Elements of f32 logits in memory at once.
const LOGITS: usize = 128 << 20;

impl DeviceModel {
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
            let mut normed = x;
            if c.block.final_norm {
                let x = normed;
                normed = device.alloc(rows * width, self.float)?;
                let (x, y) = (x.view(0, rows, width, width), normed.view(0, rows, width, width));
                self.norm.run(device, c.block.norm, 1, c.norm_eps, x, y)?;
            }
            let mut view = normed.view(0, rows, width, width);
            let narrow;
            if let Some((_, from_hidden)) = &self.projections {
                let width = from_hidden.out();
                narrow = device.alloc(rows * width, self.float)?;
                let to = narrow.view(0, rows, width, width);
                from_hidden.forward(device, None, view, to)?;
                view = to;
            }
            let logits = device.alloc(rows * vocab, Float::F32)?;
            let logits = logits.view(0, rows, vocab, vocab);
            head.with(device, |w| device.gemm(1.0, view, w.t(), 0.0, logits))?;
            if let (Some(bias), None) = (&self.head_bias, own) {
                device.add_bias(bias.row(), logits)?;
            }
            if c.block.logit_scale != 1.0 {
                device.scale(c.block.logit_scale, logits)?;
            }
            if let Some(cap) = c.block.logit_cap {
                device.soft_limit(cap, logits)?;
            }
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
