//! Weights of a model made from scratch.

use harness_core::Seed;
use harness_decoder::{DecoderConfig, LayerWeights, MoreTop, MoreWeights, Weights};
use harness_kernels::HostTensor;

/// Random weights: matrices normal with standard deviation `range`, the projections into the residual stream narrower
/// by `sqrt(2 * layers)` (Radford et al. 2019), norms 1, biases 0. Every tensor has its own random stream.
pub fn random_weights(config: &DecoderConfig, range: f64, seed: Seed) -> Weights {
    let mut index = 0;
    let mut matrix = |rows: usize, cols: usize, range: f64| {
        let mut rng = seed.stream("initial weights", index);
        index += 1;
        HostTensor::from_f32([rows, cols], (0..rows * cols).map(|_| (rng.normal() * range) as f32).collect())
    };
    let (hidden, inter, q, kv) = (config.hidden_size, config.intermediate_size, config.q_dim(), config.kv_dim());
    let residual = range / (2.0 * config.num_layers.max(1) as f64).sqrt();
    let embed = matrix(config.vocab_size, hidden, range);
    let layers = (0..config.num_layers)
        .map(|_| LayerWeights {
            q: matrix(q, hidden, range),
            k: matrix(kv, hidden, range),
            v: matrix(kv, hidden, range),
            o: matrix(hidden, q, residual),
            gate: matrix(inter, hidden, range),
            up: matrix(inter, hidden, range),
            down: matrix(hidden, inter, residual),
            q_bias: config.qkv_bias.then(|| vec![0.0; q]),
            k_bias: config.qkv_bias.then(|| vec![0.0; kv]),
            v_bias: config.qkv_bias.then(|| vec![0.0; kv]),
            o_bias: config.o_bias.then(|| vec![0.0; hidden]),
            input_norm: vec![1.0; hidden],
            post_attention_norm: vec![1.0; hidden],
            q_norm: config.block.qk_norm.is_some().then(|| vec![1.0; config.head_dim]),
            k_norm: config.block.qk_norm.is_some().then(|| vec![1.0; config.head_dim]),
            experts: None,
            more: MoreWeights::default(),
        })
        .collect();
    let lm_head = (!config.tie_word_embeddings).then(|| matrix(config.vocab_size, hidden, range));
    Weights { embed, layers, norm: vec![1.0; hidden], lm_head, more: MoreTop::default() }
}
