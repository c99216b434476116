//! `harness compare`.

use std::path::Path;

use harness_metrics::comparison::{Alignment, Comparison, ModelFacts, Settings, Verdict};
use harness_reports::{Format as ReportFormat, Meta, markdown, write_all};
use harness_store::Manifest;

use super::{
    App, Failure,
    evaluate::{Evaluated, evaluate, limits},
    judge::{Judge, JudgeOptions, judge_suite, remote},
    load::{Loader, Missing},
    run::manifest,
    suite::Suite,
    tables::tables,
};
use crate::cli::{CompareArgs, FailOn, Format};

/// Groups deeper than this are printed only when asked for.
const PRINTED_DEPTH: usize = 1;

/// Runs `harness compare`.
///
/// # Errors
/// If a model or task is wrong, training or evaluation fails, or, with exit code 3, if the condition of `--fail-on` holds.
pub(super) fn compare(app: &App, args: &CompareArgs) -> Result<(), Failure> {
    let limits = limits(app, &args.evaluation)?;
    let names: Vec<&String> = std::iter::once(&args.base).chain(&args.candidates).collect();
    let mut resolved = vec![];
    for name in &names {
        let model = app.experiment.model(name)?;
        if resolved.iter().any(|other: &crate::experiment::ResolvedModel| other.name == model.name) {
            return Err(Failure::usage(format!(
                "two models are called {:?}; give them different names in harness.toml to compare them",
                model.name
            )));
        }
        resolved.push(model);
    }
    let settings = settings(app, args);
    settings.validate()?;
    let suite = Suite::load(app, &args.evaluation)?;
    let missing = if args.no_train || args.from_store { Missing::Refuse } else { Missing::Train };
    let mut loader = Loader::new(app, limits).with_remote(remote(&args.evaluation.remote)?);
    // All candidates are there before the first one is asked anything.
    let places = resolved.iter().map(|model| loader.place(model, missing)).collect::<Result<Vec<_>, _>>()?;
    let mut models: Vec<Evaluated> = vec![];
    for (model, place) in resolved.iter().zip(places) {
        let ready = loader.load_at(model, place)?;
        models.push(evaluate(app, &suite, &ready, args.from_store)?);
    }
    let judged = match &args.judge[..] {
        [] => None,
        names => {
            let judge = Judge::load(app, &mut loader, names, JudgeOptions::default())?;
            Some(judge_suite(app, &suite, &models, &judge, &args.judge_protocol, &settings)?)
        }
    };
    let facts: Vec<ModelFacts> = models.iter().map(|model| model.facts.clone()).collect();
    let bar = app.progress().bar("compare", 1);
    let mut tables = tables(&suite, &models);
    tables.extend(judged.iter().flat_map(|judged| judged.tables.iter().cloned()));
    let mut comparison = Comparison::compute(&tables, &facts, &settings)?;
    comparison.caveats.extend(judged.into_iter().flat_map(|judged| judged.caveats));
    bar.finish(&format!("{} rows, {} caveats", comparison.rows.len(), comparison.caveats.len()));
    if let Some(folder) = &args.out {
        let name = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
        let manifest = manifest(app, &suite, &models, &name)?;
        let formats = formats(&args.format);
        let files = write_all(folder, &comparison, &meta(&manifest, &models), &formats)
            .map_err(|e| Failure::work(e.to_string()))?;
        manifest.write(&folder.join("manifest.json"))?;
        let shown: Vec<String> = files.iter().map(|path| file_name(path)).collect();
        app.progress().say(format!("wrote {} to {}", shown.join(", "), folder.display()));
    }
    print(app, &comparison, args.all_rows)?;
    check(&comparison, args.fail_on)
}

/// Prints a comparison: as Markdown, or as one JSON object.
pub(super) fn print(app: &App, comparison: &Comparison, all_rows: bool) -> Result<(), Failure> {
    app.output(comparison, || {
        let mut shown = comparison.clone();
        shown.rows.retain(|row| all_rows || row.depth <= PRINTED_DEPTH);
        markdown(&shown, &Meta::default())
    })
}

fn settings(app: &App, args: &CompareArgs) -> Settings {
    let section = &app.experiment.compare;
    Settings {
        confidence: section.confidence,
        alpha: section.alpha,
        correction: section.correction,
        margin: section.margin,
        resamples: section.resamples,
        seed: args.seed,
        alignment: if args.intersect { Alignment::Intersect } else { Alignment::Strict },
        ..Settings::default()
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

fn meta(manifest: &Manifest, models: &[Evaluated]) -> Meta {
    let mut lines = vec![("manifest".to_owned(), manifest.hash().short())];
    for model in models {
        lines.push((format!("model {}", model.name), model.entry.identity.digest().short()));
    }
    lines.push(("harness".to_owned(), manifest.harness_version.clone()));
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
            row.contrasts.iter().filter(|c| c.verdict == verdict).map(|c| format!("{} on {}", c.model, row.task))
        })
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::condition(format!("--fail-on {word}: {}", found.join(", "))))
}
