//! `harness compare`.

use std::path::Path;

use harness_evaluation::{
    CompareOptions, compare as evaluate_and_compare,
    flips::flips as find_flips,
    gather::{Asking, Subject},
    models::Missing,
    plan::{Rates, plan as make_plan},
};
use harness_metrics::comparison::{Alignment, Comparison, Pairs, Row, Settings, Verdict};
use harness_reports::{Format as ReportFormat, write_all};

use super::{App, Failure, flips, plan, print};
use crate::{
    cli::{CompareArgs, FailOn, Format, PairsArg, StopWhen},
    options,
};

/// Runs `harness compare`.
///
/// # Errors
/// If a model or task is wrong, training or evaluation fails, or, with exit code 3, if the condition of `--fail-on` holds.
pub(super) fn compare(app: &App, args: &CompareArgs) -> Result<(), Failure> {
    let names: Vec<&str> = std::iter::once(&args.base).chain(&args.candidates).map(String::as_str).collect();
    let options = CompareOptions {
        evaluation: options::evaluation(&args.evaluation, app.device)?,
        asking: Asking {
            missing: if args.no_train || args.from_store { Missing::Refuse } else { Missing::Train },
            from_store: args.from_store,
            probe: args.noise_probe,
            until_decided: args.stop_when == Some(StopWhen::Decided),
        },
        settings: settings(app, args),
        judges: args.judge.clone(),
        judge_protocol: args.judge_protocol.clone(),
    };
    if args.plan {
        let subjects = Subject::resolve(app, names, &options.evaluation.texts)?;
        options.settings.validate()?;
        let rates = Rates { tokens_per_second: args.tokens_per_second, price: args.price };
        let plan = || make_plan(app, &subjects, &options.evaluation, &options.settings, rates);
        let made = app.phase("plan", plan);
        return plan::print(app, &made?, rates);
    }
    let compared = evaluate_and_compare(app, names, &options)?;
    let report = &compared.stored.report;
    if let Some(folder) = &args.out {
        let write = || write_all(folder, &report.comparison, &report.meta, &formats(&args.format));
        let files = app.phase("write the report", write)?;
        if let Some(manifest) = &compared.stored.manifest {
            manifest.write(&folder.join("manifest.json"))?;
        }
        let shown: Vec<String> = files.iter().map(|path| file_name(path)).collect();
        app.note(format!("wrote {} to {}", shown.join(", "), folder.display()));
    }
    if args.flips {
        flips::print(app, &find_flips(&compared.gathered, &report.comparison), args.most_flips)?;
    } else {
        print::comparison(app, &report.comparison, args.all_rows)?;
    }
    check(&report.comparison, args.fail_on)
}

fn settings(app: &App, args: &CompareArgs) -> Settings {
    let section = app.experiment.compare.settings();
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
