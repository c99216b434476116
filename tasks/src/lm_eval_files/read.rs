//! Reading, whatever version of lm-eval wrote.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_core::MetricKey;
use serde_json::{Map, Value};

use super::saved::{SavedMetric, SavedRun, SavedSample, SavedTask};
use crate::{
    TaskError,
    python::{json::standard_json, text::str as python_str},
};

/// All runs in a folder and the folders in it, in order of their paths; a file is one run, its samples are those of the
/// same time beside it.
///
/// # Errors
/// If a file cannot be read or is none of lm-eval's, naming file and line; if there is no run at all.
pub fn read_runs(path: &Path) -> Result<Vec<SavedRun>, TaskError> {
    if path.is_file() {
        return Ok(vec![read_results(path)?]);
    }
    let mut files = Vec::new();
    collect(path, &mut files, 0)?;
    files.sort();
    let named = |file: &PathBuf| samples_name(file).is_some() && plain_name(file).starts_with("samples_");
    let (results, mut samples): (Vec<PathBuf>, Vec<PathBuf>) =
        files.into_iter().filter(|file| is_results(file) || named(file)).partition(|f| is_results(f));
    let mut runs = Vec::new();
    for file in results {
        let run = read_results(&file)?;
        samples.retain(|sample| run.tasks.iter().all(|task| task.samples_file.as_ref() != Some(sample)));
        runs.push(run);
    }
    // Samples without results: one run a folder and time.
    let mut orphans: BTreeMap<(PathBuf, Option<String>), Vec<SavedTask>> = BTreeMap::new();
    for file in samples {
        let Some((name, date)) = samples_name(&file) else { continue };
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let task = SavedTask {
            alias: name.clone(),
            name,
            version: "0".to_owned(),
            samples: read_samples(&file)?,
            samples_file: Some(file),
            ..SavedTask::default()
        };
        orphans.entry((folder, date)).or_default().push(task);
    }
    runs.extend(orphans.into_iter().map(|((folder, date), tasks)| SavedRun {
        model: folder_name(&folder),
        date,
        tasks,
        ..SavedRun::default()
    }));
    if runs.is_empty() {
        return Err(wrong(path, "found no results_*.json and no samples_*.jsonl of lm-eval in this folder"));
    }
    Ok(runs)
}

/// The run of one results file, with the samples files of the same time beside it.
///
/// # Errors
/// As [`read_runs`].
pub fn read_results(path: &Path) -> Result<SavedRun, TaskError> {
    let text = harness_store::read_text_file(path).map_err(|e| wrong(path, e.to_string()))?;
    let root: Value = serde_json::from_str(&standard_json(&text))
        .map_err(|e| wrong(path, format!("line {}, column {}: not valid JSON: {e}", e.line(), e.column())))?;
    let Some(results) = root.get("results").and_then(Value::as_object) else {
        return Err(wrong(path, "the file has no object `results`; expected a results file of lm-eval"));
    };
    let object = |key: &str| root.get(key).and_then(Value::as_object);
    let config = object("config").cloned().unwrap_or_default();
    let date = date_of(path);
    let members: BTreeMap<String, Vec<String>> = object("group_subtasks")
        .map(|groups| {
            let names = |value: &Value| {
                value.as_array().map_or(Vec::new(), |a| a.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            };
            groups.iter().map(|(name, value)| (name.clone(), names(value))).filter(|(_, m)| !m.is_empty()).collect()
        })
        .unwrap_or_default();
    let mut run = SavedRun {
        results: Some(path.to_owned()),
        model: model_name(&root, &config, path),
        source: ["model_source"].iter().find_map(|k| root.get(*k)?.as_str()).map(str::to_owned),
        version: root.get("lm_eval_version").and_then(Value::as_str).map(str::to_owned),
        members,
        date,
        ..SavedRun::default()
    };
    run.source = run.source.or_else(|| config.get("model").and_then(Value::as_str).map(str::to_owned));
    run.config = config;
    let is_group =
        |name: &str| object("groups").is_some_and(|groups| groups.contains_key(name)) || run.members.contains_key(name);
    for (name, entry) in results {
        let Some(entry) = entry.as_object() else { continue };
        let values = metrics_of(entry);
        if is_group(name) {
            run.groups.insert(name.clone(), values);
            continue;
        }
        let higher = object("higher_is_better").and_then(|all| all.get(name)?.as_object());
        run.tasks.push(SavedTask {
            alias: entry
                .get("alias")
                .and_then(Value::as_str)
                .map_or(name.as_str(), |alias| alias.trim_start_matches([' ', '-']))
                .to_owned(),
            version: object("versions").and_then(|v| v.get(name)).map_or_else(|| "0".to_owned(), python_str),
            num_fewshot: object("n-shot").and_then(|v| v.get(name)?.as_u64()).map(|n| n as usize),
            config: object("configs").and_then(|v| v.get(name)?.as_object()).cloned().unwrap_or_default(),
            results: values,
            higher_is_better: higher
                .map(|h| h.iter().filter_map(|(k, v)| Some((k.clone(), v.as_bool()?))).collect())
                .unwrap_or_default(),
            name: name.clone(),
            ..SavedTask::default()
        });
    }
    attach_samples(&mut run, path)?;
    Ok(run)
}

/// The samples of one file: JSON Lines, or the one array that early versions wrote under the same name.
///
/// # Errors
/// If a line is not a logged document, with its number.
pub fn read_samples(path: &Path) -> Result<Vec<SavedSample>, TaskError> {
    let text = harness_store::read_text_file(path).map_err(|e| wrong(path, e.to_string()))?;
    if text.trim_start().starts_with('[') {
        let items: Vec<Map<String, Value>> = serde_json::from_str(&standard_json(&text))
            .map_err(|e| wrong(path, format!("line {}, column {}: not valid JSON: {e}", e.line(), e.column())))?;
        return items
            .into_iter()
            .enumerate()
            .map(|(i, item)| sample(item).map_err(|m| wrong(path, format!("item {}: {m}", i + 1))))
            .collect();
    }
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            let at = |message: String| wrong(path, format!("line {}: {message}", i + 1));
            let item = serde_json::from_str(&standard_json(line)).map_err(|e| at(format!("not valid JSON: {e}")))?;
            sample(item).map_err(at)
        })
        .collect()
}

