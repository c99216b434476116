//! A model's weights in memory behind a tokenizer and a chat template.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use harness_core::{Digest, ModelIdentity};

use super::device::ModelDevice;
#[cfg(feature = "cuda")]
use crate::files::check_maps;
use crate::{
    ChatSettings, ChatTemplate, ComputeType, DateUse, EngineError, ModelFiles, PairOptions, Placement, TextTokenizer,
    generate::{Drafting, Pattern, Vocabulary},
    schedule::Limits,
    tokenizer::TokenBytes,
};
use harness_decoder::{BaseModel, DecoderConfig, GenerationDefaults, Weights};
use harness_kernels::Quantization;

/// How a model is run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelOptions {
    /// Longest input in tokens; `None` = what the model was made for.
    pub max_length: Option<usize>,
    /// Bounds on memory and batches; no answer depends on them.
    pub limits: Limits,
    /// Quantisation of the blocks' linears when the model is loaded; `None` = as the files store them.
    pub quantization: Option<Quantization>,
    /// Where the model is computed.
    pub placement: Placement,
    /// In which type; `None` = f32 on the processor and bf16 on a GPU.
    pub compute: Option<ComputeType>,
    /// Deviations from the tokenizer's rules about BOS.
    pub pair: PairOptions,
    /// What chats are rendered with.
    pub chat: ChatSettings,
    /// Whether tokens of greedy generations are drafted from other answers and from the text where that pays. No answer
    /// depends on it on the processor.
    pub draft: bool,
}

/// How texts and messages become tokens.
#[derive(Clone, Debug)]
pub struct Texts {
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The chat template, if there is one.
    pub chat_template: Option<ChatTemplate>,
    /// Deviations from the tokenizer's rules about BOS.
    pub pair: PairOptions,
    /// What chats are rendered with.
    pub chat: ChatSettings,
}

/// A base model in memory with its tokenizer: what several adapters share.
#[derive(Debug)]
pub struct LoadedBase {
    pub(super) model: Arc<BaseModel>,
    pub(super) tokenizer: TextTokenizer,
    pub(super) chat_template: Option<ChatTemplate>,
    generation: GenerationDefaults,
    pub(super) identity: ModelIdentity,
    pub(super) end_tokens: Vec<u32>,
    pub(super) options: ModelOptions,
    vocabulary: OnceLock<Vocabulary>,
    patterns: Mutex<BTreeMap<String, Arc<Pattern>>>,
}

/// Most compiled patterns that are kept.
const PATTERNS: usize = 32;

impl LoadedBase {
    /// Loads a Hugging Face directory or a GGUF file.
    ///
    /// # Errors
    /// Whatever is missing, broken or not supported.
    pub fn load(path: &Path, options: ModelOptions) -> Result<Self, EngineError> {
        // The device first: without one, nothing is read for nothing.
        let device = ModelDevice::open(options.placement, options.compute)?;
        let mut files = ModelFiles::load(path)?;
        if let Some(quantization) = &options.quantization {
            files.quantise(quantization)?;
        }
        Self::on(device, files, options)
    }

    /// Places a model that is in memory where the options say.
    ///
    /// # Errors
    /// If the device is missing or too small.
    pub fn place(files: ModelFiles, options: ModelOptions) -> Result<Self, EngineError> {
        Self::on(ModelDevice::open(options.placement, options.compute)?, files, options)
    }

    fn on(device: ModelDevice, files: ModelFiles, options: ModelOptions) -> Result<Self, EngineError> {
        match device {
            ModelDevice::Cpu => Ok(Self::new(files, options)),
            #[cfg(feature = "cuda")]
            ModelDevice::Cuda(device, float) => Self::with_model(files, options, |config, weights, max_length| {
                let model = BaseModel::on_device(config, &weights, max_length, device, float)?;
                check_maps()?;
                Ok(model)
            }),
        }
    }

    /// Packs a model's weights for the processor's kernels.
    pub fn new(files: ModelFiles, options: ModelOptions) -> Self {
        let place = |config, weights, max_length| Ok(BaseModel::new(config, weights, max_length));
        match Self::with_model::<std::convert::Infallible>(files, options, place) {
            Ok(base) => base,
            Err(error) => match error {},
        }
    }

