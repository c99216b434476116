//! Adapters merged into their bases, against both beside each other.

mod loading_support;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use half::bf16;
use harness_core::Control;
use harness_decoder::{
    Adapter, BaseModel, Checkpoint, Decoder, DecoderConfig, DecoderError, Piece, Projection, merge_adapter,
};
use loading_support::{Raw, Tensors, raw, safetensors, tiny_config, tiny_tensors, values};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const PREFIX: &str = "base_model.model.";

/// A base and an adapter over it.
struct Pair {
    folder: tempfile::TempDir,
}

impl Pair {
    fn new(config: &Value, tensors: &Tensors, adapter: &Value, more: &Tensors) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("base/config.json", config.to_string().as_bytes());
        write("base/model.safetensors", &safetensors(tensors));
        let mut settings = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 3});
        settings.as_object_mut().unwrap().extend(adapter.as_object().unwrap().clone());
        write("adapter/adapter_config.json", settings.to_string().as_bytes());
        write("adapter/adapter_model.safetensors", &safetensors(more));
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn merge(&self) -> Result<(), DecoderError> {
        merge_adapter(&self.path("base"), &self.path("adapter"), &self.path("out"), &mut |_, _| Control::Continue)
    }

    /// Logits of base and adapter, and of the merged model.
    fn logits(&self) -> [Vec<f32>; 2] {
        self.merge().unwrap();
        [logits(&self.path("base"), Some(&self.path("adapter"))), logits(&self.path("out"), None)]
    }
}

fn logits(model: &Path, adapter: Option<&Path>) -> Vec<f32> {
    let checkpoint = Checkpoint::open(model).unwrap();
    let mut config = checkpoint.config().unwrap();
    let (weights, _) = checkpoint.weights(&mut config).unwrap();
    let base = Arc::new(BaseModel::new(config, weights, 32));
    let decoder = match adapter {
        Some(adapter) => {
            let adapter = Adapter::load(adapter, base.config()).unwrap();
            Decoder::with_adapter(base, &adapter).unwrap()
        }
        None => Decoder::new(base),
    };
    let tokens = [3, 1, 7, 0, 5, 2, 6, 4, 3];
    let mut pieces = [Piece {
        tokens: &tokens,
        path: vec![],
        tail: None,
        wanted: (0..tokens.len()).collect(),
        length: tokens.len(),
    }];
    let hidden = decoder.forward(&mut pieces).unwrap();
    decoder.logits(&hidden).unwrap()
}

/// A shape from the outputs and inputs of a linear.
type Shape = fn((usize, usize)) -> Vec<usize>;

/// The pairs of these modules in both layers, and what else each of them has.
fn pairs(modules: &[Projection], more: &[(&str, Shape)]) -> Tensors {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), tiny_config("llama").to_string()).unwrap();
    let base = DecoderConfig::load(folder.path()).unwrap();
    let mut tensors = Tensors::new();
    for layer in 0..2 {
        for &module in modules {
            let (outputs, inputs) = module.dims(&base);
            let mut add = |part: &str, shape: &[usize]| {
                tensors.insert(
                    format!("{PREFIX}{}.{part}", module.path(layer)),
                    raw(&format!("{part}{layer}{module}"), shape),
                );
            };
            add("lora_A.weight", &[2, inputs]);
            add("lora_B.weight", &[outputs, 2]);
            more.iter().for_each(|(part, shape)| add(part, &shape((outputs, inputs))));
        }
    }
    tensors
}

/// The factors of embedding or head, of rank 2, and what else there is of it.
fn top<const N: usize>(module: &str, factors: [&str; 2], more: [(&str, Vec<usize>); N]) -> Tensors {
    let all = factors.into_iter().zip([vec![2, 8], vec![8, 2]]).chain(more);
    all.map(|(part, shape)| (format!("{PREFIX}{module}.{part}"), raw(&format!("{module}{part}"), &shape))).collect()
}

