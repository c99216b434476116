//! Rows of CSV or JSON whose columns a map names.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{DocId, Hasher, MetricKey};
use harness_metrics::{comparison::Aggregate, stats::Range};
use harness_store::nearest;
use serde_json::{Map, Value};

use super::{
    pairs::{self, Pair},
    record::{ImportedMetric, ImportedTask, Judged},
    values::{Cell, Mapped, Values, is_judged_text, parse, text},
};
use crate::EvaluationError;

/// Fields that are not metrics.
const FIELDS: [&str; 11] =
    ["id", "task", "cluster", "repeat", "output", "baseline", "first", "model", "mean", "stderr", "n"];

/// Name of the metric of results without documents.
const MEAN: &str = "score";

/// Judge of verdicts in files that do not name one.
pub(super) const UNNAMED: &str = "not named";

/// Columns by field, in the order given.
pub(super) struct ColumnMap {
    fields: Vec<Mapped>,
}

/// What a call says besides the map.
pub(super) struct RowOptions<'a> {
    /// Name under which the results are compared.
    pub name: &'a str,
    /// Task of rows without one.
    pub task: Option<&'a str>,
    /// Only rows of this model.
    pub model: Option<&'a str>,
    /// Metrics of which smaller values are better.
    pub lower_is_better: &'a [String],
}

impl ColumnMap {
    /// From `FIELD=COLUMN` arguments; `id=id,score=score` where there are none.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, EvaluationError> {
        let mut fields = parse(arguments)?;
        for (i, mapped) in fields.iter().enumerate() {
            if fields[..i].iter().any(|known| known.field == mapped.field) {
                let (field, column) = (&mapped.field, &mapped.column);
                return Err(EvaluationError::usage(format!(
                    "--map {field}={column}: the field {field} is given twice"
                )));
            }
            let plain = matches!(mapped.values, Values::Numbers);
            let field = mapped.field.as_str();
            let is_text = FIELDS.contains(&field) && !matches!(field, "first" | "mean" | "stderr");
            if is_text && !plain {
                return Err(EvaluationError::usage(format!(
                    "--map {field}: values can be mapped for metrics, mean, stderr and first"
                )));
            }
        }
        let has = |name: &str| fields.iter().any(|mapped| mapped.field == name);
        if fields.is_empty() {
            fields = parse(&["id=id,score=score".to_owned()])?;
        } else if !has("id") && !has("mean") {
            return Err(EvaluationError::usage(
                "--map: expected a column for `id` (results by document) or for `mean` (results without documents)",
            ));
        } else if has("id") && fields.iter().all(|mapped| FIELDS.contains(&mapped.field.as_str())) {
            return Err(EvaluationError::usage("--map: no metric; expected METRIC=COLUMN, e.g. acc=correct"));
        }
        Ok(Self { fields })
    }

    fn column(&self, field: &str) -> Option<&str> {
        self.mapped(field).map(|mapped| mapped.column.as_str())
    }

    fn mapped(&self, field: &str) -> Option<&Mapped> {
        self.fields.iter().find(|mapped| mapped.field == field)
    }

    fn metrics(&self) -> impl Iterator<Item = &Mapped> {
        self.fields.iter().filter(|mapped| !FIELDS.contains(&mapped.field.as_str()))
    }

    /// Every column that is named exists in some row.
    fn check(&self, known: &BTreeSet<&str>) -> Result<(), EvaluationError> {
        for Mapped { field, column, .. } in &self.fields {
            let columns = if field == "id" { id_columns(column, known) } else { vec![column.as_str()] };
            if let Some(column) = columns.into_iter().find(|column| !known.contains(column)) {
                let near = nearest(column, known.iter().copied());
                let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
                let known: Vec<&str> = known.iter().copied().collect();
                let known = known.join(", ");
                return Err(EvaluationError::usage(format!(
                    "no column {column:?} for {field}; the columns are {known}{near}"
                )));
            }
        }
        Ok(())
    }

    /// Where numbers were asked for and a column holds a judge's texts, the scale of such verdicts: Prometheus' behind
    /// `[RESULT]`, else MT-Bench's.
    fn judged_texts(&mut self, rows: &[Map<String, Value>]) -> BTreeSet<String> {
        let mut judged = BTreeSet::new();
        for mapped in self.fields.iter_mut().filter(|mapped| !FIELDS.contains(&mapped.field.as_str())) {
            let cells: Vec<&Value> = rows.iter().filter_map(|row| row.get(&mapped.column)).collect();
            if !cells.iter().any(|cell| is_judged_text(cell)) {
                continue;
            }
            if mapped.values == Values::Numbers {
                let ratings = cells.iter().filter_map(|cell| cell.as_str()).any(|text| text.contains("[["));
                mapped.values = Values::Within(1.0, if ratings { 10.0 } else { 5.0 });
            }
            judged.insert(mapped.column.clone());
        }
        judged
    }
}

