//! `harness models`.

use std::{fmt::Write as _, path::Path};

use harness_decoder::{AdapterConfig, Checkpoint, GgufType, supported};
use harness_engine::{ModelFiles, save_quantised};
use harness_evaluation::{
    experiment::{Candidate, ResolvedModel},
    models::{Missing, merge, sources},
    training::ensure_trained,
};
use harness_kernels::Quantization;
use harness_store::{HubCache, ModelSource, hub::RepoKind, list_models};
use harness_training::Recipe;
use serde_json::{Value, json};

use super::{App, Failure};
use crate::cli::{ModelsArgs, ModelsCommand};

/// Runs `harness models`.
///
/// # Errors
/// If a model cannot be found or read.
pub(super) fn models(app: &App, args: &ModelsArgs) -> Result<(), Failure> {
    match &args.command {
        ModelsCommand::List { supported: false } => list(app),
        ModelsCommand::List { supported: true } => list_supported(app),
        ModelsCommand::Show { model } => show(app, &app.experiment.model(model)?),
        ModelsCommand::Merge { model, out, gguf } => {
            merge_model(app, &app.experiment.model(model)?, out, gguf.as_deref())
        }
        ModelsCommand::Quantize { model, out, kind } => quantize(app, &app.experiment.model(model)?, out, kind),
    }
}

fn list(app: &App) -> Result<(), Failure> {
    let (mut text, mut experiment) = (String::new(), vec![]);
    for name in app.experiment.models.keys() {
        let (kind, place) = match app.experiment.model(name) {
            Ok(resolved) => describe(&resolved),
            Err(error) => ("missing", error.message().lines().next().unwrap_or_default().to_owned()),
        };
        let _ = writeln!(text, "{name:<20} {kind:<10} {place}");
        experiment.push(json!({ "name": name, "kind": kind, "place": place }));
    }
    let folder = app.home.join("models");
    let mut trained = if folder.is_dir() { list_models(&folder)? } else { vec![] };
    trained.retain(|source| !is_checkpoint(source.path()));
    if !trained.is_empty() {
        let _ = writeln!(text, "\ntrained, in {}:", folder.display());
    }
    for source in &trained {
        let _ = writeln!(text, "  {:<12} {}", source.kind(), source.path().display());
    }
    let cached = HubCache::from_env().map(|cache| cache.repos(RepoKind::Model)).unwrap_or_default();
    if !cached.is_empty() {
        let _ = writeln!(text, "\nin the hub cache: {}", cached.join(", "));
    }
    let trained: Vec<Value> =
        trained.iter().map(|source| json!({ "kind": source.kind(), "path": source.path() })).collect();
    app.output(&json!({ "experiment": experiment, "trained": trained, "hub_cache": cached }), || text)
}

/// The families of models, and what works for each.
fn list_supported(app: &App) -> Result<(), Failure> {
    let families = supported();
    let mut text =
        format!("{:<20} {:<16} {:<12} {:<16} gguf\n", "model_type", "score, generate", "LoRA, QLoRA", "full training");
    for family in &families {
        let full = if family.beyond.is_none() { "yes" } else { "no" };
        let gguf = if family.gguf.is_empty() { "no".to_owned() } else { family.gguf.join(", ") };
        let name = family.architecture.name();
        let _ = writeln!(text, "{name:<20} {:<16} {:<12} {full:<16} {gguf}", "yes", "yes");
    }
    let _ = writeln!(text, "\nWith the defaults of each family, on the CPU and with --device cuda.");
    let rows: Vec<Value> = families
        .iter()
        .map(|family| {
            let name = family.architecture.name();
            json!({ "model_type": name, "gguf": family.gguf, "adapters": true, "full_training": family.beyond.is_none(),
                    "gpu": true, "missing": family.beyond, "experts": family.experts })
        })
        .collect();
    app.output(&json!({ "families": rows }), || text)
}

/// Checkpoints belong to the run whose folder they lie in.
fn is_checkpoint(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"))
}

/// How the tensors are stored: counts and bytes by type.
fn stored_as(path: &Path) -> Result<Value, Failure> {
    let types = Checkpoint::open(path)?.stored_types()?;
    let types = types.into_iter().map(|(name, stored)| {
        let counts = json!({ "tensors": stored.tensors, "bytes": stored.bytes });
        (name, counts)
    });
    Ok(Value::Object(types.collect()))
}

