//! `harness run`, and the options of evaluation that it shares with `compare`.

use std::path::PathBuf;

use clap::Args;

use super::{PromptArgs, RemoteArgs, number::whole};

/// What is evaluated and how.
#[derive(Clone, Debug, Default, Args)]
pub struct EvaluationArgs {
    /// Tasks, groups or tags, separated by commas [default: the suite of the experiment]
    #[arg(long, short, value_delimiter = ',', value_name = "NAME")]
    pub tasks: Vec<String>,
    /// Only the first N documents of each task; below 1 a fraction of them
    #[arg(long, short = 'L', value_name = "N")]
    pub limit: Option<f64>,
    /// Examples before each question [default: the task's own number]
    #[arg(long, short = 'n', value_name = "K", value_parser = whole::<usize>)]
    pub num_fewshot: Option<usize>,
    /// Seed of the examples' sampler
    #[arg(long, value_name = "SEED", default_value_t = 1234)]
    pub fewshot_seed: i64,
    /// Folder of further task definitions; may be repeated
    #[arg(long, value_name = "DIR")]
    pub include_path: Vec<PathBuf>,
    /// Render prompts through each model's chat template
    #[arg(long)]
    pub apply_chat_template: bool,
    /// With a chat template: examples in one user message instead of turns of their own
    #[arg(long, requires = "apply_chat_template")]
    pub fewshot_in_one_turn: bool,
    /// How texts become prompts.
    #[command(flatten)]
    pub texts: PromptArgs,
    /// Text before everything else (the system message of a chat)
    #[arg(long, value_name = "TEXT")]
    pub system_instruction: Option<String>,
    /// Overrides of the tasks' generation settings, e.g. max_gen_toks=128,temperature=0.7
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub gen_kwargs: Vec<String>,
    /// The mark that ends the models' thinking, e.g. `</think>`: only what follows the last one is an answer, to which stop
    /// strings apply [default: each model's think_end_token in the experiment]
    #[arg(long, value_name = "MARK")]
    pub think_end_token: Option<String>,
    /// Memory for keys and values of shared prefixes and generated sequences, in MiB [default: 1024; 16384 on a GPU]
    #[arg(long, value_name = "MIB", value_parser = whole::<usize>)]
    pub kv_memory: Option<usize>,
    /// Tokens computed in one pass [default: 768; 16384 on a GPU]
    #[arg(long, value_name = "TOKENS", value_parser = whole::<usize>)]
    pub batch_tokens: Option<usize>,
    /// Sequences generated together [default: 64; 256 on a GPU]
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub batch_sequences: Option<usize>,
    /// Options of endpoints.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// Arguments of `harness run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// A name from the experiment, a folder in Hugging Face layout, a .gguf file, or an adapter folder
    pub model: String,
    /// What is evaluated.
    #[command(flatten)]
    pub evaluation: EvaluationArgs,
    /// Ask nothing: say how many requests and tokens there are, and how many of them are computed
    #[arg(long)]
    pub dry_run: bool,
    /// Write every document's requests, answers and scores, and the manifest, into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write results_*.json and samples_*.jsonl as lm-eval writes them, below this folder
    #[arg(long, value_name = "DIR")]
    pub lm_eval_output: Option<PathBuf>,
    /// Replicates of bootstrap standard errors in those files, drawn as lm-eval draws them; 0 for none
    #[arg(long, value_name = "N", default_value_t = 100_000, requires = "lm_eval_output")]
    pub bootstrap_iters: usize,
}
