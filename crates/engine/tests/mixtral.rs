//! Mixtral: against candle-transformers on random weights, as a Hugging Face folder and as GGUF, and its answers do not
//! depend on what else is asked.

mod answers;

use std::{collections::BTreeMap, fs, io::Cursor, path::Path, sync::Arc};

use answers::answers;
use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use candle_nn::VarBuilder;
use candle_transformers::models::mixtral;
use harness_core::{LanguageModel, Request, Response, Sampling, Seed};
use harness_decoder::{Adapter, Experts};
use harness_engine::{Limits, LoadedBase, LocalModel, ModelFiles, ModelOptions, Placement, save_quantised};
use harness_kernels::{HostData, HostTensor, Quantization};
use harness_test_support::{
    Dims,
    model::{Numbers, tokenizer_json, write_json, write_tensors},
    tiny_adapter,
};
use serde_json::{Value, json};

const HIDDEN: usize = 32;
const INNER: usize = 48;
const EXPERTS: usize = 5;
const LAYERS: usize = 3;
const VOCAB: usize = 298;

fn config() -> Value {
    json!({
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": VOCAB,
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "sliding_window": null, "num_experts_per_tok": 2, "num_local_experts": EXPERTS,
        "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 1,
    })
}

/// A random Mixtral in Hugging Face's layout.
fn write(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    write_json(&dir.join("config.json"), &config());
    write_json(&dir.join("tokenizer.json"), &tokenizer_json());
    write_json(&dir.join("tokenizer_config.json"), &json!({"bos_token": "<s>", "eos_token": "</s>"}));
    let random = |name: String, shape: Vec<usize>, deviation: f32, mean: f32| {
        let mut numbers = Numbers::new(5, &name);
        let count = shape.iter().product();
        (name, shape, (0..count).map(|_| mean + numbers.spread(deviation)).collect::<Vec<f32>>())
    };
    let matrix = |name: String, rows: usize, cols: usize| {
        random(name + ".weight", vec![rows, cols], 1.5 / (cols as f32).sqrt(), 0.0)
    };
    let norm = |name: String| random(name + ".weight", vec![HIDDEN], 0.1, 1.0);
    let mut tensors = vec![
        random("model.embed_tokens.weight".into(), vec![VOCAB, HIDDEN], 1.0, 0.0),
        matrix("lm_head".into(), VOCAB, HIDDEN),
        norm("model.norm".into()),
    ];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        tensors.extend([
            matrix(name("self_attn.q_proj"), HIDDEN, HIDDEN),
            matrix(name("self_attn.k_proj"), HIDDEN / 2, HIDDEN),
            matrix(name("self_attn.v_proj"), HIDDEN / 2, HIDDEN),
            matrix(name("self_attn.o_proj"), HIDDEN, HIDDEN),
            matrix(name("block_sparse_moe.gate"), EXPERTS, HIDDEN),
            norm(name("input_layernorm")),
            norm(name("post_attention_layernorm")),
        ]);
        for expert in 0..EXPERTS {
            let name = |part: &str| name(&format!("block_sparse_moe.experts.{expert}.{part}"));
            tensors.extend([
                matrix(name("w1"), INNER, HIDDEN),
                matrix(name("w2"), HIDDEN, INNER),
                matrix(name("w3"), INNER, HIDDEN),
            ]);
        }
    }
    write_tensors(&dir.join("model.safetensors"), &tensors);
}