/// The columns of an id: `question_id+turn` is two, unless there is a column of that name.
fn id_columns<'a>(column: &'a str, known: &BTreeSet<&str>) -> Vec<&'a str> {
    if known.contains(column) { vec![column] } else { column.split('+').collect() }
}

/// What rows of a file became.
pub(super) struct RowsRead {
    /// The tasks in order of appearance.
    pub tasks: Vec<ImportedTask>,
    /// Scores that are empty or null.
    pub missing: usize,
    /// Rows of texts without a readable verdict, with the reason.
    pub unread: Vec<(usize, String)>,
}

/// Turns rows into tasks.
///
/// # Errors
/// If a column does not exist, a score is no finite number, none of the labels that were given or outside its scale, an
/// id is missing or occurs twice, or models are mixed; rows are named by their number from 1.
pub(super) fn read(
    rows: &[Map<String, Value>],
    mut map: ColumnMap,
    options: &RowOptions<'_>,
) -> Result<RowsRead, EvaluationError> {
    if rows.is_empty() {
        return Err(EvaluationError::usage("the file has no rows"));
    }
    let known: BTreeSet<&str> = rows.iter().flat_map(|row| row.keys().map(String::as_str)).collect();
    map.check(&known)?;
    if options.model.is_some() && map.column("model").is_none() {
        return Err(EvaluationError::usage("--model: no column names models; give one with --map model=COLUMN"));
    }
    let metrics: Vec<&str> = match map.column("id") {
        Some(_) => map.metrics().map(|mapped| mapped.field.as_str()).collect(),
        None => vec![MEAN],
    };
    if let Some(unknown) = options.lower_is_better.iter().find(|name| !metrics.contains(&name.as_str())) {
        let metrics = metrics.join(", ");
        return Err(EvaluationError::usage(format!("--lower-is-better {unknown}: the metrics are {metrics}")));
    }
    let texts = map.judged_texts(rows);
    let id = map.column("id").map(|column| id_columns(column, &known).into_iter().map(str::to_owned).collect());
    let mut reader = Reader {
        map: &map,
        id: id.unwrap_or_default(),
        texts,
        options,
        tasks: Vec::new(),
        seen: BTreeMap::new(),
        missing: 0,
        unread: Vec::new(),
        outputs: BTreeMap::new(),
        pairs: BTreeMap::new(),
    };
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
                return Err(EvaluationError::usage(format!(
                    "row {}: results of several models ({found}); choose one with --model",
                    i + 1
                )));
            }
        }
        if reader.id.is_empty() { reader.aggregate(i + 1, row)? } else { reader.score(i + 1, row)? }
    }
    if reader.tasks.is_empty() {
        let wanted = options.model.unwrap_or_default();
        let found = models.into_iter().collect::<Vec<_>>().join(", ");
        return Err(EvaluationError::usage(format!("no row is of the model {wanted}; there are {found}")));
    }
    for task in &mut reader.tasks {
        if let Some(outputs) = reader.outputs.get(&task.id) {
            let mut hasher = Hasher::new("imported outputs");
            outputs.iter().for_each(|(doc, output)| {
                hasher.part(doc.0.as_bytes()).part(output);
            });
            task.outputs = Some(hasher.finish());
        }
        let own = reader.pairs.get(&task.id).map(Vec::as_slice).unwrap_or_default();
        let mut findings = pairs::findings(options.name, own);
        if let Some(metric) = task.metrics.first()
            && let Some(Range { low: Some(low), high: Some(high) }) = metric.range
        {
            let scores: Vec<f64> = metric.scores.iter().map(|(_, stats)| stats[0]).collect();
            // Unread verdicts are of the first metric where there is one task, as in files of judges.
            let read = metric.n().unwrap_or_default();
            let count = if reader.unread.is_empty() { 0 } else { task.labels.len().saturating_sub(read) };
            findings.extend(pairs::unread(&scores, count, [low, high]));
        }
        task.judged = (!findings.is_empty()).then(|| Judged { judge: UNNAMED.to_owned(), findings });
    }
    Ok(RowsRead { tasks: reader.tasks, missing: reader.missing, unread: reader.unread })
}

