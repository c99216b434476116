//! Memory that runs out at any point of a step is an error, of which all ranks hear; what is trained stays whole.

mod oracle;

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use harness_core::{Digest, Seed};
use harness_decoder::{BlockSpec, DecoderConfig, Projection};
use harness_training::{
    TrainingError,
    backend::{BackendError, CpuBackend, Memory},
    block::{DropoutPlan, SavePolicy},
    checkpoint,
    data::{Batch, BatchSource, Sample, lengths, one_a_row},
    export::Artifact,
    model::{LocalSink, MicroStep, Model, NoisePlan, Trainable, WeightSource},
    optimizer::{AdamW, gradient_norm},
    parallel::{Collective, Host, Ranks, Sharded, ThreadExchange},
    params::ParamStore,
    recipe::{Sharding, TrainingOptions},
    telemetry::Silent,
    trainer::{Trainer, TrainerSetup},
};
use oracle::{batch, config, model, spec, weights};

fn lora() -> Trainable {
    Trainable::Lora(spec(&Projection::ALL, 0.1))
}

/// One update: forward, backward, optimizer.
fn step(model: &Model<CpuBackend>, store: &mut ParamStore<CpuBackend>, batch: &Batch) -> Result<f64, TrainingError> {
    let backend = model.backend();
    store.clear_grads(backend)?;
    let noise = NoisePlan::new(1, 2, 3, 5.0);
    let micro = MicroStep { noise, dropout: DropoutPlan::new(1, 2, 3, 0.1), ..MicroStep::mean(batch.num_labels()) };
    let loss = model.forward_backward(batch, &store.values, &micro, &mut LocalSink(&mut store.grads))?;
    let norm = gradient_norm(backend, store)?;
    AdamW::default().update(backend, store, 1, 0.01, norm, 1.0)?;
    Ok(loss)
}

/// Has every buffer that `f` takes missing once; how many there are. `f` hears whether all of them are there.
fn each_failure(backend: &CpuBackend, mut f: impl FnMut(bool) -> Result<(), TrainingError>) -> usize {
    for buffers in 0.. {
        backend.fail_after(Some(buffers));
        let result = f(false);
        backend.fail_after(None);
        match result {
            Ok(()) => return buffers,
            Err(TrainingError::Backend(BackendError::OutOfMemory(missing))) => assert!(missing.used > 0, "{missing}"),
            Err(error) => panic!("buffer {buffers}: {error}"),
        }
        f(true).expect("enough memory");
    }
    unreachable!("a step ends")
}

#[test]
fn every_buffer_of_a_step_may_be_missing() {
    let biased = DecoderConfig { qkv_bias: true, o_bias: true, block: BlockSpec::with_head_norms(true), ..config() };
    let cases = [
        (config(), lora(), SavePolicy::Lean),
        (biased.clone(), lora(), SavePolicy::Every(2)),
        (biased, Trainable::Full, SavePolicy::Layer),
        (config(), Trainable::Full, SavePolicy::Full),
    ];
    for (config, trainable, policy) in cases {
        let batch = batch(&config, &[9, 1, 30], 3);
        let (model, mut store) = model(&config, &trainable);
        let model = model.with_policy(policy);
        let start = store.values.to_vec();
        let expected = {
            let loss = step(&model, &mut store, &batch).expect("enough memory");
            (loss, store.values.to_vec(), store.mean.to_vec())
        };
        let buffers = each_failure(model.backend(), |whole| {
            store.values.copy_from_slice(&start);
            store.mean.fill(0.0);
            store.square.fill(0.0);
            let loss = step(&model, &mut store, &batch).inspect_err(|_| {
                assert!(store.values[..] == start && store.mean.iter().all(|&mean| mean == 0.0), "nothing is updated");
            })?;
            let found = (loss, store.values.to_vec(), store.mean.to_vec());
            assert!(!whole || found == expected, "{policy:?}: a step after a failure has the same numbers");
            Ok(())
        });
        assert!(buffers >= 30, "{policy:?}: {buffers}");
    }
}

#[test]
fn every_buffer_of_a_model_and_of_losses_may_be_missing() {
    for trainable in [lora(), Trainable::Full] {
        let (backend, config) = (CpuBackend::new(), config());
        // Something is held from the start.
        let _held = backend.zeros(1).unwrap();
        let placed = each_failure(&backend, |_| {
            Model::new(backend.clone(), &config, &weights(&config), &trainable, 64, Seed(1)).map(drop)
        });
        let (model, store) = model(&config, &trainable);
        let pairs = batch(&config, &[9, 12, 20, 7], 3);
        let reference = model.backend().upload(&store.values).unwrap();
        let expected = model.loss(&pairs, &store.values).expect("enough memory");
        let losses = each_failure(model.backend(), |_| {
            let micro = MicroStep::mean(1);
            let loss = model.loss(&pairs, &store.values)?;
            assert_eq!(loss, expected);
            model.preference(&pairs, &store.values, &reference, 0.3, &micro, None).map(drop)
        });
        assert!(placed >= 5 && losses > 60, "{placed} {losses}");
    }
}

