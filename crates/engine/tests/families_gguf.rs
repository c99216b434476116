//! The tiny checkpoints of families as llama.cpp would store them, against themselves in Hugging Face's layout.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use gguf_file::Value;
use harness_decoder::{
    BaseModel, BlockSpec, Checkpoint, Decoder, DecoderConfig, Norm, NormWeight, Piece, RopeScaling, Weights,
};
use harness_kernels::HostTensor;
use harness_test_support::{beside, skipped};

/// llama.cpp's name of a family, and whether it stores the rows of q and k in the order of pairs.
const NAMES: [(&str, &str, bool); 22] = [
    ("gemma-a", "gemma", false),
    ("gemma2-a", "gemma2", false),
    ("gemma3_text-a", "gemma3", false),
    ("phi3-a", "phi3", false),
    ("qwen2_moe-a", "qwen2moe", false),
    ("qwen3_moe-a", "qwen3moe", false),
    ("olmo-a", "olmo", true),
    ("olmo2-a", "olmo2", false),
    ("smollm3-a", "smollm3", true),
    ("granite-a", "granite", true),
    ("granitemoe-a", "granitemoe", true),
    ("arcee-a", "arcee", true),
    ("phi-a", "phi2", false),
    ("gpt2-a", "gpt2", false),
    ("starcoder2-a", "starcoder2", false),
    ("gpt_neox-a", "gptneox", false),
    ("nemotron-a", "nemotron", false),
    ("cohere-a", "command-r", false),
    ("cohere2-a", "cohere2", false),
    ("seed_oss-a", "seed_oss", false),
    ("ernie4_5-a", "ernie4_5", false),
    ("glm4-a", "glm4", false),
];

type Tensors = BTreeMap<String, QTensor>;

fn put(tensors: &mut Tensors, name: String, shape: &[usize], data: &[f32]) {
    if !data.is_empty() {
        let tensor = Tensor::from_slice(data, shape, &Device::Cpu).unwrap();
        tensors.insert(name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap());
    }
}

/// Rows of heads from halves to neighbours.
fn pairs(data: &[f32], head: usize, cols: usize) -> Vec<f32> {
    data.chunks_exact(head * cols)
        .flat_map(|block| {
            (0..head).flat_map(move |row| {
                let from = row / 2 + row % 2 * (head / 2);
                block[from * cols..(from + 1) * cols].to_vec()
            })
        })
        .collect()
}

