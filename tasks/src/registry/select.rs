//! What names stand for: wildcards, tags, groups within groups.

use std::{collections::BTreeSet, sync::Arc};

use harness_core::{limit_name, limits};

use super::{Definition, Registry};
use crate::{
    TaskError,
    config::overlay,
    group::{self, Group, Member},
    keys::{GROUP_KEYS, text},
    yaml::{Entry, Node, Yaml},
};

/// A task chosen by name, with what a group changes of it.
#[derive(Clone, Debug)]
pub struct TaskRef {
    /// Name of the task.
    pub id: String,
    pub(super) node: Arc<Node>,
}

/// What names stand for: leaf tasks in order, and the groups among the names.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// All leaf tasks, each once, in the order of the names.
    pub tasks: Vec<TaskRef>,
    /// The groups that were named, with everything in them.
    pub groups: Vec<Group>,
    names: BTreeSet<String>,
    /// Groups and members that were looked at.
    looked_at: usize,
}

impl Selection {
    /// Takes tasks out, from groups too; a group that loses all its members goes with them.
    pub fn remove(&mut self, names: &[String]) {
        self.tasks.retain(|task| !names.contains(&task.id));
        self.groups.retain_mut(|group| group.remove(names));
    }

    fn push(&mut self, name: &str, node: Arc<Node>) {
        if self.names.insert(name.to_owned()) {
            self.tasks.push(TaskRef { id: name.to_owned(), node });
        }
    }
}

impl Registry {
    /// What names of tasks, groups and tags stand for; in a name that nothing has, `*` matches any letters.
    ///
    /// # Errors
    /// If a name is unknown, or a group is wrong or contains itself.
    pub fn select<S: AsRef<str>>(&self, names: &[S]) -> Result<Selection, TaskError> {
        let mut selection = Selection::default();
        for name in names {
            let name = name.as_ref().trim();
            let known = self.names.contains_key(name) || self.tags.contains_key(name);
            let matched: Vec<&str> = if name.contains('*') && !known {
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
            Some(Definition::Task(node)) => selection.push(name, Arc::clone(node)),
            Some(Definition::Group(node)) => {
                let group = self.group(node, &[], selection, &mut Vec::new())?;
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

    /// A group with its members; its leaf tasks are added to the selection. What a group sets besides its own keys, it
    /// sets for its tasks; what stands nearer to the name that was asked for wins.
    fn group(
        &self,
        node: &Node,
        from_above: &[Entry],
        selection: &mut Selection,
        stack: &mut Vec<String>,
    ) -> Result<Group, TaskError> {
        let (mut group, members) = group::read(node)?;
        if members.is_empty() {
            return node.error(format!("the group {} has no tasks", group.name));
        }
        if stack.contains(&group.name) {
            return node.error(format!("the group {} contains itself: {}", group.name, stack.join(" -> ")));
        }
        let mut overrides: Vec<Entry> = match &node.value {
            Yaml::Map(entries) => entries.iter().filter(|e| !GROUP_KEYS.contains(&e.key.as_str())).cloned().collect(),
            _ => Vec::new(),
        };
        overlay(&mut overrides, from_above);
        let (deepest, most) = (limits().depth, limits().members);
        if stack.len() >= deepest {
            let (name, chain) = (limit_name("depth"), stack.join(" -> "));
            return node.error(format!("groups are nested more than {deepest} deep {name}: {chain}"));
        }
        stack.push(group.name.clone());
        selection.looked_at += members.len();
        if selection.looked_at > most {
            let name = limit_name("members");
            return node.error(format!(
                "groups with more than {most} members, those that several groups name counted in each {name}"
            ));
        }
        for member in members {
            match &member.value {
                Yaml::Map(entries) if member.get("group").is_some() => {
                    let name = member.get("group").map(|node| text("group", node)).transpose()?.unwrap_or_default();
                    // A group that exists, with overrides; else one that is defined here.
                    let inner = match self.names.get(&name) {
                        Some(Definition::Group(known)) if member.get("task").is_none() => {
                            let mut more = overrides.clone();
                            let local: Vec<Entry> = entries.iter().filter(|e| e.key != "group").cloned().collect();
                            overlay(&mut more, &local);
                            self.group(known, &more, selection, stack)?
                        }
                        _ => self.group(member, &overrides, selection, stack)?,
                    };
                    group.members.push(Member::Group(inner));
                }
                Yaml::Map(entries) => {
                    let Some(named) = member.get("task") else {
                        return member.error("a member of a group needs the key task or group");
                    };
                    let mut more = overrides.clone();
                    overlay(&mut more, entries);
                    self.member(&text("task", named)?, member, &more, selection, stack, &mut group)?;
                }
                _ => {
                    let name = text("task", member)?;
                    self.member(&name, member, &overrides, selection, stack, &mut group)?;
                }
            }
        }
        stack.pop();
        Ok(group)
    }

    /// Adds what a name in a group stands for; a mapping whose name is not known is a definition of its own.
    fn member(
        &self,
        name: &str,
        at: &Node,
        overrides: &[Entry],
        selection: &mut Selection,
        stack: &mut Vec<String>,
        group: &mut Group,
    ) -> Result<(), TaskError> {
        let mut task = |name: &str, node: &Arc<Node>, selection: &mut Selection| {
            let others = overrides.iter().any(|entry| entry.key != "task");
            let node = match &node.value {
                Yaml::Map(base) if others => {
                    let mut merged = base.clone();
                    let local: Vec<Entry> = overrides.iter().filter(|e| e.key != "task").cloned().collect();
                    overlay(&mut merged, &local);
                    Arc::new(Node { value: Yaml::Map(merged), ..(**node).clone() })
                }
                _ => Arc::clone(node),
            };
            selection.push(name, node);
            group.members.push(Member::Task(name.to_owned()));
        };
        match self.names.get(name) {
            Some(Definition::Task(node)) => task(name, node, selection),
            Some(Definition::Group(node)) => {
                let more: Vec<Entry> = overrides.iter().filter(|e| e.key != "task").cloned().collect();
                let inner = self.group(node, &more, selection, stack)?;
                group.members.push(Member::Group(inner));
            }
            None => match self.tags.get(name) {
                Some(tagged) => {
                    for name in tagged {
                        if let Some(Definition::Task(node)) = self.names.get(name) {
                            task(name, node, selection);
                        }
                    }
                }
                None if matches!(at.value, Yaml::Map(_)) => {
                    task(name, &Arc::new(at.clone()), selection);
                }
                None => return at.error(self.unknown(name).to_string()),
            },
        }
        Ok(())
    }
}

/// Whether a pattern with `*` matches the whole of a name.
pub fn wildcard(pattern: &str, name: &str) -> bool {
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
