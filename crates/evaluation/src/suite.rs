//! The tasks of an evaluation, with their documents.

use std::{collections::BTreeMap, sync::Arc};

use harness_metrics::comparison::counted;
use harness_store::{DataEntry, FileHashes, TaskEntry};
use harness_tasks::{BuildOptions, DeclarativeTask, FileData, Group, Limit, Prepared, Registry, Task as _, TaskError};

use crate::{EvaluationError, Session, options::EvaluationOptions};

/// How many definitions that cannot be used are named one by one.
const SHOWN_BROKEN: usize = 8;

/// Tasks with their data, and the groups they were asked for in.
pub struct Suite {
    /// All tasks.
    pub tasks: Vec<Arc<DeclarativeTask>>,
    /// Groups that were named.
    pub groups: Vec<Group>,
    /// How requests are built, for the tasks without a limit of their own.
    options: BuildOptions,
    /// Limits of single tasks, in the order of the tasks.
    limits: Vec<Option<Limit>>,
    /// The tasks, groups and tags that were asked for.
    names: Vec<String>,
}

impl Suite {
    /// Loads the tasks that the options name, or those of the experiment's suite.
    ///
    /// # Errors
    /// If a task is unknown or wrong, or its data are missing.
    pub fn load(session: &Session, options: &EvaluationOptions) -> Result<Self, EvaluationError> {
        let (names, limits) = if options.tasks.is_empty() {
            let suite = session.experiment.default_suite()?;
            (suite.tasks.clone(), suite.limits.clone())
        } else {
            (options.tasks.clone(), BTreeMap::new())
        };
        let registry = registry(session, &options.include_path)?;
        for note in registry.notes() {
            session.note(note);
        }
        let broken = registry.broken();
        for error in broken.iter().take(SHOWN_BROKEN) {
            session.note(format!("left out: {error}"));
        }
        if broken.len() > SHOWN_BROKEN {
            let more = broken.len() - SHOWN_BROKEN;
            session.note(format!("left out: {more} more definitions; `harness tasks check DIR` shows them all"));
        }
        let mut selection = registry.select(&names)?;
        let source = Arc::new(FileData::new(session.locator()));
        let bar = session.stage("load tasks", selection.tasks.len() as u64);
        let mut tasks = vec![];
        // A task that needs Python is left out with a message; the others are run.
        let mut left_out = vec![];
        for task in &selection.tasks {
            match registry.load(task, source.clone()) {
                Ok(task) => tasks.push(Arc::new(task)),
                Err(error @ TaskError::NeedsPython { .. }) if selection.tasks.len() > left_out.len() + 1 => {
                    session.note(format!("{} is left out: {error}", task.id));
                    left_out.push(task.id.clone());
                }
                Err(error) => return Err(error.into()),
            }
            bar.step();
        }
        selection.remove(&left_out);
        let documents: usize = tasks.iter().map(|task| task.documents().len()).sum();
        bar.finish(&format!("{}, {}", counted(tasks.len(), "task"), counted(documents, "document")));
        let limits = if options.build.limit.is_some() { BTreeMap::new() } else { limits };
        let limits = own_limits(&limits, &tasks, &selection.groups)?;
        Ok(Self { tasks, groups: selection.groups, options: options.build.clone(), limits, names })
    }

    /// How the requests of a task are built.
    pub fn options(&self, task: usize) -> BuildOptions {
        BuildOptions { limit: self.limits[task].or(self.options.limit), ..self.options.clone() }
    }

    /// The same for a model whose thinking ends with this mark, unless the options name another.
    pub fn options_of(&self, task: usize, think_end_token: Option<&str>) -> BuildOptions {
        let options = self.options(task);
        let think_end_token = options.think_end_token.or_else(|| think_end_token.map(str::to_owned));
        BuildOptions { think_end_token, ..options }
    }

