//! The crate's one error type.

use std::path::{Path, PathBuf};

use harness_kernels::KernelError;

/// Why weights or an adapter could not be loaded, or a decoder not run.
///
/// Every message names the file, what was found, what was expected and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecoderError {
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
    #[error("{}: architecture {found:?} is not supported{hint}; `harness models list --supported` lists those that are", path.display())]
    UnknownArchitecture {
        /// The file that names it.
        path: PathBuf,
        /// The name found.
        found: String,
        /// What it has that others lack, or the nearest name.
        hint: String,
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
    /// The part of the base that an adapter began as cannot be computed.
    #[error("`{module}`: the part of the base that `init_lora_weights` takes out cannot be computed: {reason}")]
    AdapterPart {
        /// The module.
        module: String,
        /// What is wrong.
        reason: String,
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
    /// Whoever called wants to stop.
    #[error("stopped")]
    Stopped,
    /// The device failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl DecoderError {
    /// A failure to read `path`.
    pub fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Io { action: "read", path: path.to_owned(), source }
    }

    /// A failure to write `path`.
    pub fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Io { action: "write", path: path.to_owned(), source }
    }
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
