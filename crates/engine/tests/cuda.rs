//! A model on a GPU against the same model on the processor: scores of packed and shared inputs, generation, adapters.
//! Skipped with a message where there is no GPU.
#![cfg(feature = "cuda")]
#![allow(clippy::print_stderr, reason = "tests say what they measured")]

use std::{path::Path, sync::Arc};

use harness_core::{Control, Digest, LanguageModel, Output, Request, Sampling, Seed};
use harness_decoder::{
    Adapter, AdapterConfig, Architecture, BaseModel, BlockSpec, DecoderConfig, GenerationDefaults, LayerWeights,
    LoraPair, MoreTop, MoreWeights, Projection, Rope, RopeScaling, Weights,
};
use harness_engine::{
    Asked, ComputeType, Limits, LoadedBase, LocalModel, ModelFiles, ModelOptions, Placement, TextTokenizer,
    answer_together,
};
use harness_kernels::{
    HostTensor,
    cuda::{Device, Float},
};

const VOCAB: usize = 60;

fn config(head_dim: usize) -> DecoderConfig {
    DecoderConfig {
        architecture: Architecture::LLAMA,
        vocab_size: VOCAB,
        hidden_size: 64,
        intermediate_size: 112,
        num_layers: 3,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        max_position_embeddings: 512,
        tie_word_embeddings: false,
        qkv_bias: true,
        o_bias: true,
        block: BlockSpec::with_head_norms(head_dim == 16),
        sliding_window: vec![None, Some(90), None],
        bos_token_id: Some(0),
        eos_token_ids: vec![1],
        experts: None,
    }
}

fn weights(c: &DecoderConfig) -> Weights {
    let mut rng = Seed(7).stream("weights", 0);
    let mut vec = |n: usize, scale: f64, mean: f64| -> Vec<f32> {
        (0..n).map(|_| half::bf16::from_f64(mean + scale * rng.normal()).to_f32()).collect()
    };
    let mut matrix = |rows: usize, cols: usize| {
        HostTensor::from_f32([rows, cols], vec(rows * cols, 1.0 / (cols as f64).sqrt(), 0.0))
    };
    let (h, m, q, kv) = (c.hidden_size, c.intermediate_size, c.q_dim(), c.kv_dim());
    let layers = (0..c.num_layers)
        .map(|_| LayerWeights {
            q: matrix(q, h),
            k: matrix(kv, h),
            v: matrix(kv, h),
            o: matrix(h, q),
            gate: matrix(m, h),
            up: matrix(m, h),
            down: matrix(h, m),
            q_bias: Some(vec![0.1; q]),
            k_bias: Some(vec![-0.2; kv]),
            v_bias: Some(vec![0.3; kv]),
            o_bias: Some(vec![0.05; h]),
            input_norm: vec![1.1; h],
            post_attention_norm: vec![0.9; h],
            q_norm: c.block.qk_norm.is_some().then(|| vec![1.2; c.head_dim]),
            k_norm: c.block.qk_norm.is_some().then(|| vec![0.8; c.head_dim]),
            experts: None,
            more: MoreWeights::default(),
        })
        .collect();
    Weights {
        embed: matrix(VOCAB, h),
        layers,
        norm: vec![1.0; h],
        lm_head: Some(matrix(VOCAB, h)),
        more: MoreTop::default(),
    }
}

/// Words `w2`, `w3`, ... with `<s>` and `</s>`.
fn tokenizer() -> TextTokenizer {
    let mut vocab = serde_json::Map::new();
    for id in 0..VOCAB {
        let word = ["<s>".to_owned(), "</s>".to_owned()].into_iter().nth(id).unwrap_or_else(|| format!("w{id}"));
        vocab.insert(word, id.into());
    }
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w2"},
    });
    let config = serde_json::json!({"bos_token": "<s>", "eos_token": "</s>"});
    TextTokenizer::from_json(&tokenizer.to_string(), Some(&config.to_string())).expect("a tokenizer")
}

