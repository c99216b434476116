//! From a resolved recipe to a finished candidate.

mod outline;
mod placed;
#[cfg(any(test, feature = "cuda"))]
mod seats;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use harness_core::{Digest, Hasher, Seed, Stop};
use harness_decoder::{Architecture, BlockSpec, DecoderConfig, LayerWeights, Rope, RopeScaling, Weights};
use harness_engine::{ChatTemplate, ModelFiles, TextTokenizer};
use harness_store::FileHashes;
pub use outline::{Outline, outline, trained_bytes};
pub use placed::{PlacedRun, Setting, prepare};
use serde_json::{Value, json};

use crate::{
    TrainingError,
    backend::{Backend, CpuBackend},
    block::SavePolicy,
    checkpoint,
    data::{Batch, BatchSource, PreparedSet, in_order, one_a_row, pack},
    export::Artifact,
    model::{Model, Trainable, random_weights},
    parallel::{Distribute, Ranks, agree},
    recipe::{Checkpointing, Method, ModelOptions, ResolvedRecipe, Sharding, WeightDtype},
    record::{RecordedBase, RecordedChatTemplate, TrainingRecord},
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

/// A run that is ready to begin.
pub struct Run<B: Backend = CpuBackend> {
    trainer: Trainer<B>,
    prepared: PreparedSet,
    record: TrainingRecord,
    output: PathBuf,
}

impl Run {
    /// Reads and tokenises the data and places the model on the processor. `base` is what the recipe is resolved with,
    /// `None` from scratch. Nothing is written.
    ///
    /// # Errors
    /// Whatever is wrong with recipe, data, tokenizer or model.
    pub fn prepare(
        resolved: &ResolvedRecipe,
        base: Option<Base<'_>>,
        hashes: &FileHashes,
        output: &Path,
    ) -> Result<Self, TrainingError> {
        Self::prepare_rank(resolved, base, hashes, output, Ranks::single())
    }

    /// As [`Run::prepare`], as one rank of several, all of which prepare the same.
    ///
    /// # Errors
    /// As [`Run::prepare`]; if another rank fails or is about to do something else.
    pub fn prepare_rank(
        resolved: &ResolvedRecipe,
        base: Option<Base<'_>>,
        hashes: &FileHashes,
        output: &Path,
        ranks: Ranks,
    ) -> Result<Self, TrainingError> {
        Self::prepare_on(CpuBackend::new(), resolved, base, hashes, output, ranks)
    }
}

impl<B: Distribute> Run<B> {
    /// As [`Run::prepare_rank`], on any device.
    ///
    /// # Errors
    /// As [`Run::prepare_rank`].
    pub fn prepare_on(
        backend: B,
        resolved: &ResolvedRecipe,
        base: Option<Base<'_>>,
        hashes: &FileHashes,
        output: &Path,
        ranks: Ranks,
    ) -> Result<Self, TrainingError> {
        let control = ranks.collective::<B>();
        let result = Self::prepare_inner(backend, resolved, base, hashes, output, ranks).map_err(|error| {
            let missing = if let TrainingError::Backend(error) = &error { error.out_of_memory() } else { None };
            let Some(missing) = missing else { return error };
            let when = "while the model was placed".to_owned();
            let page = B::OWN_MEMORY && !resolved.recipe.training.paged_optimizer;
            let advice = match resolved.recipe.method {
                Method::Lora => "store the base in fewer bits (training.precision, [quantization]), or share it over ranks",
                Method::Full if page => {
                    "keep AdamW's states in host memory (training.paged_optimizer = true), or share parameters over ranks"
                }
                Method::Full => "share parameters over ranks",
            };
            let (advice, kept) = (format!("{advice} (--nproc N --sharding fsdp)"), "nothing was trained yet".to_owned());
            TrainingError::OutOfMemory { when, what: missing.to_string(), kept, advice }
        });
        if let Err(error) = &result
            && !matches!(error, TrainingError::Peer { .. } | TrainingError::Mismatch { .. } | TrainingError::Backend(_))
        {
            control.abort(&error.to_string());
        }
        result
    }

    fn prepare_inner(
        backend: B,
        resolved: &ResolvedRecipe,
        base: Option<Base<'_>>,
        hashes: &FileHashes,
        output: &Path,
        ranks: Ranks,
    ) -> Result<Self, TrainingError> {
        let recipe = &resolved.recipe;
        let (options, data) = (&recipe.training, &recipe.data);
        let scratch = recipe.model.as_ref().map(|model| Scratch::new(model, &recipe.folder)).transpose()?;
        let (tokenizer, config) = match (&base, &scratch) {
            (Some(base), _) => (&base.files.tokenizer, &base.files.config),
            (None, Some(scratch)) => (&scratch.tokenizer, &scratch.config),
            (None, None) => return Err(recipe.problem("base", "is missing; expected a model to start from")),
        };
        let base_digest = base.as_ref().map(|base| base.files.digest);
        // What can be known without data and weights comes before them.
        let spec = recipe.check_base(config)?;
        recipe.check_ranks(ranks.world())?;
        let in_4_bits = base.as_ref().is_some_and(|base| storage(&base.files.weights).contains("nf4"));
        if recipe.method == Method::Full && in_4_bits {
            return Err(recipe.problem(
                "method",
                "is \"full\", but the base is stored in 4 bits, which cannot be trained; use method = \"lora\"",
            ));
        }
        let chat_template = match (&base, &scratch) {
            (Some(base), _) => base.files.chat_template.as_ref(),
            (None, scratch) => scratch.as_ref().and_then(|scratch| scratch.chat_template.as_ref()),
        };
        let digest = run_digest(resolved.digest(chat_template, hashes)?, base_digest, tokenizer.digest());
        if ranks.rank() == 0 && ranks.resume {
            let rank = spec.as_ref().map(|spec| spec.rank);
            checkpoint::latest(output, digest, rank)?;
        }
        let dropout = spec.as_ref().map_or(0.0, |spec| spec.dropout);
        let (trainable, artifact) = match (recipe.method, spec) {
            (Method::Lora, Some(spec)) => {
                let base = base.as_ref().map_or("", |base| base.name).to_owned();
                (Trainable::Lora(spec.clone()), Artifact::Adapter { spec, base, config: Box::new(config.clone()) })
            }
            (Method::Lora, None) => return Err(recipe.problem("method", "needs a [lora] table")),
            (Method::Full, _) => (Trainable::Full, full_artifact(base.as_ref(), scratch.as_ref())?),
        };
        let prepared = resolved.prepared_set(tokenizer, chat_template, hashes)?;
        let seed = Seed(options.seed);
        let train = batches(resolved, &prepared, seed)?;
        let validation: Vec<Batch> = {
            let samples = options.batch_size * if recipe.dpo.is_some() { 2 } else { 1 };
            in_order(&prepared.validation, samples).collect()
        };
        let mut weights = match &base {
            Some(base) => base.files.weights.clone(),
            None => {
                let range = recipe.model.as_ref().map_or(0.02, |model| model.initializer_range);
                random_weights(config, range, seed)
            }
        };
        if let Some(precision) = options.precision {
            weights.store_as(precision.float_type())?;
        }
        if let Some(quantization) = &recipe.quantization {
            weights.quantise(quantization)?;
        }
        let longest = train.longest_batch();
        let policy = match options.gradient_checkpointing {
            Checkpointing::Policy(policy) => policy,
            Checkpointing::Auto => SavePolicy::choose(config, longest, backend.room() / 2),
        };
        let stored = storage(&weights);
        // Where a chat template leaves BOS out, the tokenizer's is not added.
        let chat = resolved.chat(tokenizer, chat_template)?.filter(|_| prepared.rows.rendered > 0);
        let begins_with_bos = || prepared.train.get(0).tokens.first().copied() == tokenizer.bos().map(|bos| bos.id);
        let adds_bos = tokenizer.adds_bos() && (chat.is_none() || begins_with_bos());
        let ranks_world = ranks.world();
        let control = ranks.collective::<B>();
        let facts = [
            ("ranks", ranks.world().to_string()),
            ("recipe and data", resolved.digest(chat_template, hashes)?.to_string()),
            ("base", base_digest.map_or("none".to_owned(), |digest| digest.to_string())),
            ("tokenizer", tokenizer.digest().to_string()),
            ("sharding", format!("{:?}", options.sharding).to_lowercase()),
            ("gradient_checkpointing", format!("{policy:?}").to_lowercase()),
        ];
        agree(&*control, &facts)?;
        let control = backend.connect(control)?;
        let (compute, weights_exchange) = (backend.compute(), ranks.weights);
        let (model, store) = match options.sharding {
            Sharding::Fsdp if control.world() > 1 && recipe.method == Method::Full => {
                Model::sharded(backend, config, &weights, data.max_length, Arc::clone(&control))?
            }
            Sharding::Fsdp if control.world() > 1 => {
                let source = |backend: &B, layers: &[LayerWeights], backward: &[bool]| {
                    backend.shard(layers, backward, weights_exchange)
                };
                Model::with_source(backend, config, &weights, &trainable, data.max_length, seed, source)?
            }
            _ => Model::new(backend, config, &weights, &trainable, data.max_length, seed)?,
        };
        let model = model.with_policy(policy);
        drop(weights);
        let record = TrainingRecord {
            run: Some(digest),
            recipe: json!(recipe),
            recipe_hash: Some(recipe.hash()),
            template: json!(resolved.template),
            template_hash: Some(resolved.template.digest()),
            data: resolved.data.entries(hashes)?,
            base: base.as_ref().map(|base| RecordedBase {
                name: Some(base.name.to_owned()),
                path: Some(base.path.to_owned()),
                hash: Some(base.files.digest),
            }),
            tokenizer_hash: Some(tokenizer.digest()),
            adds_bos: Some(adds_bos),
            chat_template: chat.as_ref().map(|chat| RecordedChatTemplate {
                hash: Some(chat.template().digest()),
                of_base: Some(chat.is_of_base()),
                source: Some(chat.template().source().to_owned()),
            }),
            rows: Some(prepared.rows.clone()),
            train_tokens: Some(prepared.train_tokens),
            validation_tokens: Some(prepared.validation_tokens),
            trainable_parameters: Some(store.len()),
            parameters: Some(config.num_parameters()),
            dtype: Some(compute.to_owned()),
            weights_stored_as: Some(stored),
            world_size: Some(ranks_world),
            sharding: Some(options.sharding),
            gradient_checkpointing: Some(Checkpointing::Policy(policy)),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            summary: None,
        };
        let setup = TrainerSetup {
            options: options.clone(),
            dropout,
            train,
            validation,
            artifact,
            output: output.to_owned(),
            run: digest,
        };
        let trainer = Trainer::new(model, store, setup)?.with_ranks(control).map_err(|error| recipe.place(error))?;
        let trainer = match recipe.dpo {
            Some(dpo) => trainer.with_preference(dpo.beta)?,
            None => trainer,
        };
        Ok(Self { trainer, prepared, record, output: output.to_owned() })
    }

    /// Everything the result depends on.
    pub fn record(&self) -> &TrainingRecord {
        &self.record
    }

    /// The same as JSON.
    pub fn manifest(&self) -> Value {
        self.record.to_json()
    }

    /// The data.
    pub fn prepared(&self) -> &PreparedSet {
        &self.prepared
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer<B> {
        &self.trainer
    }

    /// Watches this: once asked to stop, the run writes a checkpoint and ends.
    pub fn with_stop(mut self, stop: impl Into<Stop>) -> Self {
        self.trainer = self.trainer.with_stop(stop);
        self
    }

    /// Writes events for TensorBoard too; `now` gives seconds since 1970.
    pub fn with_events(mut self, now: fn() -> f64) -> Self {
        self.trainer = self.trainer.with_events(now);
        self
    }

    /// What the run will take; computes one update's gradients to measure the speed, and writes nothing.
    ///
    /// # Errors
    /// If the weights of a block cannot be had, memory runs out, or the device fails.
    pub fn estimate(&mut self) -> Result<Estimate, TrainingError> {
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
        let first = self.trainer.is_first();
        if first {
            let data = self.output.join("data");
            fs::create_dir_all(&data).map_err(TrainingError::io("create", &data))?;
            self.prepared.write_texts(&data)?;
        }
        let summary = self.trainer.run(progress)?;
        if first && !summary.interrupted {
            self.record.summary = Some(summary.clone());
            self.record.write(&self.output)?;
        }
        Ok(summary)
    }
}

/// The micro-batches of a run on these data.
///
/// # Errors
/// If there is no sample to train on.
pub fn batches(resolved: &ResolvedRecipe, prepared: &PreparedSet, seed: Seed) -> Result<BatchSource, TrainingError> {
    let recipe = &resolved.recipe;
    let (options, data, lengths) = (&recipe.training, &recipe.data, prepared.train.lengths());
    let rows = match recipe.dpo {
        Some(_) => (0..lengths.len() / 2).map(|pair| vec![2 * pair, 2 * pair + 1]).collect(),
        None if data.packing => pack(&lengths, data.max_length),
        None => one_a_row(&lengths),
    };
    if rows.is_empty() {
        let (rows, without) = (prepared.rows.train, prepared.train_tokens.without_labels);
        return Err(recipe.problem(
            "data",
            format!(
                "leaves nothing to train on: of {rows} training rows {without} have no token that the loss counts; \
                 raise data.max_length, or set data.loss = \"full\""
            ),
        ));
    }
    let source = BatchSource::new(prepared.train.clone(), rows, options.batch_size, seed);
    Ok(source.grouped(options.group_by_length).padded(data.padding, data.max_length))
}

/// A model made from scratch.
struct Scratch {
    tokenizer: TextTokenizer,
    folder: PathBuf,
    config: DecoderConfig,
    json: Value,
    dtype: WeightDtype,
    chat_template: Option<ChatTemplate>,
}

impl Scratch {
    fn new(options: &ModelOptions, recipe_folder: &Path) -> Result<Self, TrainingError> {
        let folder = recipe_folder.join(&options.tokenizer);
        let tokenizer = TextTokenizer::load(&folder)?;
        let (bos, eos) = (tokenizer.bos().map(|token| token.id), tokenizer.eos().map(|token| token.id));
        let vocab_size = tokenizer.vocab_size();
        let config = DecoderConfig {
            architecture: Architecture::LLAMA,
            vocab_size,
            hidden_size: options.hidden_size,
            intermediate_size: options.intermediate_size,
            num_layers: options.num_hidden_layers,
            num_heads: options.num_attention_heads,
            num_kv_heads: options.kv_heads(),
            head_dim: options.head_width(),
            norm_eps: options.rms_norm_eps as f32,
            rope: Rope { theta: options.rope_theta, scaling: RopeScaling::None },
            max_position_embeddings: options.max_position_embeddings,
            tie_word_embeddings: options.tie_word_embeddings,
            qkv_bias: false,
            o_bias: false,
            sliding_window: vec![None; options.num_hidden_layers],
            bos_token_id: bos,
            eos_token_ids: eos.into_iter().collect(),
            experts: None,
            block: BlockSpec::default(),
        };
        let json = options.config_json(vocab_size, bos, eos);
        let chat_template = ChatTemplate::load(&folder, None)?;
        Ok(Self { tokenizer, folder, config, json, dtype: options.dtype, chat_template })
    }
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
    let text = harness_core::read_text(&path).map_err(TrainingError::io("read", &path))?;
    let mut config: Value = serde_json::from_str(&text).map_err(|error| TrainingError::File {
        path: path.clone(),
        line: error.line(),
        column: error.column(),
        message: error.to_string(),
    })?;
    if base.is_some_and(|base| !base.files.config.tie_word_embeddings) && config["tie_word_embeddings"] == true {
        // The base has a head of its own all the same, and so has what is written.
        config["tie_word_embeddings"] = false.into();
    }
    Ok(Artifact::Model { config, dtype: WeightDtype::F32, tokenizer: folder.to_owned() })
}

/// The types the linears of the blocks are stored in, e.g. `bf16`.
fn storage(weights: &Weights) -> String {
    let types: BTreeSet<&str> =
        weights.layers.iter().flat_map(|layer| layer.linears().map(|(_, tensor)| tensor.data.dtype())).collect();
    types.into_iter().collect::<Vec<_>>().join("+")
}

/// Names a run by all its result depends on: a resolved recipe, the base if there is one, and the tokenizer. It is `run` in
/// `training.json`.
pub fn run_digest(recipe: Digest, base: Option<Digest>, tokenizer: Digest) -> Digest {
    let mut hasher = Hasher::new("training run");
    hasher.part(recipe.as_bytes()).part(tokenizer.as_bytes());
    if let Some(base) = base {
        hasher.part(base.as_bytes());
    }
    hasher.finish()
}
