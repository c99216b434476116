//! `harness generate`.

use clap::Args;
use harness_core::Sampling;

use super::{PromptArgs, number::whole};

/// How tokens are chosen.
#[derive(Clone, Debug, Args)]
pub struct SamplingArgs {
    /// Maximum number of tokens to generate
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole::<usize>)]
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 means greedy decoding
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f64,
    /// Sample only from the K most probable tokens
    #[arg(long, value_name = "K", value_parser = whole::<usize>)]
    pub top_k: Option<usize>,
    /// Sample only from the most probable tokens whose probabilities add up to P
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Sample only from tokens with at least P times the probability of the most probable one
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,
    /// Repetition penalty: divides the logits of tokens that already occur
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f64,
    /// Random seed for sampling
    #[arg(long, default_value_t = 0, value_parser = whole::<u64>)]
    pub seed: u64,
    /// Stop string; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Mark that ends the model's thinking, e.g. `</think>`; stop strings apply only after it [default: the model's
    /// think_end_token in harness.toml]
    #[arg(long, value_name = "MARK")]
    pub think_end_token: Option<String>,
}

impl SamplingArgs {
    /// As the sampling of requests to a model whose thinking ends with this mark.
    pub fn sampling(&self, think_end: Option<&str>) -> Sampling {
        let think_end = self.think_end_token.as_deref().or(think_end).filter(|mark| !mark.is_empty());
        Sampling {
            think_end: think_end.map(str::to_owned),
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            ..Sampling::default()
        }
    }
}

/// Arguments of `harness generate`.
#[derive(Clone, Debug, Args)]
pub struct GenerateArgs {
    /// Model: a name from harness.toml, a Hugging Face folder, a .gguf file, or a PEFT adapter folder
    pub model: String,
    /// The prompt; `-` reads one prompt per line from standard input
    #[arg(long, short, value_name = "TEXT")]
    pub prompt: String,
    /// Send the prompt as a user message through the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// System message for --chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Tokenizer, template and date.
    #[command(flatten)]
    pub texts: PromptArgs,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}
