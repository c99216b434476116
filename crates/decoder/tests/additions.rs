//! Adapters on every kind of linear, on embedding and head, against bases into whose files they are merged.

mod loading_support;
mod together_support;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use harness_core::Control;
use harness_decoder::{Adapter, BaseModel, Checkpoint, Decoder, DecoderConfig, DecoderError, Piece, merge_adapter};
use loading_support::{Tensors, raw, safetensors, values, write_model};
use serde::Deserialize;
use serde_json::{Value, json};
use together_support::assert_together_is_alone;

const RANK: usize = 2;
const SCALE: f32 = 2.0;

/// A family's tiny model as transformers has it (tools/make_linears.py).
#[derive(Deserialize)]
struct Recorded {
    config: Value,
    tensors: BTreeMap<String, Vec<usize>>,
    linears: BTreeMap<String, [usize; 2]>,
}

fn recorded() -> BTreeMap<String, Recorded> {
    serde_json::from_str(include_str!("recorded/linears.json")).unwrap()
}

/// The tensors of a model, and what changes them.
struct Model {
    config: Value,
    tensors: Tensors,
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn opened(folder: &Path) -> Arc<BaseModel> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let mut config = checkpoint.config().unwrap();
    let (weights, _) = checkpoint.weights(&mut config).unwrap();
    BaseModel::new(config, weights, 16).into()
}

impl Model {
    fn new(recorded: &Recorded) -> Self {
        let tensors = recorded.tensors.iter().map(|(name, shape)| (name.clone(), raw(name, shape))).collect();
        Self { config: recorded.config.clone(), tensors }
    }

    fn dir(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write_model(dir.path(), &self.config, &self.tensors);
        dir
    }

    fn base(&self) -> Arc<BaseModel> {
        opened(self.dir().path())
    }

    /// Changes element by element: row, column, value.
    fn change(&mut self, tensor: &str, mut change: impl FnMut(usize, usize, &mut f32)) {
        let (_, shape, data) = self.tensors.get_mut(tensor).unwrap();
        let mut values = floats(data);
        for (i, x) in values.iter_mut().enumerate() {
            change(i / shape[1], i % shape[1], x);
        }
        *data = bytes(&values);
    }
}

/// The folder of an adapter of these tensors under PEFT's names.
fn folder(changes: &Value, tensors: &Tensors) -> tempfile::TempDir {
    let mut config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": SCALE * RANK as f32});
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("adapter_model.safetensors"), safetensors(tensors)).unwrap();
    dir
}

fn adapter(changes: &Value, tensors: &Tensors, base: &BaseModel) -> Result<Adapter, DecoderError> {
    Adapter::load(folder(changes, tensors).path(), base.config())
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6];
    let (wanted, length) = ((0..tokens.len()).collect(), tokens.len());
    let mut pieces = [Piece { tokens: &tokens, path: vec![], tail: Some(decoder.kv_block(0)), wanted, length }];
    let hidden = decoder.forward(&mut pieces).unwrap();
    decoder.logits(&hidden).unwrap()
}

/// The largest difference, relative to the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    let most = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |max, x| max.max(x.abs()));
    assert_eq!(a.len(), b.len());
    most(&mut a.iter().zip(b).map(|(a, b)| a - b)) / most(&mut a.iter().copied())
}

/// Checks that an adapter changes what a base computes, and equals a merged base, as does what `merge_adapter` writes.
fn assert_is_merged(what: &str, base: &Model, merged: &Model, changes: Value, tensors: &Tensors) {
    let model = base.base();
    let plain = logits(&Decoder::new(Arc::clone(&model)));
    let folder = folder(&changes, tensors);
    let adapter = Adapter::load(folder.path(), model.config()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let (alone, decoder) = (Decoder::new(Arc::clone(&model)), Decoder::with_adapter(model, &adapter).unwrap());
    let beside = logits(&decoder);
    assert_together_is_alone(what, &[&alone, &decoder, &decoder.clone(), &alone]);
    let merged = logits(&Decoder::new(merged.base()));
    let (found, change) = (difference(&merged, &beside), difference(&plain, &beside));
    assert!(found < 2e-5 && change > 1e-3, "{what}: {found} from the merged base, {change} from the base");
    let (from, out) = (base.dir(), tempfile::tempdir().unwrap());
    merge_adapter(from.path(), folder.path(), out.path(), &mut |_, _| Control::Continue).unwrap();
    let found = difference(&logits(&Decoder::new(opened(out.path()))), &merged);
    assert!(found < 2e-5, "{what}: {found} between what is written and the merged base");
    #[cfg(feature = "cuda")]
    assert_is_the_same_on_a_gpu(what, base, &adapter, &beside);
}

/// Checks that an adapter gives these logits on a GPU, where there is one.
#[cfg(feature = "cuda")]
fn assert_is_the_same_on_a_gpu(what: &str, base: &Model, adapter: &Adapter, expected: &[f32]) {
    use harness_kernels::cuda::{Device, Float};
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => return harness_test_support::skipped(error),
    };
    let folder = base.dir();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let mut config = checkpoint.config().unwrap();
    let (weights, _) = checkpoint.weights(&mut config).unwrap();
    let model = BaseModel::on_device(config, &weights, 16, device, Float::F32).unwrap();
    let found = difference(&logits(&Decoder::with_adapter(model.into(), adapter).unwrap()), expected);
    assert!(found < 2e-5, "{what}: {found} between GPU and processor");
}

