//! The chain from a number of a report to everything it was made from, recomputed from the store.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use harness_core::{ChatKwargs, Digest, Hasher, Request, Response, canonical_json};
use harness_metrics::comparison::{Comparison, ModelFacts, Row};
use harness_store::{DataEntry, Manifest, ModelEntry, RunStore as _, TaskEntry, hash_file};
use harness_tasks::{BuildOptions, Group, Prepared, PromptFormatter, Scored, Task as _};
use harness_training::TrainingRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    EvaluationError, Session,
    evaluate::Evaluated,
    models::{Loader, Missing},
    options::{EvaluationOptions, PromptOptions},
    provenance::ModelFiles,
    stored,
    suite::Suite,
    tables::{Noise, Scores, tables},
    training::ensure_trained,
};

/// Name of the manifest's setting that holds what follows, by model.
pub const LINEAGE: &str = "lineage";

/// Name of the place in the manifest that says whose tokenizer and chat template models were asked with, where the call
/// said it.
pub(crate) const TOKENIZER: &str = "tokenizer";

/// Name of the place in the manifest that holds the folders of task files.
pub(crate) const INCLUDE_PATH: &str = "include_path";

/// Where a model lay when it was asked; not what its answers depend on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ModelPlace {
    /// File or folder of the base weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Folder of the adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// The files; those of an adapter may name folders of this machine.
    pub files: ModelFiles,
}

impl ModelPlace {
    /// Name of the place in the manifest that holds them by model.
    pub const ALL: &str = "models";

    pub(crate) fn of(model: &Evaluated) -> Self {
        let ModelEntry { path, adapter, .. } = model.entry.clone();
        Self { path, adapter, files: model.files.clone() }
    }
}

/// What the manifest keeps of one model for [`explain`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ModelLineage {
    /// By task.
    pub tasks: BTreeMap<String, Samples>,
    /// The mark that ended its thinking, where the experiment named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub think_end_token: Option<String>,
    /// Whose tokenizer and chat template it was asked with, where the call said it; for all models at once.
    #[serde(skip)]
    pub tokenizer: Option<String>,
}

/// The answers to one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// Number of responses.
    pub responses: usize,
    /// Hash of the requests' keys in order.
    pub requests: Digest,
    /// Hash of the outputs in order.
    pub outputs: Digest,
}

impl Samples {
    fn of<'a>(requests: impl Iterator<Item = &'a Request>, responses: impl Iterator<Item = &'a Response>) -> Self {
        let (mut keys, mut outputs, mut count) = (Hasher::new("requests"), Hasher::new("outputs"), 0);
        requests.for_each(|request| {
            keys.part(request.key().0.as_bytes());
        });
        for response in responses {
            count += 1;
            outputs.part(canonical_json(&response.output));
        }
        Self { responses: count, requests: keys.finish(), outputs: outputs.finish() }
    }
}

/// The lineage of an evaluated model, for the manifest.
pub fn lineage(suite: &Suite, model: &Evaluated) -> ModelLineage {
    let tasks = suite.tasks.iter().zip(&model.prepared).zip(&model.responses).map(|((task, prepared), responses)| {
        let requests = prepared.documents.iter().flat_map(|document| &document.requests);
        (task.id().to_owned(), Samples::of(requests, responses.iter().flatten()))
    });
    let think_end_token = model.think_end_token.clone();
    ModelLineage { tasks: tasks.collect(), think_end_token, tokenizer: None }
}

/// One link of the chain from a number to what it was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// What is looked at.
    pub what: String,
    /// What the report or manifest says.
    pub recorded: String,
    /// What is there now, where that differs.
    pub found: Option<String>,
}

/// The chain from a number of a report to everything it was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain(pub Vec<Link>);

impl Chain {
    fn note(&mut self, what: impl Into<String>, recorded: impl Into<String>) {
        self.0.push(Link { what: what.into(), recorded: recorded.into(), found: None });
    }

    fn check(&mut self, what: impl Into<String>, recorded: String, found: String) {
        let found = (found != recorded).then_some(found);
        self.0.push(Link { what: what.into(), recorded, found });
    }

