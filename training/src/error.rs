//! What can go wrong while a candidate is made.

use std::path::{Path, PathBuf};

use harness_decoder::DecoderError;
use harness_engine::EngineError;
use harness_kernels::KernelError;

use crate::{backend::BackendError, shown::Shown};

/// Errors of this crate; each message names the file, argument or step, what was found and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainingError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done ("read", "write", "create", ...).
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause given by the system.
        source: std::io::Error,
    },
    /// A setting has a value that cannot work.
    #[error("{name} = {found}: expected {expected}")]
    Setting {
        /// The setting, as it is written in the recipe.
        name: String,
        /// The value found.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// Whoever runs this wants it to stop: the pass in flight was left.
    #[error("interrupted")]
    Stopped,
    /// A model of a kind that training does not know.
    #[error(
        "training all parameters of models with {feature} is not supported, only adapters (method = \"lora\"): the base has the \
         architecture {architecture}"
    )]
    Unsupported {
        /// What its block has that training does not know, in words.
        feature: &'static str,
        /// The architecture, by its name in `config.json`.
        architecture: &'static str,
    },
    /// A weight of the base model is missing or has a shape that its configuration does not allow.
    #[error("base model: tensor {name}: {message}")]
    Weight {
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        message: String,
    },
    /// The base model could not be read, or an adapter not written.
    #[error(transparent)]
    Engine(Box<EngineError>),
    /// The device failed, or has no more memory.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A data set is not there or cannot be read.
    #[error(transparent)]
    Store(#[from] harness_store::StoreError),
    /// The loss or the gradient is not a number; nothing after the last checkpoint was kept.
    #[error(
        "{what} is not finite at step {step} (value {value}); {kept}; try a lower learning_rate, a longer warm-up, or \
         look at the data of this step"
    )]
    NonFinite {
        /// What was not finite ("loss", "gradient norm").
        what: &'static str,
        /// The update, counted from 1.
        step: u64,
        /// The value found.
        value: f64,
        /// Which checkpoint was kept, in words.
        kept: String,
    },
    /// There is no more memory.
    #[error("out of memory {when}: {what}; {kept}; to need less, {advice}")]
    OutOfMemory {
        /// When, in words.
        when: String,
        /// How much was missing.
        what: String,
        /// Which checkpoint was kept, in words.
        kept: String,
        /// What to change.
        advice: String,
    },
    /// Another rank of a distributed run is gone or has failed.
    #[error("rank {rank}: {}", Shown(message))]
    Peer {
        /// The rank.
        rank: usize,
        /// What became of it.
        message: String,
    },
    /// The ranks of a distributed run are not about to do the same.
    #[error(
        "rank {rank} has {} {}, rank 0 has {}; start all ranks with the same files and options",
        Shown(what),
        Shown(found),
        Shown(expected)
    )]
    Mismatch {
        /// The rank that differs.
        rank: usize,
        /// In what.
        what: String,
        /// What it has.
        found: String,
        /// What rank 0 has.
        expected: String,
    },
    /// A distributed run cannot be started.
    #[error("distributed run: {}", Shown(message))]
    Launch {
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// Tasks could not be evaluated during training.
    #[error("evaluation of tasks: {0}")]
    Evaluation(String),
    /// A recipe, a template or a data file has something wrong at a place that can be named.
    #[error("{path}:{line}:{column}: {message}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// The data cannot be used as the recipe says.
    #[error("{path}: {message}", path = path.display())]
    Data {
        /// The source.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// A text could not be turned into tokens.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// A checkpoint cannot be resumed from.
    #[error("checkpoint {path}: {message}", path = path.display())]
    Checkpoint {
        /// The checkpoint's folder or file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        message: String,
    },
}

impl From<EngineError> for TrainingError {
    fn from(error: EngineError) -> Self {
        Self::Engine(Box::new(error))
    }
}

impl From<DecoderError> for TrainingError {
    fn from(error: DecoderError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<KernelError> for TrainingError {
    fn from(error: KernelError) -> Self {
        BackendError::from(error).into()
    }
}

impl TrainingError {
    /// An input or output error with its path.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// A setting with a value that cannot work.
    pub fn setting(name: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::Setting { name: name.into(), found: found.to_string(), expected: expected.into() }
    }
}
