//! Gradients of adapters over blocks of many kinds against finite differences, with random weights.

use harness_core::{Seed, StreamRng};
use harness_decoder::{
    ConvolutionWeights, DecoderConfig, ExpertWeights, LatentWeights, LayerWeights, MoreTop, MoreWeights, NormWeight,
    Placement, Positions, Span, Weights,
};
use harness_kernels::{HostTensor, Quantization};
use harness_training::{
    backend::{CpuBackend, Memory},
    block::SavePolicy,
    data::{Batch, Sample},
    lora::LoraSpec,
    model::{LocalSink, MicroStep, Model, Trainable},
    recipe::{LoraInit, LoraOptions, Targets},
};

fn config(text: &str) -> DecoderConfig {
    let folder = tempfile::tempdir().unwrap();
    let shared = r#""hidden_size": 24, "num_attention_heads": 4, "vocab_size": 40, "max_position_embeddings": 64, "#;
    let text = text.replacen('{', &format!("{{{shared}"), 1);
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    DecoderConfig::load(folder.path()).unwrap()
}

/// Random weights of a decoder of any kind.
struct Draw<'a> {
    config: &'a DecoderConfig,
    rng: StreamRng,
}

impl Draw<'_> {
    fn values(&mut self, n: usize, deviation: f64) -> Vec<f32> {
        (0..n).map(|_| (self.rng.normal() * deviation) as f32).collect()
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> HostTensor {
        let data = self.values(rows * cols, 0.25);
        HostTensor::from_f32([rows, cols], data)
    }

    fn vector(&mut self, n: usize) -> Vec<f32> {
        self.values(n, 0.1)
    }

    /// Elements around 1.
    fn norm(&mut self, n: usize) -> Vec<f32> {
        if self.config.block.norm.weight == NormWeight::None {
            return vec![];
        }
        self.values(n, 0.1).into_iter().map(|x| 1.0 + x).collect()
    }

    fn norm_bias(&mut self, n: usize) -> Vec<f32> {
        if self.config.block.norm.bias { self.vector(n) } else { vec![] }
    }

    fn experts(&mut self, layer: usize) -> Option<ExpertWeights> {
        let experts = self.config.experts.clone().filter(|_| self.config.is_sparse(layer))?;
        let (hidden, width) = (self.config.hidden_size, self.config.expert_width());
        let router = self.matrix(experts.count, hidden);
        let of = |draw: &mut Self, width| {
            [draw.matrix(width, hidden), draw.matrix(width, hidden), draw.matrix(hidden, width)]
        };
        let all = (0..experts.count).map(|_| of(self, width)).collect();
        let mut weights = ExpertWeights::new(router, all);
        weights.router_bias = experts.router_bias.then(|| self.vector(experts.count));
        if experts.expert_bias {
            let bias = |draw: &mut Self| [draw.vector(width), draw.vector(width), draw.vector(hidden)];
            weights.biases = (0..experts.count).map(|_| bias(self)).collect();
        }
        weights.shared = experts.shared.map(|width| of(self, width));
        weights.shared_gate = experts.shared_gate.then(|| self.matrix(1, hidden));
        Some(weights)
    }

    fn layer(&mut self, layer: usize) -> LayerWeights {
        let c = self.config;
        let (hidden, inter, q, kv) = (c.hidden_size, c.intermediate_size, c.q_dim(), c.kv_dim());
        let block = &c.block;
        let mut more = MoreWeights::default();
        let out_norms = matches!(block.placement, Placement::Post | Placement::Sandwich);
        if out_norms {
            (more.attention_out_norm, more.feed_forward_out_norm) = (self.norm(hidden), self.norm(hidden));
        }
        (more.input_norm_bias, more.post_attention_norm_bias) = (self.norm_bias(hidden), self.norm_bias(hidden));
        let spans = |whole: usize| match block.qk_norm.map(|norm| norm.span) {
            Some(Span::Head) => c.head_dim,
            Some(_) => whole,
            None => 0,
        };
        let [q_norm, k_norm] = [spans(q), spans(kv)].map(|n| (n > 0).then(|| self.values(n, 0.1)));
        let [q_norm, k_norm] = [q_norm, k_norm].map(|norm| norm.map(|norm| norm.iter().map(|x| 1.0 + x).collect()));
        let mlp_bias = |draw: &mut Self, n: usize| block.mlp_bias.then(|| draw.vector(n));
        (more.gate_bias, more.up_bias) = (mlp_bias(self, inter).filter(|_| block.gated), mlp_bias(self, inter));
        more.down_bias = mlp_bias(self, hidden);
        if block.sinks {
            more.sinks = self.vector(c.num_heads);
        }
        more.xielu = vec![0.3, 0.5, 0.5, -1e-6];
        more.latent = block.latent.map(|latent| LatentWeights {
            q: latent.q_rank.map(|rank| (self.matrix(rank, hidden), self.values(rank, 1.0), self.matrix(q, rank))),
            q_bias: None,
            kv_down: self.matrix(latent.kv_rank + latent.rope, hidden),
            kv_down_bias: None,
            kv_norm: self.values(latent.kv_rank, 1.0),
            kv_up: self.matrix(c.num_heads * (latent.nope + latent.value), latent.kv_rank),
        });
        let convolution = block.convolution.as_ref().filter(|_| block.is_convolution(layer));
        more.convolution = convolution.map(|convolution| ConvolutionWeights {
            input: self.matrix(3 * hidden, hidden),
            input_bias: None,
            taps: self.values(hidden * convolution.taps, 0.5),
            bias: vec![],
            output: self.matrix(hidden, hidden),
            output_bias: None,
        });
        let (plain, experts) = (convolution.is_none(), self.experts(layer));
        let dense = if experts.is_some() { 0 } else { inter };
        let direct = if plain && block.latent.is_none() { kv } else { 0 };
        let queries = if plain && block.latent.is_none_or(|latent| latent.q_rank.is_none()) { q } else { 0 };
        let biased = |draw: &mut Self, there: bool, n: usize| (there && n > 0).then(|| draw.vector(n));
        LayerWeights {
            q: self.matrix(queries, hidden),
            k: self.matrix(direct, hidden),
            v: self.matrix(direct, hidden),
            o: self.matrix(if plain { hidden } else { 0 }, c.o_dim()),
            gate: self.matrix(if block.gated { dense } else { 0 }, hidden),
            up: self.matrix(dense, hidden),
            down: self.matrix(if dense > 0 { hidden } else { 0 }, inter),
            q_bias: biased(self, c.qkv_bias, queries),
            k_bias: biased(self, c.qkv_bias, direct),
            v_bias: biased(self, c.qkv_bias, direct),
            o_bias: biased(self, c.o_bias, hidden),
            input_norm: self.norm(hidden),
            post_attention_norm: self.norm(hidden),
            q_norm,
            k_norm,
            experts,
            more,
        }
    }

    fn weights(&mut self) -> Weights {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let positions = match self.config.block.positions {
            Positions::Learned { offset } => Some(self.matrix(64 + offset, hidden)),
            _ => None,
        };
        Weights {
            embed: self.matrix(vocab, hidden),
            layers: (0..self.config.num_layers).map(|layer| self.layer(layer)).collect(),
            norm: self.norm(hidden),
            lm_head: (!self.config.tie_word_embeddings).then(|| self.matrix(vocab, hidden)),
            more: MoreTop {
                norm_bias: self.norm_bias(hidden),
                head_bias: self.config.block.head_bias.then(|| self.vector(vocab)),
                positions,
                ..MoreTop::default()
            },
        }
    }
}

