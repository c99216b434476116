//! Rows of CSV or JSON whose columns a map names.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{DocId, Hasher, MetricKey};
use harness_metrics::{Statistic, comparison::Aggregate};
use harness_store::nearest;
use serde_json::{Map, Value};

use super::{
    super::Failure,
    record::{ImportedMetric, ImportedTask},
};

/// Fields that are not metrics.
const FIELDS: [&str; 9] = ["id", "task", "cluster", "repeat", "output", "model", "mean", "stderr", "n"];

/// Columns by field, in the order given.
pub(super) struct ColumnMap {
    fields: Vec<(String, String)>,
}

/// What a call says besides the map.
pub(super) struct RowOptions<'a> {
    /// Task of rows without one.
    pub(super) task: Option<&'a str>,
    /// Only rows of this model.
    pub(super) model: Option<&'a str>,
    /// Metrics of which smaller values are better.
    pub(super) lower_is_better: &'a [String],
}

impl ColumnMap {
    /// From `FIELD=COLUMN` arguments; `id=id,score=score` where there are none.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for argument in arguments {
            let pair = argument.split_once('=').filter(|(field, column)| !field.is_empty() && !column.is_empty());
            let Some((field, column)) = pair else {
                return Err(Failure::usage(format!("--map {argument}: expected FIELD=COLUMN, e.g. id=question_id")));
            };
            if fields.iter().any(|(known, _)| known == field) {
                return Err(Failure::usage(format!("--map {argument}: the field {field} is given twice")));
            }
            fields.push((field.to_owned(), column.to_owned()));
        }
        let has = |name: &str| fields.iter().any(|(field, _)| field == name);
        if fields.is_empty() {
            fields = vec![("id".into(), "id".into()), ("score".into(), "score".into())];
        } else if !has("id") && !has("mean") {
            return Err(Failure::usage(
                "--map: expected a column for `id` (results by document) or for `mean` (results without documents)",
            ));
        } else if has("id") && fields.iter().all(|(field, _)| FIELDS.contains(&field.as_str())) {
            return Err(Failure::usage("--map: no metric; expected METRIC=COLUMN, e.g. acc=correct"));
        }
        Ok(Self { fields })
    }

    fn column(&self, field: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == field).map(|(_, column)| column.as_str())
    }

    fn metrics(&self) -> impl Iterator<Item = (&str, &str)> {
        let metrics = self.fields.iter().filter(|(field, _)| !FIELDS.contains(&field.as_str()));
        metrics.map(|(field, column)| (field.as_str(), column.as_str()))
    }

    /// Every column that is named exists in some row.
    fn check(&self, rows: &[Map<String, Value>]) -> Result<(), Failure> {
        let known: BTreeSet<&str> = rows.iter().flat_map(|row| row.keys().map(String::as_str)).collect();
        for (field, column) in &self.fields {
            if !known.contains(column.as_str()) {
                let near = nearest(column, known.iter().copied());
                let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
                let known: Vec<&str> = known.iter().copied().collect();
                let known = known.join(", ");
                return Err(Failure::usage(format!("no column {column:?} for {field}; the columns are {known}{near}")));
            }
        }
        Ok(())
    }
}

/// What rows of a file became.
pub(super) struct RowsRead {
    /// The tasks in order of appearance.
    pub(super) tasks: Vec<ImportedTask>,
    /// Scores that are empty or null.
    pub(super) missing: usize,
}

/// Turns rows into tasks.
///
/// # Errors
/// If a column does not exist, a score is no finite number, an id is missing or occurs twice, or models are mixed; rows
/// are named by their number from 1.
pub(super) fn read(
    rows: &[Map<String, Value>],
    map: &ColumnMap,
    options: &RowOptions<'_>,
) -> Result<RowsRead, Failure> {
    if rows.is_empty() {
        return Err(Failure::usage("the file has no rows"));
    }
    map.check(rows)?;
    let mut reader =
        Reader { map, options, tasks: Vec::new(), seen: BTreeMap::new(), missing: 0, outputs: BTreeMap::new() };
    let mut models: BTreeSet<String> = BTreeSet::new();
    for (i, row) in rows.iter().enumerate() {
        if let Some(model) = map.column("model").and_then(|column| text(row.get(column)?)) {
            if options.model.is_some_and(|wanted| wanted != model) {
                models.insert(model);
                continue;
            }
            models.insert(model);
            if options.model.is_none() && models.len() > 1 {
                let found = models.into_iter().collect::<Vec<_>>().join(", ");
                return Err(Failure::usage(format!(
                    "row {}: results of several models ({found}); choose one with --model",
                    i + 1
                )));
            }
        }
        if map.column("id").is_some() { reader.score(i + 1, row)? } else { reader.aggregate(i + 1, row)? }
    }
    if reader.tasks.is_empty() {
        let wanted = options.model.unwrap_or_default();
        let found = models.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Failure::usage(format!("no row is of the model {wanted}; there are {found}")));
    }
    for task in &mut reader.tasks {
        if let Some(outputs) = reader.outputs.get(&task.id) {
            let mut hasher = Hasher::new("imported outputs");
            outputs.iter().for_each(|(doc, output)| {
                hasher.part(doc.0.as_bytes()).part(output);
            });
            task.outputs = Some(hasher.finish());
        }
    }
    Ok(RowsRead { tasks: reader.tasks, missing: reader.missing })
}

