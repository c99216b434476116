//! A model ready to answer.

use std::sync::Arc;

use harness_core::LanguageModel;
use harness_store::ModelEntry;

use super::Model;

/// A model ready to answer.
pub struct Ready {
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
    /// What of an adapter's own folder it is asked with instead of its base's.
    pub own_texts: Vec<String>,
}

impl Ready {
    /// A model of the caller's own, under a name.
    pub fn given(name: &str, model: Arc<dyn LanguageModel>) -> Self {
        let (name, identity) = (name.to_owned(), model.identity().clone());
        Self {
            entry: ModelEntry { name: name.clone(), identity, path: None, adapter: None, recipe: None },
            name,
            model: Model::Given(model),
            base: None,
            differences: vec![],
            think_end_token: None,
            own_texts: vec![],
        }
    }
}
