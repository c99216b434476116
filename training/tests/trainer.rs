//! The loop: learning, accumulation, resuming, stopping, threads, bad values.

mod oracle;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use harness_core::{Digest, Seed};
use harness_decoder::{BlockSpec, DecoderConfig, Projection};
use harness_training::{
    TrainingError,
    backend::{CpuBackend, Memory},
    checkpoint,
    data::{Batch, BatchSource, Sample, lengths, one_a_row},
    export::Artifact,
    model::{LocalSink, MicroStep, Model, Trainable},
    optimizer,
    recipe::{Precision, ScheduleKind, TrainingOptions},
    telemetry::{MetricLine, Progress, Silent, StepReport, read_lines},
    trainer::{Trainer, TrainerSetup, TrainingSummary},
};
use oracle::{config, model, spec, weights};

fn options() -> TrainingOptions {
    let text = "max_steps = 12\nbatch_size = 2\ngradient_accumulation_steps = 2\nlearning_rate = 0.01\nwarmup_ratio = 0.1\n\
                eval_steps = 4\nlog_steps = 3";
    toml::from_str(text).expect("options")
}

fn samples(config: &DecoderConfig, n: usize, length: usize) -> Vec<Sample> {
    let mut rng = Seed(6).stream("samples", 0);
    let token = |rng: &mut harness_core::StreamRng| rng.below(config.vocab_size as u64) as u32;
    let sample = |i: usize| {
        let tokens = (0..length + i % 5).map(|_| token(&mut rng)).collect();
        Sample { tokens, loss_from: 1 + i % 3, truncated: 0, ..Sample::default() }
    };
    (0..n).map(sample).collect()
}

fn trainer(output: &Path, trainable: &Trainable, options: &TrainingOptions) -> Trainer<CpuBackend> {
    let config = config();
    let (model, store) = model(&config, trainable);
    let dropout = if let Trainable::Lora(spec) = trainable { spec.dropout } else { 0.0 };
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
    let samples: Arc<[Sample]> = samples(&config, 10, 12).into();
    let validation = vec![Batch::of(&samples[..3])];
    let rows = one_a_row(&lengths(&samples));
    let train = BatchSource::new(samples, rows, options.batch_size, Seed(options.seed));
    let (options, output, run) = (options.clone(), output.to_owned(), Digest::of("a run"));
    let setup = TrainerSetup { options, dropout, train, validation, artifact, output, run };
    Trainer::new(model, store, setup).expect("a trainer")
}

fn lora() -> Trainable {
    Trainable::Lora(spec(&Projection::ALL, 0.1))
}

/// Does something after an update.
struct After<F: FnMut(u64)>(F);

impl<F: FnMut(u64)> Progress for After<F> {
    fn step(&mut self, report: &StepReport) {
        (self.0)(report.step);
    }
}

/// The log without what depends on time and on the process.
fn log(output: &Path) -> Vec<MetricLine> {
    let lines = read_lines(&output.join("metrics.jsonl")).expect("a log");
    lines.into_iter().map(|line| MetricLine { tokens_per_second: None, memory_bytes: None, ..line }).collect()
}

fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn assert_same_run(a: &Path, b: &Path, steps: u64) {
    assert_eq!(bytes(a, "adapter_model.safetensors"), bytes(b, "adapter_model.safetensors"));
    let last = |folder: &Path| bytes(&checkpoint::folder(folder, steps), "optimizer.safetensors");
    assert_eq!(last(a), last(b), "values and moments");
    assert_eq!(log(a), log(b));
}

#[test]
fn stopping_and_resuming_changes_no_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    let summary = trainer(&whole, &lora(), &options()).run(&mut Silent).expect("a run");
    assert_eq!((summary.steps, summary.interrupted), (12, false));

    for (at, resumed) in [(5, 0), (7, 5), (99, 7)] {
        let stop = Arc::new(AtomicBool::new(false));
        let mut trainer = trainer(&stopped, &lora(), &options()).with_stop(stop.clone());
        assert_eq!(trainer.resume().expect("a checkpoint"), resumed);
        let mut after = After(|step| stop.store(step == at, Ordering::Relaxed));
        let summary = trainer.run(&mut after).expect("a run");
        assert_eq!((summary.steps, summary.interrupted), (at.min(12), at < 12));
    }
    assert_same_run(&whole, &stopped, 12);
}

