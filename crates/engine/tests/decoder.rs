//! The decoder against candle-transformers on random weights, and its laws: no answer depends on batch, order, packing,
//! limits or threads; an adapter beside the weights equals one merged into them.

mod answers;

use std::{collections::HashMap, sync::Arc};

use answers::answers;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use harness_core::{Control, Digest, LanguageModel, Request, Sampling, Seed, StreamRng};
use harness_decoder::{
    Adapter, AdapterConfig, Architecture, BlockSpec, DecoderConfig, GenerationDefaults, LayerWeights, LoraPair,
    MoreTop, MoreWeights, Projection, Rope, RopeScaling, Weights,
};
use harness_engine::{Limits, LoadedBase, LocalModel, ModelFiles, ModelOptions, TextTokenizer};
use harness_kernels::HostTensor;
use proptest::prelude::*;

const VOCAB: usize = 60;

fn config(architecture: Architecture) -> DecoderConfig {
    let qwen2 = architecture == Architecture::QWEN2;
    DecoderConfig {
        architecture,
        vocab_size: VOCAB,
        hidden_size: 64,
        intermediate_size: 112,
        num_layers: 3,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 16,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        max_position_embeddings: 256,
        tie_word_embeddings: false,
        qkv_bias: qwen2,
        o_bias: false,
        block: BlockSpec::with_head_norms(architecture == Architecture::QWEN3),
        sliding_window: vec![None; 3],
        bos_token_id: Some(0),
        eos_token_ids: vec![1],
        experts: None,
    }
}

struct Random(StreamRng);

impl Random {
    fn vec(&mut self, n: usize, scale: f64, mean: f64) -> Vec<f32> {
        (0..n).map(|_| (mean + scale * self.0.normal()) as f32).collect()
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> HostTensor {
        HostTensor::from_f32([rows, cols], self.vec(rows * cols, 1.5 / (cols as f64).sqrt(), 0.0))
    }
}

fn weights(config: &DecoderConfig) -> Weights {
    let mut random = Random(Seed(7).stream("weights", 0));
    let (h, m, q, kv) = (config.hidden_size, config.intermediate_size, config.q_dim(), config.kv_dim());
    let layers = (0..config.num_layers)
        .map(|_| LayerWeights {
            q: random.matrix(q, h),
            k: random.matrix(kv, h),
            v: random.matrix(kv, h),
            o: random.matrix(h, q),
            gate: random.matrix(m, h),
            up: random.matrix(m, h),
            down: random.matrix(h, m),
            q_bias: config.qkv_bias.then(|| random.vec(q, 0.3, 0.0)),
            k_bias: config.qkv_bias.then(|| random.vec(kv, 0.3, 0.0)),
            v_bias: config.qkv_bias.then(|| random.vec(kv, 0.3, 0.0)),
            o_bias: None,
            input_norm: random.vec(h, 0.1, 1.0),
            post_attention_norm: random.vec(h, 0.1, 1.0),
            q_norm: config.block.qk_norm.is_some().then(|| random.vec(config.head_dim, 0.1, 1.0)),
            k_norm: config.block.qk_norm.is_some().then(|| random.vec(config.head_dim, 0.1, 1.0)),
            experts: None,
            more: MoreWeights::default(),
        })
        .collect();
    Weights {
        embed: HostTensor::from_f32([VOCAB, h], random.vec(VOCAB * h, 1.0, 0.0)),
        layers,
        norm: random.vec(h, 0.1, 1.0),
        lm_head: (!config.tie_word_embeddings).then(|| random.matrix(VOCAB, h)),
        more: MoreTop::default(),
    }
}

/// Words `w2`, `w3`, ... with `<s>` and `</s>`.
fn tokenizer() -> TextTokenizer {
    let mut vocab = serde_json::Map::new();
    for id in 0..VOCAB {
        let word = match id {
            0 => "<s>".to_owned(),
            1 => "</s>".to_owned(),
            id => format!("w{id}"),
        };
        vocab.insert(word, id.into());
    }
    let special = |id: usize, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w2"},
    });
    let config = serde_json::json!({"bos_token": "<s>", "eos_token": "</s>"});
    TextTokenizer::from_json(&tokenizer.to_string(), Some(&config.to_string())).unwrap()
}