    /// The same suite with the given number of first documents of each task, in the order of the tasks.
    pub fn with_documents(&self, documents: &[usize]) -> Self {
        Self {
            tasks: self.tasks.clone(),
            groups: self.groups.clone(),
            options: self.options.clone(),
            limits: documents.iter().map(|&count| Some(Limit::Count(count))).collect(),
            names: self.names.clone(),
        }
    }

    /// The same suite without these tasks; groups that lose all of their tasks go with them.
    pub fn without(self, ids: &[String]) -> Self {
        let Self { tasks, mut groups, options, limits, names } = self;
        groups.retain_mut(|group| group.remove(ids));
        let kept = tasks.into_iter().zip(limits).filter(|(task, _)| !ids.iter().any(|id| id == task.id()));
        let (tasks, limits) = kept.unzip();
        Self { tasks, groups, options, limits, names }
    }

    /// Whether prompts are rendered through the model's chat template.
    pub fn uses_chat_template(&self) -> bool {
        self.options.apply_chat_template
    }

    /// The tasks, groups and tags that were asked for, for the manifest.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The requests of a task without a chat template.
    ///
    /// # Errors
    /// If a document does not fit the task's templates.
    pub fn plain(&self, task: usize) -> Result<Prepared, TaskError> {
        self.tasks[task].build(&BuildOptions { apply_chat_template: false, ..self.options(task) }, None)
    }

    /// What all tasks have in common, for the manifest.
    pub fn common_options(&self) -> &BuildOptions {
        &self.options
    }

    /// What the manifest says of the tasks.
    ///
    /// # Errors
    /// If a data file cannot be read.
    pub fn entries(
        &self,
        prepared: &[Arc<Prepared>],
        hashes: &FileHashes,
    ) -> Result<Vec<(TaskEntry, Vec<DataEntry>)>, EvaluationError> {
        let mut entries = vec![];
        for (number, (task, prepared)) in self.tasks.iter().zip(prepared).enumerate() {
            let mut data = vec![];
            for path in task.data_files().into_iter().filter(|path| path.is_file()) {
                data.push(DataEntry { hash: hashes.hash(&path)?, path });
            }
            let entry = TaskEntry {
                id: task.id().to_owned(),
                version: task.version().to_owned(),
                definition: task.digest(),
                data: data.iter().map(|file| file.hash).collect(),
                num_fewshot: prepared.num_fewshot,
                limit: self.options(number).limit.map(|limit| limit.of(prepared.available)),
                docs: prepared.documents.len(),
            };
            entries.push((entry, data));
        }
        Ok(entries)
    }
}

/// The limits of a suite by task: given for the task itself, or for a group that holds it.
fn own_limits(
    limits: &BTreeMap<String, f64>,
    tasks: &[Arc<DeclarativeTask>],
    groups: &[Group],
) -> Result<Vec<Option<Limit>>, EvaluationError> {
    let mut own = vec![None; tasks.len()];
    for (name, &number) in limits {
        let limit = Limit::from_number(number).ok_or_else(|| {
            EvaluationError::usage(format!(
                "limits: {name} = {number}: expected a number of documents, or a fraction between 0 and 1"
            ))
        })?;
        let group = groups.iter().find(|group| group.name == *name);
        let members: Vec<&str> = group.map_or_else(|| vec![name.as_str()], Group::leaves);
        let of_task: Vec<usize> = (0..tasks.len()).filter(|&task| members.contains(&tasks[task].id())).collect();
        of_task.iter().for_each(|&task| own[task] = Some(limit));
        if of_task.is_empty() {
            return Err(EvaluationError::usage(format!("limits: {name} is not a task or group of the suite")));
        }
    }
    Ok(own)
}

/// The built-in definitions with those of the experiment and the given folders.
pub fn registry(session: &Session, include: &[std::path::PathBuf]) -> Result<Registry, EvaluationError> {
    let mut registry = Registry::builtin()?;
    for folder in &session.experiment.include_path {
        registry.add_folder(&session.experiment.folder.join(folder))?;
    }
    for folder in include {
        registry.add_folder(folder)?;
    }
    Ok(registry)
}
