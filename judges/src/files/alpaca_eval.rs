//! alpaca_eval's `model_outputs.json` and `annotations.json`.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{bad_row, kind_of, rows, text, write};
use crate::{Item, JudgesError, Judgment, Order, OutputSet, Purpose, Result, Subject, error::Coverage, is_switched};

/// The content of an outputs file.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputsFile {
    /// The instructions, in the order of the file.
    pub items: Vec<Item>,
    /// The outputs.
    pub outputs: OutputSet,
}

/// Reads outputs: JSON, JSON Lines, CSV or Parquet with `instruction`, `output`, and optionally `generator` and
/// `dataset`. Without `generator` the model is named after the file.
///
/// # Errors
/// If the file cannot be read, a row lacks a text, rows are of different generators, or an instruction is there twice
/// (named).
pub fn read_outputs(path: &Path) -> Result<OutputsFile> {
    let mut items: Vec<Item> = vec![];
    let mut outputs = BTreeMap::new();
    let mut model: Option<String> = None;
    let mut duplicate = vec![];
    for (number, row) in rows(path)? {
        let instruction = text(path, number, &row, "instruction")?;
        let output = text(path, number, &row, "output")?;
        if let Some(generator) = row.get("generator").filter(|value| !value.is_null()) {
            let Some(generator) = generator.as_str() else {
                return Err(bad_row(path, number, format!("{} in `generator`", kind_of(Some(generator))), "a text"));
            };
            if let Some(first) = model.as_deref().filter(|first| *first != generator) {
                let found = format!("generator `{generator}`");
                return Err(bad_row(
                    path,
                    number,
                    found,
                    &format!("`{first}`, as in the first row: one model per file"),
                ));
            }
            model = Some(generator.to_owned());
        }
        if outputs.insert(instruction.to_owned(), vec![output.to_owned()]).is_some() {
            duplicate.push(instruction.to_owned());
            continue;
        }
        let category = row.get("dataset").and_then(Value::as_str).map(str::to_owned);
        items.push(Item { category, ..Item::new(instruction) });
    }
    let name = path.display().to_string();
    if !duplicate.is_empty() {
        let problems = Coverage { duplicate, ..Coverage::default() };
        return Err(JudgesError::Coverage { source_name: name, problems });
    }
    let stem = || path.file_name().map(|name| name.to_string_lossy().split('.').next().unwrap_or_default().to_owned());
    let model = model.or_else(stem).unwrap_or(name);
    Ok(OutputsFile { items, outputs: OutputSet { model, outputs } })
}

/// Writes outputs as alpaca_eval reads them.
///
/// # Errors
/// If an item has no output, or the file cannot be written.
pub fn write_outputs(path: &Path, items: &[Item], outputs: &OutputSet) -> Result<()> {
    outputs.check(items)?;
    let records: Vec<Value> = items
        .iter()
        .map(|item| {
            serde_json::json!({
                "dataset": item.category,
                "instruction": item.instruction(),
                "output": outputs.get(&item.id).and_then(<[String]>::first),
                "generator": outputs.model,
            })
        })
        .collect();
    write(path, &format!("{:#}\n", Value::Array(records)))
}

/// One record of `annotations.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// The instruction.
    pub instruction: String,
    /// The baseline's output.
    pub output_1: String,
    /// The baseline.
    pub generator_1: String,
    /// Part of the set.
    #[serde(default)]
    pub dataset: Option<String>,
    /// The model's output.
    pub output_2: String,
    /// The model.
    pub generator_2: String,
    /// The judge.
    #[serde(default)]
    pub annotator: Option<String>,
    /// From 1 (the baseline is better) to 2 (the model is better); 1.5, or 0, is a draw; `None` where there is no verdict.
    pub preference: Option<f64>,
    /// What the judge answered.
    #[serde(default)]
    pub raw_completion: Value,
    /// Seconds.
    #[serde(default)]
    pub time_per_example: Option<f64>,
    /// US dollars.
    #[serde(default)]
    pub price_per_example: Option<f64>,
}

/// Which verdicts become an instruction's annotation where both orders were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationOrder {
    /// The one in the order that alpaca_eval draws for the instruction: the tool's own number.
    AlpacaEval,
    /// The mean of both orders: free of position bias where that is symmetric.
    Both,
}

/// Annotations of one pair, in the order of the items; verdicts that could not be read have no preference.
///
/// # Errors
/// If an output is missing.
pub fn annotations(
    items: &[Item],
    baseline: &OutputSet,
    candidate: &OutputSet,
    judgments: &[Judgment],
    annotator: &str,
    order: AnnotationOrder,
) -> Result<Vec<Annotation>> {
    baseline.check(items)?;
    candidate.check(items)?;
    let subject = Subject::Pair { baseline: baseline.model.clone(), candidate: candidate.model.clone() };
    let mut by_item: BTreeMap<&str, Vec<&Judgment>> = BTreeMap::new();
    for judgment in judgments.iter().filter(|j| j.subject == subject && j.purpose == Purpose::Main && j.turn == 1) {
        by_item.entry(&judgment.item).or_default().push(judgment);
    }
    let output =
        |set: &OutputSet, item: &Item| set.get(&item.id).and_then(<[String]>::first).cloned().unwrap_or_default();
    let one = |item: &Item| {
        let drawn = if is_switched(item.instruction(), 0) { Order::CandidateFirst } else { Order::BaselineFirst };
        let all = by_item.get(item.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        let both_asked =
            [Order::BaselineFirst, Order::CandidateFirst].iter().all(|o| all.iter().any(|j| j.order == *o));
        let used: Vec<&Judgment> = match order {
            AnnotationOrder::AlpacaEval if both_asked => all.iter().copied().filter(|j| j.order == drawn).collect(),
            _ => all.to_vec(),
        };
        let preferences: Option<Vec<f64>> = used.iter().map(|j| j.candidate_preference()).collect();
        let preference =
            preferences.filter(|list| !list.is_empty()).map(|list| 1.0 + list.iter().sum::<f64>() / list.len() as f64);
        let raw: Vec<Value> = used.iter().filter(|j| j.attempts > 0).map(|j| Value::String(j.raw.clone())).collect();
        Annotation {
            instruction: item.instruction().to_owned(),
            output_1: output(baseline, item),
            generator_1: baseline.model.clone(),
            dataset: item.category.clone(),
            output_2: output(candidate, item),
            generator_2: candidate.model.clone(),
            annotator: Some(annotator.to_owned()),
            preference,
            raw_completion: match raw.as_slice() {
                [] => Value::Null,
                [one] => one.clone(),
                _ => Value::Array(raw),
            },
            time_per_example: None,
            price_per_example: None,
        }
    };
    Ok(items.iter().map(one).collect())
}

/// Writes annotations as alpaca_eval reads them.
///
/// # Errors
/// If the file cannot be written.
pub fn write_annotations(path: &Path, annotations: &[Annotation]) -> Result<()> {
    write(path, &format!("{:#}\n", serde_json::json!(annotations)))
}

/// Reads annotations.
///
/// # Errors
/// If the file cannot be read, or a record is not as alpaca_eval writes it.
pub fn read_annotations(path: &Path) -> Result<Vec<Annotation>> {
    let parse = |(number, row)| {
        serde_json::from_value(Value::Object(row))
            .map_err(|error| bad_row(path, number, error.to_string(), "a record as alpaca_eval writes it"))
    };
    rows(path)?.into_iter().map(parse).collect()
}