fn base(config: DecoderConfig, weights: Weights, limits: Limits) -> Arc<LoadedBase> {
    let files = ModelFiles {
        config,
        weights,
        tokenizer: tokenizer(),
        chat_template: None,
        generation: GenerationDefaults::default(),
        digest: Digest::of("random"),
    };
    Arc::new(LoadedBase::new(files, ModelOptions { limits, ..ModelOptions::default() }))
}

fn model(config: DecoderConfig) -> LocalModel {
    let weights = weights(&config);
    LocalModel::new(base(config, weights, Limits::default()))
}

fn tokens(n: usize, index: u64) -> Vec<u32> {
    let mut rng = Seed(3).stream("tokens", index);
    (0..n).map(|_| rng.below(VOCAB as u64) as u32).collect()
}

/// The weights under Hugging Face's names.
fn variables(config: &DecoderConfig) -> VarBuilder<'static> {
    let weights = weights(config);
    let mut map = HashMap::new();
    let mut put = |name: String, shape: Vec<usize>, data: &[f32]| {
        map.insert(name, Tensor::from_slice(data, shape, &Device::Cpu).unwrap());
    };
    put("model.embed_tokens.weight".into(), weights.embed.shape.clone(), &weights.embed.to_f32());
    put("model.norm.weight".into(), vec![weights.norm.len()], &weights.norm);
    if let Some(head) = &weights.lm_head {
        put("lm_head.weight".into(), head.shape.clone(), &head.to_f32());
    }
    for (i, layer) in weights.layers.iter().enumerate() {
        let matrices = [
            ("self_attn.q_proj", &layer.q),
            ("self_attn.k_proj", &layer.k),
            ("self_attn.v_proj", &layer.v),
            ("self_attn.o_proj", &layer.o),
            ("mlp.gate_proj", &layer.gate),
            ("mlp.up_proj", &layer.up),
            ("mlp.down_proj", &layer.down),
        ];
        for (name, tensor) in matrices {
            put(format!("model.layers.{i}.{name}.weight"), tensor.shape.clone(), &tensor.to_f32());
        }
        let vectors = [
            ("input_layernorm.weight", Some(&layer.input_norm)),
            ("post_attention_layernorm.weight", Some(&layer.post_attention_norm)),
            ("self_attn.q_norm.weight", layer.q_norm.as_ref()),
            ("self_attn.k_norm.weight", layer.k_norm.as_ref()),
            ("self_attn.q_proj.bias", layer.q_bias.as_ref()),
            ("self_attn.k_proj.bias", layer.k_bias.as_ref()),
            ("self_attn.v_proj.bias", layer.v_bias.as_ref()),
        ];
        for (name, data) in vectors {
            if let Some(data) = data {
                put(format!("model.layers.{i}.{name}"), vec![data.len()], data);
            }
        }
    }
    VarBuilder::from_tensors(map, DType::F32, &Device::Cpu)
}

