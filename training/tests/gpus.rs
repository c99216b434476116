//! Laws of training on several GPUs: NCCL against the ranks' own sums, ranks against accumulation, sharded against replicated,
//! half precision, and what happens when one fails. Skipped with a message where there are not as many GPUs.
#![cfg(feature = "nccl")]
#![allow(clippy::print_stderr, reason = "tests say what they measured")]

mod oracle;

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use harness_core::{Digest, Seed};
use harness_decoder::{DecoderConfig, Projection, Weights};
use harness_kernels::{
    FloatType, Quantization,
    cuda::{Device, Float},
};
use harness_training::{
    TrainingError,
    backend::{CpuBackend, CudaBackend, Memory, Span},
    block::SavePolicy,
    checkpoint,
    data::{BatchSource, Sample, lengths, one_a_row},
    export::Artifact,
    lora::LoraSpec,
    model::{Model, Trainable, full_layout},
    parallel::{Collective, Distribute, Elements, Exchange, Host, Partition, Single, ThreadExchange, Unit, agree},
    recipe::{Precision, Sharding, TrainingOptions, WeightDtype},
    telemetry::{Progress, Silent, StepReport},
    trainer::{Trainer, TrainerSetup},
};

const WORLDS: [usize; 3] = [2, 4, 8];

/// The numbers of ranks that there are GPUs for.
fn worlds() -> Vec<usize> {
    let found = Device::count().unwrap_or_else(|error| {
        eprintln!("skipped: {error}");
        0
    });
    for world in WORLDS.into_iter().filter(|&world| world > found) {
        eprintln!("skipped: {world} ranks on {found} GPUs");
    }
    WORLDS.into_iter().filter(|&world| world <= found).collect()
}

/// Held while ranks compute: those of two tests on the same GPUs would wait for each other without end.
static GPUS: Mutex<()> = Mutex::new(());

/// Runs every rank in a thread of its own.
fn ranks<T: Send>(world: usize, f: impl Fn(usize, [ThreadExchange; 2]) -> T + Sync) -> Vec<T> {
    let _alone = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let groups = ThreadExchange::group(world).into_iter().zip(ThreadExchange::group(world));
    thread::scope(|scope| {
        let f = &f;
        let threads = groups.enumerate().map(|(rank, (a, b))| scope.spawn(move || f(rank, [a, b])));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
    })
}

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = Seed(seed).stream("numbers", 0);
    (0..len).map(|_| rng.normal() as f32).collect()
}

#[test]
fn sums_and_gathers_are_those_of_threads() {
    for world in worlds() {
        for len in [64, 1000, 1 << 20] {
            let parts = Partition::new(len, world);
            let own = |rank: usize| numbers(len, 10 + rank as u64);
            let expected = ranks(world, |rank, [control, _]| {
                let (b, host) = (CpuBackend::new(), Host(control));
                let (mut sum, mut gathered) = (b.upload(&own(rank)).unwrap(), b.upload(&own(rank)).unwrap());
                host.all_reduce_sum(&b, &mut sum, &parts).expect("a sum");
                host.all_gather(&b, &mut gathered, &parts).expect("a gathering");
                (sum.to_vec(), gathered.to_vec())
            });
            let found = ranks(world, |rank, [control, _]| {
                let b = CudaBackend::new(rank, Float::F32).expect("a GPU");
                let nccl = b.connect(Arc::new(Host(control))).expect("a connection");
                let all = |buf| b.read(Span { buf, at: 0, len }).unwrap();
                let (mut sum, mut gathered) = (b.upload(&own(rank)).unwrap(), b.upload(&own(rank)).unwrap());
                nccl.all_reduce_sum(&b, &mut sum, &parts).expect("a sum");
                nccl.all_gather(&b, &mut gathered, &parts).expect("a gathering");
                // Runs begun early, out of order, and the rest.
                let mut early = b.upload(&own(rank)).unwrap();
                nccl.begin_sum(&b, &mut early, len / 2..len * 3 / 4).expect("a sum");
                nccl.begin_sum(&b, &mut early, len / 8..len / 4).expect("a sum");
                nccl.all_reduce_sum(&b, &mut early, &parts).expect("a sum");
                let found = (all(&sum), all(&gathered), all(&early));
                // Nobody leaves while another still reads.
                nccl.all_gather_bytes(Arc::from([].as_slice())).expect("all are there");
                found
            });
            let close = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max)
            };
            for ((sum, gathered, early), (expected, expected_gathered)) in found.iter().zip(&expected) {
                let (one, other) = (close(sum, expected), close(early, expected));
                assert!(one < 1e-6 && other < 1e-6, "{world} ranks, {len}: {one} {other}");
                assert!(gathered == expected_gathered, "{world} ranks, {len}: gathered is what the owners have");
                assert!(*sum == found[0].0 && *early == found[0].2, "all ranks have the same bits");
            }
        }
    }
}