    pub(super) fn with_model<E>(
        files: ModelFiles,
        options: ModelOptions,
        place: impl FnOnce(DecoderConfig, Weights, usize) -> Result<BaseModel, E>,
    ) -> Result<Self, E> {
        let ModelFiles { config, weights, tokenizer, chat_template, generation, digest } = files;
        let max_length = options.max_length.unwrap_or(config.max_position_embeddings);
        let model = Arc::new(place(config, weights, max_length)?);
        let texts = Texts { tokenizer, chat_template, pair: options.pair.clone(), chat: options.chat.clone() };
        Ok(Self::assemble(model, digest, generation, texts, options))
    }

    /// The same weights, which stay in memory once, behind another tokenizer or chat template.
    #[must_use]
    pub fn with_texts(&self, texts: Texts) -> Self {
        let options = ModelOptions { pair: texts.pair.clone(), chat: texts.chat.clone(), ..self.options.clone() };
        Self::assemble(Arc::clone(&self.model), self.digest(), self.generation.clone(), texts, options)
    }

    fn assemble(
        model: Arc<BaseModel>,
        weights: Digest,
        generation: GenerationDefaults,
        texts: Texts,
        options: ModelOptions,
    ) -> Self {
        let Texts { tokenizer, chat_template, pair, chat } = texts;
        let mut end_tokens = model.config().eos_token_ids.clone();
        end_tokens.extend(&generation.eos_token_ids);
        end_tokens.extend(tokenizer.eos().map(|token| token.id));
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let mut extra = BTreeMap::from([("max_length".to_owned(), model.max_length().to_string())]);
        if let Some(add) = pair.add_bos {
            extra.insert("add_bos".to_owned(), add.to_string());
        }
        if let Some(prefix) = &pair.prefix_token {
            extra.insert("prefix_token".to_owned(), prefix.id.to_string());
        }
        if !chat.kwargs.is_empty() {
            extra.insert("chat_template_kwargs".to_owned(), chat.kwargs.to_string());
        }
        let tells_date = chat_template.as_ref().is_some_and(|template| template.date_use() != DateUse::None);
        if let Some(now) = chat.now.filter(|_| tells_date) {
            extra.insert("date".to_owned(), now.to_string());
        }
        let identity = ModelIdentity {
            weights,
            adapter: None,
            tokenizer: tokenizer.digest(),
            chat_template: chat_template.as_ref().map(ChatTemplate::digest),
            dtype: model.compute().to_owned(),
            extra,
        };
        let (vocabulary, patterns) = (OnceLock::new(), Mutex::default());
        Self { model, tokenizer, chat_template, generation, identity, end_tokens, options, vocabulary, patterns }
    }

    /// Whether tokens of generations are drafted.
    pub(super) fn drafting(&self) -> Drafting {
        if self.options.draft { Drafting::Measured } else { Drafting::Off }
    }

    /// The packed weights.
    pub fn model(&self) -> &Arc<BaseModel> {
        &self.model
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// Deviations from the tokenizer's rules about BOS.
    pub fn pair(&self) -> &PairOptions {
        &self.options.pair
    }

    /// The token that stands for an empty prompt.
    pub(super) fn prefix(&self) -> Option<u32> {
        self.options.pair.prefix_token.as_ref().or(self.tokenizer.prefix_token()).map(|token| token.id)
    }

    /// What its answers depend on.
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// Hash of the weights and of the configuration.
    pub fn digest(&self) -> Digest {
        self.identity.weights
    }

    /// A pattern, compiled on first use.
    pub(super) fn pattern(&self, expression: &str) -> Result<Arc<Pattern>, EngineError> {
        let mut patterns = self.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pattern) = patterns.get(expression) {
            return Ok(Arc::clone(pattern));
        }
        let vocabulary =
            self.vocabulary.get_or_init(|| Vocabulary::new(TokenBytes::new(&self.tokenizer), &self.end_tokens));
        let pattern = Pattern::new(expression, vocabulary)
            .map_err(|reason| EngineError::Pattern { expression: expression.to_owned(), reason })?;
        let pattern = Arc::new(pattern);
        if patterns.len() >= PATTERNS {
            patterns.pop_first();
        }
        patterns.insert(expression.to_owned(), Arc::clone(&pattern));
        Ok(pattern)
    }

    /// Sampling that the model's makers propose.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.generation
    }
}