/// Asks for the stop after the first of an update's micro-batches, or while an evaluation goes on.
struct StopWithin {
    stop: Arc<AtomicBool>,
    micro_batches: usize,
    evaluations: bool,
}

impl Progress for StopWithin {
    fn micro_batch(&mut self, _: usize, _: usize) {
        self.micro_batches -= 1;
        self.stop.fetch_or(self.micro_batches == 0, Ordering::Relaxed);
    }

    fn evaluating(&mut self, _: usize, _: usize) {
        self.stop.fetch_or(self.evaluations, Ordering::Relaxed);
    }
}

#[test]
fn an_update_in_flight_is_left_and_done_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    trainer(&whole, &lora(), &options()).run(&mut Silent).expect("a run");
    let mut resumed = 0;
    // Of three updates of an epoch the last has one micro-batch. Within the seventh, then in the evaluation after the
    // eighth, then within the tenth.
    for (micro_batches, evaluations, done) in [(11, false, 6), (99, true, 8), (2, false, 9)] {
        let stop = Arc::new(AtomicBool::new(false));
        let mut trainer = trainer(&stopped, &lora(), &options()).with_stop(stop.clone());
        assert_eq!(trainer.resume().expect("a checkpoint"), resumed);
        let summary = trainer.run(&mut StopWithin { stop, micro_batches, evaluations }).expect("a run");
        assert_eq!((summary.steps, summary.interrupted), (done, true));
        resumed = done;
    }
    let mut last = trainer(&stopped, &lora(), &options());
    assert_eq!(last.resume().expect("a checkpoint"), 9);
    last.run(&mut Silent).expect("a run");
    assert_same_run(&whole, &stopped, 12);
}

#[test]
fn runs_killed_at_random_steps_go_on_from_their_last_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = folder.path().join("whole");
    trainer(&whole, &lora(), &options()).run(&mut Silent).expect("a run");
    let mut rng = Seed(11).stream("kills", 0);
    for round in 0..4 {
        let killed = folder.path().join(format!("killed{round}"));
        let mut done = 0;
        // Killed again and again, each time before the update's line and checkpoint are written.
        for _ in 0..3 {
            let at = done + 1 + rng.below(12 - done);
            let death = std::panic::catch_unwind(|| {
                let mut trainer = trainer(&killed, &lora(), &options());
                assert_eq!(trainer.resume().expect("a checkpoint"), done);
                trainer.run(&mut After(|step| assert!(step < at, "killed")))
            });
            assert!(death.is_err());
            done = (at - 1) / 4 * 4;
        }
        let mut again = trainer(&killed, &lora(), &options());
        assert_eq!(again.resume().expect("a checkpoint"), done);
        again.run(&mut Silent).expect("a run");
        assert_same_run(&whole, &killed, 12);
    }
}

#[test]
fn half_precision_scales_the_loss_and_skips_what_overflows() {
    let folder = tempfile::tempdir().expect("a folder");
    let plain = TrainingOptions { warmup_ratio: 0.0, ..options() };
    let half = TrainingOptions { precision: Some(Precision::Fp16), ..plain.clone() };
    trainer(&folder.path().join("plain"), &lora(), &plain).run(&mut Silent).expect("a run");
    let mut scaled = trainer(&folder.path().join("scaled"), &lora(), &half);
    assert_eq!(scaled.run(&mut Silent).expect("a run").skipped, 0);
    // A power of two changes no digit of what does not overflow, and these weights are the same f32.
    let values = |run: &str| bytes(&folder.path().join(run), "adapter_model.safetensors");
    assert_eq!(values("plain"), values("scaled"));
    // So large that squares of gradients overflow f32 at first.
    let huge = TrainingOptions { loss_scale: 2f64.powi(68), ..half };
    let output = folder.path().join("huge");
    let mut huge = trainer(&output, &lora(), &huge);
    let summary = huge.run(&mut Silent).expect("a run");
    assert!(summary.skipped > 2 && summary.skipped < 12, "{}", summary.skipped);
    assert_eq!(summary.steps, 12);
    assert!(huge.state().scaler.expect("a scaler").scale < 2f64.powi(66));
    assert!(log(&output).iter().any(|line| line.skipped == Some(summary.skipped)));
}

