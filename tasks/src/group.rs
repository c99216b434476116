//! Groups of tasks and how their metrics become one.

use harness_metrics::lm_eval::{aggregate_subtasks, pooled_stderr};

use crate::{
    TaskError,
    keys::{GROUP_KEYS, Keys, text},
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
}

impl Group {
    /// Names of the tasks at any depth, in order, each once.
    pub fn leaves(&self) -> Vec<&str> {
        let mut leaves = Vec::new();
        self.collect(&mut leaves);
        leaves
    }

    fn collect<'a>(&'a self, leaves: &mut Vec<&'a str>) {
        for member in &self.members {
            match member {
                Member::Task(name) if !leaves.contains(&name.as_str()) => leaves.push(name),
                Member::Task(_) => {}
                Member::Group(group) => group.collect(leaves),
            }
        }
    }
}

/// Head of a group's definition: name, alias, aggregates; and the nodes of its parts.
pub(crate) fn read(node: &Node) -> Result<(Group, &[Node]), TaskError> {
    let keys = Keys::of(node, "a group", GROUP_KEYS)?;
    let name = keys.require("group").and_then(|node| text("group", node))?;
    let alias = keys.text("group_alias")?.unwrap_or_else(|| name.clone());
    let mut aggregates = Vec::new();
    let list = match keys.list("aggregate_metric_list")? {
        Some(list) => Some(list),
        None => keys.list("aggregate_metric")?,
    };
    for item in list.unwrap_or_default() {
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
    let members = keys.require("task")?;
    match &members.value {
        Yaml::List(items) if !items.is_empty() => Ok((Group { name, alias, members: Vec::new(), aggregates }, items)),
        Yaml::List(_) => members.error(format!("the group {name} has no tasks")),
        _ => members.error(format!("task of a group must be a list, found {}", members.kind())),
    }
}
