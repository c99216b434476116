//! Scoring and generation on a GPU, on random weights of known shapes: `cargo bench -p harness-engine --features cuda
//! --bench gpu_score [--generate] [7b] [1b:q4_k] [135m]`; `--generate` leaves the scoring out. The scoring has the form of
//! MMLU with five examples: 57 subjects, 14,042 questions of about 110 tokens after a header of about 620, four answers each.
//! One JSON line a measurement; `step_ms` is what a token of all sequences takes after the first, of those that fit at once.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod shapes;

use std::{sync::Arc, time::Instant};

use harness_core::{Control, Digest, LanguageModel, Request, Sampling, Seed};
use harness_decoder::{Adapter, AdapterConfig, DecoderConfig, GenerationDefaults, LoraPair, Projection};
use harness_engine::{
    Asked, LoadedBase, LocalModel, ModelFiles, ModelOptions, Placement, TextTokenizer, answer_together,
};

/// New tokens of every sequence.
const NEW: usize = 128;

/// Words `w2`, `w3`, ...
fn tokenizer() -> TextTokenizer {
    let vocab: serde_json::Map<_, _> = (0..2000usize).map(|id| (format!("w{id}"), id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w2"},
    });
    TextTokenizer::from_json(&tokenizer.to_string(), None).expect("a tokenizer")
}

/// Questions behind their subject's header, once with each answer, and where the answers begin.
fn questions() -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut rng = Seed(5).stream("questions", 0);
    let (mut all, mut first) = (vec![], vec![]);
    for subject in 0..57usize {
        let header: Vec<u32> = (0..620).map(|_| rng.below(30_000) as u32).collect();
        for _ in 0..14_042 / 57 + usize::from(subject < 14_042 % 57) {
            let length = 60 + rng.below(110) as usize;
            let question = header.iter().copied().chain((0..length).map(|_| rng.below(30_000) as u32));
            let question: Vec<u32> = question.collect();
            for answer in 0..4u32 {
                first.push(question.len());
                all.push(question.iter().copied().chain([300 + answer]).collect());
            }
        }
    }
    (all, first)
}

fn run(case: &str, score: bool) -> Result<(), Box<dyn std::error::Error>> {
    let (shape, stored) = case.split_once(':').unwrap_or((case, "bf16"));
    let config = shapes::config(shape);
    let placement = Placement::Cuda(0);
    let start = Instant::now();
    let files = ModelFiles {
        weights: shapes::weights(&config, stored),
        config,
        tokenizer: tokenizer(),
        chat_template: None,
        generation: GenerationDefaults::default(),
        digest: Digest::of("random"),
    };
    let limits = placement.limits();
    let base = Arc::new(LoadedBase::place(files, ModelOptions { placement, limits, ..ModelOptions::default() })?);
    let model = LocalModel::new(Arc::clone(&base));
    println!("{{\"model\": \"{case}\", \"placed_s\": {:.1}}}", start.elapsed().as_secs_f64());

    if score {
        scoring(case, &model)?;
    }
    // Greedy generation, as GSM8K does; with prompts that begin alike, as with examples.
    generate(&model, &prompts(32, 0), 8)?;
    for (sequences, shared) in [(32, 0), (32, 880), (256, 0)] {
        let prompts = prompts(sequences, shared);
        let (mut whole, mut first) = (vec![], vec![]);
        for _ in 0..3 {
            whole.push(generate(&model, &prompts, NEW)?.0);
            first.push(generate(&model, &prompts, 1)?.0);
        }
        whole.sort_by(f64::total_cmp);
        first.sort_by(f64::total_cmp);
        let rate = |seconds: f64| (sequences * NEW) as f64 / seconds;
        println!(
            "{{\"model\": \"{case}\", \"generate\": \"{sequences}x(900+128)\", \"shared\": {shared}, \"new_tok_s\": {:.0}, \
             \"min\": {:.0}, \"max\": {:.0}, \"prompts_s\": {:.3}, \"step_ms\": {:.3}}}",
            rate(whole[1]),
            rate(whole[2]),
            rate(whole[0]),
            first[1],
            1e3 * (whole[1] - first[1]) / (NEW - 1) as f64
        );
    }
    several(case, &base)
}