fn tensors(config: &DecoderConfig, weights: &Weights, name: &str, permuted: bool) -> Tensors {
    let mut all = Tensors::new();
    let fused = ["phi3", "gpt2", "gptneox", "phi2"].contains(&name);
    let mut matrix = |name: String, tensor: &HostTensor| put(&mut all, name, &tensor.shape, &tensor.to_f32());
    matrix("token_embd.weight".into(), &weights.embed);
    if let Some(head) = &weights.lm_head {
        matrix("output.weight".into(), head);
    }
    if let Some(positions) = &weights.more.positions {
        matrix("position_embd.weight".into(), positions);
    }
    let vector = |all: &mut Tensors, name: String, data: &[f32]| put(all, name, &[data.len()], data);
    vector(&mut all, "output_norm.weight".into(), &weights.norm);
    vector(&mut all, "output_norm.bias".into(), &weights.more.norm_bias);
    vector(&mut all, "output.bias".into(), weights.more.head_bias.as_deref().unwrap_or_default());
    for (layer, w) in weights.layers.iter().enumerate() {
        let at = |part: &str| format!("blk.{layer}.{part}");
        let head = config.head_dim;
        let ordered = |tensor: &HostTensor| match permuted {
            true => pairs(&tensor.to_f32(), head, tensor.cols()),
            false => tensor.to_f32().into_owned(),
        };
        let bias = |data: &Option<Vec<f32>>| data.clone().unwrap_or_default();
        let (q, k) = (ordered(&w.q), ordered(&w.k));
        if fused {
            let whole = [q, k, w.v.to_f32().into_owned()].concat();
            put(&mut all, at("attn_qkv.weight"), &[whole.len() / config.hidden_size, config.hidden_size], &whole);
            vector(&mut all, at("attn_qkv.bias"), &[bias(&w.q_bias), bias(&w.k_bias), bias(&w.v_bias)].concat());
        } else {
            put(&mut all, at("attn_q.weight"), &w.q.shape, &q);
            put(&mut all, at("attn_k.weight"), &w.k.shape, &k);
            put(&mut all, at("attn_v.weight"), &w.v.shape, &w.v.to_f32());
            for (part, data) in [("attn_q.bias", &w.q_bias), ("attn_k.bias", &w.k_bias), ("attn_v.bias", &w.v_bias)] {
                vector(&mut all, at(part), &bias(data));
            }
        }
        put(&mut all, at("attn_output.weight"), &w.o.shape, &w.o.to_f32());
        vector(&mut all, at("attn_output.bias"), &bias(&w.o_bias));
        if name == "phi3" {
            let whole = [w.gate.to_f32(), w.up.to_f32()].concat();
            put(&mut all, at("ffn_up.weight"), &[whole.len() / config.hidden_size, config.hidden_size], &whole);
        } else {
            put(&mut all, at("ffn_gate.weight"), &w.gate.shape, &w.gate.to_f32());
            put(&mut all, at("ffn_up.weight"), &w.up.shape, &w.up.to_f32());
        }
        put(&mut all, at("ffn_down.weight"), &w.down.shape, &w.down.to_f32());
        let more = &w.more;
        let second = if name == "seed_oss" { "post_attention_norm.weight" } else { "ffn_norm.weight" };
        for (part, data) in [
            ("attn_norm.weight", &w.input_norm),
            ("attn_norm.bias", &more.input_norm_bias),
            (second, &w.post_attention_norm),
            ("ffn_norm.bias", &more.post_attention_norm_bias),
            ("post_attention_norm.weight", &more.attention_out_norm),
            ("post_ffw_norm.weight", &more.feed_forward_out_norm),
            ("ffn_up.bias", &bias(&more.up_bias)),
            ("ffn_down.bias", &bias(&more.down_bias)),
            ("ffn_gate.bias", &bias(&more.gate_bias)),
        ] {
            vector(&mut all, at(part), data);
        }
        for (part, data) in [("attn_q_norm.weight", &w.q_norm), ("attn_k_norm.weight", &w.k_norm)] {
            let data = bias(data);
            match name {
                "command-r" if !data.is_empty() => put(&mut all, at(part), &[data.len() / head, head], &data),
                _ => vector(&mut all, at(part), &data),
            }
        }
        let Some(mixture) = &w.experts else { continue };
        put(&mut all, at("ffn_gate_inp.weight"), &mixture.router.shape, &mixture.router.to_f32());
        for (number, part) in ["ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"].iter().enumerate()
        {
            let stack: Vec<f32> =
                mixture.experts.iter().flat_map(|expert| expert[number].to_f32().into_owned()).collect();
            let one = &mixture.experts[0][number].shape;
            put(&mut all, at(part), &[mixture.experts.len(), one[0], one[1]], &stack);
        }
        for (number, part) in
            ["ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"].iter().enumerate()
        {
            if let Some(shared) = &mixture.shared {
                put(&mut all, at(part), &shared[number].shape, &shared[number].to_f32());
            }
        }
        if let Some(gate) = &mixture.shared_gate {
            vector(&mut all, at("ffn_gate_inp_shexp.weight"), &gate.to_f32());
        }
    }
    all
}

fn metadata(config: &DecoderConfig, name: &str, rope: &mut Tensors) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::from([("general.architecture".to_owned(), Value::String(name.to_owned()))]);
    let mut add = |key: &str, value: Value| all.insert(format!("{name}.{key}"), value);
    let size = |n: usize| Value::U32(n as u32);
    add("embedding_length", size(config.hidden_size));
    add("block_count", size(config.num_layers));
    add("feed_forward_length", size(config.intermediate_size));
    add("attention.head_count", size(config.num_heads));
    add("attention.head_count_kv", size(config.num_kv_heads));
    add("attention.key_length", size(config.head_dim));
    add("attention.value_length", size(config.head_dim));
    add("context_length", size(config.max_position_embeddings));
    add("rope.freq_base", Value::F32(config.rope.theta as f32));
    add("rope.dimension_count", size(config.rotary_dims()));
    let layer = config.block.norm.kind == harness_kernels::cpu::norm::NormKind::Layer;
    let key = if layer { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    add(key, Value::F32(config.norm_eps));
    if let Some(window) = config.sliding_window.iter().flatten().next() {
        add("attention.sliding_window", size(*window));
        if let Some(full) = config.sliding_window.iter().position(Option::is_none).filter(|_| name == "gemma3") {
            add("attention.sliding_window_pattern", size(full + 1));
        }
    }
    let block = &config.block;
    for (key, value) in [
        ("attn_logit_softcapping", block.score_cap),
        ("final_logit_softcapping", block.logit_cap),
        ("attention.clamp_kqv", block.clip_qkv),
    ] {
        if let Some(value) = value {
            add(key, Value::F32(value));
        }
    }
    if name.starts_with("granite") {
        add("embedding_scale", Value::F32(block.embedding_scale));
        add("residual_scale", Value::F32(block.residual_scale));
        add("logit_scale", Value::F32(1.0 / block.logit_scale));
        add("attention.scale", Value::F32(block.score_scale.unwrap() as f32));
    }
    if name == "command-r" || name == "cohere2" {
        add("logit_scale", Value::F32(block.logit_scale));
    }
    if name == "gptneox" {
        let parallel = block.placement == harness_decoder::Placement::ParallelTwo;
        add("use_parallel_residual", Value::Bool(parallel));
    }
    if let Some(experts) = &config.experts {
        add("expert_count", size(experts.count));
        add("expert_used_count", size(experts.per_token));
        add("expert_feed_forward_length", size(config.expert_width()));
    }
    match &config.rope.scaling {
        RopeScaling::Linear { factor } => {
            add("rope.scaling.type", Value::String("linear".into()));
            add("rope.scaling.factor", Value::F32(*factor as f32));
        }
        RopeScaling::LongRope { short, long, original_max, attention_factor, .. } => {
            add("rope.scaling.original_context_length", size(*original_max));
            add("rope.scaling.attn_factor", Value::F32(*attention_factor as f32));
            for (name, factors) in [("rope_factors_short.weight", short), ("rope_factors_long.weight", long)] {
                let factors: Vec<f32> = factors.iter().map(|&x| x as f32).collect();
                put(rope, name.to_owned(), &[factors.len()], &factors);
            }
        }
        _ => {}
    }
    all
}

