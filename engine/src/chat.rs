//! Chat templates: Jinja as Hugging Face's tokenizers write it.

use harness_core::Digest;

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    digest: Digest,
}