/// The id of a document that is known by a task's and a tool's name alone.
pub(super) fn document(task: &str, id: &str) -> DocId {
    let mut hasher = Hasher::new("imported document");
    DocId(hasher.part(task).part(id).finish())
}

struct Reader<'a> {
    map: &'a ColumnMap,
    options: &'a RowOptions<'a>,
    tasks: Vec<ImportedTask>,
    /// Rows by task, document and metric.
    seen: BTreeMap<(String, DocId), usize>,
    missing: usize,
    outputs: BTreeMap<String, BTreeMap<DocId, String>>,
}

impl Reader<'_> {
    fn task(&mut self, number: usize, row: &Map<String, Value>) -> Result<usize, Failure> {
        let named = self.map.column("task").and_then(|column| text(row.get(column)?));
        let Some(id) = named.or_else(|| self.options.task.map(str::to_owned)) else {
            return Err(Failure::usage(format!(
                "row {number}: no task; give --task, or a column with --map task=COLUMN"
            )));
        };
        if let Some(at) = self.tasks.iter().position(|task| task.id == id) {
            return Ok(at);
        }
        self.tasks.push(ImportedTask { id, ..ImportedTask::default() });
        Ok(self.tasks.len() - 1)
    }

    fn metric(&self, name: &str, first: bool) -> ImportedMetric {
        ImportedMetric {
            key: MetricKey::new(name, "none"),
            statistic: Statistic::Mean,
            higher_is_better: !self.options.lower_is_better.iter().any(|lower| lower == name),
            primary: first,
            scores: Vec::new(),
            repeated: self.map.column("repeat").is_some(),
            aggregate: None,
        }
    }

    fn score(&mut self, number: usize, row: &Map<String, Value>) -> Result<(), Failure> {
        let at = self.task(number, row)?;
        let column = self.map.column("id").unwrap_or("id");
        let Some(label) = row.get(column).and_then(text) else {
            return Err(Failure::usage(format!("row {number}: the column {column:?} is empty; every row needs an id")));
        };
        let task = self.tasks[at].id.clone();
        let doc = document(&task, &label);
        let repeat = self.map.column("repeat").and_then(|column| text(row.get(column)?)).unwrap_or_default();
        let place = document(&task, &format!("{label}\u{1f}{repeat}"));
        if let Some(first) = self.seen.insert((task.clone(), place), number) {
            return Err(Failure::usage(format!(
                "row {number}: the id {label:?} is that of row {first} too; every document once, or --map repeat=COLUMN"
            )));
        }
        if let Some(cluster) = self.map.column("cluster").and_then(|column| text(row.get(column)?)) {
            self.tasks[at].clusters.insert(doc, cluster);
        }
        if let Some(output) = self.map.column("output").and_then(|column| text(row.get(column)?)) {
            self.outputs.entry(task).or_default().insert(doc, output);
        }
        self.tasks[at].labels.insert(doc, label);
        let metrics: Vec<(String, String)> =
            self.map.metrics().map(|(field, column)| (field.to_owned(), column.to_owned())).collect();
        for (m, (name, column)) in metrics.iter().enumerate() {
            if self.tasks[at].metrics.len() <= m {
                let metric = self.metric(name, m == 0);
                self.tasks[at].metrics.push(metric);
            }
            match number_of(row.get(column)) {
                Ok(Some(value)) => self.tasks[at].metrics[m].scores.push((doc, vec![value, 1.0])),
                Ok(None) => self.missing += 1,
                Err(found) => {
                    return Err(Failure::usage(format!(
                        "row {number}, column {column:?}: found {found}, expected a finite number, true or false"
                    )));
                }
            }
        }
        Ok(())
    }

    fn aggregate(&mut self, number: usize, row: &Map<String, Value>) -> Result<(), Failure> {
        let at = self.task(number, row)?;
        let get = |field: &str| -> Result<Option<f64>, Failure> {
            let Some(column) = self.map.column(field) else { return Ok(None) };
            number_of(row.get(column)).map_err(|found| {
                Failure::usage(format!("row {number}, column {column:?}: found {found}, expected a finite number"))
            })
        };
        let Some(value) = get("mean")? else {
            return Err(Failure::usage(format!("row {number}: no mean")));
        };
        let standard_error = get("stderr")?;
        if let Some(error) = standard_error.filter(|error| *error < 0.0) {
            return Err(Failure::usage(format!("row {number}: the standard error {error} is negative")));
        }
        let n = get("n")?.map(|n| n as usize);
        if !self.tasks[at].metrics.is_empty() {
            let task = &self.tasks[at].id;
            return Err(Failure::usage(format!(
                "row {number}: the task {task} has a mean already; give each task once"
            )));
        }
        let mut metric = self.metric("score", true);
        metric.aggregate = Some(Aggregate { value, standard_error, n });
        self.tasks[at].metrics.push(metric);
        Ok(())
    }
}

