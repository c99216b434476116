//! Laws of distributed training: ranks against accumulation, sharded against replicated, and what happens when one dies.

mod oracle;

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use harness_core::{Digest, Seed};
use harness_decoder::{Projection, Weights};
use harness_kernels::{FloatType, HostTensor, Quantization};
use harness_training::{
    TrainingError,
    backend::{CpuBackend, Memory},
    block::SavePolicy,
    checkpoint,
    data::{Batch, BatchSource, Sample, lengths, one_a_row},
    export::Artifact,
    model::{LocalSink, Model, Trainable, WeightSource},
    parallel::{Bytes, Collective, Exchange, Host, Launch, Ranks, Sharded, TcpExchange, ThreadExchange, agree},
    recipe::{Sharding, TrainingOptions},
    telemetry::{Progress, Silent, StepReport},
    trainer::{Trainer, TrainerSetup},
};
use oracle::{config, spec, weights};

/// How the frozen weights are stored.
#[derive(Clone, Copy)]
enum Stored {
    F32,
    Bf16,
    Nf4,
}

fn stored(kind: Stored) -> Weights {
    let mut weights = weights(&config());
    match kind {
        Stored::F32 => {}
        Stored::Bf16 => weights.store_as(FloatType::Bf16).expect("a type"),
        Stored::Nf4 => weights.quantise(&Quantization::default()).expect("finite weights"),
    }
    weights
}

fn options(sharding: Sharding) -> TrainingOptions {
    let text = "max_steps = 6\nbatch_size = 1\ngradient_accumulation_steps = 4\nlearning_rate = 0.01\neval_steps = 3\n\
                log_steps = 1\nwarmup_ratio = 0.2\nneftune_noise_alpha = 3.0\nweight_decay = 0.01";
    TrainingOptions { sharding, ..toml::from_str(text).expect("options") }
}