fn files(config: &DecoderConfig) -> ModelFiles {
    ModelFiles {
        config: config.clone(),
        weights: weights(config),
        tokenizer: tokenizer(),
        chat_template: None,
        generation: GenerationDefaults::default(),
        digest: Digest::of("random"),
    }
}

fn limits(batch_tokens: usize) -> Limits {
    Limits { batch_tokens, kv_bytes: 1 << 24, batch_sequences: 5 }
}

/// The model on the processor and on the GPU in a type; nothing where there is no GPU.
fn pair(config: &DecoderConfig, float: ComputeType, batch_tokens: usize) -> Option<[Arc<LoadedBase>; 2]> {
    if let Err(error) = Device::open(0) {
        eprintln!("skipped: {error}");
        return None;
    }
    let options = ModelOptions { limits: limits(batch_tokens), ..ModelOptions::default() };
    let host = LoadedBase::new(files(config), options.clone());
    let options = ModelOptions { placement: Placement::Cuda(0), compute: Some(float), ..options };
    let device = LoadedBase::place(files(config), options).expect("a model on the GPU");
    Some([Arc::new(host), Arc::new(device)])
}

/// Sequences that share beginnings, some longer than a tile of attention.
fn sequences() -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut rng = Seed(3).stream("tokens", 0);
    let header: Vec<u32> = (0..150).map(|_| rng.below(VOCAB as u64) as u32).collect();
    let mut all = vec![];
    let mut first = vec![];
    for i in 0..23usize {
        let shared = [150, 90, 40, 0][i % 4];
        let own = 1 + (i * 37) % 120;
        let tokens = header[..shared].iter().copied().chain((0..own).map(|_| rng.below(VOCAB as u64) as u32));
        let mut tokens: Vec<u32> = tokens.collect();
        tokens.insert(0, 0);
        first.push(1 + i * 5 % (tokens.len() - 1));
        all.push(tokens);
    }
    (all, first)
}

fn adapter(config: &DecoderConfig, rank: usize) -> Adapter {
    let mut rng = Seed(9).stream("adapter", 0);
    let mut vec =
        |n: usize| -> Vec<f32> { (0..n).map(|_| half::bf16::from_f64(0.1 * rng.normal()).to_f32()).collect() };
    let (h, m, q, kv) = (config.hidden_size, config.intermediate_size, config.q_dim(), config.kv_dim());
    let layers = (0..config.num_layers)
        .map(|layer| {
            let mut pairs = vec![];
            for (projection, inp, out) in [
                (Projection::Q, h, q),
                (Projection::V, h, kv),
                (Projection::O, q, h),
                (Projection::Up, h, m),
                (Projection::Down, m, h),
            ] {
                // Not every layer has every pair.
                if layer != 1 || projection != Projection::Up {
                    pairs.push((projection, LoraPair::new(vec(rank * inp), vec(out * rank), rank, 2.0)));
                }
            }
            pairs.into_iter().collect()
        })
        .collect();
    Adapter::new(AdapterConfig::default(), layers, Default::default())
}

