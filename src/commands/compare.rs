//! `harness compare`.

use std::path::Path;

use harness_metrics::comparison::{Alignment, Comparison, Pairs, Row, Settings, Verdict};
use harness_reports::{Format as ReportFormat, Meta, Report, markdown, write_all};
use harness_store::Manifest;
use serde_json::json;

use super::{
    App, Failure, flips,
    gather::{Asking, Gathered, Subject, gather},
    load::Missing,
    plan::plan,
    run::manifest,
    stored::{Look, Stored, keep},
    tables::Scores,
};
use crate::cli::{CompareArgs, FailOn, Format, PairsArg, StopWhen};

/// Groups deeper than this are printed only when asked for.
const PRINTED_DEPTH: usize = 1;

/// Runs `harness compare`.
///
/// # Errors
/// If a model or task is wrong, training or evaluation fails, or, with exit code 3, if the condition of `--fail-on` holds.
pub(super) fn compare(app: &App, args: &CompareArgs) -> Result<(), Failure> {
    let names: Vec<&str> = std::iter::once(&args.base).chain(&args.candidates).map(String::as_str).collect();
    let subjects = Subject::resolve(app, names.iter().copied(), &args.evaluation.texts)?;
    let settings = settings(app, args);
    settings.validate()?;
    if args.plan {
        return plan(app, args, &subjects, &settings);
    }
    let asking = Asking {
        missing: if args.no_train || args.from_store { Missing::Refuse } else { Missing::Train },
        from_store: args.from_store,
        probe: args.noise_probe,
        until_decided: args.stop_when == Some(StopWhen::Decided),
    };
    let judging = (!args.judge.is_empty()).then_some((args.judge.as_slice(), args.judge_protocol.as_str()));
    let gathered = gather(app, &subjects, &args.evaluation, asking, &settings, judging)?;
    let bar = app.progress().bar("compare", 1);
    let mut comparison = gathered.compare(&settings)?;
    let look = Look::of(&gathered, &args.evaluation, &settings);
    comparison.caveats.extend(look.earlier(&app.home));
    bar.finish(&format!("{} rows, {} caveats", comparison.rows.len(), comparison.caveats.len()));
    let manifest = match &gathered.suite {
        Some(suite) => {
            let mut manifest = manifest(app, suite, &gathered.evaluated, &names.join(" "))?;
            manifest.settings.insert("compare".to_owned(), json!(settings));
            manifest.settings.extend(gathered.judging().map(|record| ("judge".to_owned(), record.clone())));
            manifest.settings.insert("include_path".to_owned(), json!(args.evaluation.include_path));
            Some(manifest)
        }
        None => None,
    };
    let report = Report { comparison, meta: meta(manifest.as_ref(), &gathered) };
    if let Some(folder) = &args.out {
        let formats = formats(&args.format);
        let files =
            write_all(folder, &report.comparison, &report.meta, &formats).map_err(|e| Failure::work(e.to_string()))?;
        if let Some(manifest) = &manifest {
            manifest.write(&folder.join("manifest.json"))?;
        }
        let shown: Vec<String> = files.iter().map(|path| file_name(path)).collect();
        app.progress().say(format!("wrote {} to {}", shown.join(", "), folder.display()));
    }
    let stored = Stored { look, report, manifest };
    keep(app, &stored)?;
    let comparison = &stored.report.comparison;
    if args.flips {
        flips::print(app, &flips::flips(&gathered, comparison), args.most_flips)?;
    } else {
        print(app, comparison, args.all_rows)?;
    }
    check(comparison, args.fail_on)
}

/// Prints a comparison: as Markdown, or as one JSON object.
pub(super) fn print(app: &App, comparison: &Comparison, all_rows: bool) -> Result<(), Failure> {
    app.output(comparison, || {
        let mut shown = comparison.clone();
        shown.rows.retain(|row| all_rows || row.depth <= PRINTED_DEPTH);
        markdown(&shown, &Meta::default())
    })
}

/// The settings of the experiment.
pub(super) fn section_settings(app: &App) -> Settings {
    let section = &app.experiment.compare;
    Settings {
        confidence: section.confidence,
        alpha: section.alpha,
        correction: section.correction,
        margin: section.margin,
        resamples: section.resamples,
        ..Settings::default()
    }
}

fn settings(app: &App, args: &CompareArgs) -> Settings {
    let section = section_settings(app);
    Settings {
        alpha: args.alpha.unwrap_or(section.alpha),
        margin: args.margin.unwrap_or(section.margin),
        correction: args.correction.map_or(section.correction, Into::into),
        seed: args.seed,
        alignment: if args.intersect { Alignment::Intersect } else { Alignment::Strict },
        pairs: if args.pairs == PairsArg::All { Pairs::All } else { Pairs::Base },
        test: args.test.into(),
        sequential: args.stop_when.is_some(),
        ..section
    }
}

/// The formats asked for, each plot beside the Markdown that people read.
fn formats(asked: &[Format]) -> Vec<ReportFormat> {
    if asked.is_empty() {
        return ReportFormat::ALL.to_vec();
    }
    let mut formats = vec![];
    for format in asked {
        match format {
            Format::Md => formats.extend([ReportFormat::Markdown, ReportFormat::Svg, ReportFormat::Png]),
            Format::Html => formats.push(ReportFormat::Html),
            Format::Latex => formats.push(ReportFormat::Latex),
            Format::Csv => formats.push(ReportFormat::Csv),
            Format::Json => formats.push(ReportFormat::Json),
        }
    }
    formats
}

fn meta(manifest: Option<&Manifest>, gathered: &Gathered) -> Meta {
    let mut lines = vec![];
    lines.extend(manifest.map(|manifest| ("manifest".to_owned(), manifest.hash().short())));
    for scores in gathered.scores() {
        let digest = match scores {
            Scores::Evaluated(model) => model.entry.identity.digest(),
            Scores::Imported(record) => record.digest(),
        };
        let what = if matches!(scores, Scores::Imported(_)) { "imported" } else { "model" };
        lines.push((format!("{what} {}", scores.name()), digest.short()));
    }
    lines.push(("harness".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    Meta { title: String::new(), manifest: lines }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn check(comparison: &Comparison, condition: Option<FailOn>) -> Result<(), Failure> {
    let rows = comparison.rows.iter().filter(|row| row.primary);
    let (verdict, word) = match condition {
        None => return Ok(()),
        Some(FailOn::Worse) => (Verdict::Worse, "worse"),
        Some(FailOn::Undecided) => (Verdict::Undecided, "undecided"),
    };
    let found: Vec<String> = rows
        .flat_map(|row| {
            Row::with_base(row).filter(|c| c.verdict == verdict).map(|c| format!("{} on {}", c.model, row.task))
        })
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::condition(format!("--fail-on {word}: {}", found.join(", "))))
}