/// The id of a document that is known by a task's and a tool's name alone.
pub(super) fn document(task: &str, id: &str) -> DocId {
    let mut hasher = Hasher::new("imported document");
    DocId(hasher.part(task).part(id).finish())
}

struct Reader<'a> {
    map: &'a ColumnMap,
    /// The columns of a document's id; empty where there are only means.
    id: Vec<String>,
    /// Columns of a judge's texts.
    texts: BTreeSet<String>,
    options: &'a RowOptions<'a>,
    tasks: Vec<ImportedTask>,
    /// Rows by task, document and metric.
    seen: BTreeMap<(String, DocId), usize>,
    missing: usize,
    unread: Vec<(usize, String)>,
    outputs: BTreeMap<String, BTreeMap<DocId, String>>,
    pairs: BTreeMap<String, Vec<Pair>>,
}

impl Reader<'_> {
    fn task(&mut self, number: usize, row: &Map<String, Value>) -> Result<usize, EvaluationError> {
        let named = self.map.column("task").and_then(|column| text(row.get(column)?));
        let Some(id) = named.or_else(|| self.options.task.map(str::to_owned)) else {
            return Err(EvaluationError::usage(format!(
                "row {number}: no task; give --task, or a column with --map task=COLUMN"
            )));
        };
        if let Some(at) = self.tasks.iter().position(|task| task.id == id) {
            return Ok(at);
        }
        self.tasks.push(ImportedTask { id, ..ImportedTask::default() });
        Ok(self.tasks.len() - 1)
    }

    fn metric(&self, name: &str, first: bool, range: Option<Range>) -> ImportedMetric {
        ImportedMetric {
            higher_is_better: !self.options.lower_is_better.iter().any(|lower| lower == name),
            primary: first,
            repeated: self.map.column("repeat").is_some(),
            range,
            ..ImportedMetric::new(MetricKey::new(name, "none"))
        }
    }

    /// The tool's own id of a document: of several columns, `81 turn 1`.
    fn label(&self, number: usize, row: &Map<String, Value>) -> Result<String, EvaluationError> {
        let mut label = String::new();
        for (i, column) in self.id.iter().enumerate() {
            let Some(part) = row.get(column).and_then(text) else {
                return Err(EvaluationError::usage(format!(
                    "row {number}: the column {column:?} is empty; every row needs an id"
                )));
            };
            label.push_str(&if i == 0 { part } else { format!(" {column} {part}") });
        }
        Ok(label)
    }

    fn score(&mut self, number: usize, row: &Map<String, Value>) -> Result<(), EvaluationError> {
        let at = self.task(number, row)?;
        let label = self.label(number, row)?;
        let task = self.tasks[at].id.clone();
        let doc = document(&task, &label);
        let repeat = self.map.column("repeat").and_then(|column| text(row.get(column)?)).unwrap_or_default();
        let place = document(&task, &format!("{label}\u{1f}{repeat}"));
        if let Some(first) = self.seen.insert((task.clone(), place), number) {
            return Err(EvaluationError::usage(format!(
                "row {number}: the id {label:?} also occurs in row {first}; give each document once, or use --map \
                 repeat=COLUMN, or an id of several columns, --map id=COLUMN+COLUMN"
            )));
        }
        if let Some(cluster) = self.map.column("cluster").and_then(|column| text(row.get(column)?)) {
            self.tasks[at].clusters.insert(doc, cluster);
        }
        self.tasks[at].labels.insert(doc, label);
        let mut share = None;
        for (m, mapped) in self.map.metrics().enumerate() {
            let range = mapped.values.range(&mapped.field);
            if self.tasks[at].metrics.len() <= m {
                let metric = self.metric(&mapped.field, m == 0, range);
                self.tasks[at].metrics.push(metric);
            }
            match self.cell(number, row, mapped, range)? {
                Cell::Score(value) => {
                    self.tasks[at].metrics[m].scores.push((doc, vec![value, 1.0]));
                    let won = m == 0 && range == Some(Range::between(0.0, 1.0));
                    share = share.or(won.then_some((value, mapped)));
                }
                Cell::Empty => self.missing += 1,
                Cell::Unread(why) => self.unread.push((number, why)),
            }
        }
        let own = self.map.column("output").and_then(|column| text(row.get(column)?));
        if let Some((share, mapped)) = share {
            let pair = self.pair(number, row, share, mapped, own.as_deref())?;
            self.pairs.entry(task.clone()).or_default().extend(pair);
        }
        if let Some(output) = own {
            self.outputs.entry(task).or_default().insert(doc, output);
        }
        Ok(())
    }

    /// What a row tells of two outputs; `None` where it tells of one.
    fn pair(
        &self,
        number: usize,
        row: &Map<String, Value>,
        share: f64,
        mapped: &Mapped,
        own: Option<&str>,
    ) -> Result<Option<Pair>, EvaluationError> {
        let first = match self.map.mapped("first") {
            Some(first) => match self.cell(number, row, first, Some(Range::between(0.0, 1.0)))? {
                Cell::Score(value) => Some(value > 0.5),
                Cell::Empty | Cell::Unread(_) => None,
            },
            None => mapped.values.position(),
        };
        let other = self.map.column("baseline").and_then(|column| text(row.get(column)?));
        let lengths = own.zip(other).map(|(own, other)| (own.chars().count(), other.chars().count()));
        Ok((first.is_some() || lengths.is_some()).then_some(Pair { share, lengths, first }))
    }

    fn cell(
        &self,
        number: usize,
        row: &Map<String, Value>,
        mapped: &Mapped,
        range: Option<Range>,
    ) -> Result<Cell, EvaluationError> {
        let column = &mapped.column;
        let cell = mapped
            .values
            .read(row.get(column), self.texts.contains(column))
            .map_err(|message| EvaluationError::usage(format!("row {number}, column {column:?}: {message}")))?;
        if let (Cell::Score(value), Some(Range { low: Some(low), high: Some(high) })) = (&cell, range)
            && !(low..=high).contains(value)
        {
            let (field, found) = (&mapped.field, row.get(column).and_then(text).unwrap_or_default());
            let hint = if high == 1.0 && *value <= 100.0 && *value > 1.0 {
                format!("; if these are percentages, use --map {field}={column}:percent")
            } else {
                String::new()
            };
            return Err(EvaluationError::usage(format!(
                "row {number}, column {column:?}: {found} is outside the scale of {field}, {low} to {high}{hint}"
            )));
        }
        Ok(cell)
    }

    fn aggregate(&mut self, number: usize, row: &Map<String, Value>) -> Result<(), EvaluationError> {
        let at = self.task(number, row)?;
        let get = |field: &str| -> Result<Option<f64>, EvaluationError> {
            let Some(mapped) = self.map.mapped(field) else { return Ok(None) };
            // A mean goes by the name of its column.
            let range = (field == "mean").then(|| mapped.values.range(&mapped.column.to_lowercase())).flatten();
            match self.cell(number, row, mapped, range)? {
                Cell::Score(value) => Ok(Some(value)),
                Cell::Empty | Cell::Unread(_) => Ok(None),
            }
        };
        let Some(value) = get("mean")? else {
            return Err(EvaluationError::usage(format!("row {number}: no mean")));
        };
        let standard_error = get("stderr")?;
        if let Some(error) = standard_error.filter(|error| *error < 0.0) {
            return Err(EvaluationError::usage(format!("row {number}: the standard error {error} is negative")));
        }
        let n = get("n")?;
        if let Some(n) = n.filter(|n| *n < 1.0 || n.fract() != 0.0) {
            return Err(EvaluationError::usage(format!("row {number}: n is {n}, expected a number of documents")));
        }
        let n = n.map(|n| n as usize);
        if !self.tasks[at].metrics.is_empty() {
            let task = &self.tasks[at].id;
            return Err(EvaluationError::usage(format!(
                "row {number}: the task {task} already has a mean; give each task once"
            )));
        }
        let mut metric = self.metric(MEAN, true, None);
        metric.aggregate = Some(Aggregate { value, standard_error, n });
        self.tasks[at].metrics.push(metric);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use harness_metrics::comparison::JudgeFinding;
    use serde_json::json;

    use super::*;

    fn rows(value: Value) -> Vec<Map<String, Value>> {
        value.as_array().unwrap().iter().map(|row| row.as_object().unwrap().clone()).collect()
    }

    fn import(value: Value, map: &[&str]) -> Result<RowsRead, String> {
        let map: Vec<String> = map.iter().map(|pair| (*pair).to_owned()).collect();
        let options = RowOptions { name: "m", task: Some("t"), model: None, lower_is_better: &[] };
        let map = ColumnMap::parse(&map).map_err(|e| e.message().to_owned())?;
        read(&rows(value), map, &options).map_err(|e| e.message().to_owned())
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

    #[test]
    fn preferences_of_a_judge_by_label() {
        let row = |id: u32, verdict: &str| json!({"q": id, "a": "long answer", "b": "short", "verdict": verdict});
        let map = ["id=q,win=verdict:A=1,B=0,tie=0.5", "output=a,baseline=b"];
        let value = json!([row(1, "A"), row(2, "b"), row(3, "Tie"), row(4, "The first one. [[A]]")]);
        let read = import(value, &map).unwrap_or_else(|e| panic!("{e}"));
        let scores: Vec<f64> = read.tasks[0].metrics[0].scores.iter().map(|(_, stats)| stats[0]).collect();
        assert_eq!(scores, [1.0, 0.0, 0.5, 1.0]);
        let findings = &read.tasks[0].judged.as_ref().unwrap().findings;
        assert!(matches!(&findings[0], JudgeFinding::OnePosition { model, first: true, pairs: 4 } if model == "m"));
        assert!(matches!(&findings[1], JudgeFinding::LongerWins { decided: 3, .. }), "{findings:?}");
        let error = import(json!([row(1, "A"), row(2, "C")]), &map).err().unwrap();
        assert!(error.contains("row 2, column \"verdict\": found \"C\"") && error.contains("\"tie\""), "{error}");
    }

    #[test]
    fn ratings_inside_texts_by_question_and_turn() {
        let row = |turn: u32, raw: &str| json!({"question_id": 81, "turn": turn, "raw": raw});
        let map = ["id=question_id+turn", "score=raw", "cluster=question_id"];
        let value = json!([row(1, "Good. [RESULT] 4"), row(2, "It goes on and")]);
        let read = import(value, &map).unwrap_or_else(|e| panic!("{e}"));
        let task = &read.tasks[0];
        assert_eq!((task.metrics[0].scores[0].1[0], read.unread[0].0), (4.0, 2));
        assert!(task.labels.values().any(|label| label == "81 turn 2"));
        let finding = &task.judged.as_ref().unwrap().findings[0];
        assert!(
            matches!(finding, JudgeFinding::UnparsedVerdicts { count: 1, of: 2, worst, best, .. } if (*worst, *best) == (2.5, 4.5))
        );
    }

    #[test]
    fn percentages_in_a_column_of_shares() {
        let value = || json!([{"id": 1, "a": 0.5}, {"id": 2, "a": 85}]);
        let error = import(value(), &["id=id", "acc=a"]).err().unwrap();
        for part in ["row 2, column \"a\"", "85", "0 to 1", "acc=a:percent"] {
            assert!(error.contains(part), "{error}");
        }
        let read = import(json!([{"id": 1, "a": 50}, {"id": 2, "a": "85%"}]), &["id=id", "acc=a:percent"]);
        let read = read.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(read.tasks[0].metrics[0].scores[0].1[0], 0.5);
        assert!(
            import(value(), &["id=id", "score=a:1..10"])
                .err()
                .unwrap()
                .contains("0.5 is outside the scale of score, 1 to 10")
        );
        let mean = json!([{"task": "arc", "acc": 41.3}]);
        assert!(import(mean, &["task=task", "mean=acc"]).err().unwrap().contains("acc:percent"));
    }
}
