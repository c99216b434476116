//! Python functions of well-known task families, computed here.
//!
//! A definition names a function as `!function module.name`; the folder of the file is its family. The pair is looked up
//! in one table, so that lm-eval's files of these families run as they are. Functions of other families need Python,
//! which this program does not run.

mod documents;
mod fields;
mod ifeval;
mod results;
mod squad;
mod truthfulqa;

use std::path::Path;

use harness_store::Row;
use serde_json::Value;

pub(crate) use results::NativeScores;

use crate::yaml::{Node, Yaml};

/// What a function does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Native {
    /// `process_docs`: rewrites one row; `None` leaves it out.
    Documents(fn(Row) -> Result<Option<Row>, String>),
    /// `doc_to_text`, `doc_to_target`, `doc_to_choice`.
    Field(fn(&Row) -> Result<Value, String>),
    /// `process_results`: the scores of one document.
    Results(fn(&Row, &Answers<'_>) -> Result<NativeScores, String>),
    /// `aggregation`: the mean over the parts of all documents.
    Aggregation,
    /// `class`: the definition, as YAML, that a class stands for.
    Class(&'static str),
}

/// What a model answered to the requests of one document.
#[derive(Clone, Debug)]
pub(crate) enum Answers<'a> {
    /// Log-likelihood of each request, and whether it was greedy.
    LogLikelihoods(&'a [(f64, bool)]),
    /// The filtered text.
    Text(&'a str),
}

/// Family, function, and what it does here.
const TABLE: &[(&str, &str, Native)] = &[
    ("arithmetic", "utils.process_docs", Native::Documents(documents::arithmetic)),
    ("coqa", "utils.doc_to_target", Native::Field(fields::coqa_target)),
    ("coqa", "utils.doc_to_text", Native::Field(fields::coqa_text)),
    ("coqa", "utils.process_results", Native::Results(squad::coqa)),
    ("drop", "utils.process_docs", Native::Documents(documents::drop)),
    ("drop", "utils.process_results", Native::Results(squad::drop)),
    ("hellaswag", "utils.process_docs", Native::Documents(documents::hellaswag)),
    ("ifeval", "utils.agg_inst_level_acc", Native::Aggregation),
    ("ifeval", "utils.process_results", Native::Results(ifeval::results)),
    ("logiqa", "utils_logiqa.doc_to_target", Native::Field(fields::logiqa_target)),
    ("logiqa", "utils_logiqa.doc_to_text", Native::Field(fields::logiqa_text)),
    ("mathqa", "utils.doc_to_choice", Native::Field(fields::mathqa_choice)),
    ("medqa", "preprocess_medqa.doc_to_target", Native::Field(fields::medqa_target)),
    ("medqa", "preprocess_medqa.doc_to_text", Native::Field(fields::medqa_text)),
    ("pubmedqa", "preprocess_pubmedqa.doc_to_text", Native::Field(fields::pubmedqa_text)),
    ("race", "preprocess_race.doc_to_choice", Native::Field(fields::race_choice)),
    ("race", "preprocess_race.doc_to_target", Native::Field(fields::race_target)),
    ("race", "preprocess_race.doc_to_text", Native::Field(fields::race_text)),
    ("squadv2", "squad2.process_results", Native::Results(squad::squad2)),
    ("squadv2", "task.SQuAD2", Native::Class(include_str!("squadv2.yaml"))),
    ("truthfulqa", "utils.process_docs_gen", Native::Documents(truthfulqa::documents)),
    ("truthfulqa", "utils.process_results_gen", Native::Results(truthfulqa::generation)),
    ("truthfulqa", "utils.process_results_mc2", Native::Results(truthfulqa::mc2)),
    ("wikitext", "preprocess_wikitext.process_results", Native::Results(results::wikitext)),
    ("wikitext", "preprocess_wikitext.wikitext_detokenizer", Native::Field(fields::wikitext_target)),
    ("winogrande", "preprocess_winogrande.doc_to_choice", Native::Field(fields::winogrande_choice)),
    ("winogrande", "preprocess_winogrande.doc_to_target", Native::Field(fields::winogrande_target)),
    ("winogrande", "preprocess_winogrande.doc_to_text", Native::Field(fields::winogrande_text)),
    ("wsc273", "utils.process_doc", Native::Documents(documents::wsc273)),
];

/// The function a `!function` node names: by the folder of its file, or, where the file lies in a folder of another
/// name, by the beginning of the task's name.
pub(crate) fn find(node: &Node, task: Option<&str>) -> Option<Native> {
    let Yaml::Text(name) = &node.value else { return None };
    if node.tag.as_deref() != Some("function") {
        return None;
    }
    let path = Path::new(&*node.at.file).parent().unwrap_or(Path::new(""));
    let folder = path.file_name().map(|folder| folder.to_string_lossy().into_owned());
    let named = |family: &str| TABLE.iter().any(|(known, ..)| *known == family);
    let families = match folder {
        Some(folder) if named(&folder) => vec![folder],
        _ => {
            // A folder within a family's folder has functions of its own.
            let within = |family: &str| path.ancestors().any(|above| above.file_name().is_some_and(|f| f == family));
            let of_task = |family: &str| {
                task.and_then(|task| task.strip_prefix(family))
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
                    && !within(family)
            };
            TABLE.iter().map(|(family, ..)| *family).filter(|family| of_task(family)).map(str::to_owned).collect()
        }
    };
    let found = TABLE.iter().find(|(family, function, _)| *function == name && families.iter().any(|f| f == family));
    found.map(|(.., native)| *native)
}

/// Whether a metric that a function computes is in per cent and not a share.
pub(crate) fn in_percent(function: &Node, metric: &str) -> bool {
    match &function.value {
        Yaml::Text(name) if name == "squad2.process_results" => true,
        Yaml::Text(name) if name == "utils.process_results_gen" => {
            metric.ends_with("_max") || metric.ends_with("_diff")
        }
        _ => false,
    }
}

/// A function that a definition names.
#[derive(Clone, Debug)]
pub(crate) struct FunctionUse<'a> {
    /// The key it stands under.
    pub key: &'a str,
    /// Its name.
    pub name: String,
    /// Whether it is computed here.
    pub native: bool,
}

/// All functions of a definition.
pub(crate) fn functions(node: &Node) -> Vec<FunctionUse<'_>> {
    let task = match node.get("task").map(|task| &task.value) {
        Some(Yaml::Text(name)) => Some(name.as_str()),
        _ => None,
    };
    let mut tags = Vec::new();
    node.tags("", &mut tags);
    tags.into_iter()
        .filter(|(.., tag)| *tag == "function")
        .map(|(key, tagged, _)| FunctionUse {
            key,
            name: tagged.json().as_str().unwrap_or("?").to_owned(),
            native: find(tagged, task).is_some(),
        })
        .collect()
}

/// A column's text.
fn text<'a>(row: &'a Row, column: &str) -> Result<&'a str, String> {
    match row.get(column) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("the column {column} must be a string, found {other}")),
        None => Err(missing(row, column)),
    }
}

