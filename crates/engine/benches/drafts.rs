//! Generation by several models over one base: one after the other, together in one batch, and with drafts.
//!
//! `cargo bench -p harness-engine --bench drafts -- --prompts FILE --sequences 1,4 BASE ADAPTER...` with a model's folder or
//! GGUF file, folders of adapters, and a file with a prompt in JSON on every line. Answers of all ways must be equal to the
//! last bit; tokens a second are those of new tokens over the whole call. `--rounds N` takes the median of N rounds.

use std::{path::Path, sync::Arc, time::Instant};

use harness_core::{Control, LanguageModel, Output, Request, Sampling};
use harness_decoder::Adapter;
use harness_engine::{Asked, Limits, LoadedBase, LocalModel, ModelOptions, answer_together};

/// What the command line says.
struct Options {
    prompts: String,
    sequences: Vec<usize>,
    new_tokens: usize,
    rounds: usize,
    models: Vec<String>,
}

impl Options {
    fn read() -> Self {
        let mut options =
            Self { prompts: String::new(), sequences: vec![1, 2, 4, 8], new_tokens: 128, rounds: 1, models: vec![] };
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                "--prompts" => options.prompts = value(),
                "--sequences" => options.sequences = value().split(',').map(|n| n.parse().expect("a number")).collect(),
                "--new-tokens" => options.new_tokens = value().parse().expect("a number"),
                "--rounds" => options.rounds = value().parse().expect("a number"),
                _ => options.models.push(argument),
            }
        }
        options
    }

    fn requests(&self) -> Vec<Request> {
        let text =
            std::fs::read_to_string(&self.prompts).expect("--prompts: a file with a prompt in JSON on every line");
        let prompt = |line: &str| Request::Generate {
            prompt: serde_json::from_str(line).expect("a prompt in JSON on every line"),
            stop: vec![],
            sampling: Sampling { max_new_tokens: self.new_tokens, ..Sampling::default() },
        };
        text.lines().filter(|line| !line.is_empty()).map(prompt).collect()
    }
}

/// The base and its adapters.
fn load(options: &Options, sequences: usize, draft: bool) -> Vec<LocalModel> {
    let limits = Limits { batch_sequences: sequences, ..Limits::default() };
    let (base, adapters) = options.models.split_first().expect("a model");
    let options = ModelOptions { limits, draft, ..ModelOptions::default() };
    let base = Arc::new(LoadedBase::load(Path::new(base), options).expect("a model"));
    let mut models = vec![LocalModel::new(Arc::clone(&base))];
    for adapter in adapters {
        let adapter = Adapter::load(Path::new(adapter), base.model().config()).expect("an adapter");
        models.push(LocalModel::with_adapter(Arc::clone(&base), &adapter).expect("an adapter of this base"));
    }
    models
}

/// Tokens and log-probabilities of every answer of every model.
type Answers = Vec<Vec<(Vec<u32>, Vec<u32>)>>;

/// Asks all models, together or one after the other; seconds, new tokens and answers.
fn ask(models: &[LocalModel], requests: &[Request], together: bool) -> (f64, usize, Answers) {
    let mut answers: Answers = vec![vec![Default::default(); requests.len()]; models.len()];
    let asked: Vec<Asked<'_>> = models.iter().map(|model| Asked { model, requests, drafts: &|_| vec![] }).collect();
    let start = Instant::now();
    let size = if together { models.len() } else { 1 };
    for (at, group) in asked.chunks(size).enumerate() {
        answer_together(group, &mut |model, index, response| {
            if let Output::Text { token_ids, token_logprobs, .. } = response.output {
                let bits = token_logprobs.iter().map(|logprob| logprob.to_bits()).collect();
                answers[at * size + model][index] = (token_ids, bits);
            }
            Control::Continue
        })
        .unwrap_or_else(|(model, error)| panic!("model {model}: {error}"));
    }
    let seconds = start.elapsed().as_secs_f64();
    (seconds, answers.iter().flatten().map(|(tokens, _)| tokens.len()).sum(), answers)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::print_stdout, reason = "a benchmark prints")]
fn main() {
    let options = Options::read();
    if options.models.is_empty() {
        println!("usage: drafts --prompts FILE [--sequences N,...] [--new-tokens N] [--rounds N] BASE ADAPTER...");
        return;
    }
    let requests = options.requests();
    let (count, prompts) = (options.models.len(), requests.len());
    println!("{count} models, {prompts} prompts, at most {} new tokens each\n", options.new_tokens);
    println!(
        "| sequences | one by one, tokens/s | together | together, drafted | drafts gain | all gain | drafted | right |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for &sequences in &options.sequences {
        let (plain, drafting) = (load(&options, sequences, false), load(&options, sequences, true));
        let mut rates = [vec![], vec![], vec![]];
        for _ in 0..options.rounds {
            let mut first: Option<Answers> = None;
            for (way, (models, together)) in
                [(&plain, false), (&plain, true), (&drafting, true)].into_iter().enumerate()
            {
                let (seconds, tokens, answers) = ask(models, &requests, together);
                rates[way].push(tokens as f64 / seconds);
                let first = first.get_or_insert_with(|| answers.clone());
                assert!(*first == answers, "answers differ by how they are computed");
            }
        }
        let [alone, together, drafted] = rates.map(median);
        let stats: Vec<_> = drafting.iter().map(LanguageModel::stats).collect();
        let [all, right] = [
            stats.iter().map(|stats| stats.drafted_tokens).sum::<u64>(),
            stats.iter().map(|stats| stats.accepted_tokens).sum::<u64>(),
        ];
        let (drafts, whole) = (drafted / together, drafted / alone);
        println!(
            "| {sequences} | {alone:.1} | {together:.1} | {drafted:.1} | {drafts:.2} | {whole:.2} | {all} | {:.0} % |",
            100.0 * right as f64 / all.max(1) as f64
        );
    }
}
