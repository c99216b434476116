//! Families whose tasks are parts of one data set: `process_docs` keeps the rows of a subject.

use harness_store::Row;

use super::{missing, text};

/// The subjects of MMLU.
const MMLU: &[&str] = &[
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
];

/// The categories of Global-MMLU-Lite.
const GLOBAL_MMLU_LITE: &[&str] = &["Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences"];

/// The domains of INCLUDE.
const INCLUDE: &[&str] = &[
    "Applied Science",
    "Arts & Humanities",
    "Business & Commerce",
    "Driving License",
    "General knowledge",
    "Health oriented education",
    "Marine License",
    "Medical License",
    "Professional certification",
    "STEM",
    "Social Science",
];

/// The categories of MMLU-Pro.
const MMLU_PRO: &[&str] = &[
    "biology",
    "business",
    "chemistry",
    "computer science",
    "economics",
    "engineering",
    "health",
    "history",
    "law",
    "math",
    "other",
    "philosophy",
    "physics",
    "psychology",
];

/// A data set that is divided by a column.
#[derive(Debug)]
struct Division {
    /// A folder above the definitions; also what the names of tasks begin with where they lie elsewhere.
    folder: &'static str,
    /// What the names of the functions begin with.
    function: &'static str,
    column: &'static str,
    /// What stands before the subject in the column.
    before: &'static str,
    subjects: &'static [&'static str],
}

impl Division {
    const fn of(folder: &'static str, column: &'static str, subjects: &'static [&'static str]) -> Self {
        Self { folder, function: "utils.process_", column, before: "", subjects }
    }

    /// The answers of Meta's evaluation of Llama 3 in one language.
    const fn llama3(folder: &'static str, before: &'static str) -> Self {
        Self { folder, function: "utils.process_docs_", column: "subtask_name", before, subjects: MMLU }
    }
}

const DIVISIONS: &[Division] = &[
    Division::of("global_mmlu", "subject", MMLU),
    Division::of("global_mmlu", "subject_category", GLOBAL_MMLU_LITE),
    Division::of("include", "domain", INCLUDE),
    Division::of("mmlu-pro-plus", "category", MMLU_PRO),
    Division::of("mmlu_pro", "category", MMLU_PRO),
    Division::of("openai-mmmlu", "Subject", MMLU),
    Division::llama3("mmlu_de", "mmlu_de_chat."),
    Division::llama3("mmlu_es", "mmlu_es_chat."),
    Division::llama3("mmlu_fr", "mmlu_fr_chat."),
    Division::llama3("mmlu_hi", "mmlu_hi_chat."),
    Division::llama3("mmlu_it", "mmlu_it_chat."),
    Division::llama3("mmlu_pt", "mmlu_pt_chat."),
    Division::llama3("mmlu_th", "mmlu_th_chat."),
];

/// The rows of one subject.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subset {
    division: &'static Division,
    subject: &'static str,
}

impl Subset {
    /// What a function of a family keeps; `is_family` says whether a definition belongs to the folder of a family.
    pub(super) fn find(function: &str, is_family: impl Fn(&str) -> bool) -> Option<Self> {
        let of = |division: &'static Division| {
            let wanted = function.strip_prefix(division.function)?;
            let subject = division.subjects.iter().find(|subject| named(subject) == wanted)?;
            is_family(division.folder).then_some(Self { division, subject })
        };
        DIVISIONS.iter().find_map(of)
    }

    /// The row, if it belongs to the subject.
    ///
    /// # Errors
    /// If the column is missing or no text.
    pub(super) fn keep(self, row: Row) -> Result<Option<Row>, String> {
        let column = self.division.column;
        if row.get(column).ok_or_else(|| missing(&row, column))?.is_null() {
            return Ok(None);
        }
        let found = text(&row, column)?;
        // Some of OpenAI's rows name the file that they come from: `virology_test.csv_sw-KE.csv`.
        let marks = if self.division.folder == "openai-mmmlu" { &["_test.csv", "_test-"][..] } else { &[] };
        let found = marks.iter().find_map(|mark| found.split_once(mark)).map_or(found, |(subject, _)| subject);
        Ok((found.strip_prefix(self.division.before) == Some(self.subject)).then_some(row))
    }
}

/// A subject in the name of a function.
fn named(subject: &str) -> String {
    subject.to_lowercase().replace(" & ", "_").replace(' ', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rows_of_a_subject_are_kept() {
        let kept = |folder: &str, function: &str, column: &str, value: Value| {
            let subset = Subset::find(function, |family| family == folder).unwrap();
            subset.keep(Row::from_iter([(column.to_owned(), value)])).unwrap().is_some()
        };
        let global = |function, column, value| kept("global_mmlu", function, column, value);
        assert!(global("utils.process_virology", "subject", json!("virology")));
        assert!(!global("utils.process_virology", "subject", json!("anatomy")));
        assert!(global("utils.process_social_sciences", "subject_category", json!("Social Sciences")));
        assert!(!global("utils.process_stem", "subject_category", json!(null)));
        assert!(kept("include", "utils.process_arts_humanities", "domain", json!("Arts & Humanities")));
        assert!(kept("mmlu_pro", "utils.process_computer_science", "category", json!("computer science")));
        assert!(kept("mmlu_th", "utils.process_docs_virology", "subtask_name", json!("mmlu_th_chat.virology")));
        assert!(!kept("mmlu_th", "utils.process_docs_virology", "subtask_name", json!("mmlu_de_chat.virology")));
        let openai = |value| kept("openai-mmmlu", "utils.process_virology", "Subject", json!(value));
        assert!(openai("virology") && openai("virology_test.csv_sw-KE.csv") && !openai("virology_dev.csv"));
        assert!(Subset::find("utils.process_nothing", |_| true).is_none());
        assert!(Subset::find("utils.process_virology", |_| false).is_none());
        let subset = Subset::find("utils.process_virology", |family| family == "global_mmlu").unwrap();
        assert!(subset.keep(Row::new()).unwrap_err().contains("no column subject"));
    }
}
