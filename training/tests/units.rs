//! All parameters sharded over ranks: when blocks are gathered, in how much memory, and that it changes no bit.

mod oracle;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use harness_core::Seed;
use harness_decoder::DecoderConfig;
use harness_training::{
    TrainingError,
    backend::{CpuBackend, CpuBuf, Memory},
    block::SavePolicy,
    data::{Batch, Sample},
    model::{LocalSink, MicroStep, Model, Trainable, full_layout},
    parallel::{Bytes, Collective, Exchange, Gathered, Host, Partition, ThreadExchange, Unit, UnitSink},
    recipe::Sharding,
    run::trained_bytes,
};
use oracle::{config, weights};

/// Gathers and sums ahead, as GPUs do, and counts what it gathers.
struct Beside {
    host: Host<ThreadExchange>,
    ahead: bool,
    gathers: AtomicUsize,
}

impl Collective<CpuBackend> for Beside {
    fn rank(&self) -> usize {
        Collective::<CpuBackend>::rank(&self.host)
    }

    fn world(&self) -> usize {
        Collective::<CpuBackend>::world(&self.host)
    }

    fn reduce_scatter_sum(&self, b: &CpuBackend, buf: &mut CpuBuf, parts: &Partition) -> Result<(), TrainingError> {
        self.host.reduce_scatter_sum(b, buf, parts)
    }

    fn all_gather(&self, b: &CpuBackend, buf: &mut CpuBuf, parts: &Partition) -> Result<(), TrainingError> {
        self.host.all_gather(b, buf, parts)
    }

    fn runs_beside(&self) -> bool {
        self.ahead
    }

    fn begin_reduce(
        &self,
        b: &CpuBackend,
        buf: &mut CpuBuf,
        range: Range<usize>,
        parts: &Partition,
    ) -> Result<bool, TrainingError> {
        assert_eq!(range, 0..buf.len(), "a whole unit");
        if self.ahead {
            self.host.reduce_scatter_sum(b, buf, parts)?;
        }
        Ok(self.ahead)
    }

    fn end_reduce(&self, b: &CpuBackend, buf: &mut CpuBuf, parts: &Partition) -> Result<(), TrainingError> {
        if self.ahead { Ok(()) } else { self.host.reduce_scatter_sum(b, buf, parts) }
    }

    fn gather(&self, b: &CpuBackend, own: &CpuBuf, unit: &Unit) -> Result<Gathered<CpuBackend>, TrainingError> {
        self.gathers.fetch_add(1, Ordering::Relaxed);
        self.host.gather(b, own, unit)
    }

    fn all_gather_bytes(&self, mine: Bytes) -> Result<Vec<Bytes>, TrainingError> {
        Collective::<CpuBackend>::all_gather_bytes(&self.host, mine)
    }

    fn allow(&self, bytes: u64) -> Result<(), TrainingError> {
        Collective::<CpuBackend>::allow(&self.host, bytes)
    }

    fn abort(&self, message: &str) {
        Collective::<CpuBackend>::abort(&self.host, message);
    }

    fn failure(&self) -> Option<(usize, String)> {
        Collective::<CpuBackend>::failure(&self.host)
    }
}

