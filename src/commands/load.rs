//! Models into memory: each base once, however many adapters sit on it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use harness_core::Digest;
use harness_engine::{
    Adapter, ChatTemplate, Limits, LoadedBase, LocalModel, ModelFiles, ModelOptions, PairOptions, Placement,
    Quantization,
};
use harness_http::{Budget, Endpoint, EndpointOptions};
use harness_store::{ModelEntry, ModelSource};

use super::{App, Failure, lineage, model::Model, train};
use crate::experiment::{Candidate, ModelSection, PreTokenizer, ResolvedModel};

/// A model ready to answer.
pub(super) struct Ready {
    /// Its name in reports.
    pub name: String,
    /// The model.
    pub model: Model,
    /// Name of the base, where it is an adapter.
    pub base: Option<String>,
    /// For the manifest.
    pub entry: ModelEntry,
    /// In what its training differs from how it is loaded here.
    pub differences: Vec<String>,
    /// The mark that ends its thinking, where the experiment names one.
    pub think_end_token: Option<String>,
}

/// What is done about candidates that are not trained yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// They are trained.
    Train,
    /// It is an error.
    Refuse,
}

/// Loads models; bases stay in memory as long as the loader.
pub(super) struct Loader<'a> {
    app: &'a App,
    limits: Limits,
    remote: Remote,
    bases: BTreeMap<BaseKey, Arc<LoadedBase>>,
}

/// What loaded bases are told apart by: path, context length, BOS, chat template, pre-tokenizer, quantisation.
type BaseKey = (PathBuf, Option<usize>, Option<bool>, Option<PathBuf>, Option<PreTokenizer>, Option<Quantization>);

/// What a command says about all endpoints it asks.
#[derive(Clone, Debug, Default)]
pub(super) struct Remote {
    /// Most requests in flight, instead of what the experiment says.
    pub concurrency: Option<usize>,
    /// Most requests begun a minute at each endpoint, likewise.
    pub requests_per_minute: Option<f64>,
    /// The limit on cost that they share.
    pub budget: Option<Arc<Budget>>,
}

/// Where a model's weights are.
pub(super) struct Place {
    base: PathBuf,
    base_name: Option<String>,
    adapter: Option<PathBuf>,
    recipe: Option<Digest>,
    endpoint: Option<Box<EndpointOptions>>,
}

impl<'a> Loader<'a> {
    /// A loader whose models keep to these bounds.
    pub(super) fn new(app: &'a App, limits: Limits) -> Self {
        Self { app, limits, remote: Remote::default(), bases: BTreeMap::new() }
    }

    /// The same loader with options for endpoints.
    pub(super) fn with_remote(self, remote: Remote) -> Self {
        Self { remote, ..self }
    }

    /// Loads a model, and trains it first if it is made by a recipe and not there.
    ///
    /// # Errors
    /// If the model cannot be loaded or trained.
    pub(super) fn load(&mut self, resolved: &ResolvedModel, missing: Missing) -> Result<Ready, Failure> {
        let place = self.place(resolved, missing)?;
        self.load_at(resolved, place)
    }

