//! All definitions by name: tasks, groups, tags.

mod check;
mod select;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use harness_core::nearest_few;
use rayon::prelude::*;

pub use check::{CheckReport, PythonNeed};
pub use select::{Selection, TaskRef, wildcard};

use crate::{
    DeclarativeTask, OutputType, Place, TaskError, builtin,
    config::{TaskConfig, overlay},
    data::DataSource,
    files::{Files, definition_files, utf8},
    keys::{Keys, text},
    yaml::{Entry, Node, Yaml},
};

/// What a name stands for.
#[derive(Clone, Debug)]
enum Definition {
    Task(Arc<Node>),
    Group(Arc<Node>),
}

/// What there is to know about a task without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its name.
    pub id: String,
    /// Its name in tables.
    pub alias: String,
    /// Version of the definition.
    pub version: String,
    /// What it asks.
    pub output_type: OutputType,
    /// Examples before each question.
    pub num_fewshot: usize,
    /// Metrics with their filters, as in results.
    pub metrics: Vec<String>,
    /// Data set it reads.
    pub dataset: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Where it is defined.
    pub at: Place,
}

/// The definitions of the program and of the user's folders.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    files: Arc<Files>,
    names: BTreeMap<String, Definition>,
    tags: BTreeMap<String, BTreeSet<String>>,
    broken: Vec<Arc<TaskError>>,
    notes: Vec<String>,
    read: usize,
}

/// A name that a file defines, and its tags.
type Named = (String, Definition, Vec<String>);

impl Registry {
    /// The definitions that are part of the program.
    ///
    /// # Errors
    /// If one of them cannot be read, which is a defect of the program.
    pub fn builtin() -> Result<Self, TaskError> {
        let mut registry = Self::default();
        for (name, text) in builtin::FILES.iter().filter(|(name, _)| name.ends_with(".yaml")) {
            registry.add_definition(Path::new(&format!("{}/{name}", builtin::PREFIX)), text)?;
        }
        registry.read = 0;
        Ok(registry)
    }

