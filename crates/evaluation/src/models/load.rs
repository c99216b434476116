//! Models into memory: each base once, however many adapters sit on it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use harness_core::Digest;
use harness_decoder::Adapter;
use harness_engine::{Limits, LoadedBase, LocalModel, ModelFiles, ModelOptions, Placement, Texts};
use harness_http::{Endpoint, EndpointOptions};
use harness_kernels::Quantization;
use harness_metrics::comparison::Caveat;
use harness_store::{ModelEntry, ModelSource};

use super::{
    lineage,
    model::Model,
    ready::Ready,
    texts::{self, Chosen, Keep},
};
use crate::{
    EvaluationError, Session,
    experiment::{Candidate, ResolvedModel},
    options::Remote,
};

/// What is done about candidates that are not trained yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// They are trained.
    Train,
    /// It is an error.
    Refuse,
}

/// What a recipe made.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The adapter's or model's folder.
    pub folder: PathBuf,
    /// The base's folder or file; the result's own folder for a model from scratch.
    pub base: PathBuf,
    /// Name of the base.
    pub base_name: Option<String>,
    /// Hash of the recipe.
    pub recipe: Digest,
}

/// Finds the result of a candidate's recipe, or makes it.
pub type Trainer = fn(&Session, &ResolvedModel, Missing) -> Result<Trained, EvaluationError>;

/// Loads models; bases stay in memory as long as the loader.
pub struct Loader<'a> {
    session: &'a Session,
    limits: Limits,
    trainer: Trainer,
    remote: Remote,
    keep: Keep,
    weights: BTreeMap<WeightsKey, Arc<LoadedBase>>,
    /// The same weights behind different tokenizers, templates and settings.
    bases: Vec<Arc<LoadedBase>>,
}

/// What loaded weights are told apart by: path, context length, quantisation.
type WeightsKey = (PathBuf, Option<usize>, Option<Quantization>);

/// Where a model's weights are.
pub struct Place {
    base: PathBuf,
    base_name: Option<String>,
    adapter: Option<PathBuf>,
    recipe: Option<Digest>,
    endpoint: Option<Box<EndpointOptions>>,
}

impl Place {
    /// The base's folder or file, and the adapter's folder; `None` behind a server.
    pub(super) fn files(&self) -> Option<(&Path, Option<&Path>)> {
        self.endpoint.is_none().then_some((self.base.as_path(), self.adapter.as_deref()))
    }
}

impl<'a> Loader<'a> {
    /// A loader whose models keep to these bounds, with what makes those that come from a recipe.
    pub fn new(session: &'a Session, limits: Limits, trainer: Trainer) -> Self {
        let remote = Remote::default();
        Self { session, limits, trainer, remote, keep: Keep::Yes, weights: BTreeMap::new(), bases: vec![] }
    }

    /// The same loader for work of which nothing is stored.
    #[must_use]
    pub fn for_a_look(self) -> Self {
        Self { keep: Keep::No, ..self }
    }

    /// The same loader with options for endpoints.
    #[must_use]
    pub fn with_remote(self, remote: Remote) -> Self {
        Self { remote, ..self }
    }

    /// Loads a model, and trains it first if it is made by a recipe and not there.
    ///
    /// # Errors
    /// If the model cannot be loaded or trained.
    pub fn load(&mut self, resolved: &ResolvedModel, missing: Missing) -> Result<Ready, EvaluationError> {
        let place = self.place(resolved, missing)?;
        self.load_at(resolved, place)
    }