fn options(dora: bool) -> LoraOptions {
    LoraOptions {
        rank: 2,
        alpha: 4.0,
        dropout: 0.0,
        targets: Targets::AllLinear,
        target_parameters: vec![],
        init: LoraInit::Kaiming,
        rslora: false,
        dora,
    }
}

/// Two documents of random tokens.
fn batch() -> Batch {
    let mut rng = Seed(3).stream("tokens", 0);
    let mut row = |n: usize| (0..n).map(|_| (rng.uniform() * 40.0) as u32).collect::<Vec<_>>();
    let rows = [13, 9].map(|n| Sample { tokens: row(n), loss_from: 1, truncated: 0, ..Sample::default() });
    Batch::of(rows)
}

/// The slope of the loss along its gradient, by differences and by the gradient.
fn slopes(config: &DecoderConfig, policy: SavePolicy, in_4_bits: bool) -> (f64, f64) {
    let backend = CpuBackend::new();
    // With these weights no row changes its experts between the two points.
    let mut weights = Draw { config, rng: Seed(3).stream("weights", 0) }.weights();
    if in_4_bits {
        weights.quantise(&Quantization::default()).unwrap();
    }
    let spec = LoraSpec::from_options(&options(false), config).unwrap();
    let (model, mut store) =
        Model::new(backend.clone(), config, &weights, &Trainable::Lora(spec), 64, Seed(1)).unwrap();
    let model = model.with_policy(policy);
    let mut rng = Seed(3).stream("values", 0);
    store.values.iter_mut().for_each(|x| *x = rng.normal() as f32 * 0.2);
    let batch = batch();
    let mut grads = backend.zeros(store.len()).unwrap();
    let step = MicroStep { scale: 1.0, dropout: None, noise: None };
    model.forward_backward(&batch, &store.values, &step, &mut LocalSink(&mut grads)).unwrap();
    let norm = grads.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let along = |by: f64| {
        let moved: Vec<f32> =
            store.values.iter().zip(&grads[..]).map(|(x, g)| x + (by * f64::from(*g) / norm) as f32).collect();
        model.loss(&batch, &backend.upload(&moved).unwrap()).unwrap()
    };
    let by = 1e-3;
    ((along(by) - along(-by)) / (2.0 * by), norm)
}

