//! Training of a model of known shape with random weights over several ranks, through the same trainer as `harness train`:
//! `cargo bench -p harness-training --features nccl --bench scaling -- [--cpu] [--threads] [--steps N] CASE ...`, with CASE =
//! `shape:weights:dtype:rank:targets:batch:length:save:sharding:ranks` (sharding: `ddp` or `fsdp`; rank 0: all parameters are
//! trained, whatever the targets are called).
//!
//! Every case starts its ranks as processes, one a GPU, or on the processor with `--cpu`, connected over TCP (as threads of one
//! process with `--threads`); rank 0 prints one JSON line. Each rank computes one micro-batch an update.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

mod cases;
#[path = "../../crates/engine/benches/shapes/mod.rs"]
mod shapes;

use std::{
    net::TcpListener,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use harness_core::{Digest, Seed};
use harness_decoder::Weights;
use harness_kernels::HostData;
use harness_training::{
    TrainingError,
    backend::CpuBackend,
    data::{BatchSource, Sample, lengths, one_a_row},
    export::Artifact,
    lora::LoraSpec,
    model::{Model, Trainable},
    parallel::{Collective, Distribute, Exchange, Host, Launch, Single, TcpExchange, ThreadExchange, all_gather_f64},
    recipe::{Precision, Sharding, TrainingOptions},
    trainer::{Trainer, TrainerSetup},
};

/// Updates before the clock counts: plans are made and connections opened.
const WARM_UP: usize = 3;
/// How long ranks look for each other; making the weights of a large model takes a while.
const MEETING: Duration = Duration::from_secs(120);

#[derive(Clone)]
struct Case {
    text: String,
    shape: String,
    stored: String,
    dtype: String,
    rank: usize,
    targets: String,
    documents: usize,
    length: usize,
    save: String,
    sharding: Sharding,
    world: usize,
}

impl Case {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [shape, stored, dtype, rank, targets, documents, length, save, sharding, world] = parts[..] else {
            return Err(format!("{text}: expected shape:weights:dtype:rank:targets:batch:length:save:sharding:ranks"));
        };
        let number =
            |name: &str, value: &str| value.parse().map_err(|_| format!("{text}: {name} {value} is no number"));
        Ok(Self {
            text: text.to_owned(),
            shape: shape.to_owned(),
            stored: stored.to_owned(),
            dtype: dtype.to_owned(),
            rank: number("rank", rank)?,
            targets: targets.to_owned(),
            documents: number("batch", documents)?,
            length: number("length", length)?,
            save: save.to_owned(),
            sharding: if sharding == "fsdp" { Sharding::Fsdp } else { Sharding::None },
            world: number("ranks", world)?,
        })
    }

    fn precision(&self) -> Precision {
        match self.dtype.as_str() {
            "bf16" => Precision::Bf16,
            "fp16" => Precision::Fp16,
            _ => Precision::Fp32,
        }
    }

    fn options(&self, steps: u64) -> Result<TrainingOptions, TrainingError> {
        let text = format!(
            "max_steps = {steps}\nbatch_size = {}\ngradient_accumulation_steps = {}\nlearning_rate = {}",
            self.documents,
            self.world,
            if self.rank == 0 { 1e-5 } else { 1e-4 }
        );
        let options: TrainingOptions =
            toml::from_str(&text).map_err(|error| TrainingError::setting("case", &self.text, error.to_string()))?;
        Ok(TrainingOptions { sharding: self.sharding, precision: Some(self.precision()), ..options })
    }
}

/// Bytes of the blocks' matrices as the device holds them.
fn block_bytes(weights: &Weights, float: f64) -> f64 {
    let linears = weights.layers.iter().flat_map(|layer| layer.linears().into_iter().map(|(_, tensor)| tensor));
    let bytes = linears.map(|tensor| match &tensor.data {
        // Half a byte a weight, a byte a block of 64, four bytes 256 blocks.
        HostData::Nf4(codes) => codes.len as f64 * (0.5 + (1.0 + 4.0 / 256.0) / 64.0),
        _ => (tensor.rows() * tensor.cols()) as f64 * float,
    });
    bytes.sum()
}

type Connections = (Box<dyn Exchange>, Box<dyn Exchange>);

