//! The crate's one error type.

use std::path::PathBuf;

use harness_decoder::DecoderError;
use harness_kernels::KernelError;

/// Why a model, tokenizer, template or adapter could not be loaded or run.
///
/// Every message names the file, what was found, what was expected and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The tokenizer cannot be built.
    #[error("{}: {reason}", path.display())]
    TokenizerFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The tokenizer failed on a text or on ids.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// A chat template does not compile or fails on the messages; a template's `raise_exception` text arrives here.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// A pattern cannot be used.
    #[error("the pattern {expression:?} cannot be used: {reason}")]
    Pattern {
        /// The regular expression.
        expression: String,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer's decoder changed a text that was generated within a pattern.
    #[error(
        "a text generated within the pattern {expression:?} does not match it when decoded: {text:?}; this tokenizer's \
         decoder joins tokens in a way that patterns do not support"
    )]
    PatternLost {
        /// The regular expression.
        expression: String,
        /// The decoded text.
        text: String,
    },
    /// A prompt does not fit into the model's context with what is to be generated.
    #[error(
        "the model's context is {context} tokens; the prompt has {prompt} tokens and {new} new ones are asked for: shorten \
         the prompt or ask for fewer"
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// New tokens asked for.
        new: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A token id of a prompt is none of the model's.
    #[error("the prompt has the token id {id}; the model has {tokens} tokens")]
    NoSuchToken {
        /// The id.
        id: u32,
        /// Number of tokens.
        tokens: usize,
    },
    /// Nothing to continue.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// The decoder could not be loaded or run.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
}

impl From<KernelError> for EngineError {
    fn from(error: KernelError) -> Self {
        Self::Decoder(error.into())
    }
}
