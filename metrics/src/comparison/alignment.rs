//! Scores of several models brought to the same documents in the same order.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{DocId, SampleScore};

use super::{Alignment, ComparisonError, Documents, Table};
use crate::stats::{Columns, ColumnsError};

/// A table after alignment.
pub(super) struct Aligned {
    /// One unit a document, in the order of the first model's scores.
    pub(super) columns: Columns,
    /// Labels of the documents' clusters, where there are any.
    pub(super) clusters: Option<Vec<String>>,
    /// Documents without a parsed answer, by column.
    pub(super) unparsed: Vec<usize>,
    /// Documents left out, by column.
    pub(super) dropped: Vec<usize>,
}

impl Aligned {
    /// Brings the columns of a table to the same documents.
    pub(super) fn new(table: &Table, alignment: Alignment) -> Result<Self, ComparisonError> {
        let by_document: Vec<BTreeMap<DocId, &SampleScore>> =
            table.columns.iter().map(|column| index(table, column)).collect::<Result<_, _>>()?;
        let (Some(base), Some(first)) = (table.columns.first(), by_document.first()) else {
            return Err(ComparisonError::Nothing { what: format!("task `{}` has no model", table.task) });
        };
        if alignment == Alignment::Strict {
            for (column, scores) in table.columns.iter().zip(&by_document).skip(1) {
                let missing = absent(base.scores.iter(), scores);
                let extra = absent(column.scores.iter(), first);
                if !missing.0.is_empty() || !extra.0.is_empty() {
                    return Err(ComparisonError::Misaligned {
                        at: table.place(),
                        model: column.model.clone(),
                        base: base.model.clone(),
                        missing,
                        extra,
                    });
                }
            }
        }
        let shared: Vec<DocId> = base
            .scores
            .iter()
            .map(|score| score.doc)
            .filter(|doc| by_document.iter().all(|scores| scores.contains_key(doc)))
            .collect();
        let vectors: Vec<Vec<&[f64]>> =
            by_document.iter().map(|scores| shared.iter().map(|doc| scores[doc].stats.as_slice()).collect()).collect();
        let columns =
            Columns::new(table.statistic.clone(), &vectors).map_err(|error| describe(table, &shared, error))?;
        Ok(Self {
            columns,
            clusters: clusters(table, &shared)?,
            unparsed: by_document
                .iter()
                .map(|scores| shared.iter().filter(|doc| !scores[*doc].parsed).count())
                .collect(),
            dropped: by_document.iter().map(|scores| scores.len() - shared.len()).collect(),
        })
    }
}

fn index<'a>(table: &Table, column: &'a super::Column) -> Result<BTreeMap<DocId, &'a SampleScore>, ComparisonError> {
    let mut scores = BTreeMap::new();
    for score in &column.scores {
        let doc = score.doc;
        if score.key != table.key {
            return Err(ComparisonError::OtherMetric {
                at: table.place(),
                found: score.key.clone(),
                model: column.model.clone(),
                doc,
            });
        }
        if scores.insert(doc, score).is_some() {
            return Err(ComparisonError::DuplicateDocument { at: table.place(), model: column.model.clone(), doc });
        }
    }
    Ok(scores)
}

fn absent<'a>(scores: impl Iterator<Item = &'a SampleScore>, from: &BTreeMap<DocId, &SampleScore>) -> Documents {
    Documents(scores.map(|score| score.doc).filter(|doc| !from.contains_key(doc)).collect())
}

fn clusters(table: &Table, shared: &[DocId]) -> Result<Option<Vec<String>>, ComparisonError> {
    if table.clusters.is_empty() {
        return Ok(None);
    }
    let label = |doc: &DocId| {
        let missing = || ComparisonError::NoCluster { task: table.task.clone(), doc: *doc };
        table.clusters.get(doc).cloned().ok_or_else(missing)
    };
    let labels: Vec<String> = shared.iter().map(label).collect::<Result<_, _>>()?;
    let distinct = labels.iter().collect::<BTreeSet<_>>().len();
    Ok((distinct < labels.len()).then_some(labels))
}

fn describe(table: &Table, shared: &[DocId], error: ColumnsError) -> ComparisonError {
    let at = table.place();
    let model = |column: usize| table.columns[column].model.clone();
    match error {
        ColumnsError::NotFinite { column, document, value } => {
            ComparisonError::NotFinite { at, model: model(column), doc: shared[document], value }
        }
        ColumnsError::Width { column, document, found, expected, .. } => {
            ComparisonError::Width { at, model: model(column), doc: shared[document], found, expected }
        }
        source => ComparisonError::Columns { at, source },
    }
}
