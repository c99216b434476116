//! Writing a run as lm-eval 0.4.13 would have written it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use harness_core::{MetricKey, file_name, file_part};
use harness_python::PythonJson;
use harness_store::atomic_write;
use serde_json::{Map, Value, json};

use super::{
    results::{TaskOutcome, TaskResult, aggregate_group, aggregate_task},
    samples::{lines, sha256},
};
use crate::{BuildOptions, Group, Limit, Member, Task as _, TaskError};

/// What the files say of a run besides its tasks.
#[derive(Clone, Debug, Default)]
pub struct RunDescription {
    /// Name or path of the model; the folder of the files is named after it.
    pub model: String,
    /// Further model arguments (`dtype`, `peft`).
    pub model_args: Map<String, Value>,
    /// `model_num_parameters`, `model_dtype`, `model_revision`, `model_sha` and the like, where known.
    pub model_info: Map<String, Value>,
    /// How requests were built.
    pub options: BuildOptions,
    /// The chat template, where one was applied.
    pub chat_template: Option<String>,
    /// Longest input of the model in tokens.
    pub max_length: usize,
    /// Replicates of bootstrap standard errors; lm-eval's default is 100,000.
    pub bootstrap_iters: usize,
    /// Start of the run, seconds since 1970.
    pub started: f64,
    /// Seconds it took.
    pub seconds: f64,
    /// Time in the names of the files: `2026-11-22T01-49-42.758627`.
    pub date: String,
}

/// lm-eval's name of a model's folder: each run of `"<>:/|\?*[]` becomes two underscores.
pub fn sanitize_model_name(name: &str) -> String {
    let mut out = String::new();
    let mut before = false;
    for c in name.chars() {
        let bad = "\"<>:/|\\?*[]".contains(c);
        match bad {
            true if !before => out.push_str("__"),
            true => {}
            false => out.push(c),
        }
        before = bad;
    }
    out
}

