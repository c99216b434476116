//! Which entries of a results file are groups, what lies in them, and over how many documents values are.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::MetricKey;
use harness_metrics::Metric;
use serde_json::{Map, Value};

use super::saved::{SavedGroup, SavedMetric, SavedRun, SavedTask};

/// An entry of `results` or `groups`.
pub(super) type Entry = Map<String, Value>;

/// The members of each group of a file, in the order of the file; groups above others come first.
///
/// `group_subtasks` says it where there is one (lm-eval 0.4.3 and later). Before, the aliases in `results` are indented by
/// depth, each group directly before its members; where they are not, a group holds what begins with its name.
pub(super) fn members(root: &Value, results: &Entry) -> Vec<(String, Vec<String>)> {
    let object = |key: &str| root.get(key).and_then(Value::as_object);
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    if let Some(told) = object("group_subtasks") {
        let names = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        groups.extend(told.iter().map(|(name, value)| (name.clone(), names(value))).filter(|(_, m)| !m.is_empty()));
    } else {
        groups = indented(results);
    }
    for name in object("groups").into_iter().flat_map(Map::keys) {
        if groups.iter().all(|(known, _)| known != name) {
            groups.push((name.clone(), Vec::new()));
        }
    }
    if groups.iter().all(|(_, members)| members.is_empty()) {
        by_name(&mut groups, results);
    }
    let inner: BTreeSet<String> = groups.iter().flat_map(|(_, members)| members.iter().cloned()).collect();
    // A stable sort: groups that lie in no other one come first.
    groups.sort_by_key(|(name, _)| inner.contains(name));
    groups
}

/// Depth of an alias: ` - humanities` is 1 below, `  - formal_logic` 2.
fn depth(entry: &Value) -> usize {
    let alias = entry.get("alias").and_then(Value::as_str).unwrap_or_default();
    let blanks = alias.len() - alias.trim_start_matches(' ').len();
    if alias.trim_start().starts_with('-') { blanks } else { 0 }
}

/// The groups that indentation tells.
fn indented(results: &Entry) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    // The entries above the present one, with their depths.
    let mut path: Vec<(usize, &str)> = Vec::new();
    for (name, entry) in results {
        let depth = depth(entry);
        path.retain(|(above, _)| *above < depth);
        if let Some((_, above)) = path.last() {
            match groups.iter_mut().find(|(known, _)| known == above) {
                Some((_, members)) => members.push(name.clone()),
                None => groups.push(((*above).to_owned(), vec![name.clone()])),
            }
        }
        path.push((depth, name));
    }
    groups
}

/// Members by the longest group's name that theirs begins with.
fn by_name(groups: &mut [(String, Vec<String>)], results: &Entry) {
    let names: Vec<String> = groups.iter().map(|(name, _)| name.clone()).collect();
    for name in results.keys().chain(names.iter().filter(|name| !results.contains_key(*name))) {
        let above = |group: &&String| name.strip_prefix(group.as_str()).is_some_and(|rest| rest.starts_with('_'));
        let Some(group) = names.iter().filter(above).max_by_key(|group| group.len()) else { continue };
        if let Some((_, members)) = groups.iter_mut().find(|(known, _)| known == group) {
            members.push(name.clone());
        }
    }
}

/// The number of documents that a file tells of a task or group: `n-samples`, or a count beside its values.
pub(super) fn told(root: &Value, name: &str, entry: &Entry) -> Option<usize> {
    let count = |value: &Value| value.as_u64().map(|n| n as usize).filter(|&n| n > 0);
    let effective = root.get("n-samples").and_then(|all| count(all.get(name)?.get("effective")?));
    effective.or_else(|| ["sample_len", "samples"].iter().find_map(|key| count(entry.get(*key)?)))
}

/// The number of documents that a value implies by its standard error, if every document counts 0 or 1: p(1 − p)/(n − 1)
/// is the error's square. Taken only where n and n·p come out whole, which nothing but such scores gives.
pub(super) fn implied(value: SavedMetric) -> Option<usize> {
    let (p, error) = (value.value, value.stderr.filter(|error| *error > 0.0)?);
    let n = 1.0 + p * (1.0 - p) / (error * error);
    let whole = |x: f64| (x - x.round()).abs() <= 1e-6 * x.max(1.0);
    (p > 0.0 && p < 1.0 && n < 1e9 && whole(n) && whole(n * p)).then(|| n.round() as usize)
}

/// Gives groups without a number of documents the sum of their tasks', where all of those are known.
pub(super) fn sum_up(run: &mut SavedRun) {
    let sums: BTreeMap<String, Option<usize>> = run
        .groups
        .iter()
        .map(|group| {
            let leaves = run.leaves(&group.name);
            let known: Option<usize> = leaves.iter().map(|task| task.n).sum();
            (group.name.clone(), known.filter(|_| !leaves.is_empty()))
        })
        .collect();
    for group in &mut run.groups {
        group.n = group.n.or(sums[&group.name]);
    }
}

