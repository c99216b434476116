//! Scores of several models brought to the same documents in the same order.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
};

use harness_core::{DocId, SampleScore};

use super::{Alignment, ComparisonError, Documents, Table};
use crate::stats::{Columns, ColumnsError};

/// A table after alignment.
pub(super) struct Aligned {
    /// One unit a document, in the order of the first model's scores.
    pub(super) columns: Columns,
    /// Positions in the table of the columns that have scores; the others hold aggregates alone.
    pub(super) with_scores: Vec<usize>,
    /// The documents in the order of the units.
    pub(super) documents: Vec<DocId>,
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
        let with_scores: Vec<usize> =
            (0..table.columns.len()).filter(|&j| table.columns[j].aggregate.is_none()).collect();
        let columns: Vec<&super::Column> = with_scores.iter().map(|&j| &table.columns[j]).collect();
        let by_document: Vec<BTreeMap<DocId, Cow<'_, SampleScore>>> =
            columns.iter().map(|column| index(table, column)).collect::<Result<_, _>>()?;
        let (Some(base), Some(first)) = (columns.first(), by_document.first()) else {
            if table.columns.is_empty() {
                return Err(ComparisonError::Nothing { what: format!("task `{}` has no model", table.task) });
            }
            let none: &[Vec<[f64; 0]>] = &[];
            let columns = Columns::new(table.statistic.clone(), none)
                .map_err(|source| ComparisonError::Columns { at: table.place(), source })?;
            let documents = Vec::new();
            return Ok(Self { columns, with_scores, documents, clusters: None, unparsed: vec![], dropped: vec![] });
        };
        if alignment == Alignment::Strict {
            for (column, scores) in columns.iter().zip(&by_document).skip(1) {
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
        let mut once = BTreeSet::new();
        let shared: Vec<DocId> = base
            .scores
            .iter()
            .map(|score| score.doc)
            .filter(|doc| by_document.iter().all(|scores| scores.contains_key(doc)) && once.insert(*doc))
            .collect();
        if shared.is_empty()
            && let Some((column, scores)) =
                columns.iter().zip(&by_document).skip(1).find(|(_, scores)| !scores.is_empty() && !first.is_empty())
        {
            return Err(ComparisonError::NothingShared {
                at: table.place(),
                model: column.model.clone(),
                base: base.model.clone(),
                theirs: scores.keys().copied().collect(),
                ours: first.keys().copied().collect(),
            });
        }
        let vectors: Vec<Vec<&[f64]>> =
            by_document.iter().map(|scores| shared.iter().map(|doc| scores[doc].stats.as_slice()).collect()).collect();
        let units = Columns::new(table.statistic.clone(), &vectors)
            .map_err(|error| describe(table, &columns, &shared, error))?;
        Ok(Self {
            columns: units,
            with_scores,
            clusters: clusters(table, &shared)?,
            unparsed: by_document
                .iter()
                .map(|scores| shared.iter().filter(|doc| !scores[*doc].parsed).count())
                .collect(),
            dropped: by_document.iter().map(|scores| scores.len() - shared.len()).collect(),
            documents: shared,
        })
    }
}

/// The scores of a column by document; repeats are averaged.
fn index<'a>(
    table: &Table,
    column: &'a super::Column,
) -> Result<BTreeMap<DocId, Cow<'a, SampleScore>>, ComparisonError> {
    let mut scores: BTreeMap<DocId, Cow<'a, SampleScore>> = BTreeMap::new();
    let mut repeats: BTreeMap<DocId, f64> = BTreeMap::new();
    for score in &column.scores {
        let doc = score.doc;
        if score.key != table.key {
            return Err(ComparisonError::OtherMetric {
                at: table.place(),
                found: score.key.clone(),
                model: column.model.clone(),
                doc: doc.into(),
            });
        }
        match scores.entry(doc) {
            Entry::Vacant(free) => {
                free.insert(Cow::Borrowed(score));
            }
            Entry::Occupied(_) if !column.repeated => {
                return Err(ComparisonError::DuplicateDocument {
                    at: table.place(),
                    model: column.model.clone(),
                    doc: doc.into(),
                });
            }
            Entry::Occupied(mut first) => {
                let sum = first.get_mut().to_mut();
                sum.stats.iter_mut().zip(&score.stats).for_each(|(sum, x)| *sum += x);
                sum.parsed &= score.parsed;
                *repeats.entry(doc).or_insert(1.0) += 1.0;
            }
        }
    }
    for (doc, count) in repeats {
        if let Some(score) = scores.get_mut(&doc) {
            score.to_mut().stats.iter_mut().for_each(|x| *x /= count);
        }
    }
    Ok(scores)
}

fn absent<'a>(
    scores: impl Iterator<Item = &'a SampleScore>,
    from: &BTreeMap<DocId, Cow<'_, SampleScore>>,
) -> Documents {
    scores.map(|score| score.doc).filter(|doc| !from.contains_key(doc)).collect()
}

fn clusters(table: &Table, shared: &[DocId]) -> Result<Option<Vec<String>>, ComparisonError> {
    if table.clusters.is_empty() {
        return Ok(None);
    }
    let label = |doc: &DocId| {
        let missing = || ComparisonError::NoCluster { task: table.task.clone(), doc: (*doc).into() };
        table.clusters.get(doc).cloned().ok_or_else(missing)
    };
    let labels: Vec<String> = shared.iter().map(label).collect::<Result<_, _>>()?;
    let distinct = labels.iter().collect::<BTreeSet<_>>().len();
    Ok((distinct < labels.len()).then_some(labels))
}

fn describe(table: &Table, columns: &[&super::Column], shared: &[DocId], error: ColumnsError) -> ComparisonError {
    let at = table.place();
    let model = |column: usize| columns[column].model.clone();
    match error {
        ColumnsError::NotFinite { column, document, value } => {
            ComparisonError::NotFinite { at, model: model(column), doc: shared[document].into(), value }
        }
        ColumnsError::Width { column, document, found, expected, .. } => {
            ComparisonError::Width { at, model: model(column), doc: shared[document].into(), found, expected }
        }
        source => ComparisonError::Columns { at, source },
    }
}