/// One rank's trainer; 10 rows, so that the last window of an epoch has 2 micro-batches only.
fn trainer(
    output: &Path,
    weights: &Weights,
    trainable: &Trainable,
    options: &TrainingOptions,
    ranks: RankSetup,
) -> Result<Trainer<CpuBackend>, TrainingError> {
    let config = config();
    let mut rng = Seed(6).stream("samples", 0);
    let samples: Vec<Sample> = (0..10)
        .map(|i| Sample {
            tokens: (0..12 + i % 5).map(|_| rng.below(config.vocab_size as u64) as u32).collect(),
            loss_from: 1 + i % 3,
            truncated: 0,
            ..Sample::default()
        })
        .collect();
    let samples: Arc<[Sample]> = samples.into();
    let (control, source) = ranks;
    let (model, mut store) = match (options.sharding, source) {
        (Sharding::Fsdp, Some(_)) if *trainable == Trainable::Full => {
            Model::sharded(CpuBackend::new(), &config, weights, 256, Arc::clone(&control))?
        }
        (Sharding::Fsdp, Some(exchange)) => {
            let sharded = |backend: &CpuBackend, layers: &[_], backward: &[bool]| {
                let sharded = Sharded::new(backend, layers, backward, exchange);
                Ok(Box::new(sharded) as Box<dyn WeightSource<CpuBackend>>)
            };
            Model::with_source(CpuBackend::new(), &config, weights, trainable, 256, Seed(1), sharded)?
        }
        _ => Model::new(CpuBackend::new(), &config, weights, trainable, 256, Seed(1))?,
    };
    if let Trainable::Lora(_) = trainable {
        let mut rng = Seed(9).stream("values", 0);
        store.values.iter_mut().for_each(|x| *x = rng.normal() as f32 * 0.2);
    }
    let artifact = match trainable {
        Trainable::Lora(spec) => {
            Artifact::Adapter { spec: spec.clone(), base: "base".into(), config: Box::new(config.clone()) }
        }
        Trainable::Full => Artifact::Model {
            config: serde_json::json!({"model_type": "llama"}),
            dtype: Default::default(),
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
        validation: samples[..5].iter().map(|sample| Batch::of([sample])).collect(),
        artifact,
        output: output.to_owned(),
        run: Digest::of("a run"),
    };
    Trainer::new(model, store, setup)?.with_ranks(control)
}

type RankSetup = (Arc<dyn Collective<CpuBackend>>, Option<ThreadExchange>);

fn single() -> RankSetup {
    (Ranks::single().collective(), None)
}

/// Values after the run, and evaluation losses, of every rank.
fn run(world: usize, kind: Stored, trainable: &Trainable, sharding: Sharding, output: &Path) -> Vec<(Vec<f32>, f64)> {
    let weights = stored(kind);
    let control = ThreadExchange::group(world).into_iter().map(|exchange| Arc::new(Host(exchange)));
    let ranks: Vec<RankSetup> = control
        .zip(ThreadExchange::group(world))
        .map(|(control, gather)| (control as Arc<dyn Collective<CpuBackend>>, Some(gather)))
        .collect();
    thread::scope(|scope| {
        let threads: Vec<_> = ranks
            .into_iter()
            .map(|ranks| {
                let weights = &weights;
                scope.spawn(move || {
                    let mut trainer =
                        trainer(output, weights, trainable, &options(sharding), ranks).expect("a trainer");
                    let summary = trainer.run(&mut Silent).expect("a run");
                    assert_eq!(summary.world_size, world);
                    (trainer.store().values.to_vec(), summary.eval_loss.expect("an evaluation"))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
    })
}

fn lora() -> Trainable {
    Trainable::Lora(spec(&Projection::ALL, 0.1))
}

#[test]
fn k_ranks_are_one_rank_with_k_micro_batches() {
    for (trainable, kind) in [(lora(), Stored::Nf4), (lora(), Stored::Bf16), (Trainable::Full, Stored::F32)] {
        let folder = tempfile::tempdir().expect("a folder");
        let options = options(Sharding::None);
        let mut alone =
            trainer(&folder.path().join("one"), &stored(kind), &trainable, &options, single()).expect("a trainer");
        let summary = alone.run(&mut Silent).expect("a run");
        for world in [2, 4] {
            let all = run(world, kind, &trainable, Sharding::None, &folder.path().join(world.to_string()));
            for (values, eval_loss) in &all {
                assert_eq!((values, eval_loss), (&all[0].0, &all[0].1), "all ranks have the same");
            }
            // Where a gradient is nearly 0 rounding decides about its sign, and Adam's step is as large as elsewhere: so
            // the whole is compared and not every element.
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let difference = norm(&mut alone.store().values.iter().zip(&all[0].0).map(|(a, b)| a - b));
            let size = norm(&mut alone.store().values.iter().copied());
            assert!(difference < 1e-4 * size, "{world} ranks: {difference} of {size}");
            let (one, many) = (summary.eval_loss.expect("a loss"), all[0].1);
            assert!((one - many).abs() < 1e-4 * one, "{one} {many}");
        }
    }
}

#[test]
fn sharded_is_replicated_bit_for_bit() {
    for kind in [Stored::Bf16, Stored::Nf4] {
        for world in [2, 4] {
            let folder = tempfile::tempdir().expect("a folder");
            let replicated = run(world, kind, &lora(), Sharding::None, &folder.path().join("ddp"));
            let sharded = run(world, kind, &lora(), Sharding::Fsdp, &folder.path().join("fsdp"));
            assert!(replicated == sharded, "{world} ranks");
            let file = |run: &str| {
                let checkpoint = checkpoint::folder(&folder.path().join(run), 6);
                std::fs::read(checkpoint.join("optimizer.safetensors")).expect("a checkpoint")
            };
            assert!(file("ddp") == file("fsdp"), "checkpoints hold the moments of all ranks");
        }
    }
}

#[test]
fn all_parameters_sharded_are_replicated_bit_for_bit() {
    for world in [2, 4] {
        let folder = tempfile::tempdir().expect("a folder");
        let full = |sharding: Sharding, name: &str| {
            run(world, Stored::F32, &Trainable::Full, sharding, &folder.path().join(name))
        };
        let (replicated, sharded) = (full(Sharding::None, "ddp"), full(Sharding::Fsdp, "fsdp"));
        let slices: Vec<f32> = sharded.iter().flat_map(|(values, _)| values.iter().copied()).collect();
        assert!(sharded.iter().all(|(values, _)| values.len() < slices.len()), "every rank holds its part");
        assert!(replicated.iter().all(|(values, loss)| *values == slices && *loss == sharded[0].1), "{world} ranks");
        for file in ["checkpoint-6/optimizer.safetensors", "model.safetensors"] {
            let bytes = |name: &str| std::fs::read(folder.path().join(name).join(file)).expect("a file");
            assert!(bytes("ddp") == bytes("fsdp"), "{file} holds what all ranks have");
        }
    }
}

#[test]
fn a_rank_holds_its_part_of_the_weights_only() {
    let mut weights = stored(Stored::Bf16);
    // Blocks that outweigh embedding and head, and more of them than are held at once.
    let config = harness_decoder::DecoderConfig { num_layers: 12, sliding_window: vec![None; 12], ..config() };
    weights.layers = (0..12).map(|i| weights.layers[i % 2].clone()).collect();
    weights.embed = HostTensor::from_f32(weights.embed.shape.clone(), weights.embed.to_f32().into_owned());
    let held = |sharded: bool| -> usize {
        thread::scope(|scope| {
            let threads: Vec<_> = ThreadExchange::group(4)
                .into_iter()
                .map(|exchange| {
                    let (weights, config) = (&weights, &config);
                    scope.spawn(move || {
                        let trainable = Trainable::Lora(spec(&[Projection::Q], 0.0));
                        let source = |backend: &CpuBackend, layers: &[_], backward: &[bool]| {
                            let sharded = Sharded::new(backend, layers, backward, exchange);
                            Ok(Box::new(sharded) as Box<dyn WeightSource<CpuBackend>>)
                        };
                        let (backend, seed) = (CpuBackend::new(), Seed(1));
                        let (model, store) = match sharded {
                            true => Model::with_source(backend, config, weights, &trainable, 64, seed, source),
                            false => Model::new(backend, config, weights, &trainable, 64, seed),
                        }
                        .expect("a model");
                        let model = model.with_policy(SavePolicy::Layer);
                        let mut grads = CpuBackend::new().zeros(store.len()).unwrap();
                        let sink = &mut LocalSink::<CpuBackend>(&mut grads);
                        model.participate(&store.values, Some(sink)).expect("weights");
                        model.backend().peak_bytes()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank")).max().expect("ranks")
        })
    };
    let (all, part) = (held(false), held(true));
    let blocks = 12 * 2 * (40 * (48 + 48) + 48 * 40 + 3 * 40 * 56);
    assert!(all - part > blocks / 2, "{all} {part} {blocks}");
}

/// Ends with an error, or panics, after an update.
struct DiesAfter(u64, bool);

impl Progress for DiesAfter {
    fn step(&mut self, report: &StepReport) {
        assert!(report.step < self.0 || !self.1, "killed");
    }
}

#[test]
fn a_rank_that_dies_ends_the_others_with_its_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = stored(Stored::F32);
    for sharding in [Sharding::None, Sharding::Fsdp] {
        let began = Instant::now();
        let control = ThreadExchange::group(4).into_iter().map(|exchange| Arc::new(Host(exchange)));
        let ranks: Vec<_> = control.zip(ThreadExchange::group(4)).collect();
        let errors: Vec<String> = thread::scope(|scope| {
            let threads: Vec<_> = ranks
                .into_iter()
                .map(|(control, gather)| {
                    let (weights, output) = (&weights, folder.path());
                    scope.spawn(move || {
                        // Only rank 0 hears of steps: it is the one that dies.
                        let (control, trainable) = (control as Arc<dyn Collective<CpuBackend>>, lora());
                        let mut trainer =
                            trainer(output, weights, &trainable, &options(sharding), (control, Some(gather)))
                                .expect("a trainer");
                        trainer.run(&mut DiesAfter(3, true)).expect_err("rank 0 is gone").to_string()
                    })
                })
                .collect();
            let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            assert!(results[0].is_err(), "rank 0 panicked");
            results.into_iter().skip(1).map(|result| result.expect("an error")).collect()
        });
        assert!(errors.iter().all(|error| error.starts_with("rank 0: ")), "{errors:?}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn ranks_that_do_not_agree_are_refused() {
    let errors: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = ThreadExchange::group(3)
            .into_iter()
            .map(|exchange| {
                scope.spawn(move || {
                    let recipe = if exchange.rank() == 2 { "b" } else { "a" };
                    let facts = [("base", "x".to_owned()), ("recipe", recipe.to_owned())];
                    agree::<CpuBackend>(&Host(exchange), &facts).expect_err("refused").to_string()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("an error")).collect()
    });
    assert!(errors.iter().all(|error| error.contains("rank 2 has recipe b, rank 0 has a")), "{errors:?}");
}

#[test]
fn ranks_that_do_not_divide_the_micro_batches_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let exchange = ThreadExchange::group(3).remove(0);
    let ranks: RankSetup = (Arc::new(Host(exchange)), None);
    let error = trainer(folder.path(), &stored(Stored::F32), &lora(), &options(Sharding::None), ranks).err();
    let error = error.expect("refused").to_string();
    assert!(error.contains("gradient_accumulation_steps = 4") && error.contains("1, 2, 4"), "{error}");
}

#[test]
fn a_stopped_run_goes_on_sharded_or_not() {
    for (trainable, kind) in [(lora(), Stored::Bf16), (Trainable::Full, Stored::F32)] {
        for (first, then) in [(Sharding::Fsdp, Sharding::None), (Sharding::None, Sharding::Fsdp)] {
            stops_and_goes_on(&trainable, kind, first, then);
        }
    }
}

fn stops_and_goes_on(trainable: &Trainable, kind: Stored, first: Sharding, then: Sharding) {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = stored(kind);
    let reference = run(2, kind, trainable, Sharding::None, &folder.path().join("whole"));
    let output = folder.path().join("stopped");
    let go = |world: usize, sharding: Sharding, resume: bool, stop_at: u64| {
        let control = ThreadExchange::group(world).into_iter().map(|exchange| Arc::new(Host(exchange)));
        let ranks: Vec<_> = control.zip(ThreadExchange::group(world)).collect();
        thread::scope(|scope| {
            let threads: Vec<_> = ranks
                .into_iter()
                .map(|(control, gather)| {
                    let (weights, output) = (&weights, &output);
                    scope.spawn(move || {
                        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
                        let control = control as Arc<dyn Collective<CpuBackend>>;
                        let mut trainer =
                            trainer(output, weights, trainable, &options(sharding), (control, Some(gather)))
                                .expect("a trainer")
                                .with_stop(Arc::clone(&stop));
                        if resume {
                            assert_eq!(trainer.resume().expect("a checkpoint"), 4);
                        }
                        struct StopAt(u64, Arc<std::sync::atomic::AtomicBool>);
                        impl Progress for StopAt {
                            fn step(&mut self, report: &StepReport) {
                                self.1.store(report.step == self.0, std::sync::atomic::Ordering::Relaxed);
                            }
                        }
                        let summary = trainer.run(&mut StopAt(stop_at, stop)).expect("a run");
                        (summary.interrupted, trainer.store().values.to_vec())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a rank")).collect::<Vec<_>>()
        })
    };
    let stopped = go(2, first, false, 4);
    assert!(stopped.iter().all(|(interrupted, _)| *interrupted), "all ranks stop together");
    let resumed = go(2, then, true, 99);
    let held: Vec<f32> = match (trainable, then) {
        (Trainable::Full, Sharding::Fsdp) => resumed.into_iter().flat_map(|(_, values)| values).collect(),
        _ => resumed.into_iter().next().expect("a rank").1,
    };
    assert!(held == reference[0].0, "the same number of ranks: bit for bit");
}

/// Ranks of this process over real connections.
fn over_tcp<R: Send>(world: usize, f: impl Fn(usize, TcpExchange) -> R + Sync) -> Vec<R> {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    thread::scope(|scope| {
        let f = &f;
        let threads: Vec<_> = (0..world)
            .map(|rank| {
                scope.spawn(move || {
                    let (addresses, job) = (vec!["127.0.0.1".to_owned()], "test".to_owned());
                    let local_rank = Some(rank);
                    let launch = Launch { rank, world, local_rank, addresses, port, ports: 1, job, secret: None };
                    let patience = Duration::from_secs(60);
                    let [control, _] = TcpExchange::connect(&launch, patience, &|_| ()).expect("all ranks");
                    f(rank, control)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
    })
}

#[test]
fn connections_carry_what_threads_share() {
    let parts = |rank: usize| -> Vec<Bytes> {
        (0..3).map(|to| vec![rank as u8 * 16 + to as u8; 100_000 * (rank + to)].into()).collect()
    };
    let received = over_tcp(3, |rank, exchange| {
        assert_eq!((exchange.rank(), exchange.world()), (rank, 3));
        let first = exchange.all_to_all(parts(rank)).expect("parts");
        let second = exchange.all_to_all(vec![vec![rank as u8].into(); 3]).expect("parts");
        assert_eq!(second.iter().map(|part| part[0]).collect::<Vec<_>>(), [0, 1, 2]);
        first
    });
    for (rank, received) in received.iter().enumerate() {
        for (from, part) in received.iter().enumerate() {
            assert_eq!(*part, parts(from)[rank], "from {from} to {rank}");
        }
    }
}

#[test]
fn a_process_that_dies_is_noticed_with_its_error() {
    let errors = over_tcp(3, |rank, exchange| match rank {
        1 => {
            exchange.abort("the disk is full");
            String::new()
        }
        _ => exchange.all_to_all(vec![Arc::from(&[1u8][..]); 3]).expect_err("rank 1 is gone").to_string(),
    });
    assert_eq!(errors[0], "rank 1: the disk is full");
    assert!(errors[2].starts_with("rank 1: ") || errors[2].starts_with("rank 0: "), "{}", errors[2]);
}

#[test]
fn a_rendezvous_that_cannot_be_is_refused() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    let launch = |rank: usize, world: usize, port: u16| Launch {
        rank,
        world,
        local_rank: Some(rank),
        addresses: vec!["127.0.0.1".into()],
        port,
        ports: 1,
        job: "test".into(),
        secret: None,
    };
    let patience = Duration::from_millis(300);
    let taken = TcpExchange::connect(&launch(0, 2, port), patience, &|_| ()).expect_err("taken").to_string();
    assert!(taken.contains("is taken; set MASTER_PORT"), "{taken}");
    drop(free);
    let alone = TcpExchange::connect(&launch(0, 2, port), patience, &|_| ()).expect_err("nobody comes").to_string();
    assert!(alone.contains("timed out waiting for rank 1"), "{alone}");
    let nobody = TcpExchange::connect(&launch(1, 2, port), patience, &|_| ()).expect_err("nobody waits").to_string();
    assert!(nobody.contains("cannot reach rank 0"), "{nobody}");
    let errors: Vec<String> = thread::scope(|scope| {
        let ranks = [(0, 2), (1, 3)].map(|(rank, world)| {
            scope.spawn(move || {
                let result = TcpExchange::connect(&launch(rank, world, port), Duration::from_secs(20), &|_| ());
                result.expect_err("refused").to_string()
            })
        });
        ranks.into_iter().map(|thread| thread.join().expect("an error")).collect()
    });
    assert!(errors.iter().all(|error| error.contains("it counts 3 ranks, rank 0 counts 2")), "{errors:?}");
}
