//! The crate's one error type.

use std::path::{Path, PathBuf};

/// Why a model, tokenizer, template or adapter could not be loaded or run.
///
/// Every message names the file, what was found, what was expected and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `map`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file that a model needs is not there.
    #[error("{}: {what} not found; {hint}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What was looked for.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A file is not valid JSON, or not of the expected form.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// The architecture is none that the decoder computes.
    #[error("{}: architecture {found:?} is not supported; supported are {supported}", path.display())]
    UnknownArchitecture {
        /// The file that names it.
        path: PathBuf,
        /// The name found.
        found: String,
        /// The names understood.
        supported: String,
    },
    /// A configuration value is missing, of the wrong form, or asks for something the decoder does not compute.
    #[error("{}: `{key}`: found {found}, expected {expected}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A weights file is broken.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Tensors that the configuration asks for are not in the weights.
    #[error(
        "{}: {} tensor{} missing: {}", path.display(), names.len(), if names.len() == 1 { "" } else { "s" }, listed(names)
    )]
    MissingTensors {
        /// The file or directory.
        path: PathBuf,
        /// Names of the tensors.
        names: Vec<String>,
    },
    /// A tensor that a decoder with a language model's head does not have.
    #[error(
        "{}: tensor `{tensor}` belongs to no causal language model of this architecture (a classifier's or reward model's \
         head?); expected a decoder with its `lm_head`",
        path.display()
    )]
    Stranger {
        /// The file or directory.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
    },
    /// A tensor's shape is not the one that the configuration implies.
    #[error("{}: tensor `{tensor}` has shape {found:?}, expected {expected:?} from the configuration", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The shape found.
        found: Vec<usize>,
        /// The shape expected.
        expected: Vec<usize>,
    },
    /// A tensor's element type cannot be read.
    #[error("{}: tensor `{tensor}` is stored as {found}; supported are {supported}", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The type found.
        found: String,
        /// The types understood.
        supported: &'static str,
    },
    /// A GGUF file is broken or uses something that is not supported.
    #[error("{}: {reason}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
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
    /// An adapter directory cannot be used.
    #[error("{}: {reason}", path.display())]
    Adapter {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An adapter was made for another base model.
    #[error(
        "{}: module `{module}` has {found}, but this base needs {expected}; the adapter was made for another base",
        path.display()
    )]
    AdapterShape {
        /// The adapter's weights file.
        path: PathBuf,
        /// The module.
        module: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// An adapter has another number of blocks than the base.
    #[error("the adapter has {found} blocks and the base {expected}; it was made for another base")]
    AdapterLayers {
        /// Blocks of the adapter.
        found: usize,
        /// Blocks of the base.
        expected: usize,
    },
    /// An adapter replaces a module that cannot be replaced.
    #[error("the adapter replaces module `{module}`; only `lm_head` and `model.embed_tokens` can be replaced")]
    AdapterModule {
        /// The module.
        module: String,
    },
    /// A weight that is to be quantised is not finite.
    #[error("tensor `{tensor}` has elements that are not finite; a broken file cannot be quantised")]
    NotFinite {
        /// Name of the tensor.
        tensor: String,
    },
    /// A weight does not fit into the type it is to be stored in.
    #[error("tensor `{tensor}` has values beyond the range of {dtype}; store it as bf16 or f32")]
    OutOfRange {
        /// Name of the tensor.
        tensor: String,
        /// The type.
        dtype: &'static str,
    },
    /// A token id has no row in the embedding.
    #[error("token id {token} has no embedding: the model has {vocab_size} rows; tokenizer and weights differ")]
    TokenOutOfRange {
        /// The id.
        token: usize,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A GPU cannot be used, or failed.
    #[error("{device}: {reason}")]
    Device {
        /// The device as it is named on the command line, e.g. `cuda:0`.
        device: String,
        /// What happened and what to do.
        reason: String,
    },
    /// A GPU's memory is used up.
    #[error(
        "{device}: out of memory: {:.2} GiB more are needed beside {:.2} GiB in use; use smaller batches or shorter rows, \
         keep less for the backward pass (gradient_checkpointing = \"layer\"), quantise the base (nf4), or lower kv_bytes \
         and batch_tokens",
        gib(*asked),
        gib(*used)
    )]
    DeviceMemory {
        /// The device as it is named on the command line.
        device: String,
        /// Bytes that were asked for.
        asked: usize,
        /// Bytes of buffers in use.
        used: usize,
    },
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
    /// Nothing to continue.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
}

impl EngineError {
    /// A GPU is asked of a program that cannot use any.
    #[cfg(not(feature = "cuda"))]
    pub fn without_cuda(ordinal: usize) -> Self {
        let reason = "this program was built without support for GPUs; build it with `cargo build --release --features \
                      cuda`, or use --device cpu";
        Self::Device { device: format!("cuda:{ordinal}"), reason: reason.to_owned() }
    }

    /// Several GPUs are asked of a program that cannot use them together.
    #[cfg(not(feature = "nccl"))]
    pub fn without_nccl(ordinal: usize) -> Self {
        let reason = "this program was built without NCCL, through which several GPUs compute together; build it with \
                      `cargo build --release --features nccl`, or use one rank, or --device cpu";
        Self::Device { device: format!("cuda:{ordinal}"), reason: reason.to_owned() }
    }

    /// A failure to read `path`.
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Io { action: "read", path: path.to_owned(), source }
    }

    /// A failure to write `path`.
    pub(crate) fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Io { action: "write", path: path.to_owned(), source }
    }
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

/// The first few names of a list, and how many more there are.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
