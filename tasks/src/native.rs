//! Python functions of well-known task families, computed here.
//!
//! A definition names a function as `!function module.name`; the folder of the file is its family. The pair is looked up
//! in one table, so that lm-eval's files of these families run as they are. Functions of other families need Python,
//! which this program does not run.

#[cfg(test)]
mod against_python;
mod documents;
mod fields;
mod ifeval;
mod results;
mod squad;
mod subset;
mod truthfulqa;

use std::path::Path;

use harness_store::Row;
use serde_json::Value;

pub(crate) use results::NativeScores;
use subset::Subset;

use crate::yaml::{Node, Yaml};

/// What a function does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Native {
    /// `process_docs`: rewrites one row; `None` leaves it out.
    Documents(fn(Row) -> Result<Option<Row>, String>),
    /// `process_docs`: keeps the rows of a subject.
    Subset(Subset),
    /// `doc_to_text`, `doc_to_target`, `doc_to_choice`.
    Field(fn(&Row) -> Result<Value, String>),
    /// `process_results`: the scores of one document.
    Results(fn(&Row, &Answers<'_>) -> Result<NativeScores, String>),
    /// `aggregation`: the mean over the parts of all documents.
    Aggregation,
    /// `aggregation` that stands for an option of a metric.
    Option { metric: &'static str, key: &'static str, value: &'static str },
    /// `class`: the definition, as YAML, that a class stands for.
    Class(&'static str),
}

/// `process_docs`, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProcessDocs {
    Rewrite(fn(Row) -> Result<Option<Row>, String>),
    Keep(Subset),
}

impl Native {
    /// The function as a `process_docs`, if it is one.
    pub(crate) fn process_docs(self) -> Option<ProcessDocs> {
        match self {
            Self::Documents(function) => Some(ProcessDocs::Rewrite(function)),
            Self::Subset(subset) => Some(ProcessDocs::Keep(subset)),
            _ => None,
        }
    }
}

impl ProcessDocs {
    /// The row as it is evaluated; `None` if it is left out.
    ///
    /// # Errors
    /// What the row lacks.
    pub(crate) fn apply(self, row: Row) -> Result<Option<Row>, String> {
        match self {
            Self::Rewrite(function) => function(row),
            Self::Keep(subset) => subset.keep(row),
        }
    }
}

/// What a model answered to the requests of one document.
#[derive(Clone, Debug)]
pub(crate) enum Answers<'a> {
    /// Log-likelihood of each request, and whether it was greedy.
    LogLikelihoods(&'a [(f64, bool)]),
    /// The filtered text.
    Text(&'a str),
}

/// The family of functions that do the same wherever they are named.
const ANY: &str = "*";

/// Family, function, and what it does here. A family is the name of a folder, or of a folder in a folder.
const TABLE: &[(&str, &str, Native)] = &[
    (ANY, "utils.weighted_f1_score", Native::Option { metric: "f1", key: "average", value: "weighted" }),
    ("afrixnli/anli prompt/en-direct", "utils.doc_to_target", Native::Field(fields::afrixnli_truth)),
    ("afrixnli/anli prompt/translate", "utils.doc_to_target", Native::Field(fields::afrixnli_truth)),
    ("afrixnli/direct/prompt_1", "utils.doc_to_target", Native::Field(fields::afrixnli_entailment)),
    ("afrixnli/direct/prompt_2", "utils.doc_to_target", Native::Field(fields::afrixnli_truth)),
    ("afrixnli/direct/prompt_3", "utils.doc_to_target", Native::Field(fields::afrixnli_entailment)),
    ("afrixnli/direct/prompt_4", "utils.doc_to_target", Native::Field(fields::afrixnli_entailment)),
    ("afrixnli/direct/prompt_5", "utils.doc_to_target", Native::Field(fields::afrixnli_inconclusive)),
    ("afrixnli/translate/prompt_1", "utils.doc_to_target", Native::Field(fields::afrixnli_entailment)),
    ("afrixnli/translate/prompt_2", "utils.doc_to_target", Native::Field(fields::afrixnli_truth)),
    ("afrixnli/translate/prompt_3", "utils.doc_to_target", Native::Field(fields::afrixnli_entailment)),
    ("afrixnli/translate/prompt_4", "utils.doc_to_target", Native::Field(fields::afrixnli_entailment)),
    ("afrixnli/translate/prompt_5", "utils.doc_to_target", Native::Field(fields::afrixnli_inconclusive)),
    ("arc_multilingual", "utils.process_docs", Native::Documents(documents::arc_multilingual)),
    ("arithmetic", "utils.process_docs", Native::Documents(documents::arithmetic)),
    ("bigbench", "utils.filter_multiple_choice", Native::Documents(documents::bigbench)),
    ("coqa", "utils.doc_to_target", Native::Field(fields::coqa_target)),
    ("coqa", "utils.doc_to_text", Native::Field(fields::coqa_text)),
    ("coqa", "utils.process_results", Native::Results(squad::coqa)),
    ("drop", "utils.process_docs", Native::Documents(documents::drop)),
    ("drop", "utils.process_results", Native::Results(squad::drop)),
    ("eus_exams", "utils.process_docs", Native::Documents(documents::eus_exams)),
    ("hellaswag", "utils.process_docs", Native::Documents(documents::hellaswag)),
    ("hellaswag_multilingual", "utils.process_docs", Native::Documents(documents::hellaswag)),
    ("ifeval", "utils.agg_inst_level_acc", Native::Aggregation),
    ("ifeval", "utils.process_results", Native::Results(ifeval::results)),
    ("logiqa", "utils_logiqa.doc_to_target", Native::Field(fields::logiqa_target)),
    ("logiqa", "utils_logiqa.doc_to_text", Native::Field(fields::logiqa_text)),
    ("mathqa", "utils.doc_to_choice", Native::Field(fields::mathqa_choice)),
    ("medqa", "preprocess_medqa.doc_to_target", Native::Field(fields::medqa_target)),
    ("medqa", "preprocess_medqa.doc_to_text", Native::Field(fields::medqa_text)),
    ("mmlu-pro-plus", "utils.doc_to_text", Native::Field(fields::mmlu_pro_text)),
    ("mmlu-pro-plus", "utils.fewshot_to_target", Native::Field(fields::mmlu_pro_target)),
    ("mmlu-pro-plus", "utils.fewshot_to_text", Native::Field(fields::mmlu_pro_text)),
    ("mmlusr/answer_only", "utils.process_docs", Native::Documents(documents::mmlusr)),
    ("mmlusr/question_and_answer", "utils.process_docs", Native::Documents(documents::mmlusr)),
    ("mmlusr/question_only", "utils.process_docs", Native::Documents(documents::mmlusr)),
    ("pubmedqa", "preprocess_pubmedqa.doc_to_text", Native::Field(fields::pubmedqa_text)),
    ("race", "preprocess_race.doc_to_choice", Native::Field(fields::race_choice)),
    ("race", "preprocess_race.doc_to_target", Native::Field(fields::race_target)),
    ("race", "preprocess_race.doc_to_text", Native::Field(fields::race_text)),
    ("squadv2", "squad2.process_results", Native::Results(squad::squad2)),
    ("squadv2", "task.SQuAD2", Native::Class(include_str!("native/squadv2.yaml"))),
    ("tasks/mmlu_pro", "utils.doc_to_text", Native::Field(fields::mmlu_pro_text)),
    ("tasks/mmlu_pro", "utils.fewshot_to_target", Native::Field(fields::mmlu_pro_target)),
    ("tasks/mmlu_pro", "utils.fewshot_to_text", Native::Field(fields::mmlu_pro_text)),
    ("tmmluplus/default", "utils.process_docs", Native::Documents(documents::tmmluplus)),
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
    let within = |family: &str| path.ancestors().any(|above| above.ends_with(family));
    let begins = |family: &str| {
        let rest = task.and_then(|task| task.strip_prefix(family));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let in_a_family = TABLE.iter().any(|(family, ..)| path.ends_with(family));
    // A folder within a family's folder has functions of its own.
    let belongs = |family: &str| match in_a_family {
        true => path.ends_with(family),
        false => begins(family) && !within(family),
    };
    let found = TABLE.iter().find(|(family, function, _)| *function == name && (*family == ANY || belongs(family)));
    let subset = || Subset::find(name, |family| within(family) || begins(family)).map(Native::Subset);
    found.map(|(.., native)| *native).or_else(subset)
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
    crate::error::no_column(&[column], row.keys().map(String::as_str))
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
        assert!(find("any/where/x.yaml", "utils.weighted_f1_score", "x"));
        assert!(find("tasks/mmlusr/answer_only/x.yaml", "utils.process_docs", "x"));
        assert!(!find("tasks/answer_only/x.yaml", "utils.process_docs", "x"));
        assert!(find("afrixnli/direct/prompt_2/x.yaml", "utils.doc_to_target", "x"));
        assert!(find("global_mmlu/full/pl/x.yaml", "utils.process_virology", "x"));
        assert!(find("mine/x.yaml", "utils.process_virology", "global_mmlu_full_pl_virology"));
        assert!(!find("mine/x.yaml", "utils.process_virology", "virology"));
    }

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by_key(|(family, function, _)| (*family, *function)));
    }
}