/// Compares the log-probability of each next token with what `last_logits` (the oracle) gives for each prefix.
fn compare(config: DecoderConfig, mut last_logits: impl FnMut(&Tensor) -> Tensor) {
    let sequence = tokens(40, 0);
    let found = model(config).score_tokens(std::slice::from_ref(&sequence), &[1]).unwrap().remove(0).0;
    for (at, &found) in found.iter().enumerate() {
        let input = Tensor::new(&sequence[..=at], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits: Vec<f32> = last_logits(&input).flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(logits.len(), VOCAB);
        let normaliser: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let expected = f64::from(logits[sequence[at + 1] as usize]) - normaliser;
        assert!((f64::from(found) - expected).abs() < 2e-4, "position {at}: {found} for {expected}");
    }
}

fn llama_oracle(
    config: &DecoderConfig,
    rope_scaling: Option<llama::Llama3RopeConfig>,
) -> impl FnMut(&Tensor) -> Tensor {
    let theirs = llama::Config {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        vocab_size: VOCAB,
        num_hidden_layers: config.num_layers,
        num_attention_heads: config.num_heads,
        num_key_value_heads: config.num_kv_heads,
        use_flash_attn: false,
        rms_norm_eps: f64::from(config.norm_eps),
        rope_theta: config.rope.theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling,
        max_position_embeddings: config.max_position_embeddings,
        tie_word_embeddings: config.tie_word_embeddings,
    };
    let oracle = llama::Llama::load(variables(config), &theirs).unwrap();
    move |input| {
        let mut cache = llama::Cache::new(false, DType::F32, &theirs, &Device::Cpu).unwrap();
        oracle.forward(input, 0, &mut cache).unwrap()
    }
}

#[test]
fn llama_equals_candle_transformers() {
    let config = config(Architecture::LLAMA);
    compare(config.clone(), llama_oracle(&config, None));
}

#[test]
fn llama_with_tied_embeddings_and_scaled_rope_equals_candle_transformers() {
    let mut config = config(Architecture::LLAMA);
    config.tie_word_embeddings = true;
    config.rope.scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max: 64 };
    let scaling = llama::Llama3RopeConfig {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
        rope_type: llama::Llama3RopeType::Llama3,
    };
    compare(config.clone(), llama_oracle(&config, Some(scaling)));
}

/// The configuration of a candle model with the sizes of ours; what only it has is given.
macro_rules! theirs {
    ($model:ident, $config:expr, $($own:ident: $value:expr),* $(,)?) => {
        $model::Config {
            vocab_size: VOCAB,
            hidden_size: $config.hidden_size,
            intermediate_size: $config.intermediate_size,
            num_hidden_layers: $config.num_layers,
            num_attention_heads: $config.num_heads,
            num_key_value_heads: $config.num_kv_heads,
            max_position_embeddings: $config.max_position_embeddings,
            rope_theta: $config.rope.theta,
            rms_norm_eps: f64::from($config.norm_eps),
            hidden_act: candle_nn::Activation::Silu,
            $($own: $value,)*
        }
    };
}

#[test]
fn mistral_with_a_sliding_window_equals_candle_transformers() {
    let mut config = config(Architecture::MISTRAL);
    config.sliding_window = vec![Some(9); 3];
    let theirs = theirs!(
        mistral,
        config,
        head_dim: None,
        // candle lets a token see `sliding_window` tokens before itself, transformers one less.
        sliding_window: Some(8),
        use_flash_attn: false,
    );
    let variables = variables(&config);
    compare(config, |input| {
        let mut oracle = mistral::Model::new(&theirs, variables.clone()).unwrap();
        oracle.forward(input, 0).unwrap()
    });
}

#[test]
fn qwen2_with_biases_equals_candle_transformers() {
    let config = config(Architecture::QWEN2);
    let theirs = theirs!(
        qwen2,
        config,
        sliding_window: 4096,
        max_window_layers: 3,
        tie_word_embeddings: false,
        use_sliding_window: false,
    );
    let variables = variables(&config);
    compare(config, |input| {
        let mut oracle = qwen2::ModelForCausalLM::new(&theirs, variables.clone()).unwrap();
        oracle.forward(input, 0).unwrap()
    });
}

#[test]
fn qwen3_with_head_norms_equals_candle_transformers() {
    let config = config(Architecture::QWEN3);
    let theirs = theirs!(
        qwen3,
        config,
        head_dim: config.head_dim,
        attention_bias: false,
        sliding_window: None,
        max_window_layers: 3,
        tie_word_embeddings: false,
        use_sliding_window: false,
    );
    let variables = variables(&config);
    compare(config, |input| {
        let mut oracle = qwen3::ModelForCausalLM::new(&theirs, variables.clone()).unwrap();
        oracle.forward(input, 0).unwrap()
    });
}

