//! The numerical noise floor: the first documents of each task are asked again, one by one and in reverse order, and once
//! more with activations in bf16 where the model computes in f32. What changes cannot be told from a difference of
//! models.

use std::{collections::BTreeMap, path::PathBuf};

use harness_core::{Control, Digest, Hasher, Request, Response};
use harness_store::atomic_write;
use harness_tasks::{MetricSpec, Scored, Task as _};

use crate::{
    EvaluationError, Session,
    evaluate::Evaluated,
    models::{Model, Ready},
    suite::Suite,
    tables::Noise,
};

/// The largest change of each metric over the probe: the first `documents` of each task. What was measured before for the
/// same model and documents is read from the store; with `from_store` nothing else is.
///
/// # Errors
/// If the model or the store fails.
pub(crate) fn floor(
    session: &Session,
    suite: &Suite,
    ready: &Ready,
    evaluated: &Evaluated,
    (documents, from_store): (usize, bool),
) -> Result<Noise, EvaluationError> {
    let file = place(session, ready, evaluated, documents);
    if let Some(known) = read(&file) {
        return Ok(known);
    }
    if from_store {
        return Ok(Noise::new());
    }
    let other = ready.model.in_another_type();
    let models: Vec<&Model> = std::iter::once(&ready.model).chain(&other).collect();
    let probed: usize = evaluated.prepared.iter().map(|prepared| prepared.documents.len().min(documents)).sum();
    let bar = session.stage(&format!("noise of {}", ready.name), (probed * models.len()) as u64);
    let mut found = Noise::new();
    for (number, task) in suite.tasks.iter().enumerate() {
        let prepared = &evaluated.prepared[number];
        let count = prepared.documents.len().min(documents);
        for model in &models {
            let mut again = BTreeMap::new();
            for (at, document) in prepared.documents.iter().enumerate().take(count).rev() {
                let responses = ask_reversed(model, &ready.name, &document.requests);
                if session.interrupted() {
                    return Err(EvaluationError::Interrupted(
                        "interrupted; run the same command again to continue".into(),
                    ));
                }
                again.insert(at, task.score(document, &responses?)?);
                bar.step();
            }
            for (m, spec) in task.metrics().iter().enumerate() {
                let place = (task.id().to_owned(), spec.key.to_string());
                if let Some(change) = change(spec, m, &evaluated.scored[number], &again) {
                    let largest = found.entry(place).or_insert(0.0);
                    *largest = largest.max(change);
                }
            }
        }
    }
    let largest = found.values().copied().fold(0.0, f64::max);
    bar.finish(&format!("{probed} documents asked again; largest change {largest:.2e}"));
    let flat: BTreeMap<String, f64> =
        found.iter().map(|((task, key), change)| (format!("{task}\u{1f}{key}"), *change)).collect();
    let text = serde_json::to_string(&flat)
        .map_err(|e| EvaluationError::work(format!("cannot write the noise floor: {e}")))?;
    atomic_write(&file, text + "\n")?;
    Ok(found)
}

/// By how much the value of all documents changes when those of the probe get their second scores, times √(documents /
/// probe): changes of single documents are taken as independent, so their mean over more documents shrinks with the root.
fn change(spec: &MetricSpec, metric: usize, first: &[Scored], again: &BTreeMap<usize, Scored>) -> Option<f64> {
    let value = |second: Option<&BTreeMap<usize, Scored>>| {
        let scored = |at: usize| second.and_then(|second| second.get(&at)).unwrap_or(&first[at]);
        let stats: Vec<&[f64]> = (0..first.len()).map(|at| scored(at).scores[metric].stats.as_slice()).collect();
        spec.statistic.value(&spec.statistic.sum(&stats))
    };
    let (before, after) = (value(None), value(Some(again)));
    let change = (before - after).abs();
    if change.is_finite() {
        return Some(change * (first.len() as f64 / again.len().max(1) as f64).sqrt());
    }
    (spec.statistic.is_mean() && before.is_finite() != after.is_finite()).then_some(f64::MAX)
}

/// The responses to the requests of one document, asked alone and from the last to the first. They are asked together, as
/// the choices of a question share its tokens: with a call for each, the probe of MMLU would cost more than MMLU.
fn ask_reversed(model: &Model, name: &str, requests: &[Request]) -> Result<Vec<Response>, EvaluationError> {
    let reversed: Vec<Request> = requests.iter().rev().cloned().collect();
    let mut responses: Vec<Option<Response>> = vec![None; requests.len()];
    model.answer(&reversed, &mut |at, response| {
        responses[requests.len() - 1 - at] = Some(response);
        Control::Continue
    })?;
    let missing = || EvaluationError::work(format!("{name} did not answer when asked again"));
    responses.into_iter().map(|response| response.ok_or_else(missing)).collect()
}

/// Where the floor of a model on these documents is kept.
fn place(session: &Session, ready: &Ready, evaluated: &Evaluated, probe: usize) -> PathBuf {
    let mut hasher = Hasher::new("noise probe with types");
    for prepared in &evaluated.prepared {
        for request in prepared.documents.iter().take(probe).flat_map(|document| &document.requests) {
            hasher.part(request.key().0.as_bytes());
        }
    }
    let (model, probe): (Digest, Digest) = (ready.entry.identity.digest(), hasher.finish());
    session.home.join("noise").join(format!("{}-{}.json", model.short(), probe.short()))
}

fn read(file: &std::path::Path) -> Option<Noise> {
    let flat: BTreeMap<String, f64> = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    flat.into_iter()
        .map(|(place, change)| place.split_once('\u{1f}').map(|(t, k)| ((t.into(), k.into()), change)))
        .collect()
}
