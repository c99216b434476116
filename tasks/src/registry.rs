//! All definitions by name: tasks, groups, tags.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    DeclarativeTask, OutputType, Place, TaskError, builtin,
    config::{TaskConfig, overlay},
    data::DataSource,
    group::{self, Group, Member},
    keys::{Keys, text},
    nearest::nearest,
    yaml::{self, Entry, Node, Yaml},
};

/// What a name stands for.
#[derive(Clone, Debug)]
enum Definition {
    Task(Node),
    Group(Node),
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

/// A task chosen by name, with what a group changes of it.
#[derive(Clone, Debug)]
pub struct TaskRef {
    /// Name of the task.
    pub id: String,
    node: Node,
}

/// What names stand for: leaf tasks in order, and the groups among the names.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// All leaf tasks, each once, in the order of the names.
    pub tasks: Vec<TaskRef>,
    /// The groups that were named, with everything in them.
    pub groups: Vec<Group>,
}

/// The definitions of the program and of the user's folders.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    texts: BTreeMap<PathBuf, String>,
    names: BTreeMap<String, Definition>,
    tags: BTreeMap<String, BTreeSet<String>>,
    broken: Vec<Arc<TaskError>>,
}

impl Registry {
    /// The definitions that are part of the program.
    ///
    /// # Errors
    /// If one of them cannot be read, which is a defect of the program.
    pub fn builtin() -> Result<Self, TaskError> {
        let mut registry = Self::default();
        for (name, text) in builtin::FILES.iter().filter(|(name, _)| name.ends_with(".yaml")) {
            registry.add(Path::new(&format!("{}/{name}", builtin::PREFIX)), text)?;
        }
        match registry.broken.pop().and_then(Arc::into_inner) {
            Some(error) => Err(error),
            None => Ok(registry),
        }
    }

