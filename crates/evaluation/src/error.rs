//! What can go wrong, and whose fault it is.

use std::error::Error;

use harness_core::ModelError;
use harness_decoder::DecoderError;
use harness_engine::EngineError;
use harness_http::HttpError;
use harness_judges::JudgesError;
use harness_kernels::KernelError;
use harness_metrics::comparison::ComparisonError;
use harness_reports::ReportError;
use harness_store::StoreError;
use harness_tasks::TaskError;
use harness_training::TrainingError;

/// An evaluation, comparison, judging or import that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// The call, or a file that it names, is wrong.
    #[error("{0}")]
    Usage(String),
    /// The work failed.
    #[error("{0}")]
    Work(String),
    /// Whoever called wants to stop; what was done until then is kept.
    #[error("{0}")]
    Interrupted(String),
    /// Something is wrong in or with what a name stands for: a file, an option.
    #[error("{place}: {}{hint}", source.message())]
    In {
        /// The file or option.
        place: String,
        /// What is wrong.
        source: Box<Self>,
        /// What was probably meant, after it; usually empty.
        hint: String,
    },
    /// A model cannot be asked some tasks.
    #[error("{}; {} cannot be asked", source.message(), tasks.join(", "))]
    CannotBeAsked {
        /// What it lacks.
        source: Box<Self>,
        /// Ids of the tasks.
        tasks: Vec<String>,
    },
    /// The limit on the cost of answers is reached.
    #[error(
        "--max-cost: {}; {answered} of {open} open requests of {model} are answered and stored; run the same command \
         with a higher limit to continue",
        source.message()
    )]
    Cost {
        /// The endpoint's error.
        source: Box<Self>,
        /// Requests answered in this call.
        answered: usize,
        /// Requests that had no answer before.
        open: usize,
        /// Name of the model.
        model: String,
    },
    /// Of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Of a task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Of a model on this machine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Of training.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// Of a model that was asked.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Of a server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Of a comparison.
    #[error(transparent)]
    Comparison(#[from] ComparisonError),
    /// Of judging.
    #[error(transparent)]
    Judges(#[from] JudgesError),
    /// Of a report.
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl From<DecoderError> for EvaluationError {
    fn from(error: DecoderError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<KernelError> for EvaluationError {
    fn from(error: KernelError) -> Self {
        Self::Engine(error.into())
    }
}

impl EvaluationError {
    /// The call, or a file that it names, is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// The work failed.
    pub fn work(message: impl Into<String>) -> Self {
        Self::Work(message.into())
    }

    /// The same error, with the file or option that it is about.
    pub fn within(self, place: impl Into<String>) -> Self {
        Self::In { place: place.into(), source: Box::new(self), hint: String::new() }
    }

    /// Whether the call or a file in it is wrong, and not the machine, a server, or the work itself.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Usage(_) | Self::Task(_) | Self::Comparison(_) => true,
            Self::Work(_) | Self::Interrupted(_) | Self::Cost { .. } | Self::Report(_) => false,
            Self::In { source, .. } | Self::CannotBeAsked { source, .. } => source.is_usage(),
            Self::Store(error) => error.is_usage(),
            Self::Engine(error) => !is_of_machine(error),
            Self::Training(error) => is_usage_of_training(error),
            Self::Http(error) => is_wrong_call(error),
            Self::Model(ModelError::Other(source)) => {
                source.downcast_ref::<HttpError>().is_some_and(is_wrong_call)
                    || source.downcast_ref::<EngineError>().is_some_and(is_broken_file)
            }
            Self::Model(_) => true,
            Self::Judges(JudgesError::Io { action, .. }) => *action == "read",
            Self::Judges(_) => true,
        }
    }

    /// The error with all of its causes on one line.
    pub fn message(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let cause = error.to_string();
            if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
            source = error.source();
        }
        text
    }
}

/// Whether the fault lies in the machine and not in the files that were named.
fn is_of_machine(error: &EngineError) -> bool {
    use DecoderError::{Io, Kernel};
    let EngineError::Decoder(error) = error else { return false };
    matches!(error, Io { action: "write", .. } | Kernel(KernelError::DeviceMemory { .. }))
}

fn is_usage_of_training(error: &TrainingError) -> bool {
    match error {
        TrainingError::NonFinite { .. }
        | TrainingError::OutOfMemory { .. }
        | TrainingError::Backend(_)
        | TrainingError::Peer { .. }
        | TrainingError::Evaluation(_) => false,
        TrainingError::Io { action, .. } => *action == "read",
        TrainingError::Store(source) => source.is_usage(),
        TrainingError::Engine(source) => !is_of_machine(source),
        _ => true,
    }
}

/// Whether a file could not be read, though its model could be loaded.
fn is_broken_file(error: &EngineError) -> bool {
    matches!(error, EngineError::Decoder(DecoderError::Io { action: "read", .. }))
}

/// Whether the fault lies in what the user named: the address, the key, an option.
fn is_wrong_call(error: &HttpError) -> bool {
    use HttpError::{Address, Key, NoLikelihood, Option, Prices, Refused, Request};
    matches!(
        error,
        Address { .. }
            | Key { .. }
            | NoLikelihood { .. }
            | Option { .. }
            | Prices { .. }
            | Refused { .. }
            | Request { .. }
    )
}