/// A column's list of texts.
fn texts(row: &Row, column: &str) -> Result<Vec<String>, String> {
    let Some(value) = row.get(column) else { return Err(missing(row, column)) };
    let list = value.as_array().map(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    list.flatten().ok_or_else(|| format!("the column {column} must be a list of strings, found {value}"))
}

fn missing(row: &Row, column: &str) -> String {
    format!("the data has no column {column}; its columns are {}", row.keys().cloned().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    #[test]
    fn families_are_folders_or_the_beginning_of_a_name() {
        let find = |file: &str, function: &str, task: &str| {
            let node = yaml::parse(file, &format!("x: !function {function}\n")).unwrap();
            super::find(node.get("x").unwrap(), Some(task)).is_some()
        };
        assert!(find("tasks/hellaswag/h.yaml", "utils.process_docs", "mine"));
        assert!(find("tasks/h.yaml", "utils.process_docs", "hellaswag"));
        assert!(find("tasks/h.yaml", "utils.process_docs", "hellaswag_small"));
        assert!(!find("tasks/h.yaml", "utils.process_docs", "hellaswags"));
        assert!(!find("tasks/h.yaml", "utils.other", "hellaswag"));
        assert!(!find("drop/h.yaml", "preprocess_race.doc_to_text", "race"));
        assert!(find("leaderboard/ifeval/i.yaml", "utils.process_results", "leaderboard_ifeval"));
        assert!(!find("ifeval/multilingual/i.yaml", "utils.process_results", "ifeval_ca"));
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by_key(|(family, function, _)| (*family, *function)));
    }
}
