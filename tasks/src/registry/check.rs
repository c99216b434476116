//! What of a folder of definitions can be used.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use super::{Definition, Registry};
use crate::{TaskError, config::TaskConfig, group, native};

/// What of a registry's files can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Files read.
    pub files: usize,
    /// Files that are YAML and whose includes resolve.
    pub parsed: usize,
    /// Tasks defined.
    pub tasks: usize,
    /// Tasks that can be run.
    pub runnable: usize,
    /// Groups defined.
    pub groups: usize,
    /// Tasks whose Python functions this program has of its own.
    pub native: usize,
    /// Tasks that need Python, by what they need.
    pub needs_python: Vec<PythonNeed>,
    /// Tasks that need Python.
    pub needing_python: usize,
    /// Templates that are not valid.
    pub template_errors: Vec<String>,
    /// Everything else that hinders a file or task.
    pub problems: Vec<String>,
    /// What is allowed but worth knowing.
    pub notes: Vec<String>,
}

/// A Python function that tasks need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PythonNeed {
    /// The key it stands under.
    pub key: String,
    /// The function.
    pub function: String,
    /// Names of the tasks.
    pub tasks: Vec<String>,
}

/// What became of one task.
enum Outcome {
    Runnable { native: bool },
    Python(Vec<(String, String)>),
    Template(String),
    Problem(String),
}

impl Registry {
    /// Reads every definition as a run would, without data.
    pub fn check(&self) -> CheckReport {
        let tasks: Vec<(&String, Outcome)> = self
            .names
            .par_iter()
            .filter_map(|(name, definition)| match definition {
                Definition::Task(node) => Some((name, node)),
                Definition::Group(_) => None,
            })
            .map(|(name, node)| {
                let functions = native::functions(node);
                let missing: Vec<(String, String)> = functions
                    .iter()
                    .filter(|function| !function.native)
                    .map(|function| (function.key.to_owned(), function.name.clone()))
                    .collect();
                if !missing.is_empty() {
                    return (name, Outcome::Python(missing));
                }
                let outcome = match TaskConfig::read(node) {
                    Ok(_) => Outcome::Runnable { native: !functions.is_empty() },
                    Err(TaskError::NeedsPython { key, function, .. }) => Outcome::Python(vec![(key, function)]),
                    Err(error @ TaskError::Template { .. }) => Outcome::Template(error.to_string()),
                    Err(error) => Outcome::Problem(error.to_string()),
                };
                (name, outcome)
            })
            .collect();
        let mut report = CheckReport {
            files: self.read,
            tasks: tasks.len(),
            groups: self.groups().len(),
            notes: self.notes(),
            ..CheckReport::default()
        };
        let mut needs: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for (name, outcome) in tasks {
            match outcome {
                Outcome::Runnable { native } => {
                    report.runnable += 1;
                    report.native += usize::from(native);
                }
                Outcome::Python(functions) => {
                    report.needing_python += 1;
                    for need in functions {
                        needs.entry(need).or_default().push(name.clone());
                    }
                }
                Outcome::Template(message) => report.template_errors.push(message),
                Outcome::Problem(message) => report.problems.push(message),
            }
        }
        report.needs_python =
            needs.into_iter().map(|((key, function), tasks)| PythonNeed { key, function, tasks }).collect();
        report.needs_python.sort_by(|a, b| b.tasks.len().cmp(&a.tasks.len()).then(a.function.cmp(&b.function)));
        let unread = self.broken.iter().filter(|error| !matches!(***error, TaskError::DuplicateName { .. })).count();
        report.parsed = report.files - unread.min(report.files);
        report.problems.extend(self.broken.iter().map(|error| error.to_string()));
        for definition in self.names.values() {
            if let Definition::Group(node) = definition
                && let Err(error) = group::read(node)
            {
                report.problems.push(error.to_string());
            }
        }
        report
    }
}