#[test]
fn a_run_that_gets_no_better_ends_early_and_keeps_what_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = TrainingOptions {
        max_steps: Some(40),
        eval_steps: Some(1),
        learning_rate: 3.0,
        schedule: ScheduleKind::Constant,
        early_stopping_patience: Some(3),
        save_total_limit: Some(2),
        ..options()
    };
    let summary = trainer(folder.path(), &lora(), &options).run(&mut Silent).expect("a run");
    let best = summary.best.expect("an evaluation");
    assert!(summary.stopped_early && summary.steps < 40);
    let losses: Vec<f64> = log(folder.path()).iter().filter_map(|line| line.eval_loss).collect();
    assert!(losses.iter().rev().take(3).all(|&loss| loss >= best.eval_loss));
    let mut expected = vec![best.step, summary.steps - 1, summary.steps];
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(checkpoint::steps(folder.path()), expected);
}

#[test]
fn a_run_begun_anew_leaves_no_checkpoint_of_the_old_one() {
    let folder = tempfile::tempdir().expect("a folder");
    trainer(folder.path(), &lora(), &options()).run(&mut Silent).expect("a run");
    let stop = Arc::new(AtomicBool::new(false));
    let mut again = trainer(folder.path(), &lora(), &options()).with_stop(stop.clone());
    again.run(&mut After(|step| stop.store(step == 2, Ordering::Relaxed))).expect("a run");
    assert_eq!(checkpoint::steps(folder.path()), [2]);
}

#[test]
fn noise_changes_the_run_and_not_its_repetition() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |name: &str, options: &TrainingOptions| {
        let mut trainer = trainer(&folder.path().join(name), &lora(), options);
        trainer.run(&mut Silent).expect("a run");
        trainer.store().values.to_vec()
    };
    let plain = run("plain", &options());
    let noisy = TrainingOptions { neftune_noise_alpha: 5.0, ..options() };
    let first = run("noisy", &noisy);
    assert!(first != plain && first == run("again", &noisy));
}

#[test]
fn full_training_overfits_a_few_sequences() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = TrainingOptions { max_steps: Some(60), warmup_ratio: 0.0, eval_steps: None, ..options() };
    let mut trainer = trainer(folder.path(), &Trainable::Full, &options);
    let before = trainer.evaluate(&mut Silent).expect("a loss");
    let TrainingSummary { loss, best, .. } = trainer.run(&mut Silent).expect("a run");
    let best = best.expect("an evaluation").eval_loss;
    assert!(before > 4.0 && loss < 0.3 && best < 0.3, "{before} {loss} {best}");
    assert!(folder.path().join("model.safetensors").is_file() && folder.path().join("config.json").is_file());
}

#[test]
fn low_rank_training_lowers_the_loss_and_keeps_the_best() {
    let folder = tempfile::tempdir().expect("a folder");
    // A rate so high that the last parameters are not the best.
    let options = TrainingOptions {
        max_steps: Some(16),
        eval_steps: Some(1),
        learning_rate: 3.0,
        schedule: ScheduleKind::Constant,
        ..options()
    };
    let mut trainer = trainer(folder.path(), &lora(), &options);
    let before = trainer.evaluate(&mut Silent).expect("a loss");
    let summary = trainer.run(&mut Silent).expect("a run");
    let best = summary.best.expect("an evaluation");
    let lines = log(folder.path());
    let lowest = lines.iter().filter_map(|line| line.eval_loss).fold(f64::INFINITY, f64::min);
    assert_eq!(best.eval_loss, lowest);
    assert!(lowest < before && best.step < 16, "{before} {best:?}");
    assert_eq!(trainer.evaluate(&mut Silent).expect("a loss"), lowest, "the best parameters are restored");
    assert_eq!(checkpoint::steps(folder.path()), [best.step, 16]);
}

#[test]
fn accumulated_micro_batches_equal_one_batch() {
    let config = config();
    for trainable in [Trainable::Full, Trainable::Lora(spec(&Projection::ALL, 0.0))] {
        let samples = samples(&config, 4, 14);
        let (model, mut store) = model(&config, &trainable);
        let params = model.backend().clone();
        let params = harness_training::backend::Memory::upload(&params, &store.values).unwrap();
        let n = samples.iter().map(Sample::num_labels).sum();
        let mut sum = |batches: &[Batch]| -> (f64, Vec<f32>) {
            store.grads.fill(0.0);
            let mut sink = LocalSink(&mut store.grads);
            let loss = batches
                .iter()
                .map(|b| model.forward_backward(b, &params, &MicroStep::mean(n), &mut sink).expect("weights"))
                .sum();
            (loss, store.grads.to_vec())
        };
        let (one_loss, one) = sum(&[Batch::of(&samples)]);
        let (many_loss, many) = sum(&samples.iter().map(|s| Batch::of([s])).collect::<Vec<_>>());
        assert!((one_loss - many_loss).abs() < 1e-5 * one_loss);
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let difference = norm(&mut one.iter().zip(&many).map(|(a, b)| a - b));
        assert!(difference < 1e-5 * norm(&mut one.iter().copied()), "{difference}");
    }
}

