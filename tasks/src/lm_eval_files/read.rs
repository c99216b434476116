//! Reading, whatever version of lm-eval wrote.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_core::{MetricKey, file_part, name_of_file_part};
use serde_json::{Map, Value};

use super::{
    groups,
    saved::{SavedMetric, SavedRun, SavedSample, SavedTask},
};
use crate::TaskError;
use harness_python::{standard_json, str as python_str};

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
        let name = name_of_file_part(&name).unwrap_or(name);
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
    let (date, named) = (date_of(path), model_name(&root, &config));
    let mut run = SavedRun {
        results: Some(path.to_owned()),
        named: named.is_some(),
        model: named.unwrap_or_else(|| folder_name(path.parent().unwrap_or(Path::new("")))),
        source: ["model_source"].iter().find_map(|k| root.get(*k)?.as_str()).map(str::to_owned),
        version: root.get("lm_eval_version").and_then(Value::as_str).map(str::to_owned),
        conditions: conditions(&root, &config),
        date,
        ..SavedRun::default()
    };
    run.source = run.source.or_else(|| config.get("model").and_then(Value::as_str).map(str::to_owned));
    run.config = config;
    let members = groups::members(&root, results);
    for (name, members) in &members {
        // Versions differ in whether values of groups stand among the results, beside them, or in both places.
        let places = [object("groups"), Some(results)];
        let entries = places.into_iter().flatten().filter_map(|place| place.get(name)?.as_object());
        let found = entries.map(|entry| (entry, metrics_of(entry))).max_by_key(|(_, values)| values.len());
        let empty = Map::new();
        let (entry, values) = found.unwrap_or((&empty, BTreeMap::new()));
        run.groups.push(groups::group(&root, name.clone(), entry, values, members.clone()));
    }
    for (name, entry) in results.iter().filter(|(name, _)| members.iter().all(|(group, _)| group != *name)) {
        let Some(entry) = entry.as_object() else { continue };
        run.tasks.push(groups::task(&root, name.clone(), entry, metrics_of(entry)));
    }
    attach_samples(&mut run, &root, path)?;
    groups::sum_up(&mut run);
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

/// The model as the file names it.
fn model_name(root: &Value, config: &Map<String, Value>) -> Option<String> {
    let arguments = config.get("model_args");
    let named = ["peft", "delta", "pretrained", "model", "path", "engine"].iter().find_map(|key| match arguments? {
        Value::Object(map) => map.get(*key).map(python_str),
        Value::String(text) => {
            text.split(',').find_map(|pair| pair.strip_prefix(*key)?.strip_prefix('=')).map(str::to_owned)
        }
        _ => None,
    });
    let told = root.get("model_name").and_then(Value::as_str).map(str::to_owned);
    told.or(named).filter(|name| !name.trim().is_empty())
}

fn folder_name(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "lm-eval".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// What a run was made under, for all tasks: only what the file says, so that older files tell less.
fn conditions(root: &Value, config: &Map<String, Value>) -> BTreeMap<String, String> {
    let short = |value: &Value| match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.chars().take(12).collect(),
        other => other.to_string(),
    };
    let places = [
        ("chat template", root.get("chat_template_sha")),
        ("system instruction", root.get("system_instruction_sha")),
        ("examples as turns", root.get("fewshot_as_multiturn").filter(|value| !value.is_null())),
        ("generation settings", config.get("gen_kwargs").filter(|value| !value.is_null())),
        ("seed of examples", config.get("fewshot_seed").filter(|value| !value.is_null())),
    ];
    let mut found: BTreeMap<String, String> =
        places.into_iter().filter_map(|(name, value)| Some((format!("lm-eval {name}"), short(value?)))).collect();
    if let Some(dtype) = config.get("model_dtype").and_then(Value::as_str) {
        found.insert("lm-eval dtype".to_owned(), dtype.trim_start_matches("torch.").to_owned());
    }
    if let Some(version) = root.get("lm_eval_version").and_then(Value::as_str) {
        found.insert("lm-eval version".to_owned(), version.to_owned());
    }
    found
}

/// Samples of a results file: those in it (`simple_evaluate` gives them so), else the files beside it: those of its
/// time, or, where neither has one, those of its tasks.
fn attach_samples(run: &mut SavedRun, root: &Value, path: &Path) -> Result<(), TaskError> {
    for task in &mut run.tasks {
        for item in root.get("samples").and_then(|all| all.get(&task.name)?.as_array()).into_iter().flatten() {
            let Value::Object(item) = item.clone() else { continue };
            task.samples.push(sample(item).map_err(|m| wrong(path, format!("samples of {}: {m}", task.name)))?);
        }
    }
    let mut files = Vec::new();
    collect(path.parent().unwrap_or(Path::new(".")), &mut files, MOST_DEPTH)?;
    files.sort();
    for file in files {
        let Some((name, date)) = samples_name(&file) else { continue };
        if date != run.date {
            continue;
        }
        // Early versions put the model's arguments before the task: `…_arc_easy.jsonl`.
        let exact = run.tasks.iter().position(|task| task.name == name || file_part(&task.name) == name);
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