/// The factors of a module, and their product with the scale at an element.
fn pair(
    module: &str,
    [outputs, inputs]: [usize; 2],
    names: [&str; 2],
) -> (Tensors, impl Fn(usize, usize) -> f32 + use<>) {
    let [a, b] = names.map(|name| format!("base_model.model.{module}.{name}"));
    let tensors = [(&a, [RANK, inputs]), (&b, [outputs, RANK])];
    let tensors = tensors.map(|(name, shape)| (name.clone(), raw(name, &shape))).into();
    let (a, b) = (values(&a, RANK * inputs), values(&b, outputs * RANK));
    (tensors, move |row, column| SCALE * (0..RANK).map(|k| b[row * RANK + k] * a[k * inputs + column]).sum::<f32>())
}

const LORA: [&str; 2] = ["lora_A.weight", "lora_B.weight"];

#[test]
fn linears_are_those_of_transformers() {
    for (family, recorded) in recorded() {
        let base = Model::new(&recorded).base();
        let config = base.config();
        let mut found = BTreeMap::new();
        for place in (0..config.num_layers).flat_map(|layer| config.linears(layer)) {
            let rows = place.module_outputs();
            assert_eq!(found.insert(place.path, [rows, place.inputs]).unwrap_or([rows, place.inputs])[0], rows);
        }
        assert_eq!(found, recorded.linears, "{family}");
    }
}

#[test]
fn additions_to_all_linears_are_those_of_merged_weights() {
    for (family, recorded) in recorded() {
        let base = Model::new(&recorded);
        let (mut merged, mut tensors) = (Model::new(&recorded), Tensors::new());
        for (module, shape) in &recorded.linears {
            let (own, delta) = pair(module, *shape, LORA);
            tensors.extend(own);
            let turned = family == "gpt2";
            let change = |i, j, x: &mut f32| *x += if turned { delta(j, i) } else { delta(i, j) };
            merged.change(&format!("{module}.weight"), change);
        }
        assert_is_merged(&family, &base, &merged, json!({"target_modules": "all-linear"}), &tensors);
    }
}

/// Additions to both stacked weights of all experts, as PEFT names them.
fn experts_of(config: &DecoderConfig) -> Tensors {
    let mut tensors = Tensors::new();
    for stacked in (0..config.num_layers).filter_map(|layer| config.stacked_experts(layer)) {
        let (ranks, hidden, width) = (RANK * stacked.count, config.hidden_size, config.expert_width());
        for (module, outputs, inputs) in [(".base_layer", 2 * width, hidden), ("", hidden, width)] {
            let name = |part: &str| format!("base_model.model.{}{module}.{part}.weight", stacked.path);
            for (name, shape) in [(name("lora_A"), [ranks, inputs]), (name("lora_B"), [outputs, ranks])] {
                tensors.insert(name.clone(), raw(&name, &shape));
            }
        }
    }
    tensors
}