    /// A file against the hash it had; read again, whatever was remembered.
    fn file(&mut self, what: &str, entry: &DataEntry) {
        let found = hash_file(&entry.path).map_or_else(|error| error.to_string(), |hash| hash.short());
        self.check(format!("{what} {}", entry.path.display()), entry.hash.short(), found);
    }

    /// What changed since the report was made.
    pub fn changed(&self) -> Vec<&str> {
        self.0.iter().filter(|link| link.found.is_some()).map(|link| link.what.as_str()).collect()
    }
}

/// Follows a number of a report, `TASK/MODEL` or `TASK:METRIC,FILTER/MODEL`, to everything it was made from, and computes it
/// again from the store.
///
/// # Errors
/// If there is no such report or number, or the store cannot be read.
pub fn explain(session: &Session, report: &str, place: &str) -> Result<Chain, EvaluationError> {
    let (report, manifest) = stored::find(session, report)?;
    let comparison = report.comparison;
    let (row, model) = cell(&comparison, place)?;
    let mut chain = Chain::default();
    let place = comparison.models.iter().position(|name| name == model).unwrap_or_default();
    let value = row.cells[place].value;
    chain.note(
        format!("value of {model} on {} {}", row.task, row.key),
        value.map_or("none".to_owned(), |value| format!("{value:?}")),
    );
    chain.note("documents", row.n.map_or("unknown".to_owned(), |n| n.to_string()));
    match manifest {
        None => chain.note("manifest", "none: the results are imported, or the report was moved without manifest.json"),
        Some(manifest) => {
            let recorded =
                report.meta.manifest.iter().find(|(name, _)| name == "manifest").map(|(_, hash)| hash.clone());
            chain.check("manifest", recorded.unwrap_or_else(|| manifest.hash().short()), manifest.hash().short());
            inputs(session, &manifest, row, model, value, &mut chain)?;
        }
    }
    Ok(chain)
}

/// The row and model of `TASK/MODEL` or `TASK:METRIC,FILTER/MODEL`.
fn cell<'a>(comparison: &'a Comparison, text: &'a str) -> Result<(&'a Row, &'a str), EvaluationError> {
    let wrong = |what: String| {
        let rows: Vec<String> = comparison.rows.iter().map(|row| format!("{}:{}", row.task, row.key)).collect();
        EvaluationError::usage(format!(
            "{text}: {what}; rows are {}; models are {}",
            rows.join(" "),
            comparison.models.join(", ")
        ))
    };
    let Some((place, model)) = text.rsplit_once('/') else {
        return Err(wrong("expected TASK/MODEL or TASK:METRIC,FILTER/MODEL".to_owned()));
    };
    if !comparison.models.iter().any(|name| name == model) {
        return Err(wrong(format!("no model {model:?}")));
    }
    let (task, key) = place.split_once(':').map_or((place, None), |(task, key)| (task, Some(key)));
    let fits = |row: &&Row| row.task == task && key.map_or(row.primary, |key| row.key.to_string() == key);
    comparison.rows.iter().find(fits).map(|row| (row, model)).ok_or_else(|| wrong(format!("no row {place:?}")))
}

