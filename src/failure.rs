//! Why a command did not succeed, and the exit code that says so.

use std::process::ExitCode;

use harness_decoder::DecoderError;
use harness_engine::EngineError;
use harness_evaluation::EvaluationError;
use harness_http::HttpError;
use harness_kernels::KernelError;
use harness_metrics::comparison::ComparisonError;
use harness_reports::ReportError;
use harness_server::ServerError;
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

impl From<EvaluationError> for Failure {
    fn from(error: EvaluationError) -> Self {
        if error.is_usage() { Self::usage(error.message()) } else { Self::work(error.message()) }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Option(_) => Self::usage(error.to_string()),
            _ => Self::work(error.to_string()),
        }
    }
}

/// Errors of the crates below, as the evaluation maps them.
macro_rules! from_below {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                EvaluationError::from(error).into()
            }
        })+
    };
}

from_below!(
    StoreError,
    TaskError,
    KernelError,
    DecoderError,
    EngineError,
    TrainingError,
    harness_core::ModelError,
    HttpError,
    ComparisonError,
    ReportError,
);