#[test]
fn blocks_are_gathered_ahead_and_again() {
    let layers = 6;
    let config = DecoderConfig { num_layers: layers, sliding_window: vec![None; layers], ..config() };
    let weights = weights(&config);
    let samples = [Sample { tokens: (0..20).collect(), loss_from: 1, ..Sample::default() }];
    let (batch, mut blank) = (Batch::of(&samples), Batch::of(&samples));
    blank.labels.fill(None);
    let step = MicroStep::mean(19);
    // Gradients of every rank's part, the loss of a batch, and the number of gathers in a pass.
    let sharded = |policy: SavePolicy, ahead: bool| -> Vec<(Vec<f32>, f64, usize)> {
        let rank = |exchange: ThreadExchange| {
            let beside = Arc::new(Beside { host: Host(exchange), ahead, gathers: AtomicUsize::new(0) });
            let (model, mut store) =
                Model::sharded(CpuBackend::new(), &config, &weights, 64, Arc::clone(&beside) as _).expect("a model");
            let model = model.with_policy(policy);
            let mut sink = UnitSink::new(model.backend(), model.units().expect("units"), &mut store.grads);
            // One rank has a micro-batch, one has one without a label, and one has none and takes part in everything.
            let pass = match [Some(&batch), Some(&blank), None][beside.host.0.rank()] {
                Some(batch) => model.forward_backward(batch, &store.values, &step, &mut sink).map(drop),
                None => model.participate(&store.values, Some(&mut sink)),
            };
            pass.expect("weights");
            let gathers = beside.gathers.load(Ordering::Relaxed);
            (store.grads.to_vec(), model.loss(&batch, &store.values).expect("weights"), gathers)
        };
        thread::scope(|scope| {
            let rank = &rank;
            let threads = ThreadExchange::group(3).into_iter().map(|exchange| scope.spawn(move || rank(exchange)));
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
        })
    };
    let (alone, mut store) =
        Model::new(CpuBackend::new(), &config, &weights, &Trainable::Full, 64, Seed(1)).expect("a model");
    let alone = alone.with_policy(SavePolicy::Full);
    let mut sink = LocalSink::<CpuBackend>(&mut store.grads);
    alone.forward_backward(&batch, &store.values, &step, &mut sink).expect("a pass");
    let loss = alone.loss(&batch, &store.values).expect("a pass");
    // What lies outside of the blocks, and each block twice; but the last one of the forward is the first of the backward. Of
    // two blocks that are run again together the first one is needed once more.
    let twice = 1 + layers + layers - 1;
    let policies =
        [(SavePolicy::Full, twice), (SavePolicy::Lean, twice), (SavePolicy::Layer, twice), (SavePolicy::Every(2), 16)];
    for (policy, expected) in policies {
        for ahead in [false, true] {
            let ranks = sharded(policy, ahead);
            let grads: Vec<f32> = ranks.iter().flat_map(|(grads, ..)| grads.iter().copied()).collect();
            assert!(grads == store.grads.to_vec(), "{policy:?} {ahead}");
            assert!(
                ranks.iter().all(|rank| (rank.1, rank.2) == (loss, expected)),
                "{policy:?} {ahead}: {}",
                ranks[0].2
            );
        }
    }
}

#[test]
fn memory_of_all_parameters_is_as_by_formula() {
    let config = DecoderConfig { num_layers: 12, sliding_window: vec![None; 12], ..config() };
    let weights = weights(&config);
    let layout = full_layout(&config).0;
    for world in [2, 4] {
        let peaks: Vec<usize> = thread::scope(|scope| {
            let rank = |exchange: ThreadExchange| {
                let (config, weights) = (&config, &weights);
                scope.spawn(move || {
                    let control = Arc::new(Host(exchange));
                    let (model, mut store) =
                        Model::sharded(CpuBackend::new(), config, weights, 64, control).expect("a model");
                    let mut sink = UnitSink::new(model.backend(), model.units().expect("units"), &mut store.grads);
                    model.participate(&store.values, Some(&mut sink)).expect("weights");
                    model.backend().peak_bytes()
                })
            };
            let threads: Vec<_> = ThreadExchange::group(world).into_iter().map(rank).collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
        });
        let by_formula = trained_bytes(&layout, true, Sharding::Fsdp, world).iter().sum::<u64>() as f64;
        // Nothing is gathered ahead here, so that one block and its gradients are whole instead of two.
        let least = by_formula - 4.0 * 2.0 * (layout.len() - layout.blocks()[0]) as f64 / 12.0;
        for peak in peaks.into_iter().map(|peak| peak as f64) {
            assert!((0.95 * least..1.05 * by_formula).contains(&peak), "{world} ranks: {least} {peak} {by_formula}");
        }
    }
}