/// What a file cannot say: Gemma's scale of scores, SmolLM's layers without rotation; the rest is the same.
fn comparable(mut config: DecoderConfig, stored: &DecoderConfig) -> DecoderConfig {
    if stored.architecture.name().starts_with("gemma") {
        config.block.score_scale = stored.block.score_scale;
    }
    if stored.architecture.name() == "smollm3" {
        config.block.rotations = stored.block.rotations.clone();
    }
    let norm = |norm: Norm| Norm {
        weight: if norm.weight == NormWeight::OneMore { NormWeight::Stored } else { norm.weight },
        ..norm
    };
    let qk_norm = config.block.qk_norm.map(|qk| harness_decoder::QkNorm { norm: norm(qk.norm), ..qk });
    config.block = BlockSpec { norm: norm(config.block.norm), qk_norm, ..config.block };
    config
}

fn hidden(config: DecoderConfig, weights: Weights, ids: &[u32]) -> Vec<f32> {
    let length = config.max_position_embeddings;
    let decoder = Decoder::new(Arc::new(BaseModel::new(config, weights, length)));
    let mut pieces =
        [Piece { tokens: ids, path: vec![], tail: None, wanted: (0..ids.len()).collect(), length: ids.len() }];
    let hidden = decoder.forward(&mut pieces).unwrap();
    decoder.logits(&hidden).unwrap()
}

fn check(path: &Path, name: &str, permuted: bool) -> Result<(), String> {
    let load = |path: &Path| {
        let checkpoint = Checkpoint::open(path)?;
        let mut config = checkpoint.config()?;
        let (weights, _) = checkpoint.weights(&mut config)?;
        Ok::<_, harness_decoder::DecoderError>((config, weights))
    };
    let (config, weights) = load(path).map_err(|error| error.to_string())?;
    let mut tensors = tensors(&config, &weights, name, permuted);
    let metadata = metadata(&config, name, &mut tensors);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(&file).unwrap(), &metadata, &tensors).unwrap();
    let (stored, from_file) = load(&file).map_err(|error| error.to_string())?;
    let config = comparable(config, &stored);
    let ids: Vec<u32> = (0..60).map(|i| (i * 37 + 11) % config.vocab_size as u32).collect();
    let (expected, found) = (hidden(config.clone(), weights, &ids), hidden(stored.clone(), from_file, &ids));
    let worst = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    if worst < 1e-4 {
        return Ok(());
    }
    Err(format!("logits differ by {worst}\n  {:?}\n  {:?}", config.block, stored.block))
}

#[test]
fn files_of_llama_cpp_are_the_same_models() {
    let Some(folder) = beside("HARNESS_FAMILIES", "families") else { return };
    let mut wrong = vec![];
    for (checkpoint, name, permuted) in NAMES {
        let path = folder.join(checkpoint);
        if !path.exists() {
            skipped(format_args!("{} does not exist", path.display()));
            continue;
        }
        if let Err(reason) = check(&path, name, permuted) {
            wrong.push(format!("{checkpoint}: {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