/// One rank's run; the first one's line.
fn run<B: Distribute>(
    backend: B,
    float: f64,
    case: &Case,
    steps: u64,
    (control, gathering): Connections,
) -> Result<Option<String>, TrainingError> {
    let config = shapes::config(&case.shape);
    let weights = shapes::weights(&config, &case.stored);
    let blocks = block_bytes(&weights, float);
    let (rank, targets) = (case.rank, cases::targets(&case.targets));
    let spec = LoraSpec { dropout: 0.05, ..LoraSpec::new(rank, 2.0 * rank as f64, targets) };
    let trainable = if rank == 0 { Trainable::Full } else { Trainable::Lora(spec.clone()) };
    let control: Arc<dyn Collective<B>> = Arc::new(Host(control));
    let control = backend.connect(control)?;
    let (length, seed, sharded) = (case.length, Seed(4), case.sharding == Sharding::Fsdp && case.world > 1);
    let (model, store) = match (sharded, &trainable) {
        (true, Trainable::Full) => Model::sharded(backend.clone(), &config, &weights, length, Arc::clone(&control))?,
        (true, Trainable::Lora(_)) => {
            Model::with_source(backend.clone(), &config, &weights, &trainable, length, seed, |b, layers, backward| {
                b.shard(layers, backward, gathering)
            })?
        }
        (false, _) => Model::new(backend.clone(), &config, &weights, &trainable, length, seed)?,
    };
    drop(weights);
    let model = model.with_policy(cases::policy(&case.save));
    let trained = store.len();
    let mut rng = Seed(7).stream("scaling", 0);
    let samples: Vec<Sample> = (0..case.documents * case.world * steps as usize)
        .map(|_| Sample {
            tokens: (0..length).map(|_| rng.below(config.vocab_size as u64) as u32).collect(),
            loss_from: 1,
            ..Sample::default()
        })
        .collect();
    let (samples, options): (Arc<[Sample]>, _) = (samples.into(), case.options(steps)?);
    let setup = TrainerSetup {
        dropout: spec.dropout,
        train: BatchSource::new(
            Arc::clone(&samples),
            one_a_row(&lengths(&samples)),
            case.documents,
            Seed(options.seed),
        ),
        validation: vec![],
        // Nothing is written.
        artifact: Artifact::Adapter { spec, base: case.shape.clone(), config: Box::new(config.clone()) },
        output: std::env::temp_dir(),
        run: Digest::of(&case.text),
        options,
    };
    let mut trainer = Trainer::new(model, store, setup)?.with_ranks(control)?;
    let (mut ends, mut losses) = (vec![], vec![]);
    for _ in 0..steps {
        losses.push(trainer.advance()?);
        ends.push(Instant::now());
    }
    let mine = trainer.model().backend().peak_bytes();
    let peak = all_gather_f64(&**trainer.ranks(), &[mine as f64])?.into_iter().flatten().fold(0.0, f64::max);
    if !trainer.is_first() {
        return Ok(None);
    }
    let mut seconds: Vec<f64> =
        ends.windows(2).skip(WARM_UP - 1).map(|pair: &[Instant]| (pair[1] - pair[0]).as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    let at = |i: usize| seconds.get(i).copied().unwrap_or(f64::NAN);
    let (median, last) = (at(seconds.len() / 2), seconds.len().saturating_sub(1));
    let samples = (case.documents * case.world) as f64;
    let line = serde_json::json!({
        "case": case.text,
        "shape": case.shape,
        "weights": case.stored,
        "dtype": case.dtype,
        "lora": case.rank,
        "targets": case.targets,
        "batch": case.documents,
        "length": case.length,
        "save": case.save,
        "mode": if case.sharding == Sharding::Fsdp { "fsdp" } else { "ddp" },
        "ranks": case.world,
        "ms": median * 1e3,
        "ms_min": at(0) * 1e3,
        "ms_max": at(last) * 1e3,
        "samples_per_second": samples / median,
        "tokens_per_second": samples * case.length as f64 / median,
        "peak_bytes": peak as u64,
        "block_bytes": blocks,
        "blocks": config.num_layers,
        "trained": trained,
        "skipped": trainer.state().skipped,
        "first_loss": losses.first(),
        "last_loss": losses.last(),
    });
    Ok(Some(line.to_string()))
}

fn on_cpu(case: &Case, steps: u64, connections: Connections) -> Result<Option<String>, TrainingError> {
    run(CpuBackend::new(), 4.0, case, steps, connections)
}

#[cfg(feature = "cuda")]
fn on_gpu(case: &Case, steps: u64, gpu: usize, connections: Connections) -> Result<Option<String>, TrainingError> {
    use harness_kernels::cuda::{Device, Float};
    use harness_training::backend::CudaBackend;
    let (float, bytes) = match case.precision() {
        Precision::Bf16 => (Float::Bf16, 2.0),
        Precision::Fp16 => (Float::F16, 2.0),
        Precision::Fp32 => (Float::F32, 4.0),
    };
    let open = || -> Result<CudaBackend, harness_kernels::KernelError> {
        let device = Device::open(gpu)?;
        device.set_tf32(case.dtype == "tf32")?;
        Ok(CudaBackend::on(device, float))
    };
    run(open()?, bytes, case, steps, connections)
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(_: &Case, _: u64, gpu: usize, _: Connections) -> Result<Option<String>, TrainingError> {
    Err(harness_kernels::KernelError::without_cuda(gpu).into())
}

/// What this call is to do.
struct Call {
    cpu: bool,
    threads: bool,
    steps: u64,
    cases: Vec<String>,
}

fn call() -> Result<Call, String> {
    let mut call = Call { cpu: false, threads: false, steps: 13, cases: vec![] };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--cpu" => call.cpu = true,
            "--threads" => call.threads = true,
            "--steps" => {
                let steps =
                    args.next().and_then(|steps| steps.parse().ok()).filter(|steps| *steps > WARM_UP as u64 + 1);
                call.steps = steps.ok_or(format!("--steps: expected a number above {}", WARM_UP + 1))?;
            }
            // What cargo passes to every benchmark.
            "--bench" => {}
            case => call.cases.push(case.to_owned()),
        }
    }
    Ok(call)
}