#[test]
fn units_are_what_their_owners_have() {
    let len = 1000;
    for world in worlds() {
        let parts = Partition::new(len, world);
        let whole = numbers(len, 3);
        // All of it, a run over several owners, and one that is in one rank's slice, with vectors.
        let runs = [(0..len, [10..30, 980..1000]), (200..900, [200..201, 500..640]), (5..50, [5..9, 20..33])];
        let results = ranks(world, |rank, [control, _]| {
            let float = Float::Bf16;
            let b = CudaBackend::new(rank, float).expect("a GPU");
            let nccl = b.connect(Arc::new(Host(control))).expect("a connection");
            let own = b.upload(&whole[parts.of(rank)]).unwrap();
            let units = runs.clone().map(|(range, vectors)| {
                let unit = Unit::new(&Elements { range, vectors: vectors.to_vec() }, &parts, rank);
                let gathered = nccl.gather(&b, &own, &unit).expect("a unit").arrived().expect("a unit");
                let run =
                    |run: &Range<usize>| b.read(Span { buf: gathered.unit(), at: run.start, len: run.len() }).unwrap();
                let exact: Vec<Vec<f32>> = unit.vectors().iter().map(run).collect();
                (run(&(unit.vectors()[0].end..unit.vectors()[1].start)), exact)
            });
            // Sums of this rank's number plus one: 1 + 2 + … on their owners.
            let mut sums = b.upload(&vec![rank as f32 + 1.0; len]).unwrap();
            assert!(nccl.begin_reduce(&b, &mut sums, 300..700, &parts).expect("a sum"), "runs beside");
            nccl.end_reduce(&b, &mut sums, &parts).expect("a sum");
            let sums = b.read(Span { buf: &sums, at: parts.of(rank).start, len: parts.of(rank).len() }).unwrap();
            // Nobody leaves while another still reads.
            nccl.all_gather_bytes(Arc::from([].as_slice())).expect("all are there");
            (units, sums)
        });
        let rounded = |x: &f32| half::bf16::from_f32(*x).to_f32();
        for (units, sums) in results {
            assert!(sums.iter().all(|&sum| sum == (world * (world + 1) / 2) as f32), "{sums:?}");
            for ((range, [first, second]), (matrix, exact)) in runs.iter().zip(&units) {
                assert!(exact[0] == whole[first.clone()] && exact[1] == whole[second.clone()], "vectors as they are");
                let expected: Vec<f32> = whole[first.end..second.start].iter().map(rounded).collect();
                assert!(*matrix == expected, "{range:?}: the rest as products read it");
            }
        }
    }
}

fn config() -> DecoderConfig {
    DecoderConfig {
        hidden_size: 64,
        intermediate_size: 112,
        num_layers: 5,
        head_dim: 64,
        sliding_window: vec![None; 5],
        qkv_bias: true,
        ..oracle::config()
    }
}

/// What is trained.
struct Task {
    config: DecoderConfig,
    weights: Weights,
    trainable: Trainable,
}

fn lora(kind: Stored) -> Task {
    let spec = LoraSpec { rank: 8, ..oracle::spec(&Projection::ALL, 0.1) };
    Task { config: config(), weights: stored(kind), trainable: Trainable::Lora(spec) }
}

