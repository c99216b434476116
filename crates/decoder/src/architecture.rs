//! The names of families.

/// A family of decoder-only models that one configurable block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Architecture(&'static str);

impl Architecture {
    /// Llama 1, 2 and 3, DeepSeek-LLM, SmolLM.
    pub const LLAMA: Self = Self("llama");
    /// Mistral: Llama with a sliding window.
    pub const MISTRAL: Self = Self("mistral");
    /// Mixtral: Mistral with a mixture of experts.
    pub const MIXTRAL: Self = Self("mixtral");
    /// Qwen 2 and 2.5: biases on q, k and v.
    pub const QWEN2: Self = Self("qwen2");
    /// Qwen 3: RMS norms on the heads of q and k.
    pub const QWEN3: Self = Self("qwen3");

    /// That of a family in the list.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name in `config.json` (`model_type`).
    pub fn name(self) -> &'static str {
        self.0
    }
}