#[test]
fn models_compute_together_what_they_compute_alone() {
    for (family, recorded) in recorded() {
        let base = Model::new(&recorded).base();
        let plain = Decoder::new(Arc::clone(&base));
        let of = |changes: Value, tensors: &Tensors| {
            let adapter = adapter(&changes, tensors, &base).unwrap_or_else(|error| panic!("{family}: {error}"));
            Decoder::with_adapter(Arc::clone(&base), &adapter).unwrap()
        };
        let (mut lora, mut dora) = (Tensors::new(), Tensors::new());
        for (module, shape) in &recorded.linears {
            let (own, _) = pair(module, *shape, LORA);
            lora.extend(own.clone());
            let name = format!("base_model.model.{module}.lora_magnitude_vector");
            dora.extend(own);
            dora.insert(name.clone(), raw(&name, &shape[..1]));
        }
        let all = json!({"target_modules": "all-linear"});
        let scaled = json!({"target_modules": "all-linear", "use_rslora": true});
        let (lora, stabilised) = (of(all, &lora), of(scaled, &lora));
        let mut models = vec![&lora, &plain, &stabilised];
        let magnitudes = json!({"target_modules": "all-linear", "use_dora": true});
        let dora = (!matches!(&*family, "gpt2")).then(|| of(magnitudes, &dora));
        models.extend(&dora);
        let (head, (module, shape)) = ("base_model.model.lm_head.weight", recorded.linears.iter().next().unwrap());
        let (mut whole, _) = pair(module, *shape, LORA);
        whole.insert(head.to_owned(), raw(head, &[24, 16]));
        if recorded.tensors.contains_key("lm_head.bias") {
            let bias = "base_model.model.lm_head.bias";
            whole.insert(bias.to_owned(), raw(bias, &[24]));
        }
        let whole = of(json!({"target_modules": [module], "modules_to_save": ["lm_head"]}), &whole);
        models.push(&whole);
        let experts = experts_of(base.config());
        let experts = (!experts.is_empty()).then(|| {
            let parameters = ["experts.gate_up_proj", "experts.down_proj"];
            of(json!({"target_modules": [], "target_parameters": parameters}), &experts)
        });
        assert!(experts.is_some() || family != "qwen2_moe");
        models.extend(&experts);
        models.push(&plain);
        assert_together_is_alone(&family, &models);
    }
}

#[test]
fn routers_are_adapted_as_parameters() {
    let recorded = &recorded()["deepseek_v3"];
    let (base, mut merged) = (Model::new(recorded), Model::new(recorded));
    let (tensors, delta) = pair("model.layers.1.mlp.gate", [4, 16], LORA);
    merged.change("model.layers.1.mlp.gate.weight", |i, j, x| *x += delta(i, j));
    let changes = json!({"target_modules": [], "target_parameters": ["gate.weight"]});
    assert_is_merged("router", &base, &merged, changes, &tensors);
}

/// Models with a head of their own, and with one that is the embedding; embedding and head by name.
fn heads() -> [(&'static str, Recorded, &'static str, bool); 3] {
    let mut all = recorded();
    let mut take = |family: &str| all.remove(family).unwrap();
    [
        ("hunyuan_v1_moe", take("hunyuan_v1_moe"), "model.embed_tokens", false),
        ("phi3", take("phi3"), "model.embed_tokens", true),
        ("gpt2", take("gpt2"), "transformer.wte", true),
    ]
}

/// A merged base whose head is one of its own, as only one of two tied modules is changed.
fn untied(recorded: &Recorded, embedding: &str) -> Model {
    let mut model = Model::new(recorded);
    let table = model.tensors[&format!("{embedding}.weight")].clone();
    model.tensors.entry("lm_head.weight".to_owned()).or_insert(table);
    model.config["tie_word_embeddings"] = json!(false);
    model
}

#[test]
fn additions_to_embedding_and_head_are_those_of_merged_tables() {
    for (family, recorded, embedding, _) in heads() {
        let base = Model::new(&recorded);
        let short = embedding.rsplit('.').next().unwrap();
        let mut merged = untied(&recorded, embedding);
        let (tensors, delta) = pair(embedding, [16, 24], ["lora_embedding_A", "lora_embedding_B"]);
        merged.change(&format!("{embedding}.weight"), |token, channel, x| *x += delta(channel, token));
        assert_is_merged(family, &base, &merged, json!({"target_modules": [short]}), &tensors);
        // PEFT ties additions only to what it knows by its name.
        if short == "wte" {
            let changes = json!({"target_modules": [short], "ensure_weight_tying": true});
            assert_is_merged(family, &base, &merged, changes, &tensors);
        }
        let mut merged = untied(&recorded, embedding);
        let (mut tensors, delta) = pair("lm_head", [24, 16], LORA);
        merged.change("lm_head.weight", |token, channel, x| *x += delta(token, channel));
        // PEFT saves the base's table beside the factors of an embedding or a head.
        let table = base.tensors.get("lm_head.weight").unwrap_or(&base.tensors[&format!("{embedding}.weight")]);
        tensors.insert("base_model.model.lm_head.base_layer.weight".to_owned(), table.clone());
        assert_is_merged(family, &base, &merged, json!({"target_modules": ["lm_head"]}), &tensors);
    }
}