/// All parameters of blocks of this width. All sizes are multiples of 128: products then see the same alignment whether a
/// block has a buffer of its own or not, and cuBLASLt takes the same algorithm.
fn full(hidden_size: usize, num_layers: usize) -> Task {
    let config = DecoderConfig {
        hidden_size,
        intermediate_size: 3 * hidden_size,
        num_layers,
        sliding_window: vec![None; num_layers],
        ..config()
    };
    Task { weights: oracle::weights(&config), config, trainable: Trainable::Full }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    F32,
    Bf16,
    Nf4,
}

fn stored(kind: Stored) -> Weights {
    let mut weights = oracle::weights(&config());
    match kind {
        Stored::F32 => {}
        Stored::Bf16 => weights.store_as(FloatType::Bf16).expect("a type"),
        Stored::Nf4 => weights.quantise(&Quantization::default()).expect("finite weights"),
    }
    weights
}

fn options(sharding: Sharding, precision: Option<Precision>) -> TrainingOptions {
    let text = "max_steps = 6\nbatch_size = 1\ngradient_accumulation_steps = 8\nlearning_rate = 0.01\neval_steps = 3\n\
                log_steps = 1\nwarmup_ratio = 0.2\nneftune_noise_alpha = 3.0\nweight_decay = 0.01";
    TrainingOptions { sharding, precision, ..toml::from_str(text).expect("options") }
}

/// One rank's trainer; 10 rows, so that the last window of an epoch has 2 micro-batches only.
fn trainer(
    (gpu, float): (usize, Float),
    output: &Path,
    task: &Task,
    (options, policy): (&TrainingOptions, SavePolicy),
    control: Box<dyn Exchange>,
    gathering: Box<dyn Exchange>,
) -> Result<Trainer<CudaBackend>, TrainingError> {
    let Task { config, weights, trainable } = task;
    let mut rng = Seed(6).stream("samples", 0);
    let samples: Vec<Sample> = (0..10)
        .map(|i| Sample {
            tokens: (0..40 + i % 5).map(|_| rng.below(config.vocab_size as u64) as u32).collect(),
            loss_from: 1 + i % 3,
            ..Sample::default()
        })
        .collect();
    let samples: Arc<[Sample]> = samples.into();
    let backend = CudaBackend::new(gpu, float)?;
    let control: Arc<dyn Collective<CudaBackend>> = Arc::new(Host(control));
    agree(&*control, &[("options", format!("{options:?}"))])?;
    let control = backend.connect(control)?;
    let (model, mut store) = match (options.sharding == Sharding::Fsdp && control.world() > 1, trainable) {
        (true, Trainable::Full) => Model::sharded(backend.clone(), config, weights, 256, Arc::clone(&control))?,
        (true, Trainable::Lora(_)) => {
            Model::with_source(backend.clone(), config, weights, trainable, 256, Seed(1), |b, layers, backward| {
                b.shard(layers, backward, gathering)
            })?
        }
        (false, _) => Model::new(backend.clone(), config, weights, trainable, 256, Seed(1))?,
    };
    let artifact = match trainable {
        Trainable::Lora(spec) => {
            for (index, param) in store.layout().params().to_vec().iter().enumerate() {
                let values: Vec<f32> = numbers(param.len(), 90 + index as u64).iter().map(|x| x / 10.0).collect();
                store.set_value(&backend, index, &values).unwrap();
            }
            Artifact::Adapter { spec: spec.clone(), base: "base".into(), config: Box::new(config.clone()) }
        }
        Trainable::Full => Artifact::Model {
            config: serde_json::json!({"model_type": "llama"}),
            dtype: WeightDtype::F32,
            tokenizer: output.to_owned(),
        },
    };
    let setup = TrainerSetup {
        options: options.clone(),
        dropout: 0.1,
        train: BatchSource::new(
            Arc::clone(&samples),
            one_a_row(&lengths(&samples)),
            options.batch_size,
            Seed(options.seed),
        ),
        validation: samples[..5].iter().map(|sample| harness_training::data::Batch::of([sample])).collect(),
        artifact,
        output: output.to_owned(),
        run: Digest::of("a run"),
    };
    Trainer::new(model.with_policy(policy), store, setup)?.with_ranks(control)
}