#[test]
fn gradients_over_blocks_of_all_kinds_are_those_of_differences() {
    let blocks = [
        (
            "sandwich norms, soft limits, windows",
            r#"{"model_type": "gemma2", "num_hidden_layers": 2, "num_key_value_heads": 2,
            "intermediate_size": 40, "head_dim": 6, "query_pre_attn_scalar": 9, "sliding_window": 5,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}"#,
        ),
        (
            "one norm for both parts, biases, no gate",
            r#"{"model_type": "phi", "num_hidden_layers": 2, "num_key_value_heads": 4,
            "intermediate_size": 40, "partial_rotary_factor": 0.67}"#,
        ),
        (
            "norms after the parts",
            r#"{"model_type": "olmo2", "num_hidden_layers": 2, "num_key_value_heads": 2,
            "intermediate_size": 40}"#,
        ),
        (
            "learned positions, squares of ReLU",
            r#"{"model_type": "opt", "num_hidden_layers": 2, "ffn_dim": 40,
            "word_embed_proj_dim": 24}"#,
        ),
        (
            "factors",
            r#"{"model_type": "granite", "num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 40,
            "attention_multiplier": 0.3, "embedding_multiplier": 3.0, "logits_scaling": 0.7, "residual_multiplier": 0.5}"#,
        ),
        (
            "pairs, norms of every head",
            r#"{"model_type": "cohere", "num_hidden_layers": 2, "num_key_value_heads": 2,
            "intermediate_size": 40, "logit_scale": 0.5, "use_qk_norm": true}"#,
        ),
        (
            "sinks, experts with biases",
            r#"{"model_type": "gpt_oss", "num_hidden_layers": 2, "num_key_value_heads": 2,
            "head_dim": 6, "intermediate_size": 12, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}"#,
        ),
        (
            "latent attention, shared experts",
            r#"{"model_type": "deepseek_v2", "num_hidden_layers": 2, "num_key_value_heads": 4,
            "intermediate_size": 40, "moe_intermediate_size": 8, "n_routed_experts": 4, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 10, "q_lora_rank": 14,
            "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5, "topk_method": "greedy"}"#,
        ),
        (
            "weights on the input, chunks",
            r#"{"model_type": "llama4_text", "num_hidden_layers": 2, "num_key_value_heads": 2,
            "head_dim": 6, "intermediate_size": 12, "intermediate_size_mlp": 40, "num_local_experts": 3,
            "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "attention_chunk_size": 7, "use_qk_norm": true,
            "no_rope_layers": [1, 0]}"#,
        ),
        (
            "short convolutions",
            r#"{"model_type": "lfm2", "num_hidden_layers": 2, "num_key_value_heads": 2,
            "intermediate_size": 40, "block_auto_adjust_ff_dim": false, "conv_L_cache": 3,
            "layer_types": ["conv", "full_attention"]}"#,
        ),
        (
            "a sigmoid on the shared expert",
            r#"{"model_type": "qwen2_moe", "num_hidden_layers": 2, "num_key_value_heads": 2,
            "intermediate_size": 40, "moe_intermediate_size": 10, "shared_expert_intermediate_size": 16, "num_experts": 4,
            "num_experts_per_tok": 2, "decoder_sparse_step": 1}"#,
        ),
        (
            "xIELU",
            r#"{"model_type": "apertus", "num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 40}"#,
        ),
    ];
    for (name, text) in blocks {
        let config = config(text);
        for in_4_bits in [true, false] {
            let (by_differences, by_gradient) = slopes(&config, SavePolicy::Lean, in_4_bits);
            let far = (by_differences - by_gradient).abs() / by_gradient;
            assert!(far < 1e-2, "{name}, {in_4_bits}: {by_differences} by differences, {by_gradient} by the gradient");
        }
        let by_gradient = slopes(&config, SavePolicy::Lean, false).1;
        for policy in [SavePolicy::Full, SavePolicy::Layer, SavePolicy::Every(2)] {
            assert_eq!(slopes(&config, policy, false).1, by_gradient, "{name}: {policy:?} changes the gradient");
        }
    }
}

