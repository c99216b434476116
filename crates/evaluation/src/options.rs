//! What an evaluation can be told, resolved: no text is left to be understood.

use std::{path::PathBuf, sync::Arc};

use harness_core::ChatKwargs;
use harness_engine::Limits;
use harness_http::Budget;
use harness_tasks::BuildOptions;

use crate::experiment::{Candidate, Day, ResolvedModel, TokenizerChoice};

/// What is evaluated and how.
#[derive(Clone, Debug, Default)]
pub struct EvaluationOptions {
    /// Tasks, groups or tags; the suite of the experiment where there are none.
    pub tasks: Vec<String>,
    /// Folders of further task definitions.
    pub include_path: Vec<PathBuf>,
    /// How requests are built from documents.
    pub build: BuildOptions,
    /// How texts become prompts.
    pub texts: PromptOptions,
    /// Bounds on memory and batches; the device's usual ones unless given.
    pub limits: Option<Limits>,
    /// How endpoints are asked.
    pub remote: Remote,
}

/// How texts become prompts; what is given here goes before what the experiment says.
#[derive(Clone, Debug, Default)]
pub struct PromptOptions {
    /// Day that chat templates are told; that of the first run, kept in `date` below the session's home, unless given.
    pub date: Option<Day>,
    /// Variables for chat templates.
    pub chat_template_kwargs: ChatKwargs,
    /// Where tokenizer and chat template come from.
    pub tokenizer: Option<TokenizerChoice>,
}

/// How all endpoints are asked, instead of what the experiment says of each.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    /// Maximum number of requests in flight at an endpoint.
    pub concurrency: Option<usize>,
    /// Maximum number of requests begun a minute at an endpoint.
    pub requests_per_minute: Option<f64>,
    /// The limit on cost that they share.
    pub budget: Option<Arc<Budget>>,
}

impl ResolvedModel {
    /// The model as a call wants it asked, whatever the experiment says.
    #[must_use]
    pub fn asked(mut self, options: &PromptOptions) -> Self {
        let PromptOptions { date, chat_template_kwargs: kwargs, tokenizer } = options;
        let section = &mut self.section;
        section.date = date.or(section.date);
        section.chat_template_kwargs = std::mem::take(&mut section.chat_template_kwargs).with(kwargs);
        if let Some(tokenizer) = tokenizer {
            section.tokenizer = Some(tokenizer.clone());
        }
        if let Candidate::Endpoint { options } = &mut self.candidate {
            options.chat_template_kwargs = std::mem::take(&mut options.chat_template_kwargs).with(kwargs);
        }
        self
    }
}