#[test]
fn magnitudes_scale_columns_of_an_embedding_and_rows_of_a_head() {
    for (family, recorded, embedding, _) in heads() {
        let base = Model::new(&recorded);
        for (module, shape, names) in
            [(embedding, [16, 24], ["lora_embedding_A", "lora_embedding_B"]), ("lm_head", [24, 16], LORA)]
        {
            let (mut tensors, delta) = pair(module, shape, names);
            let name = format!("base_model.model.{module}.lora_magnitude_vector");
            tensors.insert(name.clone(), raw(&name, &shape[..1]));
            let (magnitudes, mut squares) = (values(&name, shape[0]), vec![0f32; shape[0]]);
            let output = |token, channel| if module == embedding { channel } else { token };
            let mut merged = untied(&recorded, embedding);
            let weight = format!("{module}.weight");
            merged.change(&weight, |token, channel, x| {
                *x += if module == embedding { delta(channel, token) } else { delta(token, channel) };
                squares[output(token, channel)] += *x * *x;
            });
            merged.change(&weight, |token, channel, x| {
                let output = output(token, channel);
                *x *= magnitudes[output] / squares[output].sqrt();
            });
            let short = module.rsplit('.').next().unwrap();
            let changes = json!({"target_modules": [short], "use_dora": true});
            assert_is_merged(&format!("{family} {module}"), &base, &merged, changes, &tensors);
        }
    }
}

#[test]
fn a_bias_of_an_addition_to_the_head_is_added_to_that_of_the_base() {
    let recorded = &recorded()["phi"];
    let (base, mut merged) = (Model::new(recorded), Model::new(recorded));
    let (mut tensors, delta) = pair("lm_head", [24, 16], LORA);
    merged.change("lm_head.weight", |token, channel, x| *x += delta(token, channel));
    let name = "base_model.model.lm_head.lora_B.bias";
    tensors.insert(name.to_owned(), raw(name, &[24]));
    let (_, _, bias) = merged.tensors.get_mut("lm_head.bias").unwrap();
    let sums = floats(bias).into_iter().zip(values(name, 24)).map(|(bias, own)| bias + SCALE * own);
    *bias = bytes(&sums.collect::<Vec<_>>());
    let changes = json!({"target_modules": ["lm_head"], "lora_bias": true});
    assert_is_merged("phi", &base, &merged, changes.clone(), &tensors);
    // PEFT saves the base's head beside the factors.
    for part in ["weight", "bias"] {
        tensors.insert(
            format!("base_model.model.lm_head.base_layer.{part}"),
            base.tensors[&format!("lm_head.{part}")].clone(),
        );
    }
    assert_is_merged("phi with its head", &base, &merged, changes.clone(), &tensors);
    tensors.remove("base_model.model.lm_head.base_layer.bias");
    let error = adapter(&changes, &tensors, &base.base()).unwrap_err().to_string();
    assert!(error.contains("the weight and the bias of `lm_head` are not both there"), "{error}");
    // A head that is trained whole.
    let of = |part: &str| format!("base_model.model.lm_head.{part}");
    let tensors = [(of("weight"), raw("head", &[24, 16])), (of("bias"), raw("bias", &[24]))];
    let mut merged = Model::new(recorded);
    merged.tensors.extend(tensors.clone().map(|(name, tensor)| (name.replace("base_model.model.", ""), tensor)));
    let (more, delta) = pair("model.layers.0.mlp.fc1", recorded.linears["model.layers.0.mlp.fc1"], LORA);
    merged.change("model.layers.0.mlp.fc1.weight", |i, j, x| *x += delta(i, j));
    let changes = json!({"target_modules": ["model.layers.0.mlp.fc1"], "modules_to_save": ["lm_head"]});
    assert_is_merged("phi with another head", &base, &merged, changes, &more.into_iter().chain(tensors).collect());
}