fn options(sharding: Sharding) -> TrainingOptions {
    let text = "max_steps = 4\nbatch_size = 1\ngradient_accumulation_steps = 3\nlearning_rate = 0.01\nsave_steps = 1";
    TrainingOptions { sharding, ..toml::from_str(text).expect("options") }
}

/// One rank's trainer.
fn trainer(
    backend: CpuBackend,
    output: &Path,
    (trainable, sharding): (&Trainable, Sharding),
    control: Arc<dyn Collective<CpuBackend>>,
    gathering: Option<ThreadExchange>,
) -> Result<Trainer<CpuBackend>, TrainingError> {
    let (config, options) = (config(), options(sharding));
    let weights = weights(&config);
    let token = |i: usize, at: usize| (7 * i + 3 * at) as u32 % config.vocab_size as u32;
    let sample =
        |i: usize| Sample { tokens: (0..12).map(|at| token(i, at)).collect(), loss_from: 1, ..Sample::default() };
    let samples: Arc<[Sample]> = (0..8).map(sample).collect();
    let (model, store) = match (gathering, trainable) {
        (Some(_), Trainable::Full) => Model::sharded(backend, &config, &weights, 64, Arc::clone(&control))?,
        (Some(exchange), _) => {
            let sharded = |backend: &CpuBackend, layers: &[_], backward: &[bool]| {
                let sharded = Sharded::new(backend, layers, backward, exchange);
                Ok(Box::new(sharded) as Box<dyn WeightSource<CpuBackend>>)
            };
            Model::with_source(backend, &config, &weights, trainable, 64, Seed(1), sharded)?
        }
        (None, _) => Model::new(backend, &config, &weights, trainable, 64, Seed(1))?,
    };
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
    let train = BatchSource::new(Arc::clone(&samples), one_a_row(&lengths(&samples)), 1, Seed(1));
    let (output, run) = (output.to_owned(), Digest::of("a run"));
    let setup = TrainerSetup { options, dropout: 0.1, train, validation: vec![], artifact, output, run };
    Trainer::new(model, store, setup)?.with_ranks(control)
}

#[test]
fn a_run_that_fails_anywhere_keeps_its_last_step_and_goes_on_from_it() {
    let (folder, trainable) = (tempfile::tempdir().expect("a folder"), lora());
    let start = |output: &Path| {
        let (setting, control) = ((&trainable, Sharding::None), Ranks::single().collective());
        trainer(CpuBackend::new(), output, setting, control, None).expect("a trainer")
    };
    let mut whole = start(&folder.path().join("whole"));
    whole.run(&mut Silent).expect("a run");
    let mut ended = vec![];
    for buffers in (0..).step_by(23) {
        let output = folder.path().join(buffers.to_string());
        let mut failing = start(&output);
        failing.model().backend().fail_after(Some(buffers));
        let Err(error) = failing.run(&mut Silent) else { break };
        let step = failing.state().step;
        let TrainingError::OutOfMemory { kept, .. } = &error else { panic!("{error}") };
        assert!(error.to_string().starts_with(&format!("out of memory at step {}: ", step + 1)), "{error}");
        assert_eq!(checkpoint::steps(&output).pop(), (step > 0).then_some(step), "{kept}");
        let mut again = start(&output);
        assert_eq!(again.resume().expect("a checkpoint, or none"), step);
        again.run(&mut Silent).expect("a run");
        assert!(again.store().values[..] == whole.store().values[..], "{buffers}");
        ended.push(step);
    }
    assert!(ended.len() > 10 && [0, 1, 2, 3].iter().all(|step| ended.contains(step)), "{ended:?}");
}

#[test]
fn all_ranks_end_where_one_has_no_memory() {
    let cases = [(lora(), Sharding::None), (lora(), Sharding::Fsdp), (Trainable::Full, Sharding::Fsdp)];
    for (trainable, sharding) in &cases {
        for buffers in [0, 20, 41, 97, 200] {
            let (folder, began) = (tempfile::tempdir().expect("a folder"), Instant::now());
            let groups = ThreadExchange::group(3).into_iter().zip(ThreadExchange::group(3));
            let errors: Vec<TrainingError> = thread::scope(|scope| {
                let ranks = groups.enumerate().map(|(rank, (control, gathering))| {
                    let output = folder.path();
                    scope.spawn(move || {
                        let gathering = (*sharding == Sharding::Fsdp).then_some(gathering);
                        let (backend, setting) = (CpuBackend::new(), (trainable, *sharding));
                        let control = Arc::new(Host(control));
                        let mut trainer =
                            trainer(backend.clone(), output, setting, control, gathering).expect("a trainer");
                        backend.fail_after((rank == 1).then_some(buffers));
                        trainer.run(&mut Silent).expect_err("rank 1 has no memory")
                    })
                });
                let ranks: Vec<_> = ranks.collect();
                ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
            });
            assert!(matches!(errors[1], TrainingError::OutOfMemory { .. }), "{}", errors[1]);
            for error in [&errors[0], &errors[2]].map(ToString::to_string) {
                assert!(error.starts_with("rank 1: "), "{sharding:?} {buffers}: {error}");
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        }
    }
}