/// The same model as llama.cpp stores it: `llama` with stacked experts, rows of q and k in pairs.
fn write_gguf(dir: &Path, path: &Path, stacked: bool) {
    let from = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    let outer = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];
    for (name, to) in outer {
        tensors.insert(format!("{to}.weight"), from[&format!("{name}.weight")].clone());
    }
    let pairs = |tensor: &Tensor, heads: usize| {
        let (rows, cols) = tensor.dims2().unwrap();
        let split = tensor.reshape((heads, 2, rows / heads / 2, cols)).unwrap().transpose(1, 2).unwrap();
        split.contiguous().unwrap().reshape((rows, cols)).unwrap()
    };
    for layer in 0..LAYERS {
        let of = |part: &str| from[&format!("model.layers.{layer}.{part}.weight")].clone();
        let parts = [
            ("attn_q", pairs(&of("self_attn.q_proj"), 4)),
            ("attn_k", pairs(&of("self_attn.k_proj"), 2)),
            ("attn_v", of("self_attn.v_proj")),
            ("attn_output", of("self_attn.o_proj")),
            ("attn_norm", of("input_layernorm")),
            ("ffn_norm", of("post_attention_layernorm")),
            ("ffn_gate_inp", of("block_sparse_moe.gate")),
        ];
        tensors.extend(parts.map(|(name, tensor)| (format!("blk.{layer}.{name}.weight"), tensor)));
        for (name, part) in [("ffn_gate", "w1"), ("ffn_up", "w3"), ("ffn_down", "w2")] {
            let experts: Vec<Tensor> =
                (0..EXPERTS).map(|e| of(&format!("block_sparse_moe.experts.{e}.{part}"))).collect();
            if stacked {
                tensors.insert(format!("blk.{layer}.{name}_exps.weight"), Tensor::stack(&experts, 0).unwrap());
            } else {
                let own = experts.into_iter().enumerate();
                tensors.extend(own.map(|(e, tensor)| (format!("blk.{layer}.{name}.{e}.weight"), tensor)));
            }
        }
    }
    use gguf_file::Value::{Array, F32, I32, String as Text, U32};
    let mut metadata = vec![
        ("general.architecture".to_owned(), Text("llama".into())),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), F32(1e-5)),
        ("tokenizer.ggml.model".to_owned(), Text("gpt2".into())),
        ("tokenizer.ggml.pre".to_owned(), Text("qwen2".into())),
        ("tokenizer.ggml.bos_token_id".to_owned(), U32(0)),
        ("tokenizer.ggml.eos_token_id".to_owned(), U32(1)),
    ];
    let sizes = [
        ("embedding_length", HIDDEN),
        ("block_count", LAYERS),
        ("feed_forward_length", INNER),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 256),
        ("expert_count", EXPERTS),
        ("expert_used_count", 2),
    ];
    metadata.extend(sizes.map(|(key, value)| (format!("llama.{key}"), U32(value as u32))));
    let tokenizer = tokenizer_json();
    let mut tokens: Vec<(u64, String)> = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), token.clone()))
        .collect();
    tokens.sort();
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|pair| Text(format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())));
    let types = (0..VOCAB).map(|id| I32(if id < 2 { 3 } else { 1 }));
    metadata.push(("tokenizer.ggml.merges".to_owned(), Array(merges.collect())));
    metadata.push(("tokenizer.ggml.token_type".to_owned(), Array(types.collect())));
    metadata
        .push(("tokenizer.ggml.tokens".to_owned(), Array(tokens.into_iter().map(|(_, token)| Text(token)).collect())));
    let tensors: Vec<(String, QTensor)> =
        tensors.into_iter().map(|(name, tensor)| (name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap())).collect();
    let metadata: Vec<(&str, &gguf_file::Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut bytes = Cursor::new(vec![]);
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    fs::write(path, bytes.into_inner()).unwrap();
}

fn load(path: &Path, limits: Limits) -> LocalModel {
    LocalModel::new(Arc::new(LoadedBase::load(path, ModelOptions { limits, ..ModelOptions::default() }).unwrap()))
}

fn tokens(n: usize) -> Vec<u32> {
    let mut rng = Seed(3).stream("tokens", 0);
    (0..n).map(|_| rng.below(VOCAB as u64) as u32).collect()
}

#[test]
fn equals_candle_transformers_from_a_folder_and_from_gguf() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let mut theirs = config();
    theirs["sliding_window"] = json!(4096);
    theirs["use_flash_attn"] = json!(false);
    let theirs: mixtral::Config = serde_json::from_value(theirs).unwrap();
    let tensors = candle_core::safetensors::load(folder.path().join("model.safetensors"), &Device::Cpu).unwrap();
    let variables = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);

    let sequence = tokens(40);
    let model = load(folder.path(), Limits::default());
    assert_eq!(model.base().model().config().experts, Some(Experts::new(EXPERTS, 2)));
    let found = model.score_tokens(std::slice::from_ref(&sequence), &[1]).unwrap().remove(0).0;
    for (at, &found) in found.iter().enumerate() {
        let input = Tensor::new(&sequence[..=at], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let mut oracle = mixtral::Model::new(&theirs, variables.clone()).unwrap();
        let logits: Vec<f32> = oracle.forward(&input, 0).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let normaliser: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let expected = f64::from(logits[sequence[at + 1] as usize]) - normaliser;
        let difference = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
        assert!(difference < 1e-5, "position {at}: {found} for {expected}");
    }
    for stacked in [true, false] {
        let gguf = folder.path().join("model.gguf");
        write_gguf(folder.path(), &gguf, stacked);
        let same =
            load(&gguf, Limits::default()).score_tokens(std::slice::from_ref(&sequence), &[1]).unwrap().remove(0).0;
        assert_eq!(same, found, "the same weights in GGUF, stacked {stacked}");
    }
}