#[test]
fn threads_change_no_bit() {
    let config = DecoderConfig {
        hidden_size: 96,
        intermediate_size: 200,
        vocab_size: 3000,
        block: BlockSpec::with_head_norms(true),
        ..config()
    };
    for trainable in [Trainable::Full, lora()] {
        let batch = oracle::batch(&config, &[130, 64, 200, 1, 90], 4);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let (model, mut store) = model(&config, &trainable);
                let params = harness_training::backend::Memory::upload(model.backend(), &store.values).unwrap();
                let dropout = harness_training::block::DropoutPlan::new(1, 2, 3, 0.1);
                let mut sink = LocalSink(&mut store.grads);
                let loss = model
                    .forward_backward(
                        &batch,
                        &params,
                        &MicroStep::mean(batch.num_labels()).with_dropout(dropout),
                        &mut sink,
                    )
                    .expect("weights");
                let norm = optimizer::gradient_norm(model.backend(), &store).unwrap();
                (loss, norm, store.grads.to_vec())
            })
        };
        let (one, two, five) = (run(1), run(2), run(5));
        assert!(one == two && one == five);
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = TrainingOptions {
        learning_rate: 1e30,
        warmup_ratio: 0.0,
        eval_steps: Some(1),
        max_steps: Some(8),
        ..options()
    };
    // Full training: the first update makes the weights huge, and the loss of the second is not finite.
    let mut trainer = trainer(folder.path(), &Trainable::Full, &options);
    let error = trainer.run(&mut Silent).expect_err("no numbers");
    assert!(matches!(error, TrainingError::NonFinite { step: 1 | 2, .. }), "{error}");
    assert!(error.to_string().contains("step ") && !folder.path().join("model.safetensors").exists());

    let options = TrainingOptions { learning_rate: 0.01, max_steps: Some(3), eval_steps: Some(1), ..options };
    let folder = tempfile::tempdir().expect("a folder");
    let mut good = self::trainer(folder.path(), &Trainable::Full, &options);
    let stop = Arc::new(AtomicBool::new(false));
    good = good.with_stop(stop.clone());
    good.run(&mut After(|step| stop.store(step == 2, Ordering::Relaxed))).expect("a run");
    let options = TrainingOptions { learning_rate: f64::NAN, max_steps: Some(5), ..options };
    let mut bad = self::trainer(folder.path(), &Trainable::Full, &options);
    assert_eq!(bad.resume().expect("a checkpoint"), 2);
    let error = bad.run(&mut Silent).expect_err("no numbers");
    assert!(error.to_string().contains("the checkpoint of step 2 is kept"), "{error}");
    assert_eq!(checkpoint::steps(folder.path()).last(), Some(&2));
}