/// A group as the file has it.
pub(super) fn group(
    root: &Value,
    name: String,
    entry: &Entry,
    results: BTreeMap<MetricKey, SavedMetric>,
    members: Vec<String>,
) -> SavedGroup {
    SavedGroup {
        alias: alias(&name, entry),
        version: version(root, &name).unwrap_or_default(),
        higher_is_better: higher_is_better(root, &name),
        n: told(root, &name, entry),
        results,
        members,
        name,
    }
}

/// A task as the file has it, without samples.
pub(super) fn task(root: &Value, name: String, entry: &Entry, results: BTreeMap<MetricKey, SavedMetric>) -> SavedTask {
    let of = |key: &str| root.get(key).and_then(|all| all.get(&name));
    let shares = results.iter().filter(|(key, _)| Metric::of(&key.metric).is_some_and(|metric| metric.tells_documents));
    SavedTask {
        alias: alias(&name, entry),
        version: version(root, &name).unwrap_or_else(|| "0".to_owned()),
        num_fewshot: of("n-shot").and_then(Value::as_u64).map(|n| n as usize),
        config: of("configs").and_then(Value::as_object).cloned().unwrap_or_default(),
        higher_is_better: higher_is_better(root, &name),
        n: told(root, &name, entry).or_else(|| shares.map(|(_, value)| *value).find_map(implied)),
        available: of("n-samples").and_then(|n| n.get("original")?.as_u64()).map(|n| n as usize),
        hash: of("task_hashes").and_then(Value::as_str).filter(|hash| !hash.is_empty()).map(str::to_owned),
        results,
        name,
        ..SavedTask::default()
    }
}

/// The alias without the marks of its depth.
fn alias(name: &str, entry: &Entry) -> String {
    let alias = entry.get("alias").and_then(Value::as_str).map(|alias| alias.trim_start_matches([' ', '-']));
    alias.filter(|alias| !alias.is_empty()).unwrap_or(name).to_owned()
}

fn version(root: &Value, name: &str) -> Option<String> {
    root.get("versions").and_then(|all| all.get(name)).map(harness_python::str)
}

fn higher_is_better(root: &Value, name: &str) -> BTreeMap<String, bool> {
    let told = root.get("higher_is_better").and_then(|all| all.get(name)?.as_object());
    told.into_iter().flatten().filter_map(|(metric, yes)| Some((metric.clone(), yes.as_bool()?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(root: &Value) -> Vec<(String, Vec<String>)> {
        members(root, root["results"].as_object().unwrap())
    }

    fn pairs(expected: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        expected.iter().map(|(name, members)| ((*name).to_owned(), owned(members))).collect()
    }

    #[test]
    fn members_are_told_indented_or_named() {
        let results = json!({"exam": {}, "exam_a": {}, "exam_a_one": {}, "exam_b": {}, "other": {}});
        let told = json!({"results": results, "group_subtasks": {"exam_a": ["exam_a_one"], "exam": ["exam_a", "exam_b"], "other": []}});
        let expected = pairs(&[("exam", &["exam_a", "exam_b"]), ("exam_a", &["exam_a_one"])]);
        assert_eq!(of(&told), expected);
        let alias = |alias: &str| json!({"alias": alias});
        let indented = json!({"results": {
            "exam": alias("exam"), "exam_a": alias(" - a"), "exam_a_one": alias("  - one"), "exam_b": alias(" - b"),
            "other": alias("other")
        }});
        assert_eq!(of(&indented), expected);
        let named = json!({"results": results, "groups": {"exam_a": {}, "exam": {}}});
        assert_eq!(of(&named), expected);
        assert_eq!(of(&json!({"results": {"exam": {}, "exam_a": {}}})), vec![], "no file tells of a group here");
    }

    #[test]
    fn documents_are_told_or_implied() {
        let metric = |value: f64, stderr: f64| SavedMetric { value, stderr: Some(stderr) };
        let share = |right: f64, n: f64| metric(right / n, (right / n * (1.0 - right / n) / (n - 1.0)).sqrt());
        assert_eq!((implied(share(44.0, 126.0)), implied(share(5_000.0, 14_042.0))), (Some(126), Some(14_042)));
        assert_eq!((implied(metric(0.0, 0.0)), implied(metric(0.4058, 0.01389))), (None, None));
        let entry = json!({"sample_len": 7});
        let root = json!({"n-samples": {"a": {"original": 100, "effective": 3}}});
        let entry = entry.as_object().unwrap();
        assert_eq!((told(&root, "a", entry), told(&root, "b", entry)), (Some(3), Some(7)));
    }
}
