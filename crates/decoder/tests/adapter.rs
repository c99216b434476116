//! Adapters in PEFT's layout: what is read, what is refused, and that writing and reading are inverse.

mod loading_support;

use std::{collections::BTreeMap, fs, path::Path};

use harness_decoder::{
    Adapter, AdapterConfig, DecoderConfig, DecoderError, Experts, LoraPair, Patterns, Projection, TargetModules,
};
use loading_support::{Tensors, raw, safetensors, tiny, values};
use serde_json::{Value, json};

fn base() -> DecoderConfig {
    DecoderConfig::load(tiny("llama").path()).unwrap()
}

/// Tensors for these modules of both layers, rank 2.
fn tensors(modules: &[Projection], rank: usize, prefix: &str, suffix: &str) -> Tensors {
    let base = base();
    let mut tensors = Tensors::new();
    for layer in 0..2 {
        for &module in modules {
            let (outputs, inputs) = module.dims(&base);
            let name = |part: &str| format!("{prefix}{}.{part}{suffix}.weight", module.path(layer));
            tensors.insert(name("lora_A"), raw(&format!("A{layer}{module}"), &[rank, inputs]));
            tensors.insert(name("lora_B"), raw(&format!("B{layer}{module}"), &[outputs, rank]));
        }
    }
    tensors
}

fn load(config: &Value, tensors: &Tensors) -> Result<Adapter, DecoderError> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), config, tensors);
    Adapter::load(dir.path(), &base())
}

fn write(dir: &Path, config: &Value, tensors: &Tensors) {
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(dir.join("adapter_model.safetensors"), safetensors(tensors)).unwrap();
}

fn assert_says<T>(result: Result<T, DecoderError>, parts: &[&str]) {
    let message = result.map(|_| ()).expect_err("this must fail").to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

const PREFIX: &str = "base_model.model.";

#[test]
fn reads_what_peft_writes() {
    let both = [Projection::Q, Projection::V];
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"],
                        "some_new_key": null, "layers_pattern": null, "rank_pattern": {}, "bias": "none",
                        "megatron_core": "megatron.core", "qalora_group_size": 16, "init_lora_weights": true,
                        "peft_version": "0.21.2", "auto_mapping": {"base_model_class": "LlamaForCausalLM"}});
    let adapter = load(&config, &tensors(&both, 2, PREFIX, "")).unwrap();
    assert_eq!(adapter.layers.len(), 2);
    for (layer, pairs) in adapter.layers.iter().enumerate() {
        assert_eq!(pairs.keys().copied().collect::<Vec<_>>(), both);
        let pair = &pairs[&Projection::V];
        assert_eq!((pair.rank, pair.scale), (2, 8.0));
        assert_eq!(pair.a, values(&format!("A{layer}self_attn.v_proj"), 16));
        assert_eq!(pair.b.len(), 16);
    }
    // A raw state dictionary names the adapter, and may lack the prefix.
    let raw_names = load(&config, &tensors(&both, 2, "", ".default")).unwrap();
    assert_eq!(raw_names.digest, adapter.digest);
    // PEFT's default targets.
    let mut without = config.clone();
    without["target_modules"] = Value::Null;
    assert_eq!(load(&without, &tensors(&both, 2, PREFIX, "")).unwrap().digest, adapter.digest);
}

/// What PEFT 0.21 adapts in a Llama and in a Mixtral of two layers, with rank and scale where these are not 4 and 2;
/// `null` where it refuses.
#[test]
fn targets_are_those_of_peft() {
    type Row = (String, serde_json::Map<String, Value>, Option<String>);
    let rows: Vec<Row> = serde_json::from_str(include_str!("recorded/targets.json")).unwrap();
    let llama = base();
    let mixtral = DecoderConfig { experts: Some(Experts::new(4, 2)), ..base() };
    for (family, changes, expected) in &rows {
        let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8});
        config.as_object_mut().unwrap().extend(changes.clone());
        config.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let config: AdapterConfig = serde_json::from_value(config).unwrap();
        let layers = config.targets(if family == "llama" { &llama } else { &mixtral });
        let found = layers.ok().map(|layers| {
            let name = |layer: usize, projection: &Projection, target: &harness_decoder::TargetRank| {
                let short = projection.module().rsplit('.').next().unwrap().trim_end_matches("_proj");
                let default = target.rank == 4 && target.scale == 2.0;
                let own =
                    if default { String::new() } else { format!(":{}:{}", target.rank, significant(target.scale)) };
                format!("{layer}.{short}{own}")
            };
            let of = |(layer, targets): (usize, &BTreeMap<_, _>)| {
                targets.iter().map(|(projection, target)| name(layer, projection, target)).collect::<Vec<_>>()
            };
            layers.iter().enumerate().flat_map(of).collect::<Vec<_>>().join(" ")
        });
        assert_eq!(&found, expected, "{family} {changes:?}");
    }
}