fn sample(mut item: Map<String, Value>) -> Result<SavedSample, String> {
    let doc_id = item.shift_remove("doc_id").and_then(|id| match id {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    });
    let Some(doc_id) = doc_id else {
        return Err("found no number `doc_id`; expected a document logged by lm-eval".into());
    };
    let Some(Value::Object(doc)) = item.shift_remove("doc") else {
        return Err("found no object `doc`; expected a document logged by lm-eval".into());
    };
    let list = |value: Option<Value>| match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let arguments = match item.shift_remove("arguments") {
        // gen_args_0: {arg_0, arg_1, …}
        Some(Value::Object(requests)) => requests
            .into_iter()
            .map(|(_, request)| match request {
                Value::Object(arguments) => arguments.into_iter().map(|(_, value)| value).collect(),
                Value::Array(arguments) => arguments,
                other => vec![other],
            })
            .collect(),
        other => list(other)
            .into_iter()
            .map(|request| match request {
                Value::Array(arguments) => arguments,
                other => vec![other],
            })
            .collect(),
    };
    let hash = |item: &mut Map<String, Value>, key: &str| match item.shift_remove(key) {
        Some(Value::String(hash)) => Some(hash),
        _ => None,
    };
    let filter = hash(&mut item, "filter").unwrap_or_else(|| "none".to_owned());
    let (doc_hash, prompt_hash) = (hash(&mut item, "doc_hash"), hash(&mut item, "prompt_hash"));
    let target_hash = hash(&mut item, "target_hash");
    let target = item.shift_remove("target").map(|value| python_str(&value)).unwrap_or_default();
    let (responses, filtered) = (list(item.shift_remove("resps")), list(item.shift_remove("filtered_resps")));
    let named: Option<Vec<String>> = match item.shift_remove("metrics") {
        Some(Value::Array(names)) => Some(names.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => None,
    };
    let metrics = match named {
        Some(names) => names.into_iter().filter_map(|name| Some((name.clone(), item.get(&name)?.clone()))).collect(),
        None => item.into_iter().filter(|(_, v)| v.is_number() || v.is_boolean() || v.is_array()).collect(),
    };
    Ok(SavedSample {
        doc_id: doc_id as usize,
        doc,
        target,
        arguments,
        responses,
        filtered,
        filter,
        metrics,
        doc_hash,
        prompt_hash,
        target_hash,
    })
}

/// `"acc,none": 0.5` (0.4), or `"acc": 0.5` (0.3), with `_stderr` beside it.
fn metrics_of(entry: &Map<String, Value>) -> BTreeMap<MetricKey, SavedMetric> {
    let mut values: BTreeMap<MetricKey, SavedMetric> = BTreeMap::new();
    for (name, value) in entry {
        let (metric, filter) = name.split_once(',').unwrap_or((name, "none"));
        if matches!(metric, "alias" | "name" | "sample_len" | "sample_count" | "samples") {
            continue;
        }
        match metric.strip_suffix("_stderr") {
            Some(metric) => {
                values.entry(MetricKey::new(metric, filter)).or_insert(MISSING).stderr = value.as_f64();
            }
            None if value.is_number() || value.is_null() => {
                let value = value.as_f64().unwrap_or(f64::NAN);
                values.entry(MetricKey::new(metric, filter)).or_insert(MISSING).value = value;
            }
            None => {}
        }
    }
    values
}

const MISSING: SavedMetric = SavedMetric { value: f64::NAN, stderr: None };

fn model_name(root: &Value, config: &Map<String, Value>, path: &Path) -> String {
    let arguments = config.get("model_args");
    let named = ["peft", "delta", "pretrained", "model", "path", "engine"].iter().find_map(|key| match arguments? {
        Value::Object(map) => map.get(*key).map(python_str),
        Value::String(text) => {
            text.split(',').find_map(|pair| pair.strip_prefix(*key)?.strip_prefix('=')).map(str::to_owned)
        }
        _ => None,
    });
    let told = root.get("model_name").and_then(Value::as_str).map(str::to_owned);
    told.or(named).unwrap_or_else(|| folder_name(path.parent().unwrap_or(Path::new(""))))
}

fn folder_name(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "lm-eval".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Samples files beside a results file: those of its time, or, where neither has one, those of its tasks.
fn attach_samples(run: &mut SavedRun, path: &Path) -> Result<(), TaskError> {
    let mut files = Vec::new();
    collect(path.parent().unwrap_or(Path::new(".")), &mut files, MOST_DEPTH)?;
    files.sort();
    for file in files {
        let Some((name, date)) = samples_name(&file) else { continue };
        if date != run.date {
            continue;
        }
        // Early versions put the model's arguments before the task: `…_arc_easy.jsonl`.
        let exact = run.tasks.iter().position(|task| task.name == name);
        let suffix = || run.tasks.iter().position(|task| name.ends_with(&format!("_{}", task.name)));
        if let Some(at) = exact.or_else(suffix) {
            run.tasks[at].samples = read_samples(&file)?;
            run.tasks[at].samples_file = Some(file);
        }
    }
    Ok(())
}

const MOST_DEPTH: usize = 8;

fn collect(folder: &Path, files: &mut Vec<PathBuf>, depth: usize) -> Result<(), TaskError> {
    let failed = |source| TaskError::Read { path: folder.to_owned(), source };
    for entry in
        std::fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }).map_err(failed)?
    {
        let path = entry.map_err(failed)?.path();
        if path.is_file() {
            files.push(path);
        } else if depth < MOST_DEPTH && path.is_dir() {
            collect(&path, files, depth + 1)?;
        }
    }
    Ok(())
}

