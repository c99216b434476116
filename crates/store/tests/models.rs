//! Telling models apart and finding them.

use std::{fs, path::Path};

use harness_store::{HubCache, ModelSource, StoreError, hub::RepoKind, list_models, locate_model};

fn touch(folder: &Path, files: &[&str]) {
    for file in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, if file.ends_with(".gguf") { "GGUF and more" } else { "{}" }).unwrap();
    }
}

/// The message for a folder with these files.
fn error(files: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    touch(folder.path(), files);
    ModelSource::detect(folder.path()).unwrap_err().to_string()
}

#[test]
fn hugging_face_folders() {
    let folder = tempfile::tempdir().unwrap();
    touch(folder.path(), &["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"]);
    let ModelSource::HuggingFace(found) = ModelSource::detect(folder.path()).unwrap() else { panic!("not recognised") };
    assert_eq!(found.weights, [folder.path().join("model.safetensors")]);
    assert_eq!(found.generation_config, Some(folder.path().join("generation_config.json")));
    assert_eq!((found.index, found.tokenizer_config, found.chat_template), (None, None, None));

    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let index = r#"{"weight_map": {"b": "s-2.safetensors", "a": "s-1.safetensors", "c": "s-2.safetensors"}}"#;
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    touch(folder.path(), &["s-1.safetensors"]);
    let missing = ModelSource::detect(folder.path()).unwrap_err().to_string();
    assert!(missing.contains("1 of the 2 shards") && missing.contains("missing: s-2.safetensors"), "{missing}");
    touch(folder.path(), &["s-2.safetensors"]);
    let whole = ModelSource::detect(folder.path()).unwrap();
    assert_eq!(whole.weights(), [folder.path().join("s-1.safetensors"), folder.path().join("s-2.safetensors")]);
    assert_eq!((whole.kind(), whole.path()), ("safetensors", folder.path()));

    fs::write(folder.path().join("model.safetensors.index.json"), r#"{"weight_map": {"a": "../s"}}"#).unwrap();
    assert!(ModelSource::detect(folder.path()).unwrap_err().to_string().contains("another folder"));
    fs::write(folder.path().join("model.safetensors.index.json"), "{").unwrap();
    assert!(ModelSource::detect(folder.path()).unwrap_err().to_string().contains("index.json, line 1: found bad JSON"));
}

#[test]
fn what_is_missing_is_said() {
    let no_weights = error(&["config.json", "tokenizer.json"]);
    assert!(
        no_weights.contains("no weights") && no_weights.contains("found config.json, tokenizer.json"),
        "{no_weights}"
    );
    assert!(error(&["config.json", "model.safetensors"]).contains("no tokenizer"));
    assert!(error(&["config.json", "model.safetensors", "tokenizer.model"]).contains("convert tokenizer.model"));
    assert!(error(&["model.safetensors", "tokenizer.json"]).contains("no config.json"));
    assert!(error(&["config.json", "pytorch_model.bin", "tokenizer.json"]).contains("convert them to safetensors"));
    assert!(error(&["config.json", "a.safetensors", "b.safetensors"]).contains("several safetensors"));
    assert!(error(&["a.gguf", "b.gguf"]).contains("several GGUF files"));
    assert!(error(&["notes.txt"]).contains("nor adapter_config.json; found notes.txt"));
    assert!(error(&[]).contains("found nothing"));
    assert!(error(&["adapter_config.json"]).contains("no adapter_model.safetensors"));
    assert!(error(&["adapter_config.json", "adapter_model.bin"]).contains("pickle"));
    let nowhere = ModelSource::detect(Path::new("/nowhere/model")).unwrap_err();
    assert!(nowhere.to_string().contains("/nowhere/model: cannot open") && nowhere.is_usage());
}

#[test]
fn gguf_files_and_adapters() {
    let folder = tempfile::tempdir().unwrap();
    touch(folder.path(), &["m/model.gguf", "one.bin"]);
    let gguf = folder.path().join("m/model.gguf");
    for path in [gguf.clone(), folder.path().join("m")] {
        assert_eq!(ModelSource::detect(&path).unwrap(), ModelSource::Gguf { path: gguf.clone() });
    }
    fs::write(&gguf, "version https://git-lfs").unwrap();
    assert!(ModelSource::detect(&gguf).unwrap_err().to_string().contains("pointer file"));
    assert!(ModelSource::detect(&folder.path().join("one.bin")).unwrap_err().to_string().contains(".gguf"));

    let adapter = folder.path().join("adapter");
    touch(&adapter, &["adapter_model.safetensors", "tokenizer.json"]);
    fs::write(adapter.join("adapter_config.json"), r#"{"base_model_name_or_path": "org/base", "r": 8}"#).unwrap();
    let ModelSource::Adapter(found) = ModelSource::detect(&adapter).unwrap() else { panic!("not recognised") };
    assert_eq!(found.base.as_deref(), Some("org/base"));
    fs::write(adapter.join("adapter_config.json"), "{\"r\":\n8,}").unwrap();
    let bad = ModelSource::detect(&adapter).unwrap_err().to_string();
    assert!(bad.contains("adapter_config.json, line 2"), "{bad}");
}

#[test]
fn a_gguf_model_in_parts_is_one_model() {
    let folder = tempfile::tempdir().unwrap();
    touch(folder.path(), &["m/a-00001-of-00002.gguf", "m/a-00002-of-00002.gguf"]);
    let parts = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"].map(|name| folder.path().join("m").join(name));
    let source = ModelSource::detect(&folder.path().join("m")).unwrap();
    assert_eq!((source.path(), source.weights()), (parts[0].as_path(), parts.to_vec()));
    assert_eq!(list_models(folder.path()).unwrap(), [source]);
    touch(folder.path(), &["m/b-00002-of-00002.gguf"]);
    let several = ModelSource::detect(&folder.path().join("m")).unwrap_err().to_string();
    assert!(several.contains("several GGUF files"), "{several}");
}

#[test]
fn models_are_found_by_name() {
    let home = tempfile::tempdir().unwrap();
    let models = home.path().join("models");
    touch(
        &models,
        &["tiny/config.json", "tiny/model.safetensors", "tiny/tokenizer.json", "tiny/checkpoint/adapter_config.json"],
    );
    touch(
        &models,
        &["tiny/checkpoint/adapter_model.safetensors", "gguf/a.gguf", "gguf/b.gguf", "junk/x.txt", ".hidden/c.gguf"],
    );
    let cache = HubCache::new(home.path().join("hub"));
    let snapshot = cache.repo_folder(RepoKind::Model, "org/Small").join("snapshots/c1");
    touch(&snapshot, &["config.json", "model.safetensors", "tokenizer.json"]);

    let listed = list_models(&models).unwrap();
    let names: Vec<String> = listed
        .iter()
        .map(|source| format!("{} {}", source.kind(), source.path().strip_prefix(&models).unwrap().display()))
        .collect();
    assert_eq!(names, ["gguf gguf/a.gguf", "gguf gguf/b.gguf", "safetensors tiny", "adapter tiny/checkpoint"]);

    let folders = [models.clone()];
    let locate = |name: &str| locate_model(name, &folders, Some(&cache));
    assert_eq!(locate("tiny").unwrap().path(), models.join("tiny"));
    assert_eq!(locate("gguf/b.gguf").unwrap().path(), models.join("gguf/b.gguf"));
    assert_eq!(locate("org/Small").unwrap().path(), snapshot);
    assert_eq!(locate("org/Small@c1").unwrap().path(), snapshot);
    let missing = locate("org/Smal").unwrap_err();
    assert!(matches!(&missing, StoreError::ModelNotFound { tried, .. } if tried.len() == 3), "{missing}");
    assert!(missing.to_string().contains("did you mean \"org/Small\"?"), "{missing}");
    assert!(locate("tinny").unwrap_err().to_string().contains("did you mean \"tiny\"?"));
    assert!(matches!(locate("junk"), Err(StoreError::NotAModel { .. })));
}
