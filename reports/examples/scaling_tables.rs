//! Tables and plots of training over several GPUs, from the JSON lines of the benchmark `scaling`:
//! `cargo run --release -p harness-reports --example scaling_tables -- LINES.jsonl FOLDER [SAMPLES_AN_EPOCH]`.
//!
//! Prints Markdown and writes `throughput.svg`, `epoch.svg` and `memory.svg`. Numbers of GPUs out of 1, 2, 4 and 8 that were not
//! run are predicted from those that were, and say so:
//! - replicated: the step of the most GPUs measured, plus the longer ring of the sum of gradients (`2 (S - 1) / S` of its bytes at
//!   355 GB/s, the bus bandwidth of four H100s of one host), as if none of it were hidden;
//! - sharded: what the step of the most GPUs takes more than one GPU's grows as `(S - 1) / S`, the share of a block that comes from
//!   elsewhere;
//! - memory, sharded: one GPU's, less `(1 - 1 / S)` of the blocks and of AdamW's states, plus two whole blocks; where all
//!   parameters are trained, less `(1 - 1 / S)` of values, gradients and states, plus what is whole: what lies outside of the
//!   blocks and two blocks, each with its gradients; replicated, plus `1 / S` of the gradients.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints its tables")]

use std::{collections::BTreeMap, fmt::Write as _, path::Path, process::ExitCode};

use harness_reports::{Series, line_chart};
use serde_json::Value;

/// Samples of the epochs that are published for such runs.
const EPOCH: f64 = 114_316.0;
const EPOCHS: f64 = 5.0;
/// Bytes a second.
const BUS: f64 = 355e9;
const GIB: f64 = (1u64 << 30) as f64;
const GPUS: [u32; 4] = [1, 2, 4, 8];

/// One number of GPUs of an experiment.
#[derive(Clone, Copy)]
struct Row {
    gpus: u32,
    ms: f64,
    /// Least and most; nothing where the row is predicted.
    span: Option<(f64, f64)>,
    bytes: f64,
}

/// What rows of different numbers of GPUs have in common.
#[derive(Default)]
struct Experiment {
    rows: BTreeMap<u32, Row>,
    sharded: bool,
    batch: f64,
    /// Bytes of the blocks' matrices; number of blocks; trained parameters.
    blocks: (f64, f64),
    trained: f64,
    /// Whether all parameters are trained, and bytes of a factor of a product.
    full: bool,
    factor: f64,
}

impl Experiment {
    fn ring(&self, gpus: u32) -> f64 {
        let gpus = f64::from(gpus);
        2.0 * (gpus - 1.0) / gpus * 4.0 * self.trained / BUS * 1e3
    }

    /// Bytes on each of so many GPUs by the formula, from those on one, or from those on as many as were measured.
    fn bytes(&self, gpus: u32, from: &Row) -> f64 {
        if !self.sharded && !self.full {
            return from.bytes;
        }
        // Values, gradients and two moments in f32, and the values' image in 16 bits.
        let all = self.trained * if self.factor < 4.0 { 18.0 } else { 16.0 };
        let blocks = self.blocks.0 / self.factor;
        let shared = |gpus: u32| match (self.sharded, self.full) {
            (true, true) => all / f64::from(gpus),
            (true, false) => (self.blocks.0 + 8.0 * self.trained) / f64::from(gpus),
            (false, _) => all,
        };
        let more = |gpus: u32| match (self.sharded, self.full) {
            _ if gpus == 1 => 0.0,
            (true, true) => (self.factor + 4.0) * (self.trained - blocks + 2.0 * blocks / self.blocks.1.max(1.0)),
            (true, false) => 2.0 * self.blocks.0 / self.blocks.1.max(1.0),
            (false, _) => 4.0 * self.trained / f64::from(gpus),
        };
        from.bytes + shared(gpus) - shared(from.gpus) + more(gpus) - more(from.gpus)
    }

    fn predicted(&self, gpus: u32) -> Option<Row> {
        let most = self.rows.values().next_back().filter(|most| most.gpus > 1 && most.gpus < gpus)?;
        let ms = if self.sharded {
            let share = |gpus: u32| 1.0 - 1.0 / f64::from(gpus);
            let exposed = self.rows.get(&1).map_or(0.0, |one| (most.ms - one.ms).max(0.0));
            most.ms + exposed * (share(gpus) / share(most.gpus) - 1.0)
        } else {
            most.ms + self.ring(gpus) - self.ring(most.gpus)
        };
        Some(Row { gpus, ms, span: None, bytes: self.bytes(gpus, most) })
    }

    fn all(&self) -> Vec<Row> {
        GPUS.iter().filter_map(|&gpus| self.rows.get(&gpus).copied().or_else(|| self.predicted(gpus))).collect()
    }

    fn rate(&self, row: &Row) -> f64 {
        self.batch * f64::from(row.gpus) / row.ms * 1e3
    }
}

