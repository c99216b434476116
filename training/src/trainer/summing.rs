//! Sums over ranks that begin while gradients are still being computed.

use std::ops::Range;

use crate::{
    TrainingError,
    backend::Backend,
    block::{GradSink, ModelPart},
    parallel::{Collective, Partition},
    params::Layout,
};

/// Runs of an adapter's gradients that are summed together; more of them begin sooner, fewer cost less.
pub(super) const RUNS: usize = 4;

/// Gradients that are final once the backward of a block is computed in the last micro-batch of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The block.
    block: usize,
    /// The elements.
    range: Range<usize>,
}

/// About as many runs, in the order in which they become final: from the last block down to `lowest`, whose backward is the
/// last one; each block by itself if there are fewer. What lies below (the embedding) is in none.
pub(super) fn runs(layout: &Layout, lowest: Option<usize>, about: usize) -> Vec<Run> {
    let Some(lowest) = lowest else { return vec![] };
    let (mut runs, mut end) = (vec![], layout.len());
    for (block, &start) in layout.blocks().iter().enumerate().skip(lowest).rev() {
        if end > start && (end - start >= layout.len() / about || block == lowest) {
            runs.push(Run { block, range: start..end });
            end = start;
        }
    }
    runs
}

/// Gradients of a micro-batch on this device. Those of an adapter's last one of an update, and those of all parameters of
/// every one, are summed over the ranks run by run; of any other micro-batch there are no runs.
pub(super) struct SummingSink<'a, B: Backend> {
    backend: &'a B,
    grads: &'a mut B::Buf,
    ranks: &'a dyn Collective<B>,
    runs: &'a [Run],
    /// Who gets the sums, where not all ranks do.
    owners: Option<Partition>,
    failed: Option<TrainingError>,
}

impl<'a, B: Backend> SummingSink<'a, B> {
    pub(super) fn new(
        backend: &'a B,
        grads: &'a mut B::Buf,
        ranks: &'a dyn Collective<B>,
        runs: &'a [Run],
        owners: Option<Partition>,
    ) -> Self {
        Self { backend, grads, ranks, runs, owners, failed: None }
    }

    fn begin_sum(&mut self, run: &Run) {
        if self.failed.is_some() {
            return;
        }
        let range = run.range.clone();
        self.failed = match &self.owners {
            Some(owners) => self.ranks.begin_reduce(self.backend, self.grads, range, owners).err(),
            None => self.ranks.begin_sum(self.backend, self.grads, range).err(),
        };
    }

    /// Begins what has not begun: on a rank without a last micro-batch, or one whose last micro-batch has no label.
    pub(super) fn finish(mut self) -> Result<(), TrainingError> {
        while let Some((run, rest)) = self.runs.split_first() {
            self.begin_sum(run);
            self.runs = rest;
        }
        self.failed.map_or(Ok(()), Err)
    }
}

impl<B: Backend> GradSink<B> for SummingSink<'_, B> {
    fn grads(&mut self) -> &mut B::Buf {
        self.grads
    }

    fn done(&mut self, part: ModelPart) -> Result<(), TrainingError> {
        if let Some((run, rest)) = self.runs.split_first()
            && part == ModelPart::Layer(run.block)
        {
            self.begin_sum(run);
            self.runs = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_all_trained_blocks_once_and_from_above() {
        let mut layout = Layout::default();
        layout.push("embedding".into(), vec![100], false, true);
        for block in 0..10 {
            layout.begin_block();
            layout.push(format!("block {block}"), vec![37], false, true);
        }
        layout.push("norm".into(), vec![5], false, false);
        for lowest in [0, 3] {
            assert_eq!(runs(&layout, Some(lowest), usize::MAX).len(), 10 - lowest, "each block by itself");
            let runs = runs(&layout, Some(lowest), RUNS);
            assert_eq!(runs[0].range.end, layout.len());
            assert!(runs.windows(2).all(|pair| pair[1].range.end == pair[0].range.start));
            let last = &runs[runs.len() - 1];
            assert_eq!((last.block, last.range.start), (lowest, 100 + 37 * lowest));
            assert!((2..=RUNS + 1).contains(&runs.len()), "{runs:?}");
        }
        assert_eq!(runs(&layout, None, RUNS), []);
    }
}
