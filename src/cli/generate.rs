//! `harness generate`.

use clap::Args;
use harness_core::Sampling;

use super::{PromptArgs, number::whole};

/// How tokens are chosen.
#[derive(Clone, Debug, Args)]
pub struct SamplingArgs {
    /// Most tokens generated
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole::<usize>)]
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f64,
    /// Only the K most probable tokens
    #[arg(long, value_name = "K", value_parser = whole::<usize>)]
    pub top_k: Option<usize>,
    /// Only the most probable tokens that make up this probability
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Only tokens at least this probable relative to the best
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,
    /// Divisor of the logits of tokens already present
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f64,
    /// Seed of sampling
    #[arg(long, default_value_t = 0, value_parser = whole::<u64>)]
    pub seed: u64,
    /// Strings that end the generation; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// The mark that ends the model's thinking, e.g. `</think>`: stop strings apply to what follows it [default: the
    /// model's think_end_token in the experiment]
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
    /// A name from the experiment, a folder in Hugging Face layout, a .gguf file, or an adapter folder
    pub model: String,
    /// The prompt; `-` reads prompts from standard input, one a line
    #[arg(long, short, value_name = "TEXT")]
    pub prompt: String,
    /// Put the prompt as a user's message into the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// System message of the chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// How texts become prompts.
    #[command(flatten)]
    pub texts: PromptArgs,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}