/// One rank among processes.
fn rank(call: &Call, case: &Case, launch: Option<&Launch>) -> Result<Option<String>, TrainingError> {
    let gpu = launch.map_or(0, |launch| launch.local_rank.unwrap_or(launch.rank));
    let connections: Connections = match launch {
        None => (Box::new(Single), Box::new(Single)),
        Some(launch) => {
            let [control, gathering] = TcpExchange::connect(launch, MEETING, &|text| eprintln!("{text}"))?;
            (Box::new(control), Box::new(gathering))
        }
    };
    if call.cpu { on_cpu(case, call.steps, connections) } else { on_gpu(case, call.steps, gpu, connections) }
}

/// All ranks as threads.
fn threads(call: &Call, case: &Case) -> Result<Option<String>, TrainingError> {
    let groups = ThreadExchange::group(case.world).into_iter().zip(ThreadExchange::group(case.world));
    let results: Vec<_> = thread::scope(|scope| {
        let ranks = groups.enumerate().map(|(gpu, (control, gathering))| {
            let connections: Connections = (Box::new(control), Box::new(gathering));
            scope.spawn(move || match call.cpu {
                true => on_cpu(case, call.steps, connections),
                false => on_gpu(case, call.steps, gpu, connections),
            })
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join()).collect()
    });
    let mut line = None;
    for result in results {
        let gone = || TrainingError::Launch { message: "a rank panicked".to_owned() };
        line = result.map_err(|_| gone())??.or(line);
    }
    Ok(line)
}

/// All ranks as processes of this program.
fn processes(call: &Call, case: &Case) -> Result<bool, String> {
    let fail = |error: std::io::Error| format!("{}: {error}", case.text);
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).map_err(fail)?.port();
    let mut ranks = vec![];
    for rank in 0..case.world {
        let mut command = Command::new(std::env::current_exe().map_err(fail)?);
        command.args(call.cpu.then_some("--cpu")).args(["--steps", &call.steps.to_string(), &case.text]);
        let (number, world) = (rank.to_string(), case.world.to_string());
        command.env("RANK", &number).env("LOCAL_RANK", &number).env("WORLD_SIZE", world);
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.env("HARNESS_JOB", format!("scaling-{}-{port}", std::process::id()));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        command.env("RAYON_NUM_THREADS", (cores / case.world).max(1).to_string());
        command.stdout(if rank == 0 { Stdio::inherit() } else { Stdio::null() });
        ranks.push(command.spawn().map_err(fail)?);
    }
    let mut good = true;
    for rank in &mut ranks {
        good &= rank.wait().map_err(fail)?.success();
    }
    Ok(good)
}

fn each(call: &Call, launch: Option<&Launch>, text: &str) -> Result<bool, String> {
    let case = Case::parse(text)?;
    let result = match launch {
        Some(launch) => rank(call, &case, (launch.world > 1).then_some(launch)),
        None if call.threads => threads(call, &case),
        None => return processes(call, &case),
    };
    match result {
        Ok(Some(line)) => println!("{line}"),
        Ok(None) => {}
        Err(error) => {
            eprintln!("{text}: {error}");
            println!("{}", serde_json::json!({ "case": text, "error": error.to_string() }));
            return Ok(false);
        }
    }
    Ok(true)
}

fn main() -> ExitCode {
    let run = || -> Result<bool, String> {
        let call = call()?;
        let launch = Launch::from_env(&|name| std::env::var(name).ok()).map_err(|error| error.to_string())?;
        let mut good = true;
        for case in &call.cases {
            good &= each(&call, launch.as_ref(), case)?;
        }
        Ok(good)
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
