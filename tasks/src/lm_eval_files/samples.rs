//! Documents as lm-eval logs them, with its hashes.

use harness_core::{Output, Request, Response};
use harness_metrics::Logged;
use harness_python::PythonJson;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::results::TaskOutcome;
use crate::{BuildOptions, DocumentRequests, Gold, OutputType, Scored, Task as _, generation};
use harness_python::{float_repr, str as python_str};

/// Lower-case hexadecimal SHA-256.
pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One line a document and filter, filters in blocks; and the hash of the task.
pub(super) fn lines(outcome: &TaskOutcome<'_>, options: &BuildOptions) -> (Vec<String>, String) {
    let mut filters: Vec<&str> = Vec::new();
    for spec in outcome.task.metrics() {
        if !filters.contains(&spec.key.filter.as_str()) {
            filters.push(&spec.key.filter);
        }
    }
    let kwargs = Value::Object(outcome.task.generation_kwargs(options));
    let json = PythonJson::default();
    let mut lines = Vec::new();
    let mut hashes = String::new();
    for filter in filters {
        let documents = outcome.prepared.documents.iter().zip(outcome.responses).zip(outcome.scored);
        for ((item, responses), scored) in documents {
            let line = sample(outcome, item, responses, scored, filter, &kwargs);
            for key in ["doc_hash", "prompt_hash", "target_hash"] {
                hashes.push_str(line[key].as_str().unwrap_or_default());
            }
            lines.push(json.dumps(&Value::Object(line)));
        }
    }
    (lines, sha256(&hashes))
}

fn sample(
    outcome: &TaskOutcome<'_>,
    item: &DocumentRequests,
    responses: &[Response],
    scored: &Scored,
    filter: &str,
    kwargs: &Value,
) -> Map<String, Value> {
    let task = outcome.task;
    let doc = Value::Object(item.doc.fields.clone());
    // Repeats of one prompt are one request with several responses.
    let mut requests: Vec<(&Request, Vec<Value>)> = Vec::new();
    for (request, response) in item.requests.iter().zip(responses) {
        let answer = logged(request, response);
        match requests.last_mut() {
            Some((Request::Generate { .. }, answers)) if matches!(request, Request::Generate { .. }) => {
                answers.push(answer);
            }
            _ => requests.push((request, vec![answer])),
        }
    }
    let arguments = requests.iter().enumerate().map(|(i, (request, _))| {
        let texts = match request {
            Request::LogLikelihood { context, continuation } => json!({"arg_0": context, "arg_1": continuation}),
            Request::RollingLogLikelihood { text } => json!({"arg_0": text}),
            Request::Generate { prompt, .. } => json!({"arg_0": prompt, "arg_1": kwargs}),
        };
        (format!("gen_args_{i}"), texts)
    });
    let arguments: Map<String, Value> = arguments.collect();
    let prompt = arguments.get("gen_args_0").and_then(|a| a["arg_0"].as_str()).unwrap_or_default().to_owned();
    let filtered: Vec<Value> = if task.output_type() == OutputType::GenerateUntil {
        let answer = scored.answers.iter().find(|answer| answer.filter == filter);
        vec![answer.map_or(Value::Null, |answer| stringified(&answer.value))]
    } else {
        requests.iter().map(|(_, answers)| answers[0].clone()).collect()
    };
    let metrics: Vec<(String, Value)> = (0..task.metrics().len())
        .filter(|&i| task.metrics()[i].key.filter == filter)
        .map(|i| (task.metrics()[i].key.metric.clone(), value(outcome, item, responses, scored, i)))
        .collect();
    let indented = PythonJson { indent: Some(2), ..PythonJson::default() };
    let doc_hash = sha256(&indented.dumps(&doc));
    let mut line = Map::new();
    line.insert("doc_id".into(), Value::from(item.doc.index));
    line.insert("doc".into(), doc);
    line.insert("target".into(), Value::from(item.target.as_str()));
    line.insert("arguments".into(), Value::Object(arguments));
    line.insert("resps".into(), requests.iter().map(|(_, answers)| Value::Array(answers.clone())).collect());
    line.insert("filtered_resps".into(), Value::Array(filtered));
    line.insert("filter".into(), Value::from(filter));
    line.insert("metrics".into(), metrics.iter().map(|(name, _)| Value::from(name.as_str())).collect());
    line.insert("doc_hash".into(), Value::from(doc_hash));
    line.insert("prompt_hash".into(), Value::from(sha256(&prompt)));
    line.insert("target_hash".into(), Value::from(sha256(&item.target)));
    line.extend(metrics);
    line
}

/// A response with all leaves as strings.
fn logged(request: &Request, response: &Response) -> Value {
    match &response.output {
        Output::LogLikelihood { logprob, is_greedy, .. } => {
            json!([float_repr(*logprob), if *is_greedy { "True" } else { "False" }])
        }
        Output::RollingLogLikelihood { logprob, .. } => Value::from(float_repr(*logprob)),
        Output::Text { text, .. } => Value::from(
            generation::answer(request, &response.output).map_or_else(|| text.clone(), |(answer, _)| answer),
        ),
    }
}

fn stringified(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(stringified).collect(),
        other => Value::from(python_str(other)),
    }
}

/// The value of a metric as lm-eval logs it: a number, or what its aggregation takes.
fn value(
    outcome: &TaskOutcome<'_>,
    item: &DocumentRequests,
    responses: &[Response],
    scored: &Scored,
    metric: usize,
) -> Value {
    let spec = &outcome.task.metrics()[metric];
    let Some(stats) = scored.scores.get(metric).map(|score| score.stats.as_slice()) else { return Value::Null };
    if let Some(logged) = outcome.task.native_log(item, responses, &spec.key) {
        return logged;
    }
    let Some(scorer) = outcome.task.scorer(metric) else { return Value::Null };
    let of = |response: &Response| match response.output {
        Output::LogLikelihood { logprob, .. } => logprob,
        _ => f64::NAN,
    };
    let loglikelihoods: Vec<f64> = responses.iter().take(item.choices.len()).map(of).collect();
    let references = match &item.gold {
        Gold::Texts(texts) => Some(texts.as_slice()),
        Gold::Text(_) | Gold::Choice(_) | Gold::Choices(_) => None,
    };
    let answer = scored.answers.iter().find(|answer| answer.filter == spec.key.filter);
    scorer.logged(&Logged {
        stats,
        gold: &item.gold.choice().unwrap_or(harness_metrics::Gold::Missing),
        loglikelihoods: &loglikelihoods,
        target: &item.target,
        references,
        answer: answer.map_or(&Value::Null, |answer| &answer.value),
    })
}
