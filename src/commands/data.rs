//! `harness data`.

use std::time::{Duration, SystemTime};

use harness_core::Seed;
use harness_evaluation::training::{recipe_and_set, row_lines};
use harness_metrics::comparison::{counted, thousands};
use harness_training::{
    data::{KeptSet, PreparedSet},
    run::batches,
};
use serde_json::json;

use super::{App, Failure};
use crate::{
    cli::{DataArgs, DataCommand, PrepareArgs, PruneArgs},
    options,
};

/// Runs `harness data`.
///
/// # Errors
/// If the recipe or its data are wrong, or a set cannot be removed.
pub(super) fn data(app: &App, args: &DataArgs) -> Result<(), Failure> {
    match &args.command {
        DataCommand::Prepare(args) => prepare(app, args),
        DataCommand::Prune(args) => prune(app, args),
    }
}

/// Removes prepared sets by their last use.
fn prune(app: &App, args: &PruneArgs) -> Result<(), Failure> {
    let now = SystemTime::now();
    let age = |set: &KeptSet| now.duration_since(set.used).unwrap_or_default();
    let least = Duration::from_secs(args.days.saturating_mul(86_400));
    let (old, kept): (Vec<KeptSet>, Vec<KeptSet>) =
        KeptSet::all(&app.prepared())?.into_iter().partition(|set| age(set) >= least);
    if !args.dry_run {
        old.iter().try_for_each(KeptSet::remove)?;
    }
    let bytes = |sets: &[KeptSet]| sets.iter().map(|set| set.bytes).sum::<u64>();
    let object = json!({
        "removed": old.iter().map(|set| &set.folder).collect::<Vec<_>>(), "bytes": bytes(&old),
        "kept": kept.len(), "kept_bytes": bytes(&kept), "dry_run": args.dry_run,
    });
    app.output(&object, || {
        let told = |set: &KeptSet| {
            let (folder, days) = (set.folder.display(), age(set).as_secs() / 86_400);
            let (size, days) = (thousands(set.bytes.div_ceil(1024)), counted(days as usize, "day"));
            format!("  {folder}  {size} KiB, last used {days} ago\n")
        };
        let mib = |sets: &[KeptSet]| bytes(sets) as f64 / f64::from(1 << 20);
        let verb = if args.dry_run { "would be removed" } else { "removed" };
        let lines: String = old.iter().map(told).collect();
        let removed = counted(old.len(), "set");
        format!("{removed} {verb}, {:.1} MiB; {} kept, {:.1} MiB\n{lines}", mib(&old), kept.len(), mib(&kept))
    })
}

fn prepare(app: &App, args: &PrepareArgs) -> Result<(), Failure> {
    let (resolved, set) = recipe_and_set(app, &args.name, args.base.as_deref(), &options::changes(&args.set)?)?;
    if let Some(note) = &set.note {
        app.note(note);
    }
    let source = batches(&resolved, &set, Seed(resolved.recipe.training.seed))?;
    let (tokens, padding) = (source.tokens_per_epoch(), source.padding_per_epoch());
    let object = json!({
        "folder": set.folder, "key": set.key, "reused": set.reused, "rows": set.rows, "train_tokens": set.train_tokens,
        "validation_tokens": set.validation_tokens, "batches_per_epoch": source.batches_per_epoch(),
        "padding_tokens": padding,
    });
    app.output(&object, || {
        let share = 100.0 * padding as f64 / (tokens + padding).max(1) as f64;
        let batches = (source.batches_per_epoch(), resolved.recipe.training.batch_size);
        text(&args.name, &set, batches, resolved.recipe.data.max_length, (padding, share))
    })
}

fn text(name: &str, set: &PreparedSet, batches: (usize, usize), max_length: usize, padding: (usize, f64)) -> String {
    let PreparedSet { rows, train_tokens: t, validation_tokens: v, .. } = set;
    let count = |n: usize| thousands(n as u64);
    let mut text = format!(
        "{name}\n  rows          {}: {} dropped as empty, {} beyond max_samples, {} training, {} validation, {} test\n",
        count(rows.source),
        count(rows.dropped_empty),
        count(rows.beyond_max_samples),
        count(rows.train),
        count(rows.validation),
        count(rows.test)
    );
    for line in row_lines(rows) {
        text += &format!("                {line}\n");
    }
    for (part, counts) in [("training", t), ("validation", v)] {
        text += &format!(
            "  {part:<12}  {} samples, {} tokens, {} of them labels; {} samples lost {} tokens at max_length = \
             {max_length}; {} left out without a label\n",
            count(counts.samples),
            count(counts.tokens),
            count(counts.labels),
            count(counts.truncated_samples),
            count(counts.truncated_tokens),
            count(counts.without_labels)
        );
    }
    text += &format!("  epoch         {} batches of up to {} rows", count(batches.0), batches.1);
    text += &match padding {
        (0, _) => "\n".to_owned(),
        (filled, share) => format!(", filled up with {} tokens ({share:.1} % of what is computed)\n", count(filled)),
    };
    if let Some(folder) = &set.folder {
        let how = if set.reused { "there already" } else { "made now" };
        text += &format!("  kept          {} ({how})\n", folder.display());
    }
    text
}
