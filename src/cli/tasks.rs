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
    /// Folder of further task definitions; may be repeated
    #[arg(long, global = true, value_name = "DIR")]
    pub include_path: Vec<PathBuf>,
}

/// What `harness tasks` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum TasksCommand {
    /// List tasks and groups
    List,
    /// Show a document's prompt as a model will see it
    Show {
        /// The task
        task: String,
        /// Number of the document, from 0
        #[arg(long, default_value_t = 0, value_parser = whole::<usize>)]
        doc: usize,
        /// Examples before the question [default: the task's own number]
        #[arg(long, short = 'n', value_name = "K", value_parser = whole::<usize>)]
        num_fewshot: Option<usize>,
        /// Show token boundaries of this model's tokenizer
        #[arg(long, value_name = "MODEL")]
        model: Option<String>,
        /// Render the prompt through the model's chat template
        #[arg(long, requires = "model")]
        apply_chat_template: bool,
        /// How texts become prompts.
        #[command(flatten)]
        texts: PromptArgs,
    },
    /// Check the definitions in a folder
    Check {
        /// The folder
        dir: PathBuf,
    },
}
