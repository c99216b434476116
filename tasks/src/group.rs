//! Groups of tasks and how their metrics become one.

use std::collections::BTreeSet;

use harness_metrics::lm_eval::{aggregate_subtasks, pooled_stderr};

use crate::{
    TaskError,
    keys::{GROUP_KEYS, Keys, TASK_KEYS, text},
    yaml::{Node, Yaml},
};

/// A metric that a group reports over its leaf tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// The metric.
    pub metric: String,
    /// The filter pipelines it is taken from; every pipeline that has it if empty.
    pub filters: Vec<String>,
    /// Whether leaf tasks count by their number of documents (a micro average) or equally.
    pub weight_by_size: bool,
}

impl Aggregate {
    /// Σ mᵢwᵢ / Σ wᵢ over leaf tasks.
    pub fn value(&self, values: &[f64], sizes: &[usize]) -> f64 {
        aggregate_subtasks(values, sizes, self.weight_by_size)
    }

    /// lm-eval's pooled standard error, always weighted by size; `None` where a leaf has none.
    pub fn stderr(&self, stderrs: &[Option<f64>], sizes: &[usize]) -> Option<f64> {
        pooled_stderr(stderrs, sizes)
    }
}

/// A part of a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Member {
    /// A task, by name.
    Task(String),
    /// A group within.
    Group(Group),
}

/// A named set of tasks and groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its name in tables.
    pub alias: String,
    /// Its parts, in order.
    pub members: Vec<Member>,
    /// What it reports; nothing if empty.
    pub aggregates: Vec<Aggregate>,
    /// Version from its metadata; `N/A` where it has none.
    pub version: String,
}

impl Group {
    /// Names of the tasks at any depth, in order, each once.
    pub fn leaves(&self) -> Vec<&str> {
        let (mut leaves, mut seen) = (Vec::new(), BTreeSet::new());
        self.collect(&mut leaves, &mut seen);
        leaves
    }

    /// This group or the one of that name within it.
    pub fn find(&self, name: &str) -> Option<&Self> {
        if self.name == name {
            return Some(self);
        }
        self.members.iter().find_map(|member| match member {
            Member::Group(group) => group.find(name),
            Member::Task(_) => None,
        })
    }

    /// Takes tasks out, at any depth; groups within that lose all their members go with them. False if nothing is left.
    pub fn remove(&mut self, names: &[String]) -> bool {
        self.members.retain_mut(|member| match member {
            Member::Task(name) => !names.contains(name),
            Member::Group(inner) => inner.remove(names),
        });
        !self.members.is_empty()
    }

    fn collect<'a>(&'a self, leaves: &mut Vec<&'a str>, seen: &mut BTreeSet<&'a str>) {
        for member in &self.members {
            match member {
                Member::Task(name) if seen.insert(name) => leaves.push(name),
                Member::Task(_) => {}
                Member::Group(group) => group.collect(leaves, seen),
            }
        }
    }
}

/// Head of a group's definition: name, alias, aggregates; and the nodes of its parts. Keys of tasks may stand beside
/// those of the group.
pub(crate) fn read(node: &Node) -> Result<(Group, &[Node]), TaskError> {
    let known: Vec<&str> = GROUP_KEYS.iter().chain(TASK_KEYS).copied().collect();
    let keys = Keys::of(node, "a group", &known)?;
    let name = keys.require("group").and_then(|node| text("group", node))?;
    let alias = keys.text("group_alias")?.unwrap_or_else(|| name.clone());
    let mut aggregates = Vec::new();
    let list = match keys.get("aggregate_metric_list")? {
        Some(list) => Some(list),
        None => keys.get("aggregate_metric")?,
    };
    let items = match list {
        None => &[],
        Some(Node { value: Yaml::List(items), .. }) => items.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    for item in items {
        let known = ["metric", "aggregation", "weight_by_size", "filter_list"];
        let keys = Keys::of(item, "an aggregate_metric_list entry", &known)?;
        if let Some(found) = keys.get("aggregation")?
            && text("aggregation", found)? != "mean"
        {
            return found.error("a group's aggregation can only be mean");
        }
        aggregates.push(Aggregate {
            metric: keys.require("metric").and_then(|node| text("metric", node))?,
            filters: keys.texts("filter_list")?,
            weight_by_size: keys.flag("weight_by_size")?.unwrap_or(true),
        });
    }
    let version = match keys.map("metadata") {
        Ok(Some(metadata)) => metadata.get("version").map_or_else(|| "N/A".to_owned(), harness_python::str),
        _ => "N/A".to_owned(),
    };
    let members = match node.get("task") {
        None => &[],
        Some(Node { value: Yaml::List(items), .. }) => items.as_slice(),
        Some(one @ Node { value: Yaml::Text(_), .. }) => std::slice::from_ref(one),
        Some(Node { value: Yaml::Null, .. }) => &[],
        Some(other) => return other.error(format!("task of a group must be a list, found {}", other.kind())),
    };
    Ok((Group { name, alias, members: Vec::new(), aggregates, version }, members))
}