/// Everything below the value: statistic, samples, tasks and data, model files, recipe.
fn inputs(
    session: &Session,
    manifest: &Manifest,
    row: &Row,
    model: &str,
    value: Option<f64>,
    chain: &mut Chain,
) -> Result<(), EvaluationError> {
    chain.note("harness", manifest.harness_version.clone());
    chain.note("command", manifest.run.command.join(" "));
    let Some(entry) = manifest.models.iter().find(|entry| entry.name == model) else {
        chain.note("model", "imported: no lineage beyond the imported file");
        return Ok(());
    };
    let mut lineage: ModelLineage = manifest
        .settings
        .get(LINEAGE)
        .and_then(|all| serde_json::from_value(all.get(model)?.clone()).ok())
        .unwrap_or_default();
    lineage.tokenizer = manifest.run.places.get(TOKENIZER).and_then(|choice| choice.as_str()).map(str::to_owned);
    let place = manifest.run.places.get(ModelPlace::ALL);
    let place = place.and_then(|all| serde_json::from_value::<ModelPlace>(all.get(model)?.clone()).ok());
    let ModelPlace { path, adapter, files } = place.unwrap_or_default();
    chain.note(format!("model {model}"), entry.identity.digest().short());
    for file in &files.weights {
        chain.file("weights", file);
    }
    for file in &files.adapter {
        chain.file("adapter", file);
    }
    for file in &files.data {
        chain.file("training data", file);
    }
    if let Some(recipe) = &files.recipe {
        let short: String = recipe.chars().take(12).collect();
        let found = adapter.as_deref().or(path.as_deref()).and_then(recipe_now);
        chain.check(
            "recipe",
            short,
            found.map_or("no training.json".to_owned(), |hash| hash.chars().take(12).collect()),
        );
    }
    let suite = suite(session, manifest)?;
    let parts = parts(&suite, row);
    let mut all = Evaluated {
        name: model.to_owned(),
        facts: ModelFacts::default(),
        scored: vec![],
        responses: vec![],
        prepared: vec![],
        entry: entry.clone(),
        files: ModelFiles::default(),
        seconds: 0.0,
        think_end_token: lineage.think_end_token.clone(),
    };
    for (number, task) in suite.tasks.iter().enumerate() {
        let mut scored = vec![];
        let recorded = manifest.tasks.iter().find(|recorded| recorded.id == task.id());
        if let Some(recorded) = recorded.filter(|recorded| parts.contains(&recorded.id.as_str())) {
            let files = manifest.run.data.get(&recorded.id).map_or(&[][..], Vec::as_slice);
            scored = samples(session, &suite, number, (recorded, files), (entry, &lineage), chain)?;
        }
        all.scored.push(scored);
    }
    let damaged = session.store()?.report(&entry.identity.digest())?;
    if damaged.has_losses() {
        chain.check("store", "whole".to_owned(), damaged.to_string());
    }
    let tables = tables(&suite, &[Scores::Evaluated(&all)], &Noise::new());
    if let Some(table) = tables.iter().find(|table| table.task == row.task && table.key == row.key) {
        let scores = &table.columns[0].scores;
        chain.note("statistic", format!("{} of {} documents", canonical_json(&table.statistic), scores.len()));
        // Sums depend on the order in the last bit, and a report adds up its documents in the order of their names.
        let again = table.statistic.value(&table.statistic.sum(scores.iter().map(|score| &score.stats)));
        let same = value.is_some_and(|value| (value - again).abs() <= 1e-12 * value.abs());
        let found = format!("{:?}", if same { value.unwrap_or(again) } else { again });
        let recorded = value.map_or("none".to_owned(), |value| format!("{value:?}"));
        chain.check("value recomputed from the store", recorded, found);
    }
    Ok(())
}

/// The tasks whose documents are in a row.
fn parts<'a>(suite: &'a Suite, row: &'a Row) -> Vec<&'a str> {
    if !row.pooled {
        return vec![&row.task];
    }
    suite.groups.iter().find_map(|group| group.find(&row.task)).map_or(vec![], Group::leaves)
}

/// Checks a task, its data, its requests and the answers to them, and scores the answers again.
fn samples(
    session: &Session,
    suite: &Suite,
    number: usize,
    (recorded, files): (&TaskEntry, &[DataEntry]),
    (entry, lineage): (&ModelEntry, &ModelLineage),
    chain: &mut Chain,
) -> Result<Vec<Scored>, EvaluationError> {
    let task = &suite.tasks[number];
    chain.check(format!("task {}", recorded.id), recorded.definition.short(), task.digest().short());
    for file in files {
        chain.file("data", file);
    }
    let prepared = prepare(session, suite, number, entry, lineage)?;
    let responses = responses(session, entry, &prepared)?;
    let now = Samples::of(
        prepared.documents.iter().flat_map(|document| &document.requests),
        responses.iter().flatten().flatten(),
    );
    if let Some(before) = lineage.tasks.get(task.id()) {
        chain.check(format!("requests of {}", task.id()), before.requests.short(), now.requests.short());
        chain.check(format!("responses to {}", task.id()), before.responses.to_string(), now.responses.to_string());
        chain.check(format!("outputs on {}", task.id()), before.outputs.short(), now.outputs.short());
    }
    let mut scored = vec![];
    for (document, answers) in prepared.documents.iter().zip(responses) {
        if let Some(answers) = answers.into_iter().collect::<Option<Vec<Response>>>() {
            scored.push(task.score(document, &answers)?);
        }
    }
    Ok(scored)
}

