//! Tokens a second, model FLOP utilisation and peak memory of training steps on a GPU, on random weights of known shapes:
//! `cargo bench -p harness-training --features cuda --bench gpu_step [shape:weights:dtype:rank:targets:batch:length:save ...]`.
//!
//! One JSON line a case. FLOPs a token count 4 a frozen weight that takes part in products and 3.5 times the attention's
//! forward pass; work that is repeated for the backward pass is not counted.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Instant;

use half::bf16;
use harness_core::Seed;
use harness_engine::{
    Architecture, DecoderConfig, HostData, HostTensor, LayerWeights, Nf4Tensor, Projection, Quantization,
    QuantizationKind, Rope, RopeScaling, Weights, cuda::Float,
};
use harness_training::{
    backend::{Backend, CudaBackend},
    block::{DropoutPlan, SavePolicy},
    data::Batch,
    lora::LoraSpec,
    model::{LocalSink, MicroStep, Model, Trainable},
    optimizer::{AdamW, gradient_norm},
    recipe::LoraInit,
};

/// Vendor's figure for dense bf16 on an H100 SXM.
const PEAK: f64 = 989e12;

const DEFAULT: [&str; 9] = [
    "7b:nf4:bf16:8:all:4:512:layer",
    "7b:nf4:bf16:32:all:4:1024:layer",
    "7b:none:bf16:8:all:4:512:layer",
    "7b:none:bf16:8:all:4:512:lean",
    "7b:nf4:bf16:8:all:16:512:lean",
    "1b:none:fp32:8:qvo:20:512:lean",
    "1b:none:bf16:8:qvo:20:512:lean",
    "135m:none:bf16:8:all:16:512:lean",
    "135m:none:bf16:8:all:64:512:lean",
];

fn config(shape: &str) -> DecoderConfig {
    let (hidden, inter, layers, heads, kv, vocab, tied) = match shape {
        "7b" => (4096, 11008, 32, 32, 32, 32000, false),
        "1b" => (2048, 8192, 16, 32, 8, 128_256, true),
        "135m" => (576, 1536, 30, 9, 3, 49152, true),
        other => panic!("shape {other}: expected 7b, 1b or 135m"),
    };
    DecoderConfig {
        architecture: Architecture::Llama,
        vocab_size: vocab,
        hidden_size: hidden,
        intermediate_size: inter,
        num_layers: layers,
        num_heads: heads,
        num_kv_heads: kv,
        head_dim: hidden / heads,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        max_position_embeddings: 4096,
        tie_word_embeddings: tied,
        qkv_bias: false,
        o_bias: false,
        qk_norm: false,
        sliding_window: vec![None; layers],
        bos_token_id: None,
        eos_token_ids: vec![],
        experts: None,
    }
}

/// Pseudo-random elements of deviation 0.02, quickly.
fn matrix(rows: usize, cols: usize, seed: u64) -> HostTensor {
    let mut state = seed;
    let data: Vec<bf16> = (0..rows * cols)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bf16::from_f32(((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.07)
        })
        .collect();
    HostTensor { shape: vec![rows, cols], data: HostData::Bf16(data.into()) }
}

/// All layers share one layer's elements on the host; each is uploaded on its own.
fn weights(c: &DecoderConfig, quantise: bool) -> Weights {
    let (h, m, q, kv) = (c.hidden_size, c.intermediate_size, c.q_dim(), c.kv_dim());
    let linear = |rows, cols, seed| {
        let tensor = matrix(rows, cols, seed);
        if quantise { nf4(&tensor) } else { tensor }
    };
    let layer = LayerWeights {
        q: linear(q, h, 1),
        k: linear(kv, h, 2),
        v: linear(kv, h, 3),
        o: linear(h, q, 4),
        gate: linear(m, h, 5),
        up: linear(m, h, 6),
        down: linear(h, m, 7),
        q_bias: None,
        k_bias: None,
        v_bias: None,
        o_bias: None,
        input_norm: vec![1.0; h],
        post_attention_norm: vec![1.0; h],
        q_norm: None,
        k_norm: None,
        experts: None,
    };
    let head = (!c.tie_word_embeddings).then(|| matrix(c.vocab_size, h, 9));
    Weights { embed: matrix(c.vocab_size, h, 8), layers: vec![layer; c.num_layers], norm: vec![1.0; h], lm_head: head }
}

fn nf4(tensor: &HostTensor) -> HostTensor {
    let options = Quantization { kind: QuantizationKind::Nf4, block_size: 64, double: true };
    let codes = Nf4Tensor::quantise(&tensor.to_f32(), &options).expect("finite values");
    HostTensor { shape: tensor.shape.clone(), data: HostData::Nf4(codes) }
}

