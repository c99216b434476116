//! From a model's name to its files.

use std::path::{Path, PathBuf};

use harness_http::{EndpointOptions, EndpointSpec};
use harness_store::{HubCache, ModelSource, locate_model, nearest};

use super::{Experiment, ModelSection};
use crate::EvaluationError;

/// A model that a command was given.
#[derive(Clone, Debug)]
pub struct ResolvedModel {
    /// Its name in reports.
    pub name: String,
    /// What it is.
    pub candidate: Candidate,
    /// What the experiment says about it.
    pub section: ModelSection,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Candidate {
    /// Weights on disk.
    Base {
        /// Folder or GGUF file.
        path: PathBuf,
    },
    /// An adapter on disk.
    Adapter {
        /// The adapter's folder.
        path: PathBuf,
        /// What it sits on.
        base: Box<ResolvedModel>,
    },
    /// Behind a server.
    Endpoint {
        /// The model, its server, and how it is asked.
        options: Box<EndpointOptions>,
    },
    /// Made by a recipe.
    Recipe {
        /// The recipe file.
        path: PathBuf,
        /// What it starts from; `None` where the recipe says it or makes a model from scratch.
        base: Option<Box<ResolvedModel>>,
    },
}

impl Experiment {
    /// Finds what a name, path or hub id stands for.
    ///
    /// # Errors
    /// If there is no such model, naming the nearest.
    pub fn model(&self, name: &str) -> Result<ResolvedModel, EvaluationError> {
        self.resolve(name, &mut vec![])
    }

    fn resolve(&self, name: &str, seen: &mut Vec<String>) -> Result<ResolvedModel, EvaluationError> {
        if seen.iter().any(|other| other == name) {
            return Err(EvaluationError::usage(format!(
                "models are based on each other: {} -> {name}",
                seen.join(" -> ")
            )));
        }
        seen.push(name.to_owned());
        let Some(section) = self.models.get(name) else {
            return self.on_disk(name, name, ModelSection::default(), seen);
        };
        if let Some(endpoint) = &section.endpoint {
            let candidate = Candidate::Endpoint { options: Box::new(section.endpoint_options(endpoint)?) };
            return Ok(ResolvedModel { name: name.to_owned(), candidate, section: section.clone() });
        }
        if let Some(recipe) = &section.recipe {
            let base = section.base.as_ref().map(|base| self.resolve(base, seen)).transpose()?.map(Box::new);
            let candidate = Candidate::Recipe { path: self.folder.join(recipe), base };
            return Ok(ResolvedModel { name: name.to_owned(), candidate, section: section.clone() });
        }
        if let (Some(adapter), Some(base)) = (&section.adapter, &section.base) {
            let base = Box::new(self.resolve(base, seen)?);
            let candidate = Candidate::Adapter { path: self.folder.join(adapter), base };
            return Ok(ResolvedModel { name: name.to_owned(), candidate, section: section.clone() });
        }
        let place = match (&section.path, &section.gguf, &section.hub) {
            (Some(path), _, _) | (_, Some(path), _) => self.folder.join(path).to_string_lossy().into_owned(),
            (_, _, Some(hub)) => section.revision.as_ref().map_or(hub.clone(), |revision| format!("{hub}@{revision}")),
            _ => return Err(EvaluationError::usage(format!("[models.{name}] names no source"))),
        };
        self.on_disk(name, &place, section.clone(), seen)
    }

    fn on_disk(
        &self,
        name: &str,
        place: &str,
        section: ModelSection,
        seen: &mut Vec<String>,
    ) -> Result<ResolvedModel, EvaluationError> {
        if EndpointSpec::is_spec(place) {
            let options = section.endpoint_options(place)?;
            let name = if name == place { options.spec.model.clone() } else { name.to_owned() };
            return Ok(ResolvedModel { name, candidate: Candidate::Endpoint { options: Box::new(options) }, section });
        }
        if place.starts_with("http://") || place.starts_with("https://") {
            return Err(EvaluationError::usage(format!(
                "{place}: which model of this server? write openai:MODEL@{place}, or name it in harness.toml (endpoint, model)"
            )));
        }
        let source = locate_model(place, &[], HubCache::from_env().as_ref()).map_err(|error| {
            let known = self.models.keys().map(String::as_str);
            match nearest(name, known).filter(|_| !self.models.contains_key(name)) {
                Some(near) => EvaluationError::usage(format!("{error}\nthe experiment has a model named {near:?}")),
                None => EvaluationError::from(error),
            }
        })?;
        let candidate = match source {
            ModelSource::Adapter(adapter) => {
                let Some(base) = section.base.clone().or(adapter.base.clone()) else {
                    return Err(EvaluationError::usage(format!(
                        "{}: the adapter does not name its base; name it in harness.toml",
                        adapter.config.display()
                    )));
                };
                let base = Box::new(self.resolve(&self.adapter_base(&adapter.path, &base), seen)?);
                Candidate::Adapter { path: adapter.path, base }
            }
            other => Candidate::Base { path: other.path().to_owned() },
        };
        Ok(ResolvedModel { name: display_name(name), candidate, section })
    }

    /// An adapter names its base by model name, absolute path, or a path from its own folder or the experiment's.
    fn adapter_base(&self, adapter: &Path, base: &str) -> String {
        if self.models.contains_key(base) || Path::new(base).exists() {
            return base.to_owned();
        }
        let beside = [adapter.join(base), self.folder.join(base)].into_iter().find(|path| path.exists());
        beside.map_or_else(|| base.to_owned(), |path| path.to_string_lossy().into_owned())
    }
}

/// The last part of a path that was given as a model.
fn display_name(name: &str) -> String {
    let path = Path::new(name);
    let last = if path.extension().is_some_and(|e| e == "gguf") { path.file_stem() } else { path.file_name() };
    last.map_or_else(|| name.to_owned(), |last| last.to_string_lossy().into_owned())
}