/// The file's name without a compression's extension.
fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.strip_suffix(".zst").map(str::to_owned).unwrap_or(name)
}

fn is_results(path: &Path) -> bool {
    let name = plain_name(path);
    name.ends_with(".json") && (name.starts_with("results") || date_of(path).is_some())
}

/// Task and time of a samples file; early versions wrote `…task.jsonl` without a time.
fn samples_name(path: &Path) -> Option<(String, Option<String>)> {
    let name = plain_name(path);
    let stem = name.strip_suffix(".jsonl")?;
    let stem = stem.strip_prefix("samples_").unwrap_or(stem);
    match date_of(path) {
        Some(date) => Some((stem.strip_suffix(&date)?.strip_suffix('_')?.to_owned(), Some(date))),
        None => Some((stem.to_owned(), None)),
    }
}

/// The time at the end of a file's name: `…_2024-05-01T10-20-30.123456.json`.
fn date_of(path: &Path) -> Option<String> {
    let name = plain_name(path);
    let stem = name.strip_suffix(".jsonl").or_else(|| name.strip_suffix(".json"))?;
    let date = stem.rsplit_once('_')?.1;
    let shape = |mark: char, i: usize| date.as_bytes().get(i) == Some(&(mark as u8));
    let valid = date.starts_with(|c: char| c.is_ascii_digit()) && shape('-', 4) && shape('-', 7) && shape('T', 10);
    valid.then(|| date.to_owned())
}

fn wrong(path: &Path, message: impl Into<String>) -> TaskError {
    TaskError::LmEvalFile { path: path.to_owned(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_task_and_time() {
        let name = |name: &str| samples_name(Path::new(name));
        let date = "2026-11-22T01-49-42.758627".to_owned();
        let expected = Some(("arc_easy".to_owned(), Some(date.clone())));
        assert_eq!(name(&format!("x/samples_arc_easy_{date}.jsonl.zst")), expected);
        assert_eq!(name("pretrained__m_arc_easy.jsonl"), Some(("pretrained__m_arc_easy".to_owned(), None)));
        assert!(is_results(Path::new("results.json")) && is_results(Path::new(&format!("out_{date}.json"))));
        assert!(!is_results(Path::new("config.json")));
    }
}
