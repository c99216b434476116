//! From a resolved recipe to a finished candidate.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use harness_core::{Digest, Hasher, Seed};
use harness_engine::{Architecture, DecoderConfig, ModelFiles, Rope, RopeScaling, TextTokenizer};
use harness_store::FileHashes;
use serde_json::{Value, json};

use crate::{
    TrainingError,
    backend::CpuBackend,
    data::{Batch, BatchSource, Prepared, in_order, one_a_row, pack, tokenize},
    export::{Artifact, write_json},
    lora::LoraSpec,
    model::{Model, Trainable, random_weights},
    recipe::{Method, ModelOptions, ResolvedRecipe, WeightDtype},
    telemetry::Progress,
    trainer::{Estimate, Trainer, TrainerSetup, TrainingSummary},
};

/// The model a run starts from.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// What the adapter's configuration names it.
    pub name: &'a str,
    /// Its folder or file.
    pub path: &'a Path,
    /// Its content.
    pub files: &'a ModelFiles,
}

/// A run that is ready to begin, on the processor.
pub struct Run {
    trainer: Trainer<CpuBackend>,
    prepared: Prepared,
    manifest: Value,
    output: PathBuf,
}

impl Run {
    /// Reads and tokenises the data and places the model. `base` is what the recipe is resolved with, `None` from
    /// scratch. Nothing is written.
    ///
    /// # Errors
    /// Whatever is wrong with recipe, data, tokenizer or model.
    pub fn prepare(
        resolved: &ResolvedRecipe,
        base: Option<Base<'_>>,
        hashes: &FileHashes,
        output: &Path,
    ) -> Result<Self, TrainingError> {
        let recipe = &resolved.recipe;
        let (options, data) = (&recipe.training, &recipe.data);
        let scratch = recipe.model.as_ref().map(|model| Scratch::new(model, &recipe.folder)).transpose()?;
        let (tokenizer, config) = match (&base, &scratch) {
            (Some(base), _) => (&base.files.tokenizer, &base.files.config),
            (None, Some(scratch)) => (&scratch.tokenizer, &scratch.config),
            (None, None) => return Err(TrainingError::setting("base", "nothing", "a model to start from")),
        };
        if data.max_length > config.max_position_embeddings {
            let expected = format!("at most {}, the model's longest context", config.max_position_embeddings);
            return Err(TrainingError::setting("data.max_length", data.max_length, expected));
        }
        let prepared = resolved.prepare()?;
        let (samples, train_counts) = tokenize(&prepared.train, tokenizer, data.loss, data.max_length)?;
        let limit = options.eval_samples.unwrap_or(usize::MAX).min(prepared.validation.len());
        let (validation, validation_counts) =
            tokenize(&prepared.validation[..limit], tokenizer, data.loss, data.max_length)?;
        let rows = if data.packing { pack(&samples, data.max_length) } else { one_a_row(&samples) };
        let seed = Seed(options.seed);
        let train = BatchSource::new(samples.into(), rows, options.batch_size, seed);
        let validation: Vec<Batch> = in_order(&validation, options.batch_size).collect();

        let base_digest = base.as_ref().map(|base| base.files.digest);
        let spec = recipe.lora.as_ref().map(LoraSpec::from_options).transpose()?;
        let dropout = spec.as_ref().map_or(0.0, |spec| spec.dropout);
        let (trainable, artifact) = match (recipe.method, spec) {
            (Method::Lora, Some(spec)) => {
                let base = base.as_ref().map_or("", |base| base.name).to_owned();
                (Trainable::Lora(spec.clone()), Artifact::Adapter { spec, base })
            }
            (Method::Lora, None) => return Err(TrainingError::setting("lora", "nothing", "a [lora] table")),
            (Method::Full, _) => (Trainable::Full, full_artifact(base.as_ref(), scratch.as_ref())?),
        };
        let made;
        let weights = match &base {
            Some(base) => &base.files.weights,
            None => {
                let range = recipe.model.as_ref().map_or(0.02, |model| model.initializer_range);
                made = random_weights(config, range, seed);
                &made
            }
        };
        let digest = run_digest(resolved.digest(hashes)?, base_digest, tokenizer.digest());
        let (model, store) = Model::new(CpuBackend::new(), config, weights, &trainable, data.max_length, seed)?;
        let manifest = json!({
            "run": digest,
            "recipe": recipe,
            "recipe_hash": recipe.hash(),
            "template": resolved.template,
            "template_hash": resolved.template.digest(),
            "data": resolved.data.entries(hashes)?.iter()
                .map(|entry| json!({"path": entry.path, "hash": entry.hash})).collect::<Vec<_>>(),
            "base": base.as_ref().map(|base| json!({"name": base.name, "path": base.path, "hash": base.files.digest})),
            "tokenizer_hash": tokenizer.digest(),
            "adds_bos": tokenizer.adds_bos(),
            "rows": prepared.counts,
            "train_tokens": train_counts,
            "validation_tokens": validation_counts,
            "trainable_parameters": store.len(),
            "parameters": config.num_parameters(),
            "dtype": "float32",
            "version": env!("CARGO_PKG_VERSION"),
        });
        let setup = TrainerSetup {
            options: options.clone(),
            dropout,
            train,
            validation,
            artifact,
            output: output.to_owned(),
            run: digest,
        };
        Ok(Self { trainer: Trainer::new(model, store, setup)?, prepared, manifest, output: output.to_owned() })
    }

