//! A model ready to answer.

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
