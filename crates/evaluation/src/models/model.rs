//! A model that answers: on this machine, behind a server, or the caller's own.

use std::{ops::Deref, sync::Arc};

use harness_core::LanguageModel;
use harness_engine::LocalModel;
use harness_http::{Endpoint, HttpError};

use crate::Session;

/// A model that answers.
pub enum Model {
    /// On this machine.
    Local(Box<LocalModel>),
    /// Behind a server.
    Remote(Box<Endpoint>),
    /// The caller's own.
    Given(Arc<dyn LanguageModel>),
}

impl Deref for Model {
    type Target = dyn LanguageModel;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Local(model) => &**model,
            Self::Remote(endpoint) => &**endpoint,
            Self::Given(model) => &**model,
        }
    }
}

impl Model {
    /// Whether there is an adapter, and it changes nothing.
    pub fn adapter_is_no_op(&self) -> bool {
        matches!(self, Self::Local(model) if model.adapter_is_no_op())
    }

    /// The same model computed in another type, where that needs no second copy of its weights.
    pub fn in_another_type(&self) -> Option<Self> {
        self.local()?.with_bf16_activations().map(|model| Self::Local(Box::new(model)))
    }

    /// The model on this machine, if it is one.
    pub fn local(&self) -> Option<&LocalModel> {
        match self {
            Self::Local(model) => Some(model),
            Self::Remote(_) | Self::Given(_) => None,
        }
    }

    /// The endpoint, if it is one.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Local(_) | Self::Given(_) => None,
            Self::Remote(endpoint) => Some(endpoint),
        }
    }

    /// Asks a server whether it is there, before work begins; says so if it does not list the model.
    ///
    /// # Errors
    /// If it is not there, is no OpenAI-compatible server, or wants another key.
    pub fn check(&self, session: &Session) -> Result<(), HttpError> {
        let Some(endpoint) = self.endpoint() else { return Ok(()) };
        let served = endpoint.check()?;
        let spec = &endpoint.options().spec;
        if !served.models.is_empty() && !served.models.contains(&spec.model) {
            let near = harness_store::nearest(&spec.model, served.models.iter().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            session.note(format!("{} does not list a model {:?}{near}", spec.url, spec.model));
        }
        Ok(())
    }
}