fn read(text: &str) -> Result<(BTreeMap<String, Experiment>, Vec<String>), String> {
    let (mut experiments, mut failed) = (BTreeMap::<String, Experiment>::new(), vec![]);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('{')) {
        let json: Value = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1))?;
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        if !json["error"].is_null() {
            failed.push(format!("{}: {}", text("case"), text("error")));
            continue;
        }
        let value = |key: &str| json[key].as_f64().ok_or(format!("line {}: {key} is missing", number + 1));
        let stored = if text("weights") == "nf4" { "NF4 " } else { "" };
        let full = value("lora")? == 0.0;
        let trained = if full { "full".to_owned() } else { format!("r{} {}", value("lora")?, text("targets")) };
        let name = format!(
            "{} {stored}{} {trained}, {} x {}, kept {}: {}",
            text("shape"),
            text("dtype"),
            value("batch")?,
            value("length")?,
            text("save"),
            text("mode").to_uppercase()
        );
        let experiment = experiments.entry(name).or_default();
        experiment.sharded = text("mode") == "fsdp";
        experiment.batch = value("batch")?;
        experiment.blocks = (value("block_bytes")?, value("blocks")?);
        experiment.trained = value("trained")?;
        experiment.full = full;
        experiment.factor = if matches!(text("dtype").as_str(), "bf16" | "fp16") { 2.0 } else { 4.0 };
        let (gpus, span) = (value("ranks")? as u32, Some((value("ms_min")?, value("ms_max")?)));
        experiment.rows.insert(gpus, Row { gpus, ms: value("ms")?, span, bytes: value("peak_bytes")? });
    }
    Ok((experiments, failed))
}

/// Seconds as hours, minutes and seconds.
fn clock(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..3600 => format!("{}:{:02}", whole / 60, whole % 60),
        _ => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
    }
}

fn table(name: &str, experiment: &Experiment, epoch: f64) -> String {
    let mut text = format!(
        "**{name}**\n\n| GPUs | step ms (least–most) | samples/s | of one GPU's rate each | epoch of {epoch} | {EPOCHS} epochs | GiB a \
         GPU | by the formula |\n|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    let one = experiment.rows.get(&1);
    for row in experiment.all() {
        let rate = experiment.rate(&row);
        let each = one
            .map_or("".to_owned(), |one| format!("{:.1} %", 100.0 * rate / f64::from(row.gpus) / experiment.rate(one)));
        let span = row.span.map_or("predicted".to_owned(), |(least, most)| format!("{least:.1}–{most:.1}"));
        let formula = one.map_or("".to_owned(), |one| format!("{:.2}", experiment.bytes(row.gpus, one) / GIB));
        let (seconds, memory) = (epoch / rate, row.bytes / GIB);
        let _ = writeln!(
            text,
            "| {} | {:.1} ({span}) | {rate:.1} | {each} | {} | {} | {memory:.2} | {formula} |",
            row.gpus,
            row.ms,
            clock(seconds),
            clock(EPOCHS * seconds)
        );
    }
    text
}

/// What a plot shows of a row.
type Quantity<'a> = &'a dyn Fn(&Experiment, &Row) -> f64;

fn run() -> Result<(), String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [lines, folder, rest @ ..] = &args[..] else {
        return Err("usage: scaling_tables LINES.jsonl FOLDER [SAMPLES_AN_EPOCH]".to_owned());
    };
    let epoch = match rest.first() {
        None => EPOCH,
        Some(text) => text.parse().map_err(|_| format!("{text}: expected a number of samples"))?,
    };
    let text = std::fs::read_to_string(lines).map_err(|error| format!("cannot read {lines}: {error}"))?;
    let (experiments, failed) = read(&text)?;
    for (name, experiment) in &experiments {
        println!("{}", table(name, experiment, epoch));
    }
    for line in &failed {
        println!("failed: {line}");
    }
    let folder = Path::new(folder);
    std::fs::create_dir_all(folder).map_err(|error| format!("cannot create {}: {error}", folder.display()))?;
    let plots: [(&str, &str, &str, Quantity<'_>); 3] = [
        ("throughput.svg", "Throughput", "samples a second", &|experiment, row| experiment.rate(row)),
        ("epoch.svg", "Time of an epoch", "minutes", &|experiment, row| epoch / experiment.rate(row) / 60.0),
        ("memory.svg", "Peak memory of a GPU", "GiB", &|_, row| row.bytes / GIB),
    ];
    for (file, title, y_label, value) in plots {
        let mut series = vec![];
        for (name, experiment) in &experiments {
            let points = |measured: bool| -> Vec<(f64, f64)> {
                let rows = experiment.all();
                let last = rows.iter().rposition(|row| row.span.is_some()).unwrap_or(0);
                let rows = if measured { &rows[..=last.min(rows.len() - 1)] } else { &rows[last..] };
                rows.iter().map(|row| (f64::from(row.gpus), value(experiment, row))).collect()
            };
            series.push(Series { name: name.clone(), points: points(true) });
            if experiment.all().iter().any(|row| row.span.is_none()) {
                series.push(Series { name: format!("{name}, predicted"), points: points(false) });
            }
        }
        line_chart(&folder.join(file), title, "GPUs", y_label, &series).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