/// Writes `results_*.json` and one `samples_*.jsonl` a task below `folder`; returns the paths, results first. As in
/// lm-eval, names of models and tasks make up the names of folder and files ([`file_part`]: odd ones are mapped), and a
/// path that ends in `.json` names the results file (the time is added) and its folder takes the samples.
///
/// # Errors
/// If a file cannot be written.
pub fn write_run(
    folder: &Path,
    run: &RunDescription,
    tasks: &[TaskOutcome<'_>],
    groups: &[Group],
) -> Result<Vec<PathBuf>, TaskError> {
    let named = folder.extension().is_some_and(|extension| extension == "json");
    let (target, results_file) = if named {
        let parent = folder.parent().unwrap_or(Path::new("")).to_owned();
        let stem = folder.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file = parent.join(format!("{stem}_{}.json", run.date));
        (parent, file)
    } else {
        let target = folder.join(&*file_name(&sanitize_model_name(&run.model)));
        let file = target.join(format!("results_{}.json", run.date));
        (target, file)
    };
    let failed = |path: &Path, source| TaskError::Write { path: path.to_owned(), source };
    if !target.as_os_str().is_empty() {
        std::fs::create_dir_all(&target).map_err(|e| failed(&target, e))?;
    }
    let mut hashes = Map::new();
    let mut paths = vec![results_file.clone()];
    for outcome in tasks {
        let (lines, hash) = lines(outcome, &run.options);
        hashes.insert(outcome.task.id().to_owned(), Value::from(hash));
        let path = target.join(format!("samples_{}_{}.jsonl", file_part(outcome.task.id()), run.date));
        let mut text = lines.join("\n");
        text.push('\n');
        write(&path, text)?;
        paths.push(path);
    }
    let results = results(run, tasks, groups, hashes);
    write(&results_file, PythonJson { indent: Some(2), ..PythonJson::default() }.dumps(&results))?;
    Ok(paths)
}

fn write(path: &Path, text: String) -> Result<(), TaskError> {
    atomic_write(path, text)
        .map_err(|error| TaskError::LmEvalFile { path: path.to_owned(), message: error.to_string() })
}

/// The content of the results file, its keys in lm-eval's order.
fn results(run: &RunDescription, tasks: &[TaskOutcome<'_>], groups: &[Group], hashes: Map<String, Value>) -> Value {
    let all = flattened(groups);
    let mut computed: BTreeMap<String, TaskResult> = BTreeMap::new();
    let mut results = Map::new();
    for outcome in tasks {
        let result = aggregate_task(outcome, run.bootstrap_iters);
        let mut entry = Map::new();
        entry.insert("name".into(), Value::from(outcome.task.id()));
        entry.insert("alias".into(), Value::from(outcome.task.alias()));
        entry.insert("sample_len".into(), Value::from(result.documents));
        entry.extend(values(&result));
        results.insert(outcome.task.id().to_owned(), Value::Object(entry));
        computed.insert(outcome.task.id().to_owned(), result);
    }
    let mut group_results = Map::new();
    for group in bottom_up(groups) {
        let result = aggregate_group(group, &computed);
        let mut entry = Map::new();
        entry.insert("alias".into(), Value::from(group.alias.as_str()));
        entry.insert("name".into(), Value::from(group.name.as_str()));
        if !group.aggregates.is_empty() {
            entry.insert("sample_len".into(), Value::from(result.documents));
            entry.extend(values(&result));
            if !result.counts.is_empty() {
                let counts: Map<String, Value> =
                    result.counts.iter().map(|(key, n)| (key.to_string(), Value::from(*n))).collect();
                entry.insert("sample_count".into(), Value::Object(counts));
            }
            group_results.insert(group.name.clone(), Value::Object(entry.clone()));
        }
        results.insert(group.name.clone(), Value::Object(entry));
    }
    let mut root = Map::new();
    root.insert("results".into(), Value::Object(results));
    if !group_results.is_empty() {
        root.insert("groups".into(), Value::Object(group_results));
    }
    let children: Map<String, Value> =
        all.iter().map(|group| (group.name.clone(), json!(child_names(group)))).collect();
    root.insert("group_subtasks".into(), Value::Object(children));
    let sorted = |entries: Vec<(String, Value)>| -> Value {
        Value::Object(entries.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect())
    };
    let of_tasks = |f: &dyn Fn(&TaskOutcome<'_>) -> Value| -> Vec<(String, Value)> {
        tasks.iter().map(|outcome| (outcome.task.id().to_owned(), f(outcome))).collect()
    };
    root.insert("configs".into(), sorted(of_tasks(&|outcome| outcome.task.lm_eval_config(&run.options))));
    let mut versions = of_tasks(&|outcome| outcome.task.lm_eval_version());
    versions.extend(all.iter().map(|group| (group.name.clone(), Value::from(group.version.as_str()))));
    root.insert("versions".into(), sorted(versions));
    let mut shots = of_tasks(&|outcome| Value::from(outcome.prepared.num_fewshot));
    let mut higher = of_tasks(&|outcome| {
        let of = |i: usize| outcome.task.metrics()[i].key.metric.clone();
        let specs = outcome.task.metrics();
        Value::Object((0..specs.len()).map(|i| (of(i), Value::Bool(specs[i].higher_is_better))).collect())
    });
    for group in &all {
        if let Some(value) = agreed(group, &shots) {
            shots.push((group.name.clone(), value));
        }
        if let Some(value) = merged(group, &higher) {
            higher.push((group.name.clone(), value));
        }
    }
    root.insert("n-shot".into(), sorted(shots));
    root.insert("higher_is_better".into(), sorted(higher));
    let counts =
        of_tasks(&|o| json!({"original": o.prepared.available, "effective": o.prepared.documents.len()})).into_iter();
    root.insert("n-samples".into(), Value::Object(counts.collect()));
    root.insert("config".into(), config(run));
    describe(&mut root, run, hashes);
    Value::Object(root)
}

fn config(run: &RunDescription) -> Value {
    let options = &run.options;
    let mut model_args = Map::new();
    model_args.insert("pretrained".into(), Value::from(run.model.as_str()));
    model_args.extend(run.model_args.clone());
    let mut config = Map::new();
    config.insert("model".into(), Value::from("harness"));
    config.insert("model_args".into(), Value::Object(model_args));
    config.extend(run.model_info.clone());
    let gen_kwargs = (!options.generation_kwargs.is_empty()).then(|| Value::Object(options.generation_kwargs.clone()));
    let limit = match options.limit {
        None => Value::Null,
        Some(Limit::Count(count)) => Value::from(count as f64),
        Some(Limit::Fraction(fraction)) => Value::from(fraction),
    };
    let rest = json!({
        "batch_size": "1", "batch_sizes": [], "device": "cpu", "use_cache": null, "limit": limit,
        "bootstrap_iters": run.bootstrap_iters, "gen_kwargs": gen_kwargs, "random_seed": 0, "numpy_seed": 1234,
        "torch_seed": 1234, "fewshot_seed": options.fewshot_seed,
    });
    if let Value::Object(rest) = rest {
        config.extend(rest);
    }
    Value::Object(config)
}

fn describe(root: &mut Map<String, Value>, run: &RunDescription, hashes: Map<String, Value>) {
    let options = &run.options;
    let instruction = options.system_instruction.as_deref().filter(|text| !text.is_empty());
    let description = json!({
        "git_hash": null,
        "date": run.started,
        "pretty_env_info": format!("harness {}", env!("CARGO_PKG_VERSION")),
        "transformers_version": null,
        "lm_eval_version": "0.4.13",
        "upper_git_hash": null,
        "max_length": run.max_length,
        "task_hashes": hashes,
        "model_source": "harness",
        "model_name": run.model,
        "model_name_sanitized": sanitize_model_name(&run.model),
        "system_instruction": options.system_instruction,
        "system_instruction_sha": instruction.map(sha256),
        "fewshot_as_multiturn": options.apply_chat_template.then_some(options.fewshot_as_multiturn),
        "chat_template": run.chat_template,
        "chat_template_sha": run.chat_template.as_deref().map(sha256),
        "total_evaluation_time_seconds": format!("{:?}", run.seconds),
    });
    if let Value::Object(description) = description {
        root.extend(description);
    }
}

/// `"metric,filter": v, "metric_stderr,filter": v|"N/A"`.
fn values(result: &TaskResult) -> Map<String, Value> {
    let mut map = Map::new();
    for (MetricKey { metric, filter }, value, stderr) in &result.values {
        map.insert(format!("{metric},{filter}"), json!(value));
        map.insert(format!("{metric}_stderr,{filter}"), stderr.map_or_else(|| Value::from("N/A"), |s| json!(s)));
    }
    map
}

fn child_names(group: &Group) -> Vec<&str> {
    let names = group.members.iter().map(|member| match member {
        Member::Task(name) => name.as_str(),
        Member::Group(group) => group.name.as_str(),
    });
    names.collect()
}

/// All groups, parents first, each once.
fn flattened(groups: &[Group]) -> Vec<&Group> {
    fn visit<'a>(group: &'a Group, seen: &mut BTreeSet<&'a str>, out: &mut Vec<&'a Group>) {
        if seen.insert(&group.name) {
            out.push(group);
            inner(group).for_each(|group| visit(group, seen, out));
        }
    }
    let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
    groups.iter().for_each(|group| visit(group, &mut seen, &mut out));
    out
}

/// All groups, children first, each once.
fn bottom_up(groups: &[Group]) -> Vec<&Group> {
    fn visit<'a>(group: &'a Group, seen: &mut BTreeSet<&'a str>, out: &mut Vec<&'a Group>) {
        if seen.contains(group.name.as_str()) {
            return;
        }
        inner(group).for_each(|group| visit(group, seen, out));
        seen.insert(&group.name);
        out.push(group);
    }
    let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
    groups.iter().for_each(|group| visit(group, &mut seen, &mut out));
    out
}

fn inner(group: &Group) -> impl Iterator<Item = &Group> {
    group.members.iter().filter_map(|member| match member {
        Member::Group(group) => Some(group),
        Member::Task(_) => None,
    })
}

/// The number of examples that all members of a group share.
fn agreed(group: &Group, entries: &[(String, Value)]) -> Option<Value> {
    let names = child_names(group);
    let mut found = entries.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(_, value)| value);
    let first = found.next()?;
    found.all(|value| value == first).then(|| first.clone())
}

/// Which way a group's metrics point; null where members disagree.
fn merged(group: &Group, entries: &[(String, Value)]) -> Option<Value> {
    let names = child_names(group);
    let mut all = Map::new();
    for (_, value) in entries.iter().filter(|(name, _)| names.contains(&name.as_str())) {
        for (metric, higher) in value.as_object()? {
            match all.get(metric) {
                None => {
                    all.insert(metric.clone(), higher.clone());
                }
                Some(other) if other != higher => {
                    all.insert(metric.clone(), Value::Null);
                }
                Some(_) => {}
            }
        }
    }
    (!all.is_empty()).then_some(Value::Object(all))
}
