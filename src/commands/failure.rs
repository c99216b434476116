//! Why a command did not succeed, and the exit code that says so.

use std::process::ExitCode;

use harness_core::ModelError;
use harness_engine::EngineError;
use harness_http::HttpError;
use harness_metrics::comparison::ComparisonError;
use harness_store::StoreError;
use harness_tasks::TaskError;
use harness_training::TrainingError;

/// A command's failure by exit code: 1 the work failed, 2 the call or a file in it is wrong, 3 the work is done and a
/// condition that the user set is not met.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    follows_output: bool,
}

impl Failure {
    /// The work failed.
    pub fn work(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), follows_output: false }
    }

    /// The call, or a file that it names, is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into(), follows_output: false }
    }

    /// The work is done, its result printed, and a condition is not met.
    pub fn condition(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into(), follows_output: true }
    }

    /// The same failure, of a command that has printed its result already.
    pub fn after_output(self) -> Self {
        Self { follows_output: true, ..self }
    }

    /// The same failure, told by another process.
    pub fn silent(self) -> Self {
        Self { message: String::new(), ..self }
    }

    /// Whether the command has printed its result, so that standard output holds its one object already.
    pub fn follows_output(&self) -> bool {
        self.follows_output
    }

    /// What to tell the user.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to tell the caller.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// The exit code as a number.
    pub fn code(&self) -> u8 {
        self.code
    }
}

/// An error with all of its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_usage() { Self::usage(chain(&error)) } else { Self::work(chain(&error)) }
    }
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        Self::usage(chain(&error))
    }
}

/// Whether the fault lies in the machine and not in the files that were named.
fn is_work(error: &EngineError) -> bool {
    matches!(error, EngineError::Io { action: "write", .. } | EngineError::DeviceMemory { .. })
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        if is_work(&error) { Self::work(chain(&error)) } else { Self::usage(chain(&error)) }
    }
}

impl From<TrainingError> for Failure {
    fn from(error: TrainingError) -> Self {
        let work = match &error {
            TrainingError::NonFinite { .. }
            | TrainingError::OutOfMemory { .. }
            | TrainingError::Peer { .. }
            | TrainingError::Evaluation(_) => true,
            TrainingError::Io { action, .. } => *action != "read",
            TrainingError::Store(source) => !source.is_usage(),
            TrainingError::Engine(source) => source.downcast_ref::<EngineError>().is_some_and(is_work),
            _ => false,
        };
        if work { Self::work(chain(&error)) } else { Self::usage(chain(&error)) }
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        match &error {
            ModelError::Other(source) => match source.downcast_ref::<HttpError>() {
                Some(http) if is_wrong_call(http) => Self::usage(chain(&error)),
                _ => Self::work(chain(&error)),
            },
            _ => Self::usage(chain(&error)),
        }
    }
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

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        if is_wrong_call(&error) { Self::usage(chain(&error)) } else { Self::work(chain(&error)) }
    }
}

impl From<ComparisonError> for Failure {
    fn from(error: ComparisonError) -> Self {
        Self::usage(chain(&error))
    }
}