/// The values that a rank holds.
fn values(trainer: &Trainer<CudaBackend>) -> Vec<f32> {
    let store = trainer.store();
    trainer.model().backend().read(Span { buf: &store.values, at: 0, len: store.held().len() }).unwrap()
}

/// Values after the run, and evaluation losses, of every rank.
fn run(
    world: usize,
    (task, float): (&Task, Float),
    (sharding, policy): (Sharding, SavePolicy),
    output: &Path,
) -> Vec<(Vec<f32>, f64)> {
    let options = options(sharding, (float == Float::F16).then_some(Precision::Fp16));
    ranks(world, |rank, [control, gathering]| {
        let (control, gathering) = (Box::new(control), Box::new(gathering));
        let setting = (&options, policy);
        let mut trainer = trainer((rank, float), output, task, setting, control, gathering).expect("a trainer");
        let summary = trainer.run(&mut Silent).expect("a run");
        (values(&trainer), summary.eval_loss.expect("an evaluation"))
    })
}

/// The moments in the last checkpoint of a run.
fn moments(output: &Path) -> Vec<u8> {
    std::fs::read(checkpoint::folder(output, 6).join("optimizer.safetensors")).expect("a checkpoint")
}

const LEAN: (Sharding, SavePolicy) = (Sharding::None, SavePolicy::Lean);

#[test]
fn k_gpus_are_one_gpu_with_k_micro_batches() {
    let worlds = worlds();
    if worlds.is_empty() {
        return;
    }
    let cases = [(Stored::F32, Float::F32, 1e-4), (Stored::Nf4, Float::F32, 1e-4), (Stored::Bf16, Float::Bf16, 3e-2)];
    for (kind, float, tolerance) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let task = lora(kind);
        let alone = run(1, (&task, float), LEAN, &folder.path().join("one"));
        for &world in &worlds {
            let all = run(world, (&task, float), LEAN, &folder.path().join(world.to_string()));
            for rank in &all {
                assert!(*rank == all[0], "all ranks have the same");
            }
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let difference = norm(&mut alone[0].0.iter().zip(&all[0].0).map(|(a, b)| a - b));
            let relative = difference / norm(&mut alone[0].0.iter().copied());
            let loss = (alone[0].1 - all[0].1).abs() / alone[0].1;
            eprintln!("{kind:?} {} on {world} GPUs: parameters {relative:.1e}, loss {loss:.1e}", float.name());
            assert!(relative < tolerance && loss < tolerance, "{kind:?} {world}: {relative} {loss}");
        }
    }
}

#[test]
fn sharded_is_replicated_bit_for_bit() {
    for world in worlds() {
        for (kind, float) in [(Stored::F32, Float::F32), (Stored::Bf16, Float::Bf16), (Stored::Nf4, Float::Bf16)] {
            let folder = tempfile::tempdir().expect("a folder");
            let task = lora(kind);
            let replicated = run(world, (&task, float), LEAN, &folder.path().join("ddp"));
            for policy in [SavePolicy::Lean, SavePolicy::Layer, SavePolicy::Every(2)] {
                let name = format!("{policy:?}");
                let sharded = run(world, (&task, float), (Sharding::Fsdp, policy), &folder.path().join(&name));
                assert!(replicated == sharded, "{world} GPUs, {kind:?}, {policy:?}");
                let file = |run: &str| moments(&folder.path().join(run));
                assert!(file("ddp") == file(&name), "checkpoints hold the moments of all ranks");
            }
        }
    }
}