    /// Loads a model from where its weights are.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn load_at(&mut self, resolved: &ResolvedModel, place: Place) -> Result<Ready, EvaluationError> {
        let think_end_token = resolved.section.think_end_token.clone();
        let think_end_token = think_end_token.or_else(|| texts::base_section(resolved).think_end_token.clone());
        if let Some(options) = place.endpoint {
            let mut options = *options;
            options.concurrency = self.remote.concurrency.unwrap_or(options.concurrency);
            options.requests_per_minute = self.remote.requests_per_minute.or(options.requests_per_minute);
            options.budget.clone_from(&self.remote.budget);
            options.stop = Some(self.session.stop().flag());
            let model = Model::Remote(Box::new(Endpoint::new(options)?));
            let (name, identity) = (resolved.name.clone(), model.identity().clone());
            let entry = ModelEntry { name: name.clone(), identity, path: None, adapter: None, recipe: None };
            return Ok(Ready {
                name,
                model,
                base: None,
                entry,
                differences: vec![],
                think_end_token,
                own_texts: vec![],
            });
        }
        let loaded = self.weights(resolved, &place.base)?;
        let config = loaded.model().config();
        let adapter = place.adapter.as_deref().map(|folder| Adapter::load(folder, config)).transpose()?;
        let rows = adapter.as_ref().map_or(config.vocab_size, |adapter| adapter.embedding_rows(config.vocab_size));
        let files = (place.base.as_path(), place.adapter.as_deref());
        let of_base = (loaded.tokenizer(), loaded.chat_template());
        let Chosen { texts, own, unused } = texts::choose(self.session, resolved, of_base, files, rows, self.keep)?;
        let base = self.behind(&loaded, texts);
        if !own.is_empty() {
            let caveat = Caveat::OwnTexts { model: resolved.name.clone(), what: own.clone() };
            self.session.note(format!("{caveat} --tokenizer base prompts it like its base."));
        }
        let mut differences = unused;
        let model = match (&place.adapter, adapter) {
            (Some(folder), Some(adapter)) => {
                differences.extend(lineage::differences(folder, &base, resolved.section.add_bos));
                for difference in &differences {
                    self.session.note(format!("warning: {} {difference}", resolved.name));
                }
                LocalModel::with_adapter(base, &adapter)?
            }
            _ => LocalModel::new(base),
        };
        let model = Model::Local(Box::new(model.with_stop(self.session.stop().flag())));
        let entry = ModelEntry {
            name: resolved.name.clone(),
            identity: model.identity().clone(),
            path: Some(place.base),
            adapter: place.adapter,
            recipe: place.recipe,
        };
        let name = resolved.name.clone();
        Ok(Ready { name, model, base: place.base_name, entry, differences, think_end_token, own_texts: own })
    }

    /// Finds a model's weights, and makes them first if they come from a recipe and are not there.
    ///
    /// # Errors
    /// If there are none, or training fails.
    pub fn place(&self, resolved: &ResolvedModel, missing: Missing) -> Result<Place, EvaluationError> {
        let alone =
            |path: &Path| Place { base: path.to_owned(), base_name: None, adapter: None, recipe: None, endpoint: None };
        match &resolved.candidate {
            Candidate::Base { path } => Ok(alone(path)),
            Candidate::Endpoint { options } => Ok(Place { endpoint: Some(options.clone()), ..alone(Path::new("")) }),
            Candidate::Adapter { path, base } => {
                let below = self.place(base, missing)?;
                if below.endpoint.is_some() {
                    return Err(EvaluationError::usage(format!(
                        "{}: its base {} is behind a server; an adapter needs the base's weights",
                        path.display(),
                        base.name
                    )));
                }
                if below.adapter.is_some() {
                    return Err(EvaluationError::usage(format!(
                        "{}: its base {} is an adapter itself; expected a whole model",
                        path.display(),
                        base.name
                    )));
                }
                Ok(Place { adapter: Some(path.clone()), base_name: Some(base.name.clone()), ..below })
            }
            Candidate::Recipe { .. } => {
                let trained = (self.trainer)(self.session, resolved, missing)?;
                match ModelSource::detect(&trained.folder)? {
                    ModelSource::Adapter(adapter) => Ok(Place {
                        base: trained.base,
                        base_name: trained.base_name,
                        adapter: Some(adapter.path),
                        recipe: Some(trained.recipe),
                        endpoint: None,
                    }),
                    other => Ok(Place { recipe: Some(trained.recipe), ..alone(other.path()) }),
                }
            }
        }
    }

    /// The weights behind a tokenizer and a template, once for all models that share them.
    fn behind(&mut self, loaded: &LoadedBase, texts: Texts) -> Arc<LoadedBase> {
        let base = loaded.with_texts(texts);
        if let Some(known) = self.bases.iter().find(|known| known.identity() == base.identity()) {
            return Arc::clone(known);
        }
        let base = Arc::new(base);
        self.bases.push(Arc::clone(&base));
        base
    }

    fn weights(&mut self, resolved: &ResolvedModel, path: &Path) -> Result<Arc<LoadedBase>, EvaluationError> {
        let section = texts::base_section(resolved);
        let max_length = resolved.section.max_length.or(section.max_length);
        let quantization = resolved.section.quantization().or(section.quantization());
        let key = (path.to_owned(), max_length, quantization);
        if let Some(base) = self.weights.get(&key) {
            return Ok(Arc::clone(base));
        }
        self.session.device.check()?;
        let bar = self.session.stage(&format!("load {}", path.display()), 1);
        let mut files = ModelFiles::load(path)?;
        if let Some(quantization) = &quantization {
            files.quantise(quantization)?;
        }
        let (placement, compute) = (self.session.device, self.session.dtype);
        let limits = self.limits;
        let options = ModelOptions { max_length, limits, placement, compute, quantization, ..ModelOptions::default() };
        let base = Arc::new(LoadedBase::place(files, options)?);
        let config = base.model().config();
        bar.finish(&format!(
            "{:.1} M parameters in {}, computed in {}{}",
            config.num_parameters() as f64 / 1e6,
            base.model().storage(),
            base.model().compute(),
            if placement == Placement::Cpu { String::new() } else { format!(" on {placement}") }
        ));
        self.weights.insert(key, Arc::clone(&base));
        Ok(base)
    }
}
