//! Loading and generation on the processor, of a model on disk: `cargo bench -p harness-engine --bench cpu_generate --
//! MODEL [NEW_TOKENS]`, MODEL a GGUF file or a directory. Prompts have about 400 tokens and begin apart, so none is shared.
//! One JSON line a measurement; benches/cpu/README.md has the peer beside it.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::{error::Error, path::Path, sync::Arc, time::Instant};

use harness_core::{Control, LanguageModel, Request, Sampling};
use harness_engine::{LoadedBase, LocalModel, ModelOptions};

/// Sequences generated together.
const SEQUENCES: [usize; 2] = [1, 8];

fn requests(sequences: usize, new: usize) -> Vec<Request> {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(40);
    let sampling = Sampling { max_new_tokens: new, temperature: 0.0, ..Sampling::default() };
    let prompt = |number: usize| format!("{number} {text}");
    (0..sequences)
        .map(|number| Request::Generate { prompt: prompt(number), stop: vec![], sampling: sampling.clone() })
        .collect()
}

/// Seconds, tokens of all prompts, and new tokens.
fn generate(model: &LocalModel, sequences: usize, new: usize) -> Result<(f64, usize, usize), Box<dyn Error>> {
    let (requests, start) = (requests(sequences, new), Instant::now());
    let (mut prompts, mut made) = (0, 0);
    model.answer(&requests, &mut |_, response| {
        prompts += response.usage.prompt_tokens;
        made += response.usage.completion_tokens;
        Control::Continue
    })?;
    Ok((start.elapsed().as_secs_f64(), prompts, made))
}

fn run(path: &str, new: usize) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let model = LocalModel::new(Arc::new(LoadedBase::load(Path::new(path), ModelOptions::default())?));
    println!("{{\"load_s\": {:.3}}}", start.elapsed().as_secs_f64());
    generate(&model, 1, 4)?;
    for sequences in SEQUENCES {
        let (prefill, prompts, first) = generate(&model, sequences, 1)?;
        let (whole, _, made) = generate(&model, sequences, new)?;
        println!(
            "{{\"sequences\": {sequences}, \"prompt_tokens\": {prompts}, \"prompt_tok_s\": {:.1}, \"new_tokens\": {made}, \
             \"decode_tok_s\": {:.1}, \"whole_new_tok_s\": {:.1}}}",
            prompts as f64 / prefill,
            (made - first) as f64 / (whole - prefill),
            made as f64 / whole,
        );
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let Some(path) = args.first() else {
        println!("no model given: nothing is measured");
        return Ok(());
    };
    run(path, args.get(1).map_or(Ok(128), |new| new.parse())?)
}