/// A cell as text; `None` where it is empty.
pub(super) fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (!text.trim().is_empty()).then_some(text)
}

/// A score: a number, a number as text (`85%` is 0.85), true or false; `None` where the cell is empty.
fn number_of(value: Option<&Value>) -> Result<Option<f64>, String> {
    let text = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Bool(yes)) => return Ok(Some(f64::from(u8::from(*yes)))),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(other) => return Err(other.to_string()),
    };
    match text.to_lowercase().as_str() {
        "true" | "yes" | "correct" => return Ok(Some(1.0)),
        "false" | "no" | "incorrect" => return Ok(Some(0.0)),
        _ => {}
    }
    let (digits, factor) = text.strip_suffix('%').map_or((text.as_str(), 1.0), |digits| (digits.trim(), 0.01));
    digits.parse::<f64>().ok().filter(|value| value.is_finite()).map(|v| Some(v * factor)).ok_or(format!("{text:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(value: Value) -> Vec<Map<String, Value>> {
        value.as_array().unwrap().iter().map(|row| row.as_object().unwrap().clone()).collect()
    }

    fn import(value: Value, map: &[&str]) -> Result<RowsRead, String> {
        let map: Vec<String> = map.iter().map(|pair| (*pair).to_owned()).collect();
        let options = RowOptions { task: Some("t"), model: None, lower_is_better: &[] };
        let map = ColumnMap::parse(&map).map_err(|e| e.message().to_owned())?;
        read(&rows(value), &map, &options).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn scores_may_be_strings_and_missing() {
        let value = json!([
            {"q": "a", "s": "0.5"}, {"q": 2, "s": true}, {"q": "c", "s": "85%"}, {"q": "d", "s": ""}, {"q": "e", "s": null}
        ]);
        let read = import(value, &["id=q", "acc=s"]).unwrap_or_else(|e| panic!("{e}"));
        let scores: Vec<f64> = read.tasks[0].metrics[0].scores.iter().map(|(_, stats)| stats[0]).collect();
        assert_eq!((scores.len(), scores[0], scores[1], read.missing), (3, 0.5, 1.0, 2));
        assert!((scores[2] - 0.85).abs() < 1e-12);
    }

    #[test]
    fn wrong_files_name_row_and_column() {
        let error = |value: Value, map: &[&str]| import(value, map).err().expect("an error");
        assert!(error(json!([{"id": 1, "score": "NaN"}]), &[]).contains("row 1, column \"score\""));
        assert!(error(json!([{"id": 1, "score": "inf"}]), &[]).contains("finite"));
        assert!(error(json!([{"id": 1, "score": 1}, {"id": "1", "score": 0}]), &[]).contains("row 2: the id \"1\""));
        assert!(error(json!([{"id": 1, "score": 1}]), &["id=id", "acc=scroe"]).contains("did you mean \"score\"?"));
        assert!(error(json!([{"id": 1, "score": 1}]), &["acc=score"]).contains("`id`"));
        assert!(error(json!([{"id": "", "score": 1}]), &[]).contains("every row needs an id"));
        assert!(error(json!([]), &[]).contains("no rows"));
        assert!(error(json!([{"id": 1, "score": 1}]), &["id"]).contains("FIELD=COLUMN"));
        let two = json!([{"id": 1, "m": "x", "score": 1}, {"id": 1, "m": "y", "score": 0}]);
        assert!(error(two, &["id=id", "model=m", "acc=score"]).contains("--model"));
    }

    #[test]
    fn repeats_and_clusters() {
        let value = json!([
            {"id": 1, "k": 0, "p": "x", "score": 1}, {"id": 1, "k": 1, "p": "x", "score": 0}, {"id": 2, "k": 0, "p": "y", "score": 1}
        ]);
        let read = import(value, &["id=id", "repeat=k", "cluster=p", "acc=score"]).unwrap_or_else(|e| panic!("{e}"));
        let task = &read.tasks[0];
        assert_eq!((task.metrics[0].scores.len(), task.metrics[0].repeated, task.labels.len()), (3, true, 2));
        assert_eq!(task.clusters.len(), 2);
    }

    #[test]
    fn results_without_documents() {
        let value = json!([{"task": "arc", "acc": "0.5", "se": 0.02, "n": 600}]);
        let read = import(value, &["task=task", "mean=acc", "stderr=se", "n=n"]).unwrap_or_else(|e| panic!("{e}"));
        let known = read.tasks[0].metrics[0].aggregate.unwrap();
        assert_eq!((known.value, known.standard_error, known.n), (0.5, Some(0.02), Some(600)));
    }
}
