//! Models compared.

use harness_metrics::comparison::{Settings, counted};
use harness_reports::{Meta, Report};
use harness_store::Manifest;
use serde_json::json;

use crate::{
    EvaluationError, Session,
    explain::{INCLUDE_PATH, TOKENIZER},
    gather::{Asking, Gathered, Subject, gather},
    options::EvaluationOptions,
    record::manifest,
    stored::{Look, Stored, keep},
    tables::Scores,
};

/// How models are compared.
#[derive(Clone, Debug, Default)]
pub struct CompareOptions {
    /// What is evaluated and how.
    pub evaluation: EvaluationOptions,
    /// How models are asked.
    pub asking: Asking,
    /// How differences are tested and intervals computed.
    pub settings: Settings,
    /// Judges of the outputs of generation tasks, by name; several are a jury.
    pub judges: Vec<String>,
    /// The judges' protocol; one that compares two outputs of one turn.
    pub judge_protocol: String,
}

impl CompareOptions {
    /// The suite and the settings of the session's experiment.
    pub fn of(session: &Session) -> Self {
        let settings = session.experiment.compare.settings();
        Self { settings, judge_protocol: "pairwise".to_owned(), ..Self::default() }
    }
}

/// A comparison that is done.
pub struct Compared {
    /// What it was made of.
    pub gathered: Gathered,
    /// The report with its manifest, as it is kept below the session's home.
    pub stored: Stored,
}

/// Compares models, the first of which is the base: trains candidates that are missing, asks all models the same, tests
/// every difference, and keeps the comparison below the session's home.
///
/// # Errors
/// If a model or task is wrong, or training or evaluation fails.
pub fn compare<'a>(
    session: &Session,
    models: impl IntoIterator<Item = &'a str>,
    options: &CompareOptions,
) -> Result<Compared, EvaluationError> {
    let names: Vec<&str> = models.into_iter().collect();
    let subjects = Subject::resolve(session, names.iter().copied(), &options.evaluation.texts)?;
    compare_subjects(session, &subjects, &names.join(" "), options)
}

/// The same for subjects that are resolved, or given by the caller; `name` is what the manifest calls the comparison.
///
/// # Errors
/// As [`compare`].
pub fn compare_subjects(
    session: &Session,
    subjects: &[Subject],
    name: &str,
    options: &CompareOptions,
) -> Result<Compared, EvaluationError> {
    let CompareOptions { evaluation, asking, settings, judges, judge_protocol } = options;
    settings.validate()?;
    let judging = (!judges.is_empty()).then_some((judges.as_slice(), judge_protocol.as_str()));
    let gathered = gather(session, subjects, evaluation, *asking, settings, judging)?;
    let (mut comparison, stage) = gathered.compare(session, settings)?;
    let look = Look::of(&gathered, evaluation, settings);
    comparison.caveats.extend(look.earlier(&session.home));
    let (rows, caveats) = (counted(comparison.rows.len(), "row"), counted(comparison.caveats.len(), "caveat"));
    stage.finish(&format!("{rows}, {caveats}"));
    let manifest = match &gathered.suite {
        Some(suite) => {
            let mut manifest = manifest(session, suite, &gathered.evaluated, name)?;
            manifest.settings.insert("compare".to_owned(), json!(settings));
            manifest.settings.extend(gathered.judging().map(|record| ("judge".to_owned(), record.clone())));
            manifest.run.places.insert(INCLUDE_PATH.to_owned(), json!(evaluation.include_path));
            if let Some(choice) = &evaluation.texts.tokenizer {
                manifest.run.places.insert(TOKENIZER.to_owned(), json!(choice.to_string()));
            }
            Some(manifest)
        }
        None => None,
    };
    let report = Report { comparison, meta: meta(manifest.as_ref(), &gathered) };
    let stored = Stored { look, report, manifest };
    session.phase("keep the comparison", || keep(session, &stored))?;
    Ok(Compared { gathered, stored })
}

fn meta(manifest: Option<&Manifest>, gathered: &Gathered) -> Meta {
    let mut lines = vec![];
    lines.extend(manifest.map(|manifest| ("manifest".to_owned(), manifest.hash().short())));
    for scores in gathered.scores() {
        let (what, digest) = match scores {
            Scores::Evaluated(model) => ("model", model.entry.identity.digest()),
            Scores::Imported(record) => ("imported", record.digest()),
        };
        lines.push((format!("{what} {}", scores.name()), digest.short()));
    }
    lines.push(("harness".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    Meta { title: String::new(), manifest: lines }
}