#[test]
fn scores_agree() {
    for (dim, float, tolerance) in [
        (64, ComputeType::F32, 2e-4),
        (16, ComputeType::F32, 2e-4),
        (64, ComputeType::Bf16, 0.15),
        (128, ComputeType::Bf16, 0.15),
        (96, ComputeType::Bf16, 0.15),
        (192, ComputeType::F32, 2e-4),
        (256, ComputeType::Bf16, 0.15),
    ] {
        let config = config(dim);
        let (tokens, first) = sequences();
        let mut answers = vec![];
        for batch_tokens in [64, 4096] {
            let Some([host, device]) = pair(&config, float, batch_tokens) else { return };
            let with = |base: &Arc<LoadedBase>, adapted: bool| {
                let base = Arc::clone(base);
                match adapted {
                    true => LocalModel::with_adapter(base, &adapter(&config, 4)).expect("an adapter"),
                    false => LocalModel::new(base),
                }
            };
            for adapted in [false, true] {
                let expected = with(&host, adapted).score_tokens(&tokens, &first).expect("scores");
                let found = with(&device, adapted).score_tokens(&tokens, &first).expect("scores");
                let (mut worst, mut sum, mut count) = (0f32, 0f64, 0);
                for ((found, _), (expected, _)) in found.iter().zip(&expected) {
                    assert_eq!(found.len(), expected.len());
                    for (a, b) in found.iter().zip(expected) {
                        worst = worst.max((a - b).abs());
                        sum += f64::from((a - b).abs());
                        count += 1;
                    }
                }
                eprintln!(
                    "scores {dim} {float:?} {batch_tokens} adapter {adapted}: worst {worst:.1e}, mean {:.1e}",
                    sum / f64::from(count)
                );
                assert!(worst < tolerance, "{dim} {float:?}: {worst}");
                answers.push((adapted, found));
            }
        }
        // No answer depends on how the work is packed, but for rounding.
        let tolerance = if float == ComputeType::F32 { 1e-4 } else { 0.1 };
        for ((_, a), (_, b)) in answers[..2].iter().zip(&answers[2..]) {
            let pairs = a.iter().zip(b).flat_map(|((a, _), (b, _))| a.iter().zip(b));
            assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < tolerance);
        }
    }
}

#[test]
fn greedy_generation_agrees() {
    let config = config(64);
    let Some([host, device]) = pair(&config, ComputeType::F32, 256) else { return };
    let words =
        |n: usize, from: usize| (0..n).map(|i| format!("w{}", 2 + (from + i * 7) % 50)).collect::<Vec<_>>().join(" ");
    let prompts: Vec<String> = (0..9).map(|i| format!("{} {}", words(30, 1), words(1 + i * 17, i))).collect();
    for penalty in [1.0, 1.2] {
        let sampling =
            Sampling { max_new_tokens: 90, temperature: 0.0, repetition_penalty: penalty, ..Sampling::default() };
        let requests: Vec<Request> = prompts
            .iter()
            .map(|prompt| Request::Generate { prompt: prompt.clone(), stop: vec![], sampling: sampling.clone() })
            .collect();
        let run = |base: &Arc<LoadedBase>| generated(&[&LocalModel::new(Arc::clone(base))], &requests).remove(0);
        let (expected, found) = (run(&host), run(&device));
        for ((ids, logprobs), (expected_ids, expected_logprobs)) in found.iter().zip(&expected) {
            assert!(!ids.is_empty());
            assert_eq!(ids, expected_ids);
            let worst = logprobs.iter().zip(expected_logprobs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-3, "{worst}");
        }
    }
}

/// The tokens of an answer and their log-probabilities.
type Tokens = (Vec<u32>, Vec<f32>);

/// What models over one base answer in one batch, by model and request.
fn generated(models: &[&LocalModel], requests: &[Request]) -> Vec<Vec<Tokens>> {
    let none = |_| vec![];
    let asked: Vec<Asked<'_>> = models.iter().map(|model| Asked { model, requests, drafts: &none }).collect();
    let mut all = vec![vec![(vec![], vec![]); requests.len()]; models.len()];
    answer_together(&asked, &mut |model, index, response| {
        if let Output::Text { token_ids, token_logprobs, .. } = response.output {
            all[model][index] = (token_ids, token_logprobs);
        }
        Control::Continue
    })
    .expect("generations");
    all
}