fn describe(resolved: &ResolvedModel) -> (&'static str, String) {
    match &resolved.candidate {
        Candidate::Base { path } => ("model", path.display().to_string()),
        Candidate::Adapter { path, base } => ("adapter", format!("{} over {}", path.display(), base.name)),
        Candidate::Endpoint { options } => ("endpoint", format!("{} at {}", options.spec.model, options.spec.url)),
        Candidate::Recipe { path, base } => {
            let base = base.as_ref().map_or(String::new(), |base| format!(" over {}", base.name));
            ("recipe", format!("{}{base}", path.display()))
        }
    }
}

fn merge_model(app: &App, resolved: &ResolvedModel, out: &Path, gguf: Option<&str>) -> Result<(), Failure> {
    let kind = gguf.and_then(GgufType::from_name);
    merge(app, resolved, ensure_trained, out, kind)?;
    let object = json!({ "name": resolved.name, "folder": out, "gguf": kind.map(GgufType::name) });
    app.output(&object, || out.display().to_string())
}

fn quantize(app: &App, resolved: &ResolvedModel, out: &Path, kind: &str) -> Result<(), Failure> {
    let Candidate::Base { path } = &resolved.candidate else {
        return Err(Failure::usage(format!("{}: only whole models can be quantised", resolved.name)));
    };
    if !path.is_dir() {
        let path = path.display();
        return Err(Failure::usage(format!(
            "{path}: expected a model in Hugging Face layout; GGUF has its own quantisation"
        )));
    }
    if out.join("config.json").exists() {
        return Err(Failure::usage(format!("--out {}: holds a model already; choose another folder", out.display())));
    }
    let options = Quantization::from_name(kind).unwrap_or_default();
    let bar = app.stage(&format!("quantize {}", resolved.name), 1);
    save_quantised(path, out, &options)?;
    bar.finish(&options.to_string());
    app.output(&json!({ "name": resolved.name, "folder": out, "quantization": options }), || out.display().to_string())
}

fn show(app: &App, resolved: &ResolvedModel) -> Result<(), Failure> {
    let object = match &resolved.candidate {
        Candidate::Base { path } => whole_model(resolved, path)?,
        Candidate::Adapter { path, base } => {
            let config = AdapterConfig::load(path)?;
            let [tokenizer, template] = sources(resolved, path)?;
            json!({
                "name": resolved.name,
                "kind": "adapter",
                "path": path,
                "base": base.name,
                "rank": config.r,
                "alpha": config.lora_alpha,
                "rslora": config.use_rslora,
                "target_modules": config.target_modules,
                "tokenizer": tokenizer,
                "chat_template": template,
            })
        }
        Candidate::Endpoint { options } => json!({
            "name": resolved.name,
            "kind": "endpoint",
            "model": options.spec.model,
            "url": options.spec.url,
            "api_key_env": options.api_key_env,
            "concurrency": options.concurrency,
            "input_price": options.input_price,
            "output_price": options.output_price,
        }),
        Candidate::Recipe { path, base } => {
            let recipe = Recipe::load(path)?;
            let trained = ensure_trained(app, resolved, Missing::Refuse);
            json!({
                "name": resolved.name,
                "kind": "recipe",
                "path": path,
                "base": base.as_ref().map(|base| &base.name).or(recipe.base.as_ref()),
                "method": recipe.method,
                "lora": recipe.lora,
                "training": recipe.training,
                "data": recipe.data,
                "trained": trained.map_or_else(|error| error.message(), |run| run.folder.display().to_string()),
            })
        }
    };
    app.output(&object, || lines(&object, ""))
}

/// The fields of an object, one a line; objects within it below their name.
fn lines(object: &Value, indent: &str) -> String {
    let Value::Object(fields) = object else { return String::new() };
    fields.iter().filter(|(_, value)| !value.is_null()).fold(String::new(), |mut text, (name, value)| {
        let name = format!("{indent}{name}");
        let _ = match value {
            Value::Object(_) => write!(text, "{name}\n{}", lines(value, &format!("{indent}  "))),
            Value::String(value) => writeln!(text, "{name:<30} {}", value.lines().next().unwrap_or_default()),
            value => writeln!(text, "{name:<30} {value}"),
        };
        text
    })
}

fn whole_model(resolved: &ResolvedModel, path: &Path) -> Result<Value, Failure> {
    let files = ModelFiles::load(path)?;
    let config = &files.config;
    let kind = ModelSource::detect(path)?.kind();
    Ok(json!({
        "name": resolved.name,
        "kind": kind,
        "path": path,
        "architecture": config.architecture.name(),
        "parameters": config.num_parameters(),
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_length": config.max_position_embeddings,
        "tied_embeddings": config.tie_word_embeddings,
        "stored_as": stored_as(path)?,
        "chat_template": files.chat_template.as_ref().map(|template| template.source()),
        "adds_bos": files.tokenizer.adds_bos(),
        "digest": files.digest,
    }))
}