#[test]
fn magnitudes_begin_as_the_base_has_them_and_have_the_gradient_of_differences() {
    let config = config(
        r#"{"model_type": "phi3", "num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 40,
            "pad_token_id": 0}"#,
    );
    let (backend, batch) = (CpuBackend::new(), batch());
    let weights = Draw { config: &config, rng: Seed(1).stream("weights", 0) }.weights();
    let model = |dora| {
        let trainable = Trainable::Lora(LoraSpec::from_options(&options(dora), &config).unwrap());
        Model::new(backend.clone(), &config, &weights, &trainable, 64, Seed(1)).unwrap()
    };
    let ((plain, start), (apart, mut store)) = (model(false), model(true));
    let loss = |values: &[f32]| apart.loss(&batch, &backend.upload(values).unwrap()).unwrap();
    let (expected, found) = (plain.loss(&batch, &start.values).unwrap(), loss(&store.values));
    assert!((expected - found).abs() < 1e-4, "{expected} {found}");

    let mut rng = Seed(3).stream("values", 0);
    store.values.iter_mut().for_each(|x| *x += rng.normal() as f32 * 0.1);
    let mut grads = backend.zeros(store.len()).unwrap();
    let step = MicroStep { scale: 1.0, dropout: None, noise: None };
    apart.forward_backward(&batch, &store.values, &step, &mut LocalSink(&mut grads)).unwrap();
    // The norm of a row has no gradient, so those of A and B are not those of differences.
    let params = store.layout().params().iter().filter(|param| param.name.ends_with("magnitude_vector"));
    let places: Vec<usize> = params.flat_map(|param| param.at..param.at + param.len()).collect();
    assert_eq!(places.len(), 2 * (48 + 24 + 80 + 24), "a magnitude for every output");
    let norm = places.iter().map(|&at| f64::from(grads[at]).powi(2)).sum::<f64>().sqrt();
    let along = |by: f64| {
        let mut moved = store.values.to_vec();
        places.iter().for_each(|&at| moved[at] += (by * f64::from(grads[at]) / norm) as f32);
        loss(&moved)
    };
    let slope = (along(1e-3) - along(-1e-3)) / 2e-3;
    assert!((slope - norm).abs() < 5e-3 * norm, "{slope} by differences, {norm} by the gradient");
}