#[test]
fn trained_tokens_replace_rows() {
    let delta = |module: &str| format!("base_model.model.{module}.token_adapter.trainable_tokens_delta");
    for (family, recorded, embedding, tied) in heads() {
        let base = Model::new(&recorded);
        let short = embedding.rsplit('.').next().unwrap();
        let replace = |merged: &mut Model, module: &str, tokens: &[usize], from: &str| {
            let rows = values(&delta(from), tokens.len() * 16);
            merged.change(&format!("{module}.weight"), |token, channel, x| {
                if let Some(at) = tokens.iter().position(|&of| of == token) {
                    *x = rows[at * 16 + channel];
                }
            });
        };
        let of = |module: &str, count| (delta(module), raw(&delta(module), &[count, 16]));
        let mut merged = untied(&recorded, embedding);
        replace(&mut merged, embedding, &[5, 1, 9], embedding);
        if tied {
            replace(&mut merged, "lm_head", &[5, 1, 9], embedding);
        }
        let tokens = json!({"target_modules": [], "trainable_token_indices": [5, 1, 9]});
        assert_is_merged(family, &base, &merged, tokens, &[of(embedding, 3)].into());
        let mut merged = untied(&recorded, embedding);
        replace(&mut merged, embedding, &[5, 1, 9], embedding);
        replace(&mut merged, "lm_head", &[2, 3], "lm_head");
        let tokens = json!({"target_modules": [], "trainable_token_indices": {short: [5, 1, 9], "lm_head": [2, 3]}});
        assert_is_merged(family, &base, &merged, tokens, &[of(embedding, 3), of("lm_head", 2)].into());
        // The addition to a tied head goes on top of the rows.
        let mut merged = untied(&recorded, embedding);
        replace(&mut merged, embedding, &[5, 1, 9], embedding);
        if tied {
            replace(&mut merged, "lm_head", &[5, 1, 9], embedding);
        }
        let (mut both, sum) = pair("lm_head", [24, 16], LORA);
        merged.change("lm_head.weight", |token, channel, x| *x += sum(token, channel));
        both.extend([of(embedding, 3)]);
        let tokens = json!({"target_modules": ["lm_head"], "trainable_token_indices": [5, 1, 9]});
        assert_is_merged(family, &base, &merged, tokens, &both);
        let model = base.base();
        if tied {
            let name = "base_model.model.lm_head.lora_magnitude_vector";
            both.insert(name.to_owned(), raw(name, &[24]));
            let dora = json!({"target_modules": ["lm_head"], "trainable_token_indices": [5, 1, 9], "use_dora": true});
            let error = adapter(&dora, &both, &model).unwrap_err().to_string();
            assert!(error.contains("`use_dora` on a head that is tied to an embedding with trained tokens"), "{error}");
        }
        let broken = |tokens: Value, tensors: &Tensors| {
            let changes = json!({"target_modules": [], "trainable_token_indices": tokens});
            adapter(&changes, tensors, &model).unwrap_err().to_string()
        };
        let three = [of(embedding, 3)].into();
        assert!(broken(json!([5, 1]), &three).contains("[3, 16]"));
        assert!(broken(json!([5, 1, 24]), &three).contains("token 24"));
        assert!(broken(json!([5, 1, 5]), &three).contains("token 5 twice"));
        assert!(broken(json!({"lm_head": [5, 1, 9]}), &three).contains("do not agree"));
        assert!(broken(json!({"norm": [5, 1, 9]}), &three).contains("names `norm`"));
        assert!(broken(json!([5, 1, 9]), &Tensors::new()).contains("do not agree"));
    }
}

#[test]
fn factors_that_began_as_a_part_of_the_base_are_taken_out_of_it() {
    let recorded = &recorded()["phi3"];
    let (base, mut merged, mut tensors) = (Model::new(recorded), Model::new(recorded), Tensors::new());
    for (module, [outputs, inputs]) in &recorded.linears {
        // A weight of rank 2: all of it is the part, which leaves the adapter alone.
        let (weight, whole) = pair(&format!("{module}.whole"), [*outputs, *inputs], LORA);
        drop(weight);
        merged.change(&format!("{module}.weight"), |i, j, x| *x = whole(i, j));
        let (own, _) = pair(module, [*outputs, *inputs], LORA);
        tensors.extend(own);
    }
    let base = Model { tensors: merged.tensors.clone(), ..base };
    for (module, shape) in &recorded.linears {
        let (_, delta) = pair(module, *shape, LORA);
        merged.change(&format!("{module}.weight"), |i, j, x| *x = delta(i, j));
    }
    for (name, scale) in [("pissa", 1.0), ("olora", 1.0 / SCALE)] {
        // OLoRA's factors give the weight without the scale, so that the scale takes out more than all of it.
        if name == "pissa" {
            let changes = json!({"target_modules": "all-linear", "init_lora_weights": name});
            assert_is_merged(name, &base, &merged, changes, &tensors);
        } else {
            let mut own = tensors.clone();
            for (key, (_, _, data)) in own.iter_mut().filter(|(key, _)| key.contains("lora_B")) {
                assert!(key.ends_with("weight"));
                *data = bytes(&floats(data).iter().map(|x| x / scale).collect::<Vec<_>>());
            }
            let alpha = SCALE * RANK as f32 * scale;
            let changes = json!({"target_modules": "all-linear", "init_lora_weights": name, "lora_alpha": alpha});
            assert_is_merged(name, &base, &merged, changes, &own);
        }
    }
}