#[test]
fn all_parameters_sharded_are_replicated_bit_for_bit() {
    for world in worlds() {
        for float in [Float::F32, Float::Bf16, Float::F16] {
            let (folder, task) = (tempfile::tempdir().expect("a folder"), full(128, 5));
            let path = |name: &str| folder.path().join(name);
            let alone = run(1, (&task, float), LEAN, &path("one"));
            let replicated = run(world, (&task, float), LEAN, &path("ddp"));
            assert!(replicated.iter().all(|rank| *rank == replicated[0]), "all ranks have the same");
            // The bias of keys has a gradient of 0 but for rounding, of which Adam makes whole steps: so the losses are
            // compared, on which it has no bearing, and not the parameters.
            let loss = (alone[0].1 - replicated[0].1).abs() / alone[0].1;
            eprintln!("all parameters, {} on {world} GPUs: loss {loss:.1e} from one GPU's", float.name());
            assert!(loss < if float == Float::F32 { 1e-3 } else { 3e-2 }, "{} {world}: {loss}", float.name());
            for policy in [SavePolicy::Lean, SavePolicy::Layer, SavePolicy::Every(2)] {
                let name = format!("{policy:?}");
                let sharded = run(world, (&task, float), (Sharding::Fsdp, policy), &path(&name));
                let slices: Vec<f32> = sharded.iter().flat_map(|(values, _)| values.iter().copied()).collect();
                assert!(sharded.iter().all(|(values, _)| values.len() < slices.len()), "every rank holds its part");
                let (values, loss) = &replicated[0];
                let what = format!("{world} GPUs, {}, {policy:?}", float.name());
                let differ = values.iter().zip(&slices).filter(|(a, b)| a != b).count();
                assert!(differ == 0 && values.len() == slices.len(), "{what}: {differ} of {} differ", slices.len());
                assert!(sharded.iter().all(|(_, sharded)| sharded == loss), "{what}: the same losses");
                assert!(moments(&path("ddp")) == moments(&path(&name)), "{what}: checkpoints hold all moments");
            }
        }
    }
}

#[test]
fn a_rank_holds_its_part_of_all_parameters() {
    for world in worlds() {
        let (folder, task) = (tempfile::tempdir().expect("a folder"), full(512, 12));
        let peak = |sharding: Sharding| {
            let options = options(sharding, None);
            let peaks = ranks(world, |rank, [control, gathering]| {
                let (control, gathering) = (Box::new(control), Box::new(gathering));
                let setting = (&options, SavePolicy::Layer);
                let place = (rank, Float::Bf16);
                let mut trainer = trainer(place, folder.path(), &task, setting, control, gathering).expect("a trainer");
                let losses = [trainer.advance().expect("an update"), trainer.advance().expect("an update")];
                // Nobody leaves while another still reads.
                trainer.ranks().all_gather_bytes(Arc::from([].as_slice())).expect("all are there");
                (losses, trainer.model().backend().peak_bytes())
            });
            assert!(peaks.iter().all(|(losses, _)| *losses == peaks[0].0), "all ranks have the same");
            (peaks[0].0, peaks.iter().map(|(_, bytes)| *bytes).max().expect("ranks") as f64)
        };
        let ((losses, replicated), (sharded_losses, sharded)) = (peak(Sharding::None), peak(Sharding::Fsdp));
        assert!(losses == sharded_losses, "{losses:?} {sharded_losses:?}");
        let layout = full_layout(&task.config).0;
        let (all, outer) = (layout.len() as f64, layout.blocks()[0] as f64);
        let (share, block) = (all / world as f64, (all - outer) / 12.0);
        // Values, gradients and two moments in f32 and the values' image in 16 bits, of all or of the own part; besides the own
        // part of the sum of gradients, or what is whole: images in 16 bits, gradients in f32.
        let by_formula = [18.0 * all + 4.0 * share, 18.0 * share + 6.0 * (outer + 2.0 * block)];
        let saved = by_formula[0] - by_formula[1];
        eprintln!("{world} GPUs: {replicated} bytes replicated, {sharded} sharded; by formula {by_formula:?}");
        assert!(replicated - sharded > 0.8 * saved, "{replicated} - {sharded} where {saved} are expected");
    }
}

