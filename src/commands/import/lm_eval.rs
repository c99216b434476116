//! Results of lm-evaluation-harness.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{Digest, DocId, Hasher};
use harness_metrics::comparison::Aggregate;
use harness_tasks::lm_eval_files::{SavedRun, SavedTask, read_runs};
use serde_json::Value;

use super::{
    super::Failure,
    files,
    record::{ImportRecord, ImportedMetric, ImportedTask},
};
use crate::cli::ImportArgs;

/// Reads a folder or file of lm-eval; several runs of one model are taken together if their tasks differ.
///
/// # Errors
/// If a file is wrong, the folder holds several models, or a task occurs twice.
pub(super) fn read(args: &ImportArgs) -> Result<(ImportRecord, usize), Failure> {
    let mut runs: Vec<SavedRun> = read_runs(&args.path)?;
    let mut models: Vec<String> = runs.iter().map(|run| run.model.clone()).collect();
    models.sort();
    models.dedup();
    let list = models.join(", ");
    match &args.model {
        Some(model) => runs.retain(|run| run.model == *model),
        None if models.len() > 1 => {
            let place = args.path.display();
            return Err(Failure::usage(format!("{place}: runs of {list}; choose one with --model")));
        }
        None => {}
    }
    if runs.is_empty() {
        let (place, model) = (args.path.display(), args.model.as_deref().unwrap_or_default());
        return Err(Failure::usage(format!("{place}: no run of {model}; there are runs of {list}")));
    }
    let paths = runs.iter().flat_map(|run| {
        run.results.iter().chain(run.tasks.iter().filter_map(|task| task.samples_file.as_ref())).cloned()
    });
    let mut record = ImportRecord::new(&args.name, args.format.name(), files(&paths.collect::<Vec<_>>())?);
    record.model = runs.first().map(|run| run.model.clone());
    for run in &runs {
        if let Some(value) = run.config.get("model_dtype").and_then(Value::as_str) {
            record.conditions.insert("lm-eval dtype".to_owned(), value.trim_start_matches("torch.").to_owned());
        }
        for task in &run.tasks {
            if record.task(&task.name).is_some() {
                let place = args.path.display();
                return Err(Failure::usage(format!(
                    "{place}: several runs hold the task {}; give the results file of one of them",
                    task.name
                )));
            }
            record.tasks.extend(imported(task));
        }
    }
    Ok((record, 0))
}

/// A task; `None` where the file has neither documents nor values.
fn imported(task: &SavedTask) -> Option<ImportedTask> {
    let documents: BTreeMap<usize, DocId> = task.documents().into_iter().map(|(id, doc)| (id, doc.id)).collect();
    let mut found = ImportedTask {
        id: task.name.clone(),
        alias: Some(task.alias.clone()).filter(|alias| !alias.is_empty()),
        conditions: BTreeMap::from([("version".to_owned(), task.version.clone())]),
        labels: documents.iter().map(|(id, doc)| (*doc, format!("doc_id {id}"))).collect(),
        ..ImportedTask::default()
    };
    if let Some(examples) = task.num_fewshot {
        found.conditions.insert("examples".to_owned(), examples.to_string());
    }
    if task.samples.is_empty() {
        for (i, (key, value)) in task.results.iter().filter(|(_, value)| value.value.is_finite()).enumerate() {
            let higher = task.higher_is_better.get(&key.metric).copied().unwrap_or(true);
            found.metrics.push(ImportedMetric {
                key: key.clone(),
                statistic: harness_metrics::Statistic::Mean,
                higher_is_better: higher,
                primary: i == 0,
                scores: vec![],
                repeated: false,
                aggregate: Some(Aggregate { value: value.value, standard_error: value.stderr, n: None }),
            });
        }
        return (!found.metrics.is_empty()).then_some(found);
    }
    let (prompts, outputs) = digests(task);
    found.conditions.insert("prompts".to_owned(), prompts.short());
    found.outputs = Some(outputs);
    for (i, scores) in task.scores().into_iter().enumerate() {
        let stats = scores.stats.into_iter().filter_map(|(id, stats)| Some((*documents.get(&id)?, stats)));
        found.metrics.push(ImportedMetric {
            key: scores.key,
            statistic: scores.statistic,
            higher_is_better: scores.higher_is_better,
            primary: i == 0,
            scores: stats.collect(),
            repeated: false,
            aggregate: None,
        });
    }
    Some(found)
}

/// Hashes of what was asked, made as for models that are asked here, and of what was answered, in the order of the documents.
fn digests(task: &SavedTask) -> (Digest, Digest) {
    let (mut prompts, mut outputs) = (Hasher::new("prompts"), Hasher::new("lm-eval outputs"));
    let mut asked = BTreeSet::new();
    for sample in &task.samples {
        // A document has a sample for every filter.
        if asked.insert(sample.doc_id) {
            for text in sample.arguments.iter().flat_map(|request| request.iter().map_while(Value::as_str)) {
                prompts.part(text);
            }
        }
        outputs.part(sample.doc_id.to_string()).part(Value::from(sample.responses.clone()).to_string());
    }
    (prompts.finish(), outputs.finish())
}
