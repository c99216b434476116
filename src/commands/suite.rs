//! The tasks of an evaluation, with their documents.

use std::sync::Arc;

use harness_store::{DataEntry, FileHashes, TaskEntry};
use harness_tasks::{BuildOptions, DeclarativeTask, FileData, Group, Limit, Prepared, Registry, Task as _};
use serde_json::{Map, Value};

use super::{App, Failure};
use crate::cli::EvaluationArgs;

/// Tasks with their data, and the groups they were asked for in.
pub(super) struct Suite {
    /// All tasks.
    pub tasks: Vec<Arc<DeclarativeTask>>,
    /// Groups that were named.
    pub groups: Vec<Group>,
    /// How requests are built.
    pub options: BuildOptions,
}

impl Suite {
    /// Loads the tasks that the arguments name, or those of the experiment's suite.
    ///
    /// # Errors
    /// If a task is unknown or wrong, or its data are missing.
    pub(super) fn load(app: &App, args: &EvaluationArgs) -> Result<Self, Failure> {
        let options = options(args)?;
        let names = if args.tasks.is_empty() { app.experiment.default_tasks()? } else { args.tasks.clone() };
        let registry = registry(app, &args.include_path)?;
        let selection = registry.select(&names)?;
        let source = Arc::new(FileData::new(app.locator()));
        let bar = app.progress().bar("load tasks", selection.tasks.len() as u64);
        let mut tasks = vec![];
        for task in &selection.tasks {
            tasks.push(Arc::new(registry.load(task, source.clone())?));
            bar.step();
        }
        let documents: usize = tasks.iter().map(|task| task.documents().len()).sum();
        bar.finish(&format!("{} tasks, {documents} documents", tasks.len()));
        Ok(Self { tasks, groups: selection.groups, options })
    }

    /// What the manifest says of the tasks.
    ///
    /// # Errors
    /// If a data file cannot be read.
    pub(super) fn entries(&self, prepared: &[Arc<Prepared>], hashes: &FileHashes) -> Result<Vec<TaskEntry>, Failure> {
        let mut entries = vec![];
        for (task, prepared) in self.tasks.iter().zip(prepared) {
            let mut data = vec![];
            for path in task.data_files().into_iter().filter(|path| path.is_file()) {
                data.push(DataEntry { hash: hashes.hash(&path)?, path });
            }
            entries.push(TaskEntry {
                id: task.id().to_owned(),
                version: task.version().to_owned(),
                definition: task.digest(),
                data,
                num_fewshot: prepared.num_fewshot,
                limit: self.options.limit.map(|limit| limit.of(prepared.available)),
                docs: prepared.documents.len(),
            });
        }
        Ok(entries)
    }
}

/// The built-in definitions with those of the experiment and the given folders.
pub(super) fn registry(app: &App, include: &[std::path::PathBuf]) -> Result<Registry, Failure> {
    let mut registry = Registry::builtin()?;
    for folder in &app.experiment.include_path {
        registry.add_folder(&app.experiment.folder.join(folder))?;
    }
    for folder in include {
        registry.add_folder(folder)?;
    }
    Ok(registry)
}

fn options(args: &EvaluationArgs) -> Result<BuildOptions, Failure> {
    let limit = match args.limit {
        None => None,
        Some(number) => {
            let limit = Limit::from_number(number).filter(|_| number < 1.0 || number.fract() == 0.0);
            Some(limit.ok_or_else(|| {
                Failure::usage(format!(
                    "--limit {number}: expected a whole number of documents, or a fraction between 0 and 1"
                ))
            })?)
        }
    };
    let mut generation_kwargs = Map::new();
    for pair in &args.gen_kwargs {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Failure::usage(format!("--gen-kwargs {pair}: expected KEY=VALUE")));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        generation_kwargs.insert(key.trim().to_owned(), value);
    }
    Ok(BuildOptions {
        limit,
        num_fewshot: args.num_fewshot,
        fewshot_seed: args.fewshot_seed,
        system_instruction: args.system_instruction.clone(),
        apply_chat_template: args.apply_chat_template,
        fewshot_as_multiturn: !args.fewshot_in_one_turn,
        generation_kwargs,
    })
}