#[test]
fn answers_do_not_depend_on_what_else_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let header = "On the other side of the river there is an old house in which nobody lives. ";
    let mut requests: Vec<Request> = vec![];
    for n in 0..8u64 {
        let prompt = format!("{header}It has {n} windows and the number of its doors is");
        for continuation in [" one", " two and a half", " not known"] {
            requests.push(Request::LogLikelihood { context: prompt.clone(), continuation: continuation.into() });
        }
        let sampling =
            Sampling { max_new_tokens: 6 + n as usize, temperature: n as f64 * 0.2, seed: n, ..Sampling::default() };
        requests.push(Request::Generate { prompt, stop: vec![], sampling });
        requests.push(Request::RollingLogLikelihood { text: header.repeat(n as usize + 1) });
    }
    let model = load(folder.path(), Limits::default());
    let together = answers(&model, &requests).unwrap();
    let stats = model.stats();
    assert!(stats.computed_tokens < stats.requested_tokens / 2, "prefixes are shared: {stats:?}");
    let narrow = load(folder.path(), Limits { batch_tokens: 37, kv_bytes: 60 << 10, batch_sequences: 3 });
    let backwards: Vec<Request> = requests.iter().rev().cloned().collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let found: Vec<Response> = pool.install(|| answers(&narrow, &backwards).unwrap()).into_iter().rev().collect();
    assert_eq!(found, together);
    for (request, expected) in requests.iter().zip(&together).step_by(3) {
        assert_eq!(answers(&model, std::slice::from_ref(request)).unwrap()[0], *expected);
    }
}

#[test]
fn adapters_on_attention_are_taken_and_wrong_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (base, adapter) = (folder.path().join("base"), folder.path().join("adapter"));
    write(&base);
    let dims = Dims { layers: LAYERS, hidden: HIDDEN, intermediate: INNER, heads: 4, kv_heads: 2, max_length: 256 };
    tiny_adapter(&adapter, "base", dims, 4, 1, false);
    let loaded = Arc::new(LoadedBase::load(&base, ModelOptions::default()).unwrap());
    let adapter = Adapter::load(&adapter, loaded.model().config()).unwrap();
    let with = LocalModel::with_adapter(Arc::clone(&loaded), &adapter).unwrap();
    let [changed, plain] = [&with, &LocalModel::new(loaded)].map(|m| m.score_tokens(&[tokens(20)], &[1]).unwrap());
    assert_ne!(changed, plain);

    let mut config = config();
    config["num_experts_per_tok"] = json!(6);
    write_json(&base.join("config.json"), &config);
    let error = ModelFiles::load(&base).unwrap_err().to_string();
    assert!(error.contains("num_experts_per_tok") && error.contains("at most 5"), "{error}");
    config["num_experts_per_tok"] = json!(2);
    config["num_local_experts"] = json!(6);
    write_json(&base.join("config.json"), &config);
    let error = ModelFiles::load(&base).unwrap_err().to_string();
    assert!(error.contains("block_sparse_moe.experts.5.w1.weight"), "{error}");
}

/// The model of files, computed on the CPU.
fn placed(files: ModelFiles) -> LocalModel {
    let options = ModelOptions { placement: Placement::Cpu, ..ModelOptions::default() };
    LocalModel::new(Arc::new(LoadedBase::place(files, options).unwrap()))
}

#[test]
fn experts_are_quantised_with_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let (base, quantised) = (folder.path().join("base"), folder.path().join("nf4"));
    write(&base);
    let options = Quantization::from_name("nf4").unwrap();
    let score = |model: &LocalModel| model.score_tokens(&[tokens(30)], &[1]).unwrap().remove(0).0;
    let mut files = ModelFiles::load(&base).unwrap();
    let plain = score(&placed(ModelFiles::load(&base).unwrap()));
    files.quantise(&options).unwrap();
    let mixtures = files.weights.layers.iter().map(|layer| layer.experts.as_ref().unwrap());
    for mixture in mixtures {
        assert!(mixture.experts.iter().flatten().all(|tensor| matches!(tensor.data, HostData::Nf4(_))));
        assert!(matches!(mixture.router.data, HostData::F32(_)), "the router stays");
    }
    // The same values in full precision.
    let mut widened = ModelFiles::load(&base).unwrap();
    widened.weights = files.weights.clone();
    let widen = |tensor: &mut HostTensor| tensor.data = HostData::F32(tensor.to_f32().into_owned().into());
    for layer in &mut widened.weights.layers {
        let attention = [&mut layer.q, &mut layer.k, &mut layer.v, &mut layer.o];
        let experts = layer.experts.iter_mut().flat_map(|mixture| mixture.experts.iter_mut().flatten());
        attention.into_iter().chain(experts).for_each(widen);
    }
    let model = placed(files);
    assert_eq!(model.base().model().storage(), "nf4");
    let found = score(&model);
    assert_eq!(found, score(&placed(widened)));
    assert_ne!(found, plain);
    save_quantised(&base, &quantised, &options).unwrap();
    assert_eq!(score(&placed(ModelFiles::load(&quantised).unwrap())), found, "written and read again");
}
