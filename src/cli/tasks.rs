//! `harness tasks`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{PromptArgs, number::whole};

/// Arguments of `harness tasks`.
#[derive(Clone, Debug, Args)]
pub struct TasksArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TasksCommand,
    /// Folder with additional task definitions; may be repeated
    #[arg(long, global = true, value_name = "DIR")]
    pub include_path: Vec<PathBuf>,
}

/// What `harness tasks` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum TasksCommand {
    /// List tasks and groups
    List,
    /// Show the prompt of a document exactly as a model sees it
    Show {
        /// Name of the task
        task: String,
        /// Index of the document, from 0
        #[arg(long, default_value_t = 0, value_parser = whole::<usize>)]
        doc: usize,
        /// Number of few-shot examples [default: set by the task]
        #[arg(long, short = 'n', value_name = "K", value_parser = whole::<usize>)]
        num_fewshot: Option<usize>,
        /// Show the token boundaries of this model's tokenizer
        #[arg(long, value_name = "MODEL")]
        model: Option<String>,
        /// Apply the model's chat template to the prompt
        #[arg(long, requires = "model")]
        apply_chat_template: bool,
        /// Tokenizer, template and date.
        #[command(flatten)]
        texts: PromptArgs,
    },
    /// Check the task definitions in a folder
    Check {
        /// Folder to check
        dir: PathBuf,
    },
}
