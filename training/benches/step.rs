//! Tokens a second of training steps on a random model of SmolLM2-135M's shape: `cargo bench -p harness-training --bench
//! step [layers]`. The floor is the products' FLOPs (4 a weight and token where the weights are frozen, 6 where they
//! are trained) over the rate of one large product, measured beside it.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Instant;

use harness_core::Seed;
use harness_decoder::{Architecture, BlockSpec, DecoderConfig, Projection, Rope, RopeScaling};
use harness_kernels::cpu::{MatMut, MatRef, PackedMatrix, gemm_packed};
use harness_training::{
    backend::{CpuBackend, Memory},
    block::DropoutPlan,
    data::Batch,
    lora::LoraSpec,
    model::{LocalSink, MicroStep, Model, Trainable, random_weights},
};

fn config(layers: usize) -> DecoderConfig {
    DecoderConfig {
        architecture: Architecture::LLAMA,
        vocab_size: 49152,
        hidden_size: 576,
        intermediate_size: 1536,
        num_layers: layers,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        norm_eps: 1e-5,
        rope: Rope { theta: 100_000.0, scaling: RopeScaling::None },
        max_position_embeddings: 8192,
        tie_word_embeddings: true,
        qkv_bias: false,
        o_bias: false,
        sliding_window: vec![None; layers],
        bos_token_id: None,
        eos_token_ids: vec![],
        experts: None,
        block: BlockSpec::default(),
    }
}

fn batch(documents: usize, length: usize) -> Batch {
    let mut batch = Batch { boundaries: vec![0], ..Batch::default() };
    let mut rng = Seed(1).stream("bench", 0);
    for _ in 0..documents {
        batch.tokens.extend((0..length).map(|_| rng.below(49152) as u32));
        batch.positions.extend(0..length as u32);
        batch.labels.extend((0..length).map(|i| (i + 1 < length).then_some(7)));
        batch.boundaries.push(batch.tokens.len());
    }
    batch
}

/// GFLOP/s of a packed product of the feed-forward shape.
fn product_rate() -> f64 {
    let (m, k, n) = (512, 576, 3072);
    let (a, w) = (vec![0.5f32; m * k], PackedMatrix::weight_f32(&vec![0.25; n * k], n, k));
    let mut c = vec![0f32; m * n];
    let mut run = || gemm_packed(1.0, MatRef::new(&a, m, k), &w, 0.0, MatMut::new(&mut c, m, n));
    run();
    let start = Instant::now();
    (0..10).for_each(|_| run());
    10.0 * 2.0 * (m * k * n) as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn main() {
    let layers = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(30);
    let config = config(layers);
    let weights = random_weights(&config, 0.02, Seed(3));
    println!("{layers} layers, 4 documents of 128 tokens; products at {:.0} GFLOP/s", product_rate());
    let lora = |rank, dropout, targets: &[Projection]| {
        Trainable::Lora(LoraSpec { dropout, ..LoraSpec::new(rank, 16.0, targets.to_vec()) })
    };
    let cases = [
        ("lora r8 all-linear", lora(8, 0.0, &Projection::ALL)),
        ("lora r8 all-linear, dropout 0.05", lora(8, 0.05, &Projection::ALL)),
        ("lora r32 all-linear", lora(32, 0.0, &Projection::ALL)),
        ("full", Trainable::Full),
    ];
    for (name, trainable) in cases {
        let backend = CpuBackend::new();
        let (model, mut store) =
            Model::new(backend.clone(), &config, &weights, &trainable, 128, Seed(4)).expect("a valid model");
        let params = backend.upload(&store.values).unwrap();
        let batch = batch(4, 128);
        let dropout = if let Trainable::Lora(spec) = &trainable { spec.dropout } else { 0.0 };
        let mut seconds = Vec::new();
        for step in 0..4 {
            let start = Instant::now();
            let plan = DropoutPlan::new(1, step, 0, dropout);
            let plan = MicroStep::mean(batch.num_labels()).with_dropout(plan);
            let sink = &mut LocalSink(&mut store.grads);
            model.forward_backward(&batch, &params, &plan, sink).expect("resident weights");
            seconds.push(start.elapsed().as_secs_f64());
        }
        let best = seconds[1..].iter().copied().fold(f64::INFINITY, f64::min);
        let per_weight = if trainable == Trainable::Full { 6.0 } else { 4.0 };
        let flops = per_weight * config.num_parameters() as f64 * batch.len() as f64;
        println!(
            "{name}: {:.0} tokens/s, {:.2} s a step, {:.0} GFLOP/s, {} trained, {:.2} GB held",
            batch.len() as f64 / best,
            best,
            flops / best / 1e9,
            store.len(),
            backend.peak_bytes() as f64 / 1e9
        );
    }
}