fn batch(vocab: usize, documents: usize, length: usize, seed: u64) -> Batch {
    let mut batch = Batch { boundaries: vec![0], ..Batch::default() };
    let mut rng = Seed(seed).stream("bench", 0);
    for _ in 0..documents {
        let tokens: Vec<u32> = (0..length).map(|_| rng.below(vocab as u64) as u32).collect();
        batch.labels.extend(tokens[1..].iter().map(|&token| Some(token)).chain([None]));
        batch.tokens.extend(tokens);
        batch.positions.extend(0..length as u32);
        batch.boundaries.push(batch.tokens.len());
    }
    batch
}

fn run(case: &str) -> Result<(), Box<dyn std::error::Error>> {
    let parts: Vec<&str> = case.split(':').collect();
    let [shape, stored, dtype, rank, targets, documents, length, save] = parts[..] else {
        return Err("expected shape:weights:dtype:rank:targets:batch:length:save".into());
    };
    let (rank, documents, length): (usize, usize, usize) = (rank.parse()?, documents.parse()?, length.parse()?);
    let config = config(shape);
    let float = if dtype == "bf16" { Float::Bf16 } else { Float::F32 };
    let backend = CudaBackend::new(0, float)?;
    backend.device().set_tf32(dtype == "tf32")?;
    let targets = match targets {
        "all" => Projection::ALL.to_vec(),
        "qvo" => vec![Projection::Q, Projection::V, Projection::O],
        _ => vec![Projection::Q, Projection::V],
    };
    let dropout = 0.05;
    let init = LoraInit::Kaiming;
    let spec = LoraSpec { rank, alpha: 2.0 * rank as f64, rslora: false, dropout, targets, pattern: None, init };
    let weights = weights(&config, stored == "nf4");
    let (model, mut store) = Model::new(backend.clone(), &config, &weights, &Trainable::Lora(spec), length, Seed(4))?;
    drop(weights);
    let model = model.with_policy(match save {
        "layer" => SavePolicy::Layer,
        "full" => SavePolicy::Full,
        _ => SavePolicy::Lean,
    });
    let optimizer = AdamW::default();
    let mut seconds = vec![];
    for step in 0..13u64 {
        let batch = batch(config.vocab_size, documents, length, step);
        backend.device().synchronize()?;
        let start = Instant::now();
        store.clear_grads(&backend);
        let params = std::mem::replace(&mut store.values, backend.zeros(0));
        let micro = MicroStep::mean(batch.num_labels()).with_dropout(DropoutPlan::new(1, step, 0, dropout));
        let loss = model.forward_backward(&batch, &params, &micro, &mut LocalSink(&mut store.grads))?;
        store.values = params;
        let norm = gradient_norm(&backend, &store);
        optimizer.update(&backend, &mut store, step + 1, 1e-4, norm, 1.0);
        backend.device().synchronize()?;
        assert!(loss.is_finite() && norm.is_finite(), "loss {loss}, norm {norm}");
        if step >= 3 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let (median, tokens) = (seconds[seconds.len() / 2], (documents * length) as f64);
    let in_products =
        config.num_parameters() - if config.tie_word_embeddings { 0 } else { config.vocab_size * config.hidden_size };
    let attention = 3.5 * 2.0 * (config.num_layers * config.q_dim() * length) as f64;
    let flops = 4.0 * in_products as f64 + attention;
    println!(
        "{{\"case\": \"{case}\", \"tok_s\": {:.0}, \"ms\": {:.1}, \"ms_min\": {:.1}, \"ms_max\": {:.1}, \"peak_gib\": \
         {:.2}, \"held_gib\": {:.2}, \"mfu\": {:.3}}}",
        tokens / median,
        median * 1e3,
        seconds[0] * 1e3,
        seconds[seconds.len() - 1] * 1e3,
        backend.peak_bytes() as f64 / 1.074e9,
        backend.device().pool_bytes().1 as f64 / 1.074e9,
        flops * tokens / median / PEAK
    );
    Ok(())
}

fn main() {
    let mut cases: Vec<String> = std::env::args().skip(1).filter(|arg| arg.contains(':')).collect();
    if cases.is_empty() {
        cases = DEFAULT.map(str::to_owned).to_vec();
    }
    for case in cases {
        if let Err(error) = CudaBackend::catch(|| {
            run(&case).map_err(|e| harness_training::TrainingError::setting("case", &case, e.to_string()))
        }) {
            println!("{{\"case\": \"{case}\", \"error\": {:?}}}", error.to_string());
        }
    }
}