#[test]
fn half_precision_scales_its_loss() {
    let worlds = worlds();
    if worlds.is_empty() {
        return;
    }
    let task = lora(Stored::F32);
    let go = |world: usize, precision: Precision, scale: f64, output: &Path| {
        let float = if precision == Precision::Fp16 { Float::F16 } else { Float::F32 };
        let options = TrainingOptions { loss_scale: scale, ..options(Sharding::None, Some(precision)) };
        let results = ranks(world, |rank, [control, gathering]| {
            let setting = (&options, SavePolicy::Lean);
            let (control, gathering) = (Box::new(control), Box::new(gathering));
            let mut trainer = trainer((rank, float), output, &task, setting, control, gathering).expect("a trainer");
            let summary = trainer.run(&mut Silent).expect("a run");
            (summary.eval_loss.expect("an evaluation"), summary.skipped)
        });
        assert!(results.iter().all(|result| *result == results[0]), "all ranks skip the same updates");
        results[0]
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (wide, _) = go(1, Precision::Fp32, 1.0, &path("wide"));
    for world in [1].into_iter().chain(worlds) {
        let (loss, skipped) = go(world, Precision::Fp16, 1024.0, &path(&format!("half {world}")));
        eprintln!("f16 on {world} GPUs: loss {loss}, f32 {wide}, {skipped} skipped");
        assert!(skipped == 0 && (loss - wide).abs() < 1e-2 * wide, "{loss} {wide} {skipped}");
        // Too large a scale overflows, is halved, and the updates are left out on all ranks.
        let (loss, skipped) = go(world, Precision::Fp16, 2f64.powi(24), &path(&format!("large {world}")));
        assert!(skipped > 0 && loss.is_finite(), "{loss} {skipped}");
    }
}

/// Panics after an update.
struct DiesAfter(u64);

impl Progress for DiesAfter {
    fn step(&mut self, report: &StepReport) {
        assert!(report.step < self.0, "killed");
    }
}

#[test]
fn a_rank_that_dies_ends_the_others_with_its_error() {
    for world in worlds() {
        let (adapter, all) = (lora(Stored::F32), full(128, 5));
        for (task, sharding) in [(&adapter, Sharding::None), (&adapter, Sharding::Fsdp), (&all, Sharding::Fsdp)] {
            let folder = tempfile::tempdir().expect("a folder");
            let options = options(sharding, None);
            let began = Instant::now();
            // Only rank 0 hears of updates: it is the one that dies.
            let results = ranks(world, |rank, [control, gathering]| {
                let (control, gathering) = (Box::new(control), Box::new(gathering));
                let setting = (&options, SavePolicy::Lean);
                let once = std::panic::AssertUnwindSafe(|| {
                    let mut trainer = trainer((rank, Float::F32), folder.path(), task, setting, control, gathering)
                        .expect("a trainer");
                    trainer.run(&mut DiesAfter(3)).map(drop).map_err(|error| error.to_string())
                });
                std::panic::catch_unwind(once)
            });
            assert!(results[0].is_err(), "rank 0 panicked");
            for (rank, result) in results.iter().enumerate().skip(1) {
                let error = result.as_ref().expect("no panic").as_ref().expect_err("rank 0 is gone");
                assert!(error.contains("rank 0: "), "rank {rank} of {world}: {error}");
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        }
    }
}

#[test]
fn ranks_that_differ_are_refused_before_they_meet() {
    for world in worlds() {
        let folder = tempfile::tempdir().expect("a folder");
        let task = lora(Stored::F32);
        let errors = ranks(world, |rank, [control, gathering]| {
            let mut options = options(Sharding::None, None);
            options.seed += (rank + 1 == world) as u64;
            let setting = (&options, SavePolicy::Lean);
            let (control, gathering) = (Box::new(control), Box::new(gathering));
            trainer((rank, Float::F32), folder.path(), &task, setting, control, gathering)
                .err()
                .expect("refused")
                .to_string()
        });
        assert!(errors.iter().all(|error| error.contains(&format!("rank {} has options", world - 1))), "{errors:?}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_named() {
    let task = lora(Stored::F32);
    let (options, folder) = (options(Sharding::None, None), tempfile::tempdir().expect("a folder"));
    let setting = (&options, SavePolicy::Lean);
    let refused = trainer((97, Float::F32), folder.path(), &task, setting, Box::new(Single), Box::new(Single)).err();
    let error = refused.expect("refused").to_string();
    assert!(error.contains("cuda:97") && (error.contains("no such GPU") || error.contains("--device cpu")), "{error}");
}