/// Six significant digits, without zeros at the end.
fn significant(value: f32) -> f64 {
    format!("{value:.5e}").parse().unwrap()
}

#[test]
fn targets_are_chosen_as_in_peft() {
    type Chosen = Vec<Vec<(Projection, usize, f32)>>;
    let chosen = |changes: Value| -> Result<Chosen, String> {
        let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8});
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let config: AdapterConfig = serde_json::from_value(config).unwrap();
        let layers = config.targets(&base())?;
        Ok(layers.iter().map(|l| l.iter().map(|(&p, t)| (p, t.rank, t.scale)).collect()).collect())
    };
    use Projection::*;
    let names = |changes: Value| -> Vec<Vec<Projection>> {
        chosen(changes).unwrap().iter().map(|l| l.iter().map(|t| t.0).collect()).collect()
    };
    assert_eq!(names(json!({"target_modules": "all-linear"}))[1], Projection::ALL);
    assert_eq!(names(json!({"target_modules": "all-linear", "exclude_modules": ["down_proj"]}))[0].len(), 6);
    assert_eq!(names(json!({"target_modules": ["self_attn.q_proj", "mlp.up_proj"]})), [vec![Q, Up], vec![Q, Up]]);
    assert_eq!(names(json!({"target_modules": r".*layers\.1\..*(k|o)_proj"})), [vec![], vec![K, O]]);
    assert_eq!(names(json!({"target_modules": ["q_proj"], "layers_to_transform": [1]})), [vec![], vec![Q]]);
    assert_eq!(names(json!({"target_modules": ["q_proj"], "layers_to_transform": 0})), [vec![Q], vec![]]);
    assert_eq!(
        names(json!({"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*\.0\..*q_proj"})),
        [vec![K], vec![Q, K]]
    );
    // A suffix counts from a dot only.
    assert!(chosen(json!({"target_modules": ["proj"]})).unwrap_err().contains("match no linear"));

    let ranks =
        chosen(json!({"target_modules": ["q_proj", "v_proj"], "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 16},
                              "alpha_pattern": {"v_proj": 2}}));
    assert_eq!(ranks.unwrap(), [vec![(Q, 4, 2.0), (V, 4, 0.5)], vec![(Q, 16, 0.5), (V, 4, 0.5)]]);
    let rslora = chosen(json!({"target_modules": ["q_proj"], "use_rslora": true})).unwrap();
    assert_eq!(rslora[0], [(Q, 4, 4.0)]);
    assert!(chosen(json!({"target_modules": "("})).unwrap_err().contains("regular expression"));
    let infinite = json!({"target_modules": ["q_proj"], "lora_alpha": 1e300});
    assert!(chosen(infinite).unwrap_err().contains("`lora_alpha` of model.layers.0.self_attn.q_proj is 1e300"));
}