fn adapter(config: &DecoderConfig) -> Adapter {
    let mut random = Random(Seed(11).stream("adapter", 0));
    let layers = (0..config.num_layers)
        .map(|layer| {
            Projection::ALL
                .into_iter()
                .filter(|projection| layer != 1 || *projection != Projection::K)
                .map(|projection| {
                    let (out, inp) = projection.dims(config);
                    let rank = if projection == Projection::Up { 3 } else { 4 };
                    let (a, b) = (random.vec(rank * inp, 0.1, 0.0), random.vec(out * rank, 0.1, 0.0));
                    (projection, LoraPair::new(a, b, rank, 0.5))
                })
                .collect()
        })
        .collect();
    Adapter {
        experts: vec![],
        layers,
        modules_to_save: Default::default(),
        top: Default::default(),
        config: AdapterConfig::default(),
        digest: Digest::of("lora"),
    }
}

#[test]
fn an_adapter_beside_the_weights_equals_one_merged_into_them() {
    let config = config(Architecture::LLAMA);
    beside_equals_merged(&config, &adapter(&config));
}

#[test]
fn magnitudes_beside_the_weights_equal_rows_scaled_to_them() {
    let config = config(Architecture::LLAMA);
    let mut random = Random(Seed(11).stream("magnitudes", 0));
    let mut adapter = adapter(&config);
    for (layer, projection) in [(0, Projection::Q), (0, Projection::Down), (1, Projection::Up), (2, Projection::K)] {
        let (out, _) = projection.dims(&config);
        adapter.layers[layer].get_mut(&projection).unwrap().magnitude = Some(random.vec(out, 0.2, 1.0));
    }
    beside_equals_merged(&config, &adapter);
}

fn beside_equals_merged(config: &DecoderConfig, adapter: &Adapter) {
    let mut merged = weights(config);
    for (layer, pairs) in merged.layers.iter_mut().zip(&adapter.layers) {
        for (projection, pair) in pairs {
            let found = layer.linears_mut().into_iter().find(|(of, _)| of == projection);
            let (_, tensor) = found.expect("a linear of Llama's block");
            let (rows, cols) = (tensor.rows(), tensor.cols());
            let mut data = tensor.to_f32().into_owned();
            for i in 0..rows {
                for j in 0..cols {
                    let delta: f32 = (0..pair.rank).map(|r| pair.b[i * pair.rank + r] * pair.a[r * cols + j]).sum();
                    data[i * cols + j] += pair.scale * delta;
                }
                if let Some(magnitude) = &pair.magnitude {
                    let row = &mut data[i * cols..][..cols];
                    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|x| *x *= magnitude[i] / norm);
                }
            }
            *tensor = HostTensor::from_f32([rows, cols], data);
        }
    }
    let beside = base(config.clone(), weights(config), Limits::default());
    let with = LocalModel::with_adapter(Arc::clone(&beside), adapter).unwrap();
    let without = LocalModel::new(beside);
    let merged = LocalModel::new(base(config.clone(), merged, Limits::default()));
    assert!(!with.adapter_is_no_op());
    assert_ne!(with.identity().digest(), without.identity().digest());
    let sequence = [tokens(50, 1)];
    let [a, b, plain] = [&with, &merged, &without].map(|m| m.score_tokens(&sequence, &[1]).unwrap().remove(0).0);
    let largest = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
    assert!(largest(&a, &b) < 2e-4, "{}", largest(&a, &b));
    assert!(largest(&a, &plain) > 0.1, "the adapter changes the model");
}

#[test]
fn activations_in_bf16_change_little_and_say_so() {
    let config = config(Architecture::LLAMA);
    let plain = model(config);
    let rounded = plain.with_bf16_activations().unwrap();
    assert_ne!(plain.identity().digest(), rounded.identity().digest());
    assert!(rounded.identity().dtype.contains("bf16"));
    let sequence = [tokens(50, 1)];
    let [a, b] = [&plain, &rounded].map(|m| m.score_tokens(&sequence, &[1]).unwrap().remove(0).0);
    let changes: Vec<f32> = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).collect();
    let (mean, most) =
        (changes.iter().sum::<f32>() / changes.len() as f32, changes.iter().copied().fold(0.0, f32::max));
    // bf16 keeps 8 bits: activations of order 1 lose about 2^-9 of themselves at each of some 30 roundings.
    assert!(mean > 1e-4 && most < 0.3, "{mean} {most}");
}