    /// Adds every `.yaml` file of a folder and the folders in it. A file that cannot be read as a definition is kept in
    /// [`Registry::broken`] and hinders no other.
    ///
    /// # Errors
    /// If the folder cannot be read, or a name is defined twice.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), TaskError> {
        let failed = |path: &Path, source| TaskError::Read { path: path.to_owned(), source };
        let mut paths = std::fs::read_dir(folder)
            .map_err(|e| failed(folder, e))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| failed(folder, e))?;
        paths.sort();
        for path in paths {
            if path.is_dir() {
                self.add_folder(&path)?;
            } else if path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml") {
                let text = std::fs::read_to_string(&path).map_err(|e| failed(&path, e))?;
                self.add(&path, &text)?;
            }
        }
        Ok(())
    }

    /// Adds one file.
    ///
    /// # Errors
    /// If it cannot be read, is no definition, or defines a name again.
    pub fn add_file(&mut self, path: &Path) -> Result<(), TaskError> {
        let failed = |source| TaskError::Read { path: path.to_owned(), source };
        self.add_definition(path, &std::fs::read_to_string(path).map_err(failed)?)
    }

    /// Adds the text of a definition under a path, to which `include` and data files are relative.
    ///
    /// # Errors
    /// As [`Registry::add_file`].
    pub fn add_definition(&mut self, path: &Path, text: &str) -> Result<(), TaskError> {
        let before = self.broken.len();
        self.add(path, text)?;
        match self.broken.drain(before..).next().and_then(Arc::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn add(&mut self, path: &Path, text: &str) -> Result<(), TaskError> {
        let path = builtin::normal(path);
        self.texts.insert(path.clone(), text.to_owned());
        let definitions = match self.definitions(&path) {
            Ok(definitions) => definitions,
            Err(error) => {
                self.broken.push(Arc::new(error));
                return Ok(());
            }
        };
        for (name, definition, tags) in definitions {
            let at = definition.at().clone();
            if let Some(first) = self.names.get(&name) {
                return Err(TaskError::DuplicateName { name, first: first.at().clone(), second: at });
            }
            for tag in tags {
                self.tags.entry(tag).or_default().insert(name.clone());
            }
            self.names.insert(name, definition);
        }
        Ok(())
    }

    /// Names that a file defines; none for a file that is only included by others.
    fn definitions(&self, path: &Path) -> Result<Vec<(String, Definition, Vec<String>)>, TaskError> {
        let node = self.resolve(path, &mut Vec::new())?;
        let Yaml::Map(entries) = &node.value else {
            return node.error(format!("a definition must be a mapping, found {}", node.kind()));
        };
        let find = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
        let tags = |node: &Node| -> Result<Vec<String>, TaskError> {
            match &node.value {
                Yaml::Map(entries) => match entries.iter().find(|entry| entry.key == "tag").map(|entry| &entry.value) {
                    Some(Node { value: Yaml::List(items), .. }) => items.iter().map(|i| text("tag", i)).collect(),
                    Some(Node { value: Yaml::Null, .. }) | None => Ok(Vec::new()),
                    Some(node) => Ok(vec![text("tag", node)?]),
                },
                _ => Ok(Vec::new()),
            }
        };
        if let Some(list) = find("task_list") {
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
                    Ok((name, Definition::Task(node), tags))
                })
                .collect();
        }
        let local = yaml::parse(&path.display().to_string(), &self.text(path, &node.at)?)?;
        let has = |key: &str| matches!(&local.value, Yaml::Map(own) if own.iter().any(|entry| entry.key == key));
        match (find("group"), find("task")) {
            (Some(name), Some(Node { value: Yaml::List(_), .. })) => {
                let name = text("group", name)?;
                let tags = tags(&node)?;
                Ok(vec![(name, Definition::Group(node), tags)])
            }
            (None, Some(members @ Node { value: Yaml::List(_), .. })) => {
                members.error("a list of tasks needs the key group, which names it")
            }
            (_, Some(name)) if has("task") => {
                let name = text("task", name)?;
                let tags = tags(&node)?;
                Ok(vec![(name, Definition::Task(node), tags)])
            }
            _ => Ok(Vec::new()),
        }
    }

    fn text(&self, path: &Path, at: &Place) -> Result<std::borrow::Cow<'_, str>, TaskError> {
        if let Some(text) = self.texts.get(path) {
            return Ok(text.as_str().into());
        }
        if let Some(text) = builtin::text(path) {
            return Ok(text.into());
        }
        std::fs::read_to_string(path).map(Into::into).map_err(|error| TaskError::Definition {
            at: at.clone(),
            message: format!("cannot include {}: {error}", path.display()),
        })
    }

    /// The mapping of a file with everything it includes; local keys win, and earlier includes win over later ones.
    fn resolve(&self, path: &Path, stack: &mut Vec<PathBuf>) -> Result<Node, TaskError> {
        let file = path.display().to_string();
        let start = Place { file: file.as_str().into(), line: 1, column: 1 };
        self.resolve_from(path, &start, stack)
    }

    fn resolve_from(&self, path: &Path, from: &Place, stack: &mut Vec<PathBuf>) -> Result<Node, TaskError> {
        if stack.iter().any(|other| other == path) {
            let chain: Vec<String> = stack.iter().map(|path| path.display().to_string()).collect();
            let message = format!("the includes form a cycle: {} -> {}", chain.join(" -> "), path.display());
            return Err(TaskError::Definition { at: from.clone(), message });
        }
        let node = yaml::parse(&path.display().to_string(), &self.text(path, from)?)?;
        let Yaml::Map(local) = &node.value else { return Ok(node) };
        let Some(include) = local.iter().find(|entry| entry.key == "include") else { return Ok(node) };
        stack.push(path.to_owned());
        let names: Vec<&Node> = match &include.value.value {
            Yaml::List(items) => items.iter().collect(),
            _ => vec![&include.value],
        };
        let mut merged: Vec<Entry> = Vec::new();
        for name in names.into_iter().rev() {
            let target = builtin::normal(&path.parent().unwrap_or(Path::new("")).join(text("include", name)?));
            let base = self.resolve_from(&target, &name.at, stack)?;
            let Yaml::Map(entries) = &base.value else {
                return name.error(format!("{} holds {}, not a mapping", target.display(), base.kind()));
            };
            overlay(&mut merged, entries);
        }
        stack.pop();
        overlay(&mut merged, local);
        merged.retain(|entry| entry.key != "include");
        Ok(Node { value: Yaml::Map(merged), ..node.clone() })
    }

    /// Files that are no usable definitions.
    pub fn broken(&self) -> &[Arc<TaskError>] {
        &self.broken
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

    /// What names of tasks, groups and tags stand for; `*` matches any letters.
    ///
    /// # Errors
    /// If a name is unknown, or a group is wrong or contains itself.
    pub fn select<S: AsRef<str>>(&self, names: &[S]) -> Result<Selection, TaskError> {
        let mut selection = Selection::default();
        for name in names {
            let name = name.as_ref().trim();
            let matched: Vec<&str> = if name.contains('*') {
                self.names.keys().map(String::as_str).filter(|candidate| wildcard(name, candidate)).collect()
            } else {
                vec![name]
            };
            if matched.is_empty() {
                return Err(self.unknown(name));
            }
            for name in matched {
                self.choose(name, &mut selection)?;
            }
        }
        Ok(selection)
    }

    fn choose(&self, name: &str, selection: &mut Selection) -> Result<(), TaskError> {
        match self.names.get(name) {
            Some(Definition::Task(node)) => push(selection, name, node.clone()),
            Some(Definition::Group(node)) => {
                let group = self.group(node, selection, &mut Vec::new())?;
                if !selection.groups.iter().any(|other| other.name == group.name) {
                    selection.groups.push(group);
                }
            }
            None => {
                let tagged = self.tags.get(name).ok_or_else(|| self.unknown(name))?;
                tagged.iter().try_for_each(|name| self.choose(name, selection))?;
            }
        }
        Ok(())
    }

    /// A group with its members; its leaf tasks are added to the selection.
    fn group(&self, node: &Node, selection: &mut Selection, stack: &mut Vec<String>) -> Result<Group, TaskError> {
        let (mut group, members) = group::read(node)?;
        if stack.contains(&group.name) {
            return node.error(format!("the group {} contains itself: {}", group.name, stack.join(" -> ")));
        }
        stack.push(group.name.clone());
        for member in members {
            match &member.value {
                Yaml::Map(entries) if entries.iter().any(|e| e.key == "group") => {
                    group.members.push(Member::Group(self.group(member, selection, stack)?));
                }
                Yaml::Map(entries) => {
                    let Some(named) = entries.iter().find(|e| e.key == "task") else {
                        return member.error("a member of a group needs the key task or group");
                    };
                    let name = text("task", &named.value)?;
                    let mut merged = match self.names.get(&name) {
                        Some(Definition::Task(Node { value: Yaml::Map(base), .. })) => base.clone(),
                        _ => Vec::new(),
                    };
                    overlay(&mut merged, entries);
                    push(selection, &name, Node { value: Yaml::Map(merged), ..member.clone() });
                    group.members.push(Member::Task(name));
                }
                _ => {
                    let name = text("task", member)?;
                    match self.names.get(&name) {
                        Some(Definition::Task(node)) => {
                            push(selection, &name, node.clone());
                            group.members.push(Member::Task(name));
                        }
                        Some(Definition::Group(node)) => {
                            group.members.push(Member::Group(self.group(node, selection, stack)?));
                        }
                        None => match self.tags.get(&name) {
                            Some(tagged) => {
                                for name in tagged {
                                    self.choose(name, selection)?;
                                    group.members.push(Member::Task(name.clone()));
                                }
                            }
                            None => return member.error(self.unknown(&name).to_string()),
                        },
                    }
                }
            }
        }
        stack.pop();
        Ok(group)
    }

    fn unknown(&self, name: &str) -> TaskError {
        let names = self.names.keys().chain(self.tags.keys()).map(String::as_str);
        TaskError::UnknownTask { name: name.to_owned(), nearest: nearest(name, names) }
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

fn push(selection: &mut Selection, name: &str, node: Node) {
    if !selection.tasks.iter().any(|task| task.id == name) {
        selection.tasks.push(TaskRef { id: name.to_owned(), node });
    }
}

/// Whether a pattern with `*` matches the whole of a name.
fn wildcard(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