    /// Loads a model from where its weights are.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub(super) fn load_at(&mut self, resolved: &ResolvedModel, place: Place) -> Result<Ready, Failure> {
        let think_end_token = resolved.section.think_end_token.clone();
        let think_end_token = think_end_token.or_else(|| base_section(resolved).think_end_token.clone());
        if let Some(options) = place.endpoint {
            let mut options = *options;
            options.concurrency = self.remote.concurrency.unwrap_or(options.concurrency);
            options.requests_per_minute = self.remote.requests_per_minute.or(options.requests_per_minute);
            options.budget.clone_from(&self.remote.budget);
            options.stop = Some(self.app.stop_flag());
            let endpoint = Endpoint::new(options)?;
            let model = Model::Remote(Box::new(endpoint));
            let (name, identity) = (resolved.name.clone(), model.identity().clone());
            let entry = ModelEntry { name: name.clone(), identity, path: None, adapter: None, recipe: None };
            return Ok(Ready { name, model, base: None, entry, differences: vec![], think_end_token });
        }
        let base = self.base(resolved, &place.base)?;
        let mut differences = vec![];
        let model = match &place.adapter {
            None => LocalModel::new(base),
            Some(folder) => {
                let adapter = Adapter::load(folder, base.model().config())?;
                differences = lineage::differences(folder, &base, resolved.section.add_bos);
                for difference in &differences {
                    self.app.progress().say(format!("warning: {} {difference}", resolved.name));
                }
                LocalModel::with_adapter(base, &adapter)?
            }
        };
        let model = Model::Local(Box::new(model.with_stop(self.app.stop_flag())));
        let entry = ModelEntry {
            name: resolved.name.clone(),
            identity: model.identity().clone(),
            path: Some(place.base),
            adapter: place.adapter,
            recipe: place.recipe,
        };
        let name = resolved.name.clone();
        Ok(Ready { name, model, base: place.base_name, entry, differences, think_end_token })
    }

    /// Finds a model's weights, and makes them first if they come from a recipe and are not there.
    ///
    /// # Errors
    /// If there are none, or training fails.
    pub(super) fn place(&self, resolved: &ResolvedModel, missing: Missing) -> Result<Place, Failure> {
        let alone =
            |path: &Path| Place { base: path.to_owned(), base_name: None, adapter: None, recipe: None, endpoint: None };
        match &resolved.candidate {
            Candidate::Base { path } => Ok(alone(path)),
            Candidate::Endpoint { options } => Ok(Place { endpoint: Some(options.clone()), ..alone(Path::new("")) }),
            Candidate::Adapter { path, base } => {
                let below = self.place(base, missing)?;
                if below.endpoint.is_some() {
                    return Err(Failure::usage(format!(
                        "{}: its base {} is behind a server; an adapter needs the base's weights",
                        path.display(),
                        base.name
                    )));
                }
                if below.adapter.is_some() {
                    return Err(Failure::usage(format!(
                        "{}: its base {} is an adapter itself; expected a whole model",
                        path.display(),
                        base.name
                    )));
                }
                Ok(Place { adapter: Some(path.clone()), base_name: Some(base.name.clone()), ..below })
            }
            Candidate::Recipe { .. } => {
                let trained = train::ensure_trained(self.app, resolved, missing)?;
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

    fn base(&mut self, resolved: &ResolvedModel, path: &Path) -> Result<Arc<LoadedBase>, Failure> {
        let section = base_section(resolved);
        let max_length = resolved.section.max_length.or(section.max_length);
        let add_bos = resolved.section.add_bos.or(section.add_bos);
        let template = resolved.section.chat_template.as_ref().or(section.chat_template.as_ref());
        let template = template.map(|file| self.app.experiment.folder.join(file));
        let quantization = resolved.section.quantization().or(section.quantization());
        let splits = resolved.section.pre_tokenizer.or(section.pre_tokenizer);
        let key = (path.to_owned(), max_length, add_bos, template.clone(), splits, quantization);
        if let Some(base) = self.bases.get(&key) {
            return Ok(Arc::clone(base));
        }
        self.app.device.check()?;
        let bar = self.app.progress().bar(&format!("load {}", path.display()), 1);
        let pair = PairOptions { add_bos, ..PairOptions::default() };
        let mut files = ModelFiles::load(path)?;
        if let Some(file) = &template {
            files.chat_template = Some(read_template(file)?);
        }
        if let Some(PreTokenizer::Gpt2) = splits {
            files.tokenizer = files.tokenizer.with_gpt2_splits()?;
        }
        if let Some(quantization) = &quantization {
            files.quantise(quantization)?;
        }
        let (placement, compute) = (self.app.device, self.app.dtype);
        let options = ModelOptions { max_length, limits: self.limits, placement, compute, quantization, pair };
        let base = Arc::new(LoadedBase::place(files, options)?);
        let config = base.model().config();
        bar.finish(&format!(
            "{:.1} M parameters in {}, computed in {}{}",
            config.num_parameters() as f64 / 1e6,
            base.model().storage(),
            base.model().compute(),
            if placement == Placement::Cpu { String::new() } else { format!(" on {placement}") }
        ));
        self.bases.insert(key, Arc::clone(&base));
        Ok(base)
    }
}

/// What the experiment says of the model that a candidate sits on or starts from, or of itself.
fn base_section(resolved: &ResolvedModel) -> &ModelSection {
    match &resolved.candidate {
        Candidate::Adapter { base, .. } | Candidate::Recipe { base: Some(base), .. } => &base.section,
        Candidate::Base { .. } | Candidate::Endpoint { .. } | Candidate::Recipe { base: None, .. } => &resolved.section,
    }
}

/// A chat template in a file of its own.
pub(super) fn read_template(file: &Path) -> Result<ChatTemplate, Failure> {
    let source = std::fs::read_to_string(file)
        .map_err(|e| Failure::usage(format!("cannot read the chat template {}: {e}", file.display())))?;
    ChatTemplate::new(&source).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))
}