fn requests() -> Vec<Request> {
    let words = |ids: &[u32]| ids.iter().map(|id| format!("w{}", id.max(&2))).collect::<Vec<_>>().join(" ");
    let header = words(&tokens(60, 2));
    let mut requests = vec![];
    for i in 0..6u64 {
        let question = format!("{header} {}", words(&tokens(10 + i as usize * 7, 10 + i)));
        for choice in 0..3u64 {
            let continuation = format!(" {}", words(&tokens(1 + choice as usize, 30 + choice)));
            requests.push(Request::LogLikelihood { context: question.clone(), continuation });
        }
        let sampling = Sampling {
            max_new_tokens: 5 + 3 * i as usize,
            temperature: if i % 2 == 0 { 0.0 } else { 0.9 },
            repetition_penalty: if i == 4 { 1.2 } else { 1.0 },
            seed: i,
            ..Sampling::default()
        };
        // A word twice in a row ends a generation: a token that is looked at twice would be seen as that.
        let stop = (2..VOCAB).map(|word| format!("w{word} w{word}")).collect();
        requests.push(Request::Generate { prompt: question.clone(), stop, sampling });
        requests.push(Request::RollingLogLikelihood { text: words(&tokens(300 + 40 * i as usize, 50 + i)) });
    }
    requests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn answers_do_not_depend_on_what_else_is_asked(
        order in Just((0..30usize).collect::<Vec<_>>()).prop_shuffle(), take in 1usize..30,
        batch_tokens in 1usize..900, kv_kib in 1usize..200, batch_sequences in 1usize..9, threads in 1usize..4,
        windowed: bool,
    ) {
        let mut config = config(Architecture::QWEN3);
        if windowed {
            config.sliding_window = vec![Some(20), None, Some(33)];
        }
        let all = requests();
        let reference = LocalModel::new(base(config.clone(), weights(&config), Limits::default()));
        let reference = answers(&reference, &all).unwrap();
        let limits = Limits { batch_tokens, kv_bytes: kv_kib << 10, batch_sequences };
        let chosen: Vec<usize> = order.into_iter().take(take).collect();
        let some: Vec<Request> = chosen.iter().map(|&i| all[i].clone()).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let model = LocalModel::new(base(config.clone(), weights(&config), limits));
        let found = pool.install(|| answers(&model, &some)).unwrap();
        for (&i, response) in chosen.iter().zip(&found) {
            prop_assert_eq!(response, &reference[i]);
        }
    }
}

#[test]
fn shared_prefixes_are_computed_once() {
    let model = model(config(Architecture::LLAMA));
    let requests: Vec<Request> =
        requests().into_iter().filter(|r| matches!(r, Request::LogLikelihood { .. })).collect();
    answers(&model, &requests).unwrap();
    let stats = model.stats();
    // 60 shared tokens, then 6 questions of 10 + 7i tokens with 3 short continuations each.
    assert!(stats.requested_tokens > 1_500 && stats.computed_tokens < 250, "{stats:?}");
}

#[test]
fn a_stopped_run_keeps_what_was_answered() {
    let model = model(config(Architecture::LLAMA));
    let mut count = 0;
    model
        .answer(&requests(), &mut |_, _| {
            count += 1;
            if count == 5 { Control::Stop } else { Control::Continue }
        })
        .unwrap();
    assert_eq!(count, 5);
}

#[test]
fn contexts_are_cut_on_the_left_and_counted() {
    let model = model(config(Architecture::LLAMA));
    let long = vec!["w5"; 400].join(" ");
    let request = Request::LogLikelihood { context: long.clone(), continuation: " w7 w8".into() };
    let mut usage = None;
    model
        .answer(&[request], &mut |_, response| {
            usage = Some(response.usage);
            Control::Continue
        })
        .unwrap();
    let usage = usage.unwrap();
    // 402 tokens; the model reads 256 of them and predicts the token after.
    assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.truncated_tokens), (400, 2, 145));
    let too_long = Request::LogLikelihood { context: "w5".into(), continuation: format!(" {long}") };
    let error = model.answer(&[too_long], &mut |_, _| Control::Continue).unwrap_err().to_string();
    assert!(error.contains("400 tokens") && error.contains("256 tokens"), "{error}");
}