    /// Everything the result depends on.
    pub fn manifest(&self) -> &Value {
        &self.manifest
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer<CpuBackend> {
        &self.trainer
    }

    /// Watches this flag: once set, the run writes a checkpoint and ends.
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.trainer = self.trainer.with_stop(stop);
        self
    }

    /// What the run will take; computes one update's gradients to measure the speed, and writes nothing.
    pub fn estimate(&mut self) -> Estimate {
        self.trainer.estimate()
    }

    /// Trains, from the latest checkpoint if `resume`. The output folder gets the adapter or model, `metrics.jsonl`,
    /// `training.json` (what the result depends on), `data/` (the three parts as text) and checkpoints.
    ///
    /// # Errors
    /// As [`Trainer::resume`] and [`Trainer::run`]; what was saved before stays.
    pub fn train(&mut self, resume: bool, progress: &mut dyn Progress) -> Result<TrainingSummary, TrainingError> {
        if resume {
            self.trainer.resume()?;
        }
        let data = self.output.join("data");
        fs::create_dir_all(&data).map_err(TrainingError::io("create", &data))?;
        self.prepared.write(&data)?;
        let summary = self.trainer.run(progress)?;
        if !summary.interrupted {
            self.manifest["summary"] = json!(summary);
            write_json(&self.output.join("training.json"), &self.manifest)?;
        }
        Ok(summary)
    }
}

/// A model made from scratch.
struct Scratch {
    tokenizer: TextTokenizer,
    folder: PathBuf,
    config: DecoderConfig,
    json: Value,
    dtype: WeightDtype,
}

impl Scratch {
    fn new(options: &ModelOptions, recipe_folder: &Path) -> Result<Self, TrainingError> {
        let folder = recipe_folder.join(&options.tokenizer);
        let tokenizer = TextTokenizer::load(&folder).map_err(engine_error)?;
        let (bos, eos) = (tokenizer.bos().map(|token| token.id), tokenizer.eos().map(|token| token.id));
        let vocab_size = tokenizer.vocab_size();
        let config = DecoderConfig {
            architecture: Architecture::Llama,
            vocab_size,
            hidden_size: options.hidden_size,
            intermediate_size: options.intermediate_size,
            num_layers: options.num_hidden_layers,
            num_heads: options.num_attention_heads,
            num_kv_heads: options.kv_heads(),
            head_dim: options.head_width(),
            rms_norm_eps: options.rms_norm_eps as f32,
            rope: Rope { theta: options.rope_theta, scaling: RopeScaling::None },
            max_position_embeddings: options.max_position_embeddings,
            tie_word_embeddings: options.tie_word_embeddings,
            qkv_bias: false,
            o_bias: false,
            qk_norm: false,
            sliding_window: vec![None; options.num_hidden_layers],
            bos_token_id: bos,
            eos_token_ids: eos.into_iter().collect(),
        };
        let json = options.config_json(vocab_size, bos, eos);
        Ok(Self { tokenizer, folder, config, json, dtype: options.dtype })
    }
}

fn engine_error(error: harness_engine::EngineError) -> TrainingError {
    TrainingError::Engine(Box::new(error))
}

/// What full-parameter training writes: the configuration of the base, or of the model made from scratch.
fn full_artifact(base: Option<&Base<'_>>, scratch: Option<&Scratch>) -> Result<Artifact, TrainingError> {
    if let Some(scratch) = scratch {
        let (config, tokenizer) = (scratch.json.clone(), scratch.folder.clone());
        return Ok(Artifact::Model { config, dtype: scratch.dtype, tokenizer });
    }
    let folder = base.map_or(Path::new(""), |base| base.path);
    let path = folder.join("config.json");
    if !folder.is_dir() {
        let expected =
            "a base in Hugging Face layout for full-parameter training, which writes a model of the same form";
        return Err(TrainingError::setting("base", folder.display(), expected));
    }
    let text = fs::read_to_string(&path).map_err(TrainingError::io("read", &path))?;
    let config: Value = serde_json::from_str(&text).map_err(|error| TrainingError::File {
        path: path.clone(),
        line: error.line(),
        column: error.column(),
        message: error.to_string(),
    })?;
    Ok(Artifact::Model { config, dtype: WeightDtype::F32, tokenizer: folder.to_owned() })
}

/// Names a run by all it depends on.
fn run_digest(recipe: Digest, base: Option<Digest>, tokenizer: Digest) -> Digest {
    let mut hasher = Hasher::new("training run");
    hasher.part(recipe.as_bytes()).part(tokenizer.as_bytes());
    if let Some(base) = base {
        hasher.part(base.as_bytes());
    }
    hasher.finish()
}