fn recipe_now(folder: &Path) -> Option<String> {
    let record = TrainingRecord::read_file(&folder.join(TrainingRecord::FILE)).ok()??;
    // The hash is computed again from the recipe, not believed.
    record.recipe_hash.map(|_| record.recipe_digest().to_string())
}

/// The tasks of a manifest, built as they were.
fn suite(session: &Session, manifest: &Manifest) -> Result<Suite, EvaluationError> {
    fn setting<T: Default + serde::de::DeserializeOwned>(settings: &BTreeMap<String, Value>, name: &str) -> T {
        let value = settings.get(name);
        value.and_then(|value| serde_json::from_value(value.clone()).ok()).unwrap_or_default()
    }
    let include: Vec<PathBuf> = setting(&manifest.run.places, INCLUDE_PATH);
    let mut tasks: Vec<String> = setting(&manifest.settings, "tasks");
    if tasks.is_empty() {
        tasks.extend(manifest.tasks.iter().map(|task| task.id.clone()));
    }
    let build = BuildOptions { limit: None, ..setting(&manifest.settings, "build") };
    let options = EvaluationOptions { tasks, include_path: include, build, ..EvaluationOptions::default() };
    let suite = Suite::load(session, &options)?;
    let documents: Vec<usize> = suite
        .tasks
        .iter()
        .map(|task| manifest.tasks.iter().find(|entry| entry.id == task.id()).map_or(0, |entry| entry.docs))
        .collect();
    Ok(suite.with_documents(&documents))
}

/// What the model's chats were told, by its identity.
fn texts(entry: &ModelEntry, lineage: &ModelLineage) -> Result<PromptOptions, EvaluationError> {
    let told = |name: &str| entry.identity.extra.get(name);
    let date = told("date").map(|day| day.parse()).transpose().map_err(EvaluationError::usage)?;
    let kwargs: Vec<String> = told("chat_template_kwargs").into_iter().cloned().collect();
    let chat_template_kwargs = ChatKwargs::parse(&kwargs).map_err(EvaluationError::usage)?;
    Ok(PromptOptions { date, chat_template_kwargs, tokenizer: lineage.tokenizer.clone().map(Into::into) })
}

/// The requests of one task; a chat template needs the model.
fn prepare(
    session: &Session,
    suite: &Suite,
    number: usize,
    entry: &ModelEntry,
    lineage: &ModelLineage,
) -> Result<Prepared, EvaluationError> {
    let model = if suite.uses_chat_template() {
        let mut loader = Loader::new(session, session.device.limits(), ensure_trained);
        Some(
            loader.load(&session.experiment.model(&entry.name)?.asked(&texts(entry, lineage)?), Missing::Refuse)?.model,
        )
    } else {
        None
    };
    let model = model.as_deref();
    let formatter = model.as_ref().map(|model| model as &dyn PromptFormatter);
    Ok(suite.tasks[number].build(&suite.options_of(number, lineage.think_end_token.as_deref()), formatter)?)
}

/// The stored responses by document; `None` where one is not there.
fn responses(
    session: &Session,
    entry: &ModelEntry,
    prepared: &Prepared,
) -> Result<Vec<Vec<Option<Response>>>, EvaluationError> {
    let (store, model) = (session.store()?, entry.identity.digest());
    let mut all = vec![];
    for document in &prepared.documents {
        let mut answers = vec![];
        for request in &document.requests {
            answers.push(store.get(&model, &request.key())?);
        }
        all.push(answers);
    }
    Ok(all)
}
