//! Tokens a second, model FLOP utilisation and peak memory of training steps on a GPU, on random weights of known shapes:
//! `cargo bench -p harness-training --features cuda --bench gpu_step [shape:weights:dtype:rank:targets:batch:length:save ...]`.
//!
//! Targets `full` and `full-paged` train all parameters, the latter with AdamW's states in host memory. One JSON line a case;
//! `update_ms` is the optimizer's part. FLOPs a token count 4 a frozen weight that takes part in products, 6 a trained one, and
//! 3.5 times the attention's forward pass; work that is repeated for the backward pass is not counted.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod cases;
#[path = "../../crates/engine/benches/shapes/mod.rs"]
mod shapes;

use std::time::Instant;

use harness_core::Seed;
use harness_kernels::cuda::Float;
use harness_training::{
    backend::{CudaBackend, Memory},
    block::DropoutPlan,
    data::Batch,
    lora::LoraSpec,
    model::{LocalSink, MicroStep, Model, Trainable},
    optimizer::{AdamW, gradient_norm},
};

/// Vendor's figure for dense bf16 on an H100 SXM.
const PEAK: f64 = 989e12;

const DEFAULT: [&str; 11] = [
    "7b:nf4:bf16:8:all:4:512:layer",
    "7b:nf4:bf16:32:all:4:1024:layer",
    "7b:none:bf16:8:all:4:512:layer",
    "7b:none:bf16:8:all:4:512:lean",
    "7b:nf4:bf16:8:all:16:512:lean",
    "1b:none:fp32:8:qvo:20:512:lean",
    "1b:none:bf16:8:qvo:20:512:lean",
    "135m:none:bf16:8:all:16:512:lean",
    "135m:none:bf16:8:all:64:512:lean",
    "1b:none:bf16:0:full:4:512:lean",
    "1b:none:bf16:0:full-paged:4:512:lean",
];

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
    let config = shapes::config(shape);
    let float = match dtype {
        "bf16" => Float::Bf16,
        "fp16" => Float::F16,
        _ => Float::F32,
    };
    let backend = CudaBackend::new(0, float)?.paging(targets == "full-paged");
    backend.device().set_tf32(dtype == "tf32")?;
    let is_full = targets.starts_with("full");
    let dropout = if is_full { 0.0 } else { 0.05 };
    let trainable = match is_full {
        true => Trainable::Full,
        false => {
            let spec = LoraSpec::new(rank, 2.0 * rank as f64, cases::targets(targets));
            Trainable::Lora(LoraSpec { dropout, ..spec })
        }
    };
    let weights = shapes::weights(&config, stored);
    let (model, mut store) = Model::new(backend.clone(), &config, &weights, &trainable, length, Seed(4))?;
    drop(weights);
    let model = model.with_policy(cases::policy(save));
    let optimizer = AdamW::default();
    let (mut seconds, mut updates) = (vec![], vec![]);
    for step in 0..13u64 {
        let batch = batch(config.vocab_size, documents, length, step);
        backend.device().synchronize()?;
        let start = Instant::now();
        store.clear_grads(&backend)?;
        let params = std::mem::replace(&mut store.values, backend.zeros(0)?);
        let micro = MicroStep::mean(batch.num_labels()).with_dropout(DropoutPlan::new(1, step, 0, dropout));
        let loss = model.forward_backward(&batch, &params, &micro, &mut LocalSink(&mut store.grads))?;
        store.values = params;
        let norm = gradient_norm(&backend, &store)?;
        let gradients = start.elapsed().as_secs_f64();
        optimizer.update(&backend, &mut store, step + 1, 1e-4, norm, 1.0)?;
        backend.device().synchronize()?;
        assert!(loss.is_finite() && norm.is_finite(), "loss {loss}, norm {norm}");
        if step >= 3 {
            seconds.push(start.elapsed().as_secs_f64());
            updates.push(start.elapsed().as_secs_f64() - gradients);
        }
    }
    seconds.sort_by(f64::total_cmp);
    updates.sort_by(f64::total_cmp);
    let (median, tokens) = (seconds[seconds.len() / 2], (documents * length) as f64);
    let in_products =
        config.num_parameters() - if config.tie_word_embeddings { 0 } else { config.vocab_size * config.hidden_size };
    let attention = 3.5 * 2.0 * (config.num_layers * config.q_dim() * length) as f64;
    let flops = if is_full { 6.0 } else { 4.0 } * in_products as f64 + attention;
    println!(
        "{{\"case\": \"{case}\", \"tok_s\": {:.0}, \"ms\": {:.1}, \"ms_min\": {:.1}, \"ms_max\": {:.1}, \"update_ms\": {:.1}, \
         \"peak_gib\": {:.2}, \"held_gib\": {:.2}, \"mfu\": {:.3}}}",
        tokens / median,
        median * 1e3,
        seconds[0] * 1e3,
        seconds[seconds.len() - 1] * 1e3,
        updates[updates.len() / 2] * 1e3,
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
        if let Err(error) = run(&case) {
            println!("{{\"case\": \"{case}\", \"error\": {:?}}}", error.to_string());
        }
    }
}