#[test]
fn writing_and_reading_are_inverse() {
    let base = base();
    let config = AdapterConfig {
        r: 2,
        lora_alpha: 4.0,
        lora_dropout: 0.05,
        target_modules: Some(TargetModules::all_linear()),
        rank_pattern: Patterns(vec![("gate_proj".to_owned(), 3), ("a".to_owned(), 5)]),
        base_model_name_or_path: Some("a/base".to_owned()),
        modules_to_save: Some(vec!["lm_head".to_owned()]),
        ..AdapterConfig::default()
    };
    let targets = config.targets(&base).unwrap();
    let layers = targets.iter().enumerate().map(|(layer, targets)| {
        let pair = |(&projection, target): (&Projection, &harness_decoder::TargetRank)| {
            let (outputs, inputs) = projection.dims(&base);
            let name = format!("{layer}{projection}");
            let (a, b) = (values(&name, target.rank * inputs), values(&name, target.rank * outputs));
            (projection, LoraPair::new(a, b, target.rank, target.scale))
        };
        targets.iter().map(pair).collect()
    });
    let head = harness_kernels::HostTensor::from_f32([8, 8], values("head", 64));
    let adapter = Adapter::new(config, layers.collect(), BTreeMap::from([("lm_head".to_owned(), head)]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/adapter");
    adapter.save(&path).unwrap();
    let again = Adapter::load(&path, &base).unwrap();
    assert_eq!(again.layers, adapter.layers);
    assert_eq!(again.config, adapter.config);
    assert_eq!(again.digest, adapter.digest);
    assert_eq!(again.num_parameters(), adapter.num_parameters());
    let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");

    let text = fs::read_to_string(path.join("adapter_config.json")).unwrap();
    let json: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let keys: Vec<_> = json.keys().collect();
    assert!(keys.is_sorted(), "{keys:?}");
    assert_eq!((&json["lora_alpha"], &json["peft_type"], &json["bias"]), (&json!(4), &json!("LORA"), &json!("none")));
    let file = fs::read(path.join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    let a = file.tensor("base_model.model.model.layers.1.mlp.gate_proj.lora_A.weight").unwrap();
    assert_eq!(a.shape(), [3, 8]);
    assert_eq!(file.tensor("base_model.model.lm_head.weight").unwrap().shape(), [8, 8]);
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let config = json!({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]});
    let mut wide = tensors(&[Projection::Q], 2, PREFIX, "");
    wide.insert(format!("{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"), raw("A", &[2, 64]));
    assert_says(load(&config, &wide), &["model.layers.0.self_attn.q_proj", "[2, 64]", "[2, 8]", "another base"]);
    let mut deep = tensors(&[Projection::Q], 2, PREFIX, "");
    deep.insert(format!("{PREFIX}model.layers.7.self_attn.q_proj.lora_A.weight"), raw("A", &[2, 8]));
    assert_says(load(&config, &deep), &["model.layers.7.self_attn.q_proj", "at most layer 1"]);
    let ranks = json!({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]});
    assert_says(load(&ranks, &tensors(&[Projection::Q], 2, PREFIX, "")), &["[2, 8]", "[4, 8]", "rank 4"]);
}

/// Adapters that bring embedding or head: names of tensors with their rows, and where the modules of the adapted model come
/// from, as PEFT 0.21 loads them over a base that is resized.
#[test]
fn embedding_and_head_come_from_where_peft_takes_them() {
    const E: &str = "model.embed_tokens";
    const H: &str = "lm_head";
    let modules = |tied: bool, keys: Value, files: &[(&str, usize)]| {
        let mut config = json!({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]});
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let mut all = tensors(&[Projection::Q], 2, PREFIX, "");
        all.extend(files.iter().map(|(name, rows)| (format!("{PREFIX}{name}.weight"), raw(name, &[*rows, 8]))));
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &config, &all);
        let base = DecoderConfig { tie_word_embeddings: tied, ..base() };
        Adapter::load(dir.path(), &base).map(|adapter| {
            // The name of the tensor that each module is made of.
            let sources = adapter.modules_to_save.iter().map(|(module, tensor)| {
                let of = |(name, rows): &&(&str, usize)| values(name, rows * 8) == *tensor.to_f32();
                (module.clone(), files.iter().find(of).map(|(name, _)| (*name).to_owned()).unwrap())
            });
            (sources.collect::<BTreeMap<String, String>>(), adapter.embedding_rows(8))
        })
    };
    let is = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let (none, both) = (json!({}), json!({"modules_to_save": ["embed_tokens", "lm_head"]}));
    // Four tokens were added: the enlarged modules stand for the base's.
    assert_eq!(modules(false, none.clone(), &[(E, 12), (H, 12)]).unwrap(), (is(&[(E, E), (H, H)]), 12));
    // What PEFT writes where the same modules are trained as well; their copies in memory are not read.
    let leftovers = [
        (E, 12),
        ("model.embed_tokens.modules_to_save", 12),
        ("model.embed_tokens.original_module", 12),
        (H, 12),
        ("lm_head.modules_to_save", 12),
        ("lm_head.original_module", 12),
    ];
    assert_eq!(modules(false, both.clone(), &leftovers).unwrap(), (is(&[(E, E), (H, H)]), 12));
    // One alone cannot be enlarged; the reason is the added tokens, not another base.
    for (module, other) in [(E, H), (H, E)] {
        assert_says(modules(false, none.clone(), &[(module, 12)]), &["12 rows", "4 tokens were added", other, "PEFT"]);
    }
    assert_says(modules(false, none.clone(), &[(E, 6), (H, 5)]), &["2 tokens were taken away"]);
    // Over a tied base the tensor is one; a trained copy is not.
    assert_eq!(modules(true, none.clone(), &[(E, 8)]).unwrap().0, is(&[(E, E), (H, E)]));
    assert_eq!(modules(true, none.clone(), &[(E, 12)]).unwrap(), (is(&[(E, E), (H, E)]), 12));
    let embed = json!({"modules_to_save": ["embed_tokens"]});
    assert_eq!(modules(true, embed.clone(), &[(E, 8)]).unwrap().0, is(&[(E, E)]));
    assert_eq!(modules(true, embed.clone(), &[(E, 12), (H, 12)]).unwrap(), (is(&[(E, E), (H, H)]), 12));
    assert_eq!(modules(true, json!({"modules_to_save": ["lm_head"]}), &[(H, 8)]).unwrap().0, is(&[(H, H)]));
    assert_says(modules(true, none.clone(), &[(E, 8), (H, 8)]), &["ties them"]);
    let ensured = json!({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": true});
    assert_says(modules(true, ensured.clone(), &[(E, 8)]), &["`lm_head.weight`"]);
    assert_says(modules(true, ensured.clone(), &[(E, 8), (H, 8)]), &["ties them"]);
    assert_eq!(modules(false, ensured, &[(E, 8)]).unwrap().0, is(&[(E, E)]));
    // What the configuration names and the file has must be the same.
    assert_says(modules(false, both, &[(E, 8)]), &["modules_to_save", "`lm_head.weight`"]);
    assert_says(
        modules(false, none.clone(), &[("lm_head.modules_to_save", 8)]),
        &["lm_head.modules_to_save", "does not name"],
    );
    assert_says(modules(false, none, &[("lm_head.lora_A", 2)]), &["lm_head.lora_A", "not targeted"]);
}

#[test]
fn broken_adapters_are_named() {
    let good = tensors(&[Projection::Q, Projection::V], 2, PREFIX, "");
    let with = |key: &str, value: Value| {
        let mut config = json!({"peft_type": "LORA", "r": 2});
        config[key] = value;
        load(&config, &good)
    };
    assert!(with("bias", json!("none")).is_ok());
    assert_says(with("peft_type", json!("IA3")), &["adapter_config.json", "`peft_type`", "IA3", "LORA"]);
    assert_says(with("use_dora", json!(true)), &["q_proj", "lacks the magnitude"]);
    assert_says(with("lora_bias", json!(true)), &["q_proj", "the bias"]);
    assert_says(with("use_qalora", json!(true)), &["`use_qalora`"]);
    assert_says(with("use_bdlora", json!({"nblocks": 2})), &["`use_bdlora`", "nblocks", "not supported"]);
    assert_says(with("kasa_config", json!({"beta": 1e-4})), &["`kasa_config`"]);
    assert_says(with("some_new_key", json!(3)), &["`some_new_key`", "3", "not supported"]);
    assert_says(with("task_type", json!("SEQ_CLS")), &["`task_type`", "SEQ_CLS", "classifier"]);
    assert_says(with("init_lora_weights", json!("lora_ga")), &["lora_ga", "path_initial_model"]);
    assert!(with("init_lora_weights", json!("gaussian")).is_ok() && with("init_lora_weights", json!(false)).is_ok());
    assert_says(with("layers_pattern", json!("layers")), &["`layers_pattern`", "`layers_to_transform` is not"]);
    assert_says(with("bias", json!("all")), &["`bias`", "all"]);
    assert_says(with("init_lora_weights", json!("pissa_niter_4")), &["pissa_niter_4", "random"]);
    assert_says(with("init_lora_weights", json!("loftq")), &["loftq", "quantises"]);
    assert_says(with("layer_replication", json!([[0, 2]])), &["`layer_replication`"]);
    assert_says(with("modules_to_save", json!(["classifier"])), &["classifier", "lm_head"]);
    assert_says(with("r", json!("eight")), &["adapter_config.json"]);
    assert_says(with("target_modules", json!(["wq"])), &["[\"wq\"]", "match no linear", "self_attn.q_proj"]);
    assert_says(with("target_modules", json!(["q_proj"])), &["v_proj", "not targeted"]);
    assert_says(with("target_modules", json!(["q_proj", "v_proj", "o_proj"])), &["o_proj", "lora_A and lora_B"]);

    let mut odd = good.clone();
    odd.insert(format!("{PREFIX}model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight"), raw("m", &[16]));
    assert_says(load(&json!({"peft_type": "LORA", "r": 2}), &odd), &["lora_magnitude_vector"]);

    let dir = tempfile::tempdir().unwrap();
    assert_says(Adapter::load(dir.path(), &base()), &["adapter_config.json not found"]);
    write(dir.path(), &json!({"peft_type": "LORA", "r": 2}), &good);
    let path = dir.path().join("adapter_model.safetensors");
    let file = fs::read(&path).unwrap();
    fs::write(&path, &file[..file.len() - 10]).unwrap();
    assert_says(Adapter::load(dir.path(), &base()), &["adapter_model.safetensors", "safetensors file"]);
    fs::remove_file(&path).unwrap();
    assert_says(Adapter::load(dir.path(), &base()), &["adapter_model.safetensors not found"]);
    let blocked = dir.path().join("adapter_config.json/inside");
    let adapter = Adapter::new(AdapterConfig::default(), Vec::new(), BTreeMap::new());
    assert_says(adapter.save(&blocked), &["cannot write"]);
}