#[test]
fn checkpoints_of_another_run_or_broken_ones_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("run");
    trainer(&output, &lora(), &TrainingOptions { max_steps: Some(2), ..options() }).run(&mut Silent).expect("a run");
    let state = checkpoint::folder(&output, 2).join("trainer_state.json");
    let error = checkpoint::read_state(state.parent().expect("a folder"), Digest::of("another")).expect_err("refused");
    assert!(error.to_string().contains("another run"), "{error}");

    let tensors = checkpoint::folder(&output, 2).join("optimizer.safetensors");
    let data = fs::read(&tensors).expect("tensors");
    fs::write(&tensors, &data[..data.len() / 2]).expect("a shorter file");
    let error = trainer(&output, &lora(), &options()).resume().expect_err("broken");
    assert!(error.to_string().contains("optimizer.safetensors"), "{error}");

    // As many elements, of half the bytes.
    let found = safetensors::SafeTensors::deserialize(&data).expect("tensors");
    let half = found.tensors().into_iter().map(|(name, tensor)| {
        let shape = tensor.shape().to_vec();
        let bytes = &tensor.data()[..2 * shape[0]];
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape, bytes).expect("a view"))
    });
    let half: Vec<_> = half.collect();
    let views = half.iter().map(|(name, view)| (name, view));
    fs::write(&tensors, safetensors::serialize(views, None).expect("bytes")).expect("a file");
    let error = trainer(&output, &lora(), &options()).resume().expect_err("another type");
    assert!(error.to_string().contains("is BF16 of shape"), "{error}");

    let text = fs::read_to_string(&state).expect("a state");
    fs::write(&state, text.replace("\"step\": 2,", "\"step\": 200000,")).expect("another state");
    let error = trainer(&output, &lora(), &options()).resume().expect_err("another step");
    assert!(error.to_string().contains("`step` is 200000, expected 2"), "{error}");

    fs::write(&state, "{}").expect("another file");
    let error = trainer(&output, &lora(), &options()).resume().expect_err("no state");
    assert!(error.to_string().contains("trainer_state.json"), "{error}");
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("a file");
    let error = trainer(&file.join("run"), &lora(), &options()).run(&mut Silent).expect_err("no folder");
    assert!(error.to_string().contains("file/run"), "{error}");
}

#[test]
fn an_estimate_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plain, estimated) = (folder.path().join("plain"), folder.path().join("estimated"));
    trainer(&plain, &lora(), &options()).run(&mut Silent).expect("a run");
    let mut trainer = trainer(&estimated, &lora(), &options());
    let estimate = trainer.estimate().expect("an estimate");
    assert_eq!((estimate.steps, estimate.warmup_steps), (12, 2));
    assert!(estimate.tokens > 0 && estimate.seconds >= 0.0 && !estimated.exists());
    assert_eq!(estimate.trainable_parameters, trainer.store().len());
    assert!(estimate.memory_bytes > 4 * config().num_parameters());
    trainer.run(&mut Silent).expect("a run");
    assert_same_run(&plain, &estimated, 12);
}

#[test]
fn memory_that_runs_out_leaves_a_usable_adapter() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config();
    let start = |limit: usize, output: &Path| {
        let Trainable::Lora(spec) = lora() else { unreachable!("an adapter") };
        let backend = CpuBackend::limited(limit);
        let trainable = Trainable::Lora(spec.clone());
        let (model, store) =
            Model::new(backend, &config, &weights(&config), &trainable, 256, Seed(1)).expect("a model");
        // The last row is much longer than the others.
        let mut samples = samples(&config, 10, 12);
        samples[9].tokens = (0..200).map(|i| i % 40).collect();
        let artifact = Artifact::Adapter { spec, base: "base".into(), config: Box::new(config.clone()) };
        let mut options = options();
        options.eval_steps = None;
        let train = BatchSource::new(samples.clone(), one_a_row(&lengths(&samples)), 2, Seed(options.seed));
        let (output, run) = (output.to_owned(), Digest::of("a run"));
        let setup = TrainerSetup { options, dropout: 0.0, train, validation: vec![], artifact, output, run };
        Trainer::new(model, store, setup).expect("a trainer")
    };
    let whole = folder.path().join("whole");
    let mut plain = start(usize::MAX, &whole);
    plain.run(&mut Silent).expect("a run");
    let needed = plain.model().backend().peak_bytes();

    let output = folder.path().join("out");
    let mut failing = start(needed * 2 / 3, &output);
    let error = failing.run(&mut Silent).expect_err("too little memory");
    let TrainingError::OutOfMemory { .. } = &error else { panic!("{error}") };
    let text = error.to_string();
    let step = failing.state().step;
    assert!(text.contains(&format!("at step {}", step + 1)) && text.contains("batch_size (now 2)"), "{text}");
    assert!(text.contains("gradient_checkpointing"), "{text}");
    assert!(step > 0, "the long row does not come first");
    assert_eq!(checkpoint::steps(&output).pop(), Some(step), "{text}");
    let kept = checkpoint::folder(&output, step);
    harness_decoder::Adapter::load(&kept, &config).expect("an adapter that can be used");

    // With enough memory the same run goes on, and ends as if nothing had been.
    let mut again = start(usize::MAX, &output);
    assert_eq!(again.resume().expect("a checkpoint"), step);
    again.run(&mut Silent).expect("a run");
    assert_eq!(bytes(&whole, "adapter_model.safetensors"), bytes(&output, "adapter_model.safetensors"));
}
