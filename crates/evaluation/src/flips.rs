//! Documents whose answer changed between two models.

use std::collections::BTreeMap;

use harness_core::{DocId, Output};
use harness_metrics::{comparison::Comparison, stats::McNemar};
use harness_tasks::Gold;
use serde::Serialize;

use crate::{evaluate::Evaluated, gather::Gathered, tables::Scores};

/// Characters of a document that are shown.
const SHOWN: usize = 70;

/// The documents that changed in one row between two models.
#[derive(Clone, Debug, Serialize)]
pub struct RowFlips {
    /// The task.
    pub task: String,
    /// The metric and filter.
    pub metric: String,
    /// The base.
    pub base: String,
    /// The candidate.
    pub candidate: String,
    /// Documents compared.
    pub n: usize,
    /// Documents with a higher score of the candidate.
    pub won: u64,
    /// Documents with a lower score of the candidate.
    pub lost: u64,
    /// Documents that both got right, where scores are right or wrong (of McNemar's table).
    pub both_right: Option<u64>,
    /// Documents that both got wrong, likewise.
    pub both_wrong: Option<u64>,
    /// The documents, by the size of their change.
    pub documents: Vec<Flip>,
}

/// A document that changed.
#[derive(Clone, Debug, Serialize)]
pub struct Flip {
    /// The beginning of its id.
    pub document: String,
    /// Scores of the base and the candidate.
    pub scores: [f64; 2],
    /// Change of the margin by which the right choice leads, in nats, where there are choices.
    pub margin: Option<f64>,
    /// Its beginning, or the id that a tool gave it.
    pub text: String,
}

/// The flips of all primary rows, one entry a row and candidate, documents by the size of their change.
pub fn flips(gathered: &Gathered, comparison: &Comparison) -> Vec<RowFlips> {
    let scores = gathered.scores();
    let described = described(gathered);
    let margins: Vec<BTreeMap<DocId, f64>> = scores
        .iter()
        .map(|scores| match scores {
            Scores::Evaluated(model) => margins(model),
            Scores::Imported(_) => BTreeMap::new(),
        })
        .collect();
    let mut found = vec![];
    for table in gathered.tables() {
        let known = comparison.row(&table.task, &table.key).is_some();
        if !table.primary || table.pooled || !known || !table.statistic.is_mean() {
            continue;
        }
        let values = |column: usize| -> BTreeMap<DocId, f64> {
            let mut sums: BTreeMap<DocId, (f64, f64)> = BTreeMap::new();
            for score in table.columns[column].scores.iter().filter(|score| score.stats[1] > 0.0) {
                let sum = sums.entry(score.doc).or_insert((0.0, 0.0));
                (sum.0, sum.1) = (sum.0 + score.stats[0], sum.1 + score.stats[1]);
            }
            sums.into_iter().map(|(doc, (sum, weight))| (doc, sum / weight)).collect()
        };
        let base = values(0);
        for column in 1..table.columns.len() {
            let candidate = values(column);
            let shared: Vec<(&DocId, [f64; 2])> =
                base.iter().filter_map(|(doc, one)| Some((doc, [*one, *candidate.get(doc)?]))).collect();
            let side = |j: usize| shared.iter().map(|(_, scores)| scores[j]).collect::<Vec<f64>>();
            let mcnemar = McNemar::count(&side(0), &side(1));
            let mut documents: Vec<Flip> = shared
                .iter()
                .filter(|(_, [one, other])| one != other)
                .map(|(doc, scores)| Flip {
                    document: doc.0.short(),
                    scores: *scores,
                    margin: margins[column].get(doc).zip(margins[0].get(doc)).map(|(after, before)| after - before),
                    text: described.get(doc).cloned().unwrap_or_default(),
                })
                .collect();
            let size = |flip: &Flip| flip.margin.unwrap_or(flip.scores[1] - flip.scores[0]).abs();
            documents.sort_by(|a, b| size(b).total_cmp(&size(a)).then_with(|| a.document.cmp(&b.document)));
            let count =
                |up: bool| documents.iter().filter(|flip| (flip.scores[1] > flip.scores[0]) == up).count() as u64;
            found.push(RowFlips {
                task: table.task.clone(),
                metric: table.key.to_string(),
                base: table.columns[0].model.clone(),
                candidate: table.columns[column].model.clone(),
                n: shared.len(),
                won: count(true),
                lost: count(false),
                both_right: mcnemar.map(|table| table.both),
                both_wrong: mcnemar.map(|table| table.neither),
                documents,
            });
        }
    }
    found
}

/// The beginnings of documents, or the ids that a tool gave them.
fn described(gathered: &Gathered) -> BTreeMap<DocId, String> {
    let mut texts = BTreeMap::new();
    for task in gathered.imported.iter().flat_map(|record| &record.tasks) {
        texts.extend(task.labels.iter().map(|(doc, label)| (*doc, label.clone())));
    }
    for model in gathered.evaluated.iter().take(1) {
        for item in model.prepared.iter().flat_map(|prepared| &prepared.documents) {
            let longest = item.doc.fields.values().filter_map(|value| value.as_str()).max_by_key(|text| text.len());
            let words: Vec<&str> = longest.unwrap_or_default().split_whitespace().collect();
            let mut text: String = words.join(" ").chars().take(SHOWN + 1).collect();
            if text.chars().count() > SHOWN {
                text = text.chars().take(SHOWN).collect::<String>() + "…";
            }
            texts.insert(item.doc.id, format!("{} {text}", item.doc.index));
        }
    }
    texts
}

/// By how many nats the right choice leads the best other one, for documents with choices.
fn margins(model: &Evaluated) -> BTreeMap<DocId, f64> {
    let mut margins = BTreeMap::new();
    for (prepared, responses) in model.prepared.iter().zip(&model.responses) {
        for (item, responses) in prepared.documents.iter().zip(responses) {
            let Gold::Choice(Some(gold)) = item.gold else { continue };
            let logprobs: Vec<f64> = responses
                .iter()
                .take(item.choices.len())
                .filter_map(|response| match response.output {
                    Output::LogLikelihood { logprob, .. } => Some(logprob),
                    _ => None,
                })
                .collect();
            let others = logprobs.iter().enumerate().filter(|(i, _)| *i != gold).map(|(_, logprob)| *logprob);
            if let (Some(right), Some(best)) = (logprobs.get(gold), others.reduce(f64::max)) {
                margins.insert(item.doc.id, right - best);
            }
        }
    }
    margins
}