/// How many tokens were generated, and how far their log-probabilities are at most from those that scoring gives.
fn beside_scores(model: &LocalModel, requests: &[Request], answers: &[Tokens]) -> (usize, f32) {
    let (mut sequences, mut first) = (vec![], vec![]);
    for (request, (ids, _)) in requests.iter().zip(answers) {
        let Request::Generate { prompt, .. } = request else { continue };
        let tokens = model.tokenize(prompt).expect("tokens").into_iter().map(|(id, _)| id);
        let mut tokens: Vec<u32> = tokens.collect();
        first.push(tokens.len());
        tokens.extend(ids);
        sequences.push(tokens);
    }
    let scores = model.score_tokens(&sequences, &first).expect("scores");
    let (mut new, mut worst) = (0, 0f32);
    for ((_, found), (expected, _)) in answers.iter().zip(&scores) {
        assert_eq!(found.len(), expected.len());
        new += found.len();
        worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    (new, worst)
}

/// Base and adapters in one batch, with temperatures: every token's log-probability is the one that its model gives when it
/// scores the text alone.
#[test]
fn models_over_one_base_generate_together() {
    let config = config(64);
    let Some([_, device]) = pair(&config, ComputeType::Bf16, 512) else { return };
    let adapted = |rank| LocalModel::with_adapter(Arc::clone(&device), &adapter(&config, rank)).expect("an adapter");
    // Ranks of 16 and 8 are served side by side; with one of 4, models take turns.
    for models in [
        vec![adapted(16), LocalModel::new(Arc::clone(&device)), adapted(8)],
        vec![LocalModel::new(Arc::clone(&device)), adapted(4)],
    ] {
        for temperature in [0.0, 0.8] {
            let request = |i: usize| Request::Generate {
                prompt: (0..20 + 13 * i).map(|j| format!("w{}", 2 + (i + 7 * j) % 50)).collect::<Vec<_>>().join(" "),
                stop: vec![],
                sampling: Sampling {
                    max_new_tokens: 40 + 9 * i,
                    temperature,
                    top_p: Some(0.9),
                    repetition_penalty: if i % 2 == 0 { 1.0 } else { 1.1 },
                    seed: i as u64,
                    ..Sampling::default()
                },
            };
            let requests: Vec<Request> = (0..7).map(request).collect();
            let all = generated(&models.iter().collect::<Vec<_>>(), &requests);
            for (number, (model, answers)) in models.iter().zip(&all).enumerate() {
                let (new, worst) = beside_scores(model, &requests, answers);
                eprintln!("model {number} of {} at {temperature}: {new} tokens, worst {worst:.1e}", models.len());
                assert!(new > 200 && worst < 0.1, "{new} {worst}");
            }
            assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "the models differ");
        }
    }
}

/// Steps that follow each other without the host, over several stretches, with sequences that end and begin in between:
/// log-probabilities are those that scoring the same tokens gives.
#[test]
fn generated_tokens_have_their_scores() {
    for dim in [64, 128, 96] {
        let config = config(dim);
        let Some([_, device]) = pair(&config, ComputeType::Bf16, 256) else { return };
        let words = |n: usize, from: usize| {
            (0..n).map(|i| format!("w{}", 2 + (from + i * 7) % 50)).collect::<Vec<_>>().join(" ")
        };
        let requests: Vec<Request> = (0..12)
            .map(|i| Request::Generate {
                prompt: format!("{} {}", words(130, 1), words(1 + i * 17, i)),
                stop: vec![],
                sampling: Sampling { max_new_tokens: 60 + 11 * i, temperature: 0.0, ..Sampling::default() },
            })
            .collect();
        // The kernels for rows of several adapters serve ranks that are multiples of 8.
        for rank in [0, 8, 4] {
            let base = Arc::clone(&device);
            let model = match rank {
                0 => LocalModel::new(base),
                rank => LocalModel::with_adapter(base, &adapter(&config, rank)).expect("an adapter"),
            };
            let answers = generated(&[&model], &requests).remove(0);
            let (new, worst) = beside_scores(&model, &requests, &answers);
            eprintln!("generation {dim} rank {rank}: {new} tokens, worst {worst:.1e}");
            assert!(new > 500 && worst < 0.1, "{new} {worst}");
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let config = DecoderConfig { head_dim: 320, block: BlockSpec::default(), ..config(320) };
    let base = BaseModel::on_device(config.clone(), &weights(&config), 64, device, Float::Bf16);
    let error = base.expect_err("heads that are too wide").to_string();
    assert!(error.contains("320") && error.contains("at most 256"), "{error}");
    let missing =
        LoadedBase::load(Path::new("/nowhere"), ModelOptions { placement: Placement::Cuda(77), ..Default::default() });
    assert!(missing.expect_err("no such GPU").to_string().contains("cuda:77"));
}