fn worst([a, b]: &[Vec<f32>; 2]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn stored(path: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

#[test]
fn a_merged_model_computes_what_base_and_adapter_do() {
    let all = json!({"target_modules": "all-linear"});
    let pair = Pair::new(&tiny_config("llama"), &tiny_tensors("llama"), &all, &pairs(&Projection::ALL, &[]));
    let both = pair.logits();
    assert!(worst(&both) < 1e-5, "{}", worst(&both));
    let alone = logits(&pair.path("base"), None);
    assert!(worst(&[alone, both[0].clone()]) > 0.1, "the adapter changes something");
    let (before, after) = (stored(&pair.path("base/model.safetensors")), stored(&pair.path("out/model.safetensors")));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, tensor) in before {
        assert_eq!(tensor != after[&name], name.contains("proj"), "{name}");
    }
}

#[test]
fn magnitudes_scale_the_rows_of_what_is_stored() {
    let dora = json!({"target_modules": ["q_proj", "down_proj"], "use_dora": true});
    let tensors = pairs(&[Projection::Q, Projection::Down], &[("lora_magnitude_vector", |(outputs, _)| vec![outputs])]);
    let pair = Pair::new(&tiny_config("llama"), &tiny_tensors("llama"), &dora, &tensors);
    assert!(worst(&pair.logits()) < 1e-5);
}

#[test]
fn biases_are_added_to_biases_only() {
    let bias = json!({"target_modules": ["q_proj"], "lora_bias": true});
    let tensors = pairs(&[Projection::Q], &[("lora_B.bias", |(outputs, _)| vec![outputs])]);
    let pair = Pair::new(&tiny_config("qwen2"), &tiny_tensors("qwen2"), &bias, &tensors);
    assert!(worst(&pair.logits()) < 1e-5);
    let pair = Pair::new(&tiny_config("llama"), &tiny_tensors("llama"), &bias, &tensors);
    let error = pair.merge().unwrap_err().to_string();
    assert!(error.contains("model.layers.0.self_attn.q_proj` of the base has no bias"), "{error}");
    let head = top("lm_head", ["lora_A.weight", "lora_B.weight"], [("lora_B.bias", vec![8])]);
    let bias = json!({"target_modules": ["lm_head"], "lora_bias": true});
    let error = Pair::new(&tiny_config("llama"), &tiny_tensors("llama"), &bias, &head).merge().unwrap_err().to_string();
    assert!(error.contains("`lm_head` of the base has no bias"), "{error}");
    assert!(!pair.path("out").exists());
}

#[test]
fn sums_are_rounded_once_to_the_type_of_the_base() {
    let mut tensors = tiny_tensors("llama");
    for (dtype, _, bytes) in tensors.values_mut() {
        let narrow = bytes.chunks_exact(4).map(|x| bf16::from_f32(f32::from_le_bytes([x[0], x[1], x[2], x[3]])));
        *bytes = narrow.flat_map(bf16::to_le_bytes).collect();
        *dtype = Dtype::BF16;
    }
    let targets = json!({"target_modules": ["v_proj", "embed_tokens"]});
    let mut more = pairs(&[Projection::V], &[]);
    more.extend(top("model.embed_tokens", ["lora_embedding_A", "lora_embedding_B"], []));
    let pair = Pair::new(&tiny_config("llama"), &tensors, &targets, &more);
    pair.merge().unwrap();
    let after = stored(&pair.path("out/model.safetensors"));
    let numbers = |bytes: &[u8]| bytes.chunks_exact(2).map(|x| bf16::from_le_bytes([x[0], x[1]])).collect::<Vec<_>>();
    for (name, factors, turned) in [
        (
            "model.layers.1.self_attn.v_proj.weight",
            ["lora_A.weight1self_attn.v_proj", "lora_B.weight1self_attn.v_proj"],
            false,
        ),
        (
            "model.embed_tokens.weight",
            ["model.embed_tokenslora_embedding_A", "model.embed_tokenslora_embedding_B"],
            true,
        ),
    ] {
        let [(_, shape, w), (dtype, _, merged)] = [&tensors[name], &after[name]];
        assert_eq!((*dtype, shape.as_slice()), (Dtype::BF16, &[8, 8][..]));
        let [a, b] = factors.map(|name| values(name, 16));
        for (at, (w, merged)) in numbers(w).into_iter().zip(numbers(merged)).enumerate() {
            let (row, col) = if turned { (at % 8, at / 8) } else { (at / 8, at % 8) };
            let sum: f64 = (0..2).map(|k| f64::from(b[2 * row + k]) * f64::from(a[8 * k + col])).sum();
            assert_eq!(merged, bf16::from_f64(w.to_f64() + 1.5 * sum), "{name} {at}");
        }
    }
}

/// A base whose head is its embedding, stored as either.
fn tied(stored: &str) -> (Value, Tensors) {
    let (mut config, mut tensors) = (tiny_config("llama"), tiny_tensors("llama"));
    config["tie_word_embeddings"] = json!(true);
    let table = tensors.remove("model.embed_tokens.weight").unwrap();
    tensors.insert("lm_head.weight".to_owned(), table);
    if stored == "model.embed_tokens.weight" {
        let table = tensors.remove("lm_head.weight").unwrap();
        tensors.insert(stored.to_owned(), table);
    }
    (config, tensors)
}

#[test]
fn an_embedding_and_a_head_that_are_one_stay_so_only_if_both_change_alike() {
    let embedding = || top("model.embed_tokens", ["lora_embedding_A", "lora_embedding_B"], []);
    let head = || top("lm_head", ["lora_A.weight", "lora_B.weight"], []);
    let rows = |module: &str| {
        let name = format!("{PREFIX}{module}.token_adapter.trainable_tokens_delta");
        Tensors::from([(name.clone(), raw(&name, &[2, 8]))])
    };
    let mirrored = {
        let turn = |(dtype, shape, bytes): &Raw| {
            let at = |i: usize| (i % shape[0] * shape[1] + i / shape[0]) * 4;
            let turned = (0..16).flat_map(|i| bytes[at(i)..at(i) + 4].to_vec()).collect();
            (*dtype, vec![shape[1], shape[0]], turned)
        };
        let mut both = embedding();
        for (of, from) in [("lora_A.weight", "lora_embedding_B"), ("lora_B.weight", "lora_embedding_A")] {
            let turned = turn(&both[&format!("{PREFIX}model.embed_tokens.{from}")]);
            both.insert(format!("{PREFIX}lm_head.{of}"), turned);
        }
        both
    };
    let targets = |modules: &[&str]| json!({"target_modules": modules});
    let tokens = |tokens: Value| json!({"target_modules": [], "trainable_token_indices": tokens});
    let both: Tensors = embedding().into_iter().chain(head()).collect();
    let own: Tensors = rows("model.embed_tokens").into_iter().chain(rows("lm_head")).collect();
    let cases = [
        ("the embedding", targets(&["embed_tokens"]), embedding(), false),
        ("the head", targets(&["lm_head"]), head(), false),
        ("both", targets(&["embed_tokens", "lm_head"]), both, false),
        ("both alike", json!({"target_modules": ["embed_tokens"], "ensure_weight_tying": true}), mirrored, true),
        ("tokens", tokens(json!([5, 1])), rows("model.embed_tokens"), true),
        ("tokens of both", tokens(json!({"embed_tokens": [5, 1], "lm_head": [2, 3]})), own, false),
    ];
    for stored_as in ["model.embed_tokens.weight", "lm_head.weight"] {
        for (what, adapter, more, stays) in &cases {
            let (config, tensors) = tied(stored_as);
            let pair = Pair::new(&config, &tensors, adapter, more);
            let both = pair.logits();
            assert!(worst(&both) < 1e-5, "{what}: {}", worst(&both));
            assert!(worst(&[logits(&pair.path("base"), None), both[0].clone()]) > 0.01, "{what} changes something");
            let config: Value = serde_json::from_slice(&fs::read(pair.path("out/config.json")).unwrap()).unwrap();
            assert_eq!(config["tie_word_embeddings"], json!(stays), "{what}");
            let written = stored(&pair.path("out/model.safetensors"));
            assert_eq!(written.len(), tensors.len() + usize::from(!stays), "{what}: {stored_as}");
        }
    }
}

#[test]
fn bases_in_several_files_are_merged_like_those_in_one() {
    let targets = json!({"target_modules": ["embed_tokens", "v_proj"]});
    let mut more = pairs(&[Projection::V], &[]);
    more.extend(top("model.embed_tokens", ["lora_embedding_A", "lora_embedding_B"], []));
    let pair = Pair::new(&tiny_config("llama"), &tiny_tensors("llama"), &targets, &more);
    pair.merge().unwrap();
    let whole = stored(&pair.path("out/model.safetensors"));
    let mut rest = tiny_tensors("llama");
    let first = rest.split_off("model.layers.1");
    let file = |name: &str| if first.contains_key(name) { "first.safetensors" } else { "rest.safetensors" };
    let map: BTreeMap<_, _> = first.keys().chain(rest.keys()).map(|name| (name, file(name))).collect();
    let base = pair.path("base");
    fs::remove_file(base.join("model.safetensors")).unwrap();
    fs::write(base.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    fs::write(base.join("first.safetensors"), safetensors(&first)).unwrap();
    fs::write(base.join("rest.safetensors"), safetensors(&rest)).unwrap();
    pair.merge().unwrap();
    assert!(stored(&pair.path("out/model.safetensors")) == whole);
}

#[test]
fn a_head_of_its_own_unties_the_model() {
    let config = {
        let mut config = tiny_config("llama");
        config["tie_word_embeddings"] = json!(true);
        config
    };
    let mut tensors = tiny_tensors("llama");
    tensors.remove("lm_head.weight");
    let mut more = pairs(&[Projection::V], &[]);
    more.insert(format!("{PREFIX}lm_head.weight"), raw("another head", &[8, 8]));
    let adapter = json!({"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]});
    let pair = Pair::new(&config, &tensors, &adapter, &more);
    assert!(worst(&pair.logits()) < 1e-5);
    let config: Value = serde_json::from_slice(&fs::read(pair.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);

    // New tokens in both.
    for module in ["lm_head", "model.embed_tokens"] {
        more.insert(format!("{PREFIX}{module}.weight"), raw(module, &[11, 8]));
    }
    let adapter = json!({"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]});
    let pair = Pair::new(&tiny_config("llama"), &tiny_tensors("llama"), &adapter, &more);
    assert!(worst(&pair.logits()) < 1e-5);
    assert_eq!(DecoderConfig::load(&pair.path("out")).unwrap().vocab_size, 11);
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let targets = json!({"target_modules": ["v_proj"]});
    let more = pairs(&[Projection::V], &[]);
    let mut config = tiny_config("llama");
    config["quantization_config"] = json!({"quant_method": "gptq", "bits": 4});
    let error = Pair::new(&config, &tiny_tensors("llama"), &targets, &more).merge().unwrap_err().to_string();
    assert!(error.contains("`quantization_config`: found \"gptq\", expected none"), "{error}");

    let mut huge = more.clone();
    let name = format!("{PREFIX}model.layers.0.self_attn.v_proj.lora_B.weight");
    huge.get_mut(&name).unwrap().2 = 3e38f32.to_le_bytes().repeat(16);
    let large = json!({"target_modules": ["v_proj"], "lora_alpha": 300});
    let error = Pair::new(&tiny_config("llama"), &tiny_tensors("llama"), &large, &huge).merge().unwrap_err();
    assert!(error.to_string().contains("layers.0.self_attn.v_proj.weight` has values beyond the range"), "{error}");

    let pair = Pair::new(&tiny_config("llama"), &tiny_tensors("llama"), &targets, &more);
    let stopped =
        merge_adapter(&pair.path("base"), &pair.path("adapter"), &pair.path("out"), &mut |_, _| Control::Stop);
    assert!(matches!(stopped, Err(DecoderError::Stopped)));
    assert!(!pair.path("out/model.safetensors").exists());
}