/// Base, r8 and r32 in one batch, 32 sequences each, beside the base alone.
fn several(case: &str, base: &Arc<LoadedBase>) -> Result<(), Box<dyn std::error::Error>> {
    let adapted = |rank| LocalModel::with_adapter(Arc::clone(base), &adapter(base.model().config(), rank));
    let models = [LocalModel::new(Arc::clone(base)), adapted(8)?, adapted(32)?];
    for shared in [0, 880] {
        let requests = requests(&prompts(32, shared), NEW);
        let mut seconds = [vec![], vec![]];
        for _ in 0..3 {
            for (models, seconds) in [&models[..1], &models[..]].into_iter().zip(&mut seconds) {
                let none = |_| vec![];
                let asked: Vec<Asked<'_>> =
                    models.iter().map(|model| Asked { model, requests: &requests, drafts: &none }).collect();
                let start = Instant::now();
                answer_together(&asked, &mut |_, _, _| Control::Continue).map_err(|(_, error)| error)?;
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        seconds.iter_mut().for_each(|seconds| seconds.sort_by(f64::total_cmp));
        let [one, three] = seconds.map(|seconds| seconds[1]);
        println!(
            "{{\"model\": \"{case}\", \"together\": \"base, r8 and r32, 32x(900+128) each\", \"shared\": {shared}, \
             \"one_s\": {one:.3}, \"three_s\": {three:.3}, \"ratio\": {:.2}}}",
            three / one
        );
    }
    Ok(())
}

/// Random pairs on all linears of all blocks.
fn adapter(config: &DecoderConfig, rank: usize) -> Adapter {
    use Projection::{Down, Gate, K, O, Q, Up, V};
    let mut rng = Seed(rank as u64).stream("adapter", 0);
    let mut vec = |n: usize| -> Vec<f32> { (0..n).map(|_| 0.01 * (rng.uniform() as f32 - 0.5)).collect() };
    let layers = (0..config.num_layers)
        .map(|_| {
            let pair = |projection: Projection| {
                let (out, inp) = projection.dims(config);
                (projection, LoraPair::new(vec(rank * inp), vec(out * rank), rank, 2.0))
            };
            [Q, K, V, O, Gate, Up, Down].map(pair).into_iter().collect()
        })
        .collect();
    Adapter::new(AdapterConfig::default(), layers, Default::default())
}

/// Full MMLU in form.
fn scoring(case: &str, model: &LocalModel) -> Result<(), Box<dyn std::error::Error>> {
    let (tokens, first) = questions();
    model.score_tokens(&tokens[..400], &first[..400])?;
    let mut seconds = vec![];
    for _ in 0..if case.starts_with("7b") { 1 } else { 3 } {
        let start = Instant::now();
        let before = model.stats();
        model.score_tokens(&tokens, &first)?;
        let computed = model.stats().computed_tokens - before.computed_tokens;
        seconds.push(start.elapsed().as_secs_f64());
        println!(
            "{{\"model\": \"{case}\", \"full_mmlu_s\": {:.2}, \"docs_s\": {:.0}, \"computed_tokens\": {computed}, \
             \"tok_s\": {:.0}}}",
            seconds[seconds.len() - 1],
            14_042.0 / seconds[seconds.len() - 1],
            computed as f64 / seconds[seconds.len() - 1]
        );
    }
    Ok(())
}

/// Prompts of 900 words, of which the first `shared` are the same.
fn prompts(sequences: usize, shared: usize) -> Vec<String> {
    let word = |i: usize, j: usize| format!("w{}", 2 + (if j < shared { 0 } else { i * 131 } + j * 37) % 1900);
    (0..sequences).map(|i| (0..900).map(|j| word(i, j)).collect::<Vec<_>>().join(" ")).collect()
}

/// Seconds, and new tokens.
fn generate(model: &LocalModel, prompts: &[String], new: usize) -> Result<(f64, usize), Box<dyn std::error::Error>> {
    let requests = requests(prompts, new);
    let (start, mut made) = (Instant::now(), 0);
    model.answer(&requests, &mut |_, response| {
        made += response.usage.completion_tokens;
        Control::Continue
    })?;
    Ok((start.elapsed().as_secs_f64(), made))
}

fn requests(prompts: &[String], new: usize) -> Vec<Request> {
    let sampling = Sampling { max_new_tokens: new, temperature: 0.0, ..Sampling::default() };
    let request =
        |prompt: &String| Request::Generate { prompt: prompt.clone(), stop: vec![], sampling: sampling.clone() };
    prompts.iter().map(request).collect()
}

fn main() {
    let mut shapes: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if shapes.is_empty() {
        shapes = ["135m", "1b", "7b"].map(str::to_owned).to_vec();
    }
    let score = !std::env::args().any(|arg| arg == "--generate");
    for shape in shapes {
        if let Err(error) = run(&shape, score) {
            println!("{{\"model\": \"{shape}\", \"error\": {:?}}}", error.to_string());
        }
    }
}
