//! `harness run`, and the options of evaluation that it shares with `compare`.

use std::path::PathBuf;

use clap::Args;

use super::{LimitArgs, PromptArgs, RemoteArgs, number::whole};

/// What is evaluated and how.
#[derive(Clone, Debug, Default, Args)]
pub struct EvaluationArgs {
    /// Tasks, groups or tags, separated by commas [default: the suite in harness.toml]
    #[arg(long, short, value_delimiter = ',', value_name = "NAME")]
    pub tasks: Vec<String>,
    /// Limit to N documents per task (a value below 1 is a fraction)
    #[arg(long, short = 'L', value_name = "N")]
    pub limit: Option<f64>,
    /// Number of few-shot examples [default: set by the task]
    #[arg(long, short = 'n', value_name = "K", value_parser = whole::<usize>)]
    pub num_fewshot: Option<usize>,
    /// Random seed for choosing few-shot examples
    #[arg(long, value_name = "SEED", default_value_t = 1234)]
    pub fewshot_seed: i64,
    /// Folder with additional task definitions; may be repeated
    #[arg(long, value_name = "DIR")]
    pub include_path: Vec<PathBuf>,
    /// Apply each model's chat template to prompts
    #[arg(long)]
    pub apply_chat_template: bool,
    /// With a chat template: put all few-shot examples into one user message instead of separate turns
    #[arg(long, requires = "apply_chat_template")]
    pub fewshot_in_one_turn: bool,
    /// Tokenizer, template and date.
    #[command(flatten)]
    pub texts: PromptArgs,
    /// Text before each prompt (the system message with a chat template)
    #[arg(long, value_name = "TEXT")]
    pub system_instruction: Option<String>,
    /// Override the tasks' generation settings, e.g. max_gen_toks=128,temperature=0.7
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub gen_kwargs: Vec<String>,
    /// Mark that ends a model's thinking, e.g. `</think>`; only the text after the last mark is the answer, and stop
    /// strings apply only there [default: each model's think_end_token in harness.toml]
    #[arg(long, value_name = "MARK")]
    pub think_end_token: Option<String>,
    /// Bounds on memory and batches.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Options of endpoints.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// Arguments of `harness run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Model: a name from harness.toml, a Hugging Face folder, a .gguf file, or a PEFT adapter folder
    pub model: String,
    /// What is evaluated.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// Count requests and tokens without running the model
    #[arg(long)]
    pub dry_run: bool,
    /// Write the requests, answers and scores of every document, and the manifest, to this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write results_*.json and samples_*.jsonl in lm-eval's format below this folder
    #[arg(long, value_name = "DIR")]
    pub lm_eval_output: Option<PathBuf>,
    /// Number of bootstrap replicates for the standard errors in lm-eval files; 0 for none
    #[arg(long, value_name = "N", default_value_t = 100_000, requires = "lm_eval_output")]
    pub bootstrap_iters: usize,
}
