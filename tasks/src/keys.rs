//! The keys of definition files and how their values are read.

use harness_core::nearest_few;
use serde_json::{Map, Value};

use crate::{
    Place, TaskError,
    error::suggest,
    yaml::{Entry, Node, Yaml},
};

/// Keys of a task; the meaning is lm-eval's, `local` apart, which is this program's own.
pub(crate) const TASK_KEYS: &[&str] = &[
    "task",
    "task_alias",
    "tag",
    "group",
    "include",
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "description",
    "target_delimiter",
    "fewshot_delimiter",
    "fewshot_config",
    "num_fewshot",
    "metric_list",
    "output_type",
    "generation_kwargs",
    "repeats",
    "filter_list",
    "should_decontaminate",
    "doc_to_decontamination_query",
    "gen_prefix",
    "metadata",
    "unsafe_code",
    "task_list",
    "local",
    "process_docs",
    "process_results",
    "custom_dataset",
    "class",
    "doc_to_image",
    "doc_to_audio",
    "use_prompt",
];

/// Keys whose values are always Python, images, sound, or another library's prompts.
pub(crate) const PYTHON_KEYS: &[&str] =
    &["process_docs", "process_results", "custom_dataset", "class", "doc_to_image", "doc_to_audio", "use_prompt"];

/// Keys of a group.
pub(crate) const GROUP_KEYS: &[&str] = &[
    "group",
    "group_alias",
    "task",
    "aggregate_metric_list",
    "aggregate_metric",
    "metadata",
    "include",
    "tag",
    "task_alias",
];

/// A mapping whose keys are taken one by one; what is left at the end is unknown.
pub(crate) struct Keys<'a> {
    what: &'a str,
    at: &'a Place,
    entries: &'a [Entry],
}

impl<'a> Keys<'a> {
    /// The mapping of a node, all of whose keys must be among `known`.
    pub(crate) fn of(node: &'a Node, what: &'a str, known: &[&str]) -> Result<Self, TaskError> {
        let Yaml::Map(entries) = &node.value else {
            return node.error(format!("{what} must be a mapping, found {}", node.kind()));
        };
        check_keys(entries, what, known)?;
        Ok(Self { what, at: &node.at, entries })
    }

    /// The value of a key; `null` counts as absent, and a Python function is an error.
    pub(crate) fn get(&self, key: &str) -> Result<Option<&'a Node>, TaskError> {
        let Some(entry) = self.entries.iter().find(|entry| entry.key == key) else { return Ok(None) };
        python(key, &entry.value)?;
        Ok((!matches!(entry.value.value, Yaml::Null)).then_some(&entry.value))
    }

    /// The value of a key as it stands, functions included; `null` counts as absent.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (!matches!(entry.value.value, Yaml::Null)).then_some(&entry.value)
    }

    /// The value of a key that must be there.
    pub(crate) fn require(&self, key: &str) -> Result<&'a Node, TaskError> {
        match self.get(key)? {
            Some(node) => Ok(node),
            None => Err(TaskError::Definition {
                at: self.at.clone(),
                message: format!("{} lacks the key {key}", self.what),
            }),
        }
    }

    /// A string; numbers and truth values are taken as written.
    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, TaskError> {
        self.get(key)?.map(|node| text(key, node)).transpose()
    }

    /// An integer from 0 on.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, TaskError> {
        self.get(key)?
            .map(|node| match node.value {
                Yaml::Int(i) if i >= 0 => Ok(i as usize),
                _ => node.error(format!("{key} must be an integer of at least 0, found {}", shown(node))),
            })
            .transpose()
    }

    /// A truth value.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, TaskError> {
        self.get(key)?
            .map(|node| match node.value {
                Yaml::Bool(b) => Ok(b),
                _ => node.error(format!("{key} must be true or false, found {}", shown(node))),
            })
            .transpose()
    }

    /// One string or a list of strings.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<String>, TaskError> {
        match self.get(key)? {
            None => Ok(Vec::new()),
            Some(Node { value: Yaml::List(items), .. }) => items.iter().map(|item| text(key, item)).collect(),
            Some(node) => Ok(vec![text(key, node)?]),
        }
    }

    /// A list.
    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a [Node]>, TaskError> {
        self.get(key)?
            .map(|node| match &node.value {
                Yaml::List(items) => Ok(items.as_slice()),
                _ => node.error(format!("{key} must be a list, found {}", shown(node))),
            })
            .transpose()
    }

    /// A mapping as JSON.
    pub(crate) fn map(&self, key: &str) -> Result<Option<Map<String, Value>>, TaskError> {
        self.get(key)?
            .map(|node| match node.json() {
                Value::Object(map) => Ok(map),
                _ => node.error(format!("{key} must be a mapping, found {}", shown(node))),
            })
            .transpose()
    }
}

/// Fails at the first key that is not known, naming the nearest one.
pub(crate) fn check_keys(entries: &[Entry], what: &str, known: &[&str]) -> Result<(), TaskError> {
    let Some(entry) = entries.iter().find(|entry| !known.contains(&entry.key.as_str())) else { return Ok(()) };
    let close = nearest_few(&entry.key, known.iter().copied());
    let hint = if close.is_empty() { format!("; known keys: {}", known.join(", ")) } else { suggest(&close) };
    Err(TaskError::Definition { at: entry.at.clone(), message: format!("unknown key {:?} in {what}{hint}", entry.key) })
}

/// Fails where a value needs Python.
pub(crate) fn python(key: &str, node: &Node) -> Result<(), TaskError> {
    match node.first_tag() {
        Some((tagged, "function")) => Err(TaskError::NeedsPython {
            at: tagged.at.clone(),
            key: key.to_owned(),
            function: tagged.json().as_str().unwrap_or("?").to_owned(),
        }),
        Some((tagged, tag)) => tagged.error(format!("unknown tag !{tag}; only !function is known (and not run)")),
        None => Ok(()),
    }
}

/// A string; numbers and truth values are taken as written.
pub(crate) fn text(key: &str, node: &Node) -> Result<String, TaskError> {
    match &node.value {
        Yaml::Text(text) => Ok(text.clone()),
        Yaml::Int(_) | Yaml::Float(_) | Yaml::Bool(_) => Ok(harness_python::str(&node.json())),
        _ => node.error(format!("{key} must be a string, found {}", shown(node))),
    }
}

/// What was found, for messages.
pub(crate) fn shown(node: &Node) -> String {
    match &node.value {
        Yaml::Null | Yaml::List(_) | Yaml::Map(_) => node.kind().to_owned(),
        _ => format!("{} {}", node.kind(), node.json()),
    }
}