    /// Adds every `.yaml` file of a folder and the folders in it. A file that cannot be read as a definition, or that
    /// defines a name again that an earlier one of the folder has, is kept in [`Registry::broken`] and hinders no other.
    /// A name from before (built in, or of another folder) is replaced, which [`Registry::notes`] tells.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), TaskError> {
        let paths: Vec<PathBuf> = definition_files(folder)?.iter().map(|path| builtin::normal(path)).collect();
        let read: Vec<Result<(), TaskError>> = paths
            .par_iter()
            .map(|path| {
                let bytes =
                    harness_core::read_file(path).map_err(|source| TaskError::Read { path: path.clone(), source })?;
                let text = utf8(path, bytes).map_err(|(at, message)| TaskError::Definition { at, message })?;
                self.files.insert(path, &text);
                Ok(())
            })
            .collect();
        let defined: Vec<Result<Vec<Named>, TaskError>> =
            paths.par_iter().zip(read).map(|(path, read)| read.and_then(|()| self.definitions(path))).collect();
        self.read += paths.len();
        let before: BTreeSet<String> = self.names.keys().cloned().collect();
        for result in defined {
            match result {
                Ok(named) => self.insert(named, &before),
                Err(error) => self.broken.push(Arc::new(error)),
            }
        }
        Ok(())
    }

    fn insert(&mut self, named: Vec<Named>, before: &BTreeSet<String>) {
        for (name, definition, tags) in named {
            let at = definition.at().clone();
            match self.names.get(&name) {
                Some(first) if before.contains(&name) => {
                    self.notes.push(format!("{at}: {name} replaces the definition at {}", first.at()));
                    self.tags.values_mut().for_each(|names| {
                        names.remove(&name);
                    });
                }
                Some(first) => {
                    let first = first.at().clone();
                    self.broken.push(Arc::new(TaskError::DuplicateName { name, first, second: at }));
                    continue;
                }
                None => {}
            }
            for tag in tags {
                self.tags.entry(tag).or_default().insert(name.clone());
            }
            self.names.insert(name, definition);
        }
    }

    /// Adds one file.
    ///
    /// # Errors
    /// If it cannot be read, is no definition, or defines a name again.
    pub fn add_file(&mut self, path: &Path) -> Result<(), TaskError> {
        let bytes =
            harness_core::read_file(path).map_err(|source| TaskError::Read { path: path.to_owned(), source })?;
        let text = utf8(path, bytes).map_err(|(at, message)| TaskError::Definition { at, message })?;
        self.add_definition(path, &text)
    }

    /// Adds the text of a definition under a path, to which `include` and data files are relative.
    ///
    /// # Errors
    /// As [`Registry::add_file`].
    pub fn add_definition(&mut self, path: &Path, text: &str) -> Result<(), TaskError> {
        let path = builtin::normal(path);
        self.files.insert(&path, text);
        self.read += 1;
        let broken = self.broken.len();
        let named = self.definitions(&path)?;
        self.insert(named, &BTreeSet::new());
        match self.broken.drain(broken..).next().and_then(Arc::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Names that a file defines; none for a file that is only included by others.
    fn definitions(&self, path: &Path) -> Result<Vec<Named>, TaskError> {
        let node = self.files.resolve(path)?;
        let Yaml::Map(entries) = &node.value else {
            return node.error(format!("a definition must be a mapping, found {}", node.kind()));
        };
        if let Some(list) = node.get("task_list") {
            let Yaml::List(items) = &list.value else {
                return list.error(format!("task_list must be a list, found {}", list.kind()));
            };
            let base: Vec<Entry> = entries.iter().filter(|entry| entry.key != "task_list").cloned().collect();
            return items
                .iter()
                .map(|item| {
                    let Yaml::Map(local) = &item.value else {
                        return item.error(format!("task_list must hold mappings, found {}", item.kind()));
                    };
                    let mut merged = base.clone();
                    overlay(&mut merged, local);
                    let node = Node { value: Yaml::Map(merged), ..item.clone() };
                    let keys = Keys::of(&node, "a task", crate::keys::TASK_KEYS)?;
                    let name = keys.require("task").and_then(|node| text("task", node))?;
                    let tags = tags(&node)?;
                    Ok((name, Definition::Task(Arc::new(node)), tags))
                })
                .collect();
        }
        // In earlier versions a task named the groups it belongs to.
        let is_task = node.get("doc_to_text").is_some();
        // A name that comes from an included file is that file's.
        let local = self.files.tree(path, &node.at)?;
        let named = |key: &str| node.get(key).filter(|_| local.get(key).is_some());
        match (named("group"), node.get("task")) {
            (Some(group), task)
                if !is_task || task.is_none_or(|task| matches!(task.value, Yaml::List(_) | Yaml::Null)) =>
            {
                let name = text("group", group)?;
                Ok(vec![(name, Definition::Group(Arc::new(node)), Vec::new())])
            }
            (None, Some(members @ Node { value: Yaml::List(_), .. })) if local.get("task").is_some() => {
                members.error("a list of tasks needs the key group, which names it")
            }
            _ => match named("task") {
                Some(Node { value: Yaml::Null, .. }) | None => Ok(Vec::new()),
                Some(name) => {
                    let name = text("task", name)?;
                    let tags = tags(&node)?;
                    Ok(vec![(name, Definition::Task(Arc::new(node)), tags)])
                }
            },
        }
    }

    /// Files that are no usable definitions.
    pub fn broken(&self) -> &[Arc<TaskError>] {
        &self.broken
    }

    /// What is allowed but worth knowing: names that replace others, keys given twice.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        notes.extend(self.files.notes());
        notes
    }

    /// Names of all tasks.
    pub fn tasks(&self) -> Vec<&str> {
        self.of_kind(|definition| matches!(definition, Definition::Task(_)))
    }

    /// Names of all groups.
    pub fn groups(&self) -> Vec<&str> {
        self.of_kind(|definition| matches!(definition, Definition::Group(_)))
    }

    fn of_kind(&self, wanted: impl Fn(&Definition) -> bool) -> Vec<&str> {
        self.names.iter().filter(|(_, definition)| wanted(definition)).map(|(name, _)| name.as_str()).collect()
    }

    /// All tags with the names that bear them.
    pub fn tags(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.tags
    }

    /// Reads a task's definition without its data.
    ///
    /// # Errors
    /// If the name is unknown or the definition is wrong.
    pub fn info(&self, name: &str) -> Result<TaskInfo, TaskError> {
        let Some(Definition::Task(node)) = self.names.get(name) else { return Err(self.unknown(name)) };
        let config = TaskConfig::read(node)?;
        let filters: Vec<&str> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
        let metrics = filters
            .iter()
            .flat_map(|filter| config.metrics.iter().map(move |metric| metric.key(filter).to_string()))
            .collect();
        Ok(TaskInfo {
            id: config.id,
            alias: config.alias,
            version: config.version,
            output_type: config.output_type,
            num_fewshot: config.num_fewshot.unwrap_or(0),
            metrics,
            dataset: config.dataset.path.or_else(|| config.dataset.aliases.first().cloned()).unwrap_or_default(),
            tags: config.tags,
            at: node.at.clone(),
        })
    }

    fn unknown(&self, name: &str) -> TaskError {
        let names = self.names.keys().chain(self.tags.keys()).map(String::as_str);
        let unusable = self.broken.iter().map(ToString::to_string).collect();
        TaskError::UnknownTask { name: name.to_owned(), nearest: nearest_few(name, names), unusable }
    }

    /// Loads a task of a selection with its documents.
    ///
    /// # Errors
    /// If the definition is wrong, the data are missing, or the first document does not fit.
    pub fn load(&self, task: &TaskRef, source: Arc<dyn DataSource>) -> Result<DeclarativeTask, TaskError> {
        DeclarativeTask::load(TaskConfig::read(&task.node)?, source)
    }

    /// Loads one task by name.
    ///
    /// # Errors
    /// As [`Registry::load`]; if the name is no task's.
    pub fn load_by_name(&self, name: &str, source: Arc<dyn DataSource>) -> Result<DeclarativeTask, TaskError> {
        match self.names.get(name) {
            Some(Definition::Task(node)) => DeclarativeTask::load(TaskConfig::read(node)?, source),
            _ => Err(self.unknown(name)),
        }
    }
}

impl Definition {
    fn at(&self) -> &Place {
        match self {
            Self::Task(node) | Self::Group(node) => &node.at,
        }
    }
}

/// `tag`, and a `group` that is only a name, as tasks bore it in earlier versions.
fn tags(node: &Node) -> Result<Vec<String>, TaskError> {
    let mut tags = match node.get("tag") {
        Some(Node { value: Yaml::List(items), .. }) => {
            items.iter().map(|item| text("tag", item)).collect::<Result<_, _>>()?
        }
        Some(Node { value: Yaml::Null, .. }) | None => Vec::new(),
        Some(node) => vec![text("tag", node)?],
    };
    match node.get("group") {
        Some(Node { value: Yaml::List(items), .. }) => {
            tags.extend(items.iter().map(|item| text("group", item)).collect::<Result<Vec<_>, _>>()?);
        }
        Some(Node { value: Yaml::Null, .. }) | None => {}
        Some(node) => tags.push(text("group", node)?),
    }
    Ok(tags)
}
