//! `harness data prepare`.

use harness_core::Seed;
use harness_training::{data::PreparedSet, run::batches};
use serde_json::json;

use super::{App, Failure, train};
use crate::cli::{DataArgs, DataCommand, PrepareArgs};

/// Runs `harness data`.
///
/// # Errors
/// If the recipe or its data are wrong.
pub(super) fn data(app: &App, args: &DataArgs) -> Result<(), Failure> {
    let DataCommand::Prepare(args) = &args.command;
    prepare(app, args)
}

fn prepare(app: &App, args: &PrepareArgs) -> Result<(), Failure> {
    let (resolved, tokenizer) = train::recipe_and_tokenizer(app, &args.name, args.base.as_deref())?;
    let set = resolved.prepared_set(&tokenizer, &app.hashes())?;
    if let Some(note) = &set.note {
        app.progress().say(note);
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
    let mut text = format!(
        "{name}\n  rows          {}: {} dropped as empty, {} beyond max_samples, {} training, {} validation, {} test\n",
        rows.source, rows.dropped_empty, rows.beyond_max_samples, rows.train, rows.validation, rows.test
    );
    for (part, counts) in [("training", t), ("validation", v)] {
        text += &format!(
            "  {part:<12}  {} samples, {} tokens, {} of them labels; {} samples lost {} tokens at max_length = \
             {max_length}; {} left out without a label\n",
            counts.samples,
            counts.tokens,
            counts.labels,
            counts.truncated_samples,
            counts.truncated_tokens,
            counts.without_labels
        );
    }
    text += &format!("  epoch         {} batches of up to {} rows", batches.0, batches.1);
    text += &match padding {
        (0, _) => "\n".to_owned(),
        (count, share) => format!(", filled up with {count} tokens ({share:.1} % of what is computed)\n"),
    };
    if let Some(folder) = &set.folder {
        let how = if set.reused { "there already" } else { "made now" };
        text += &format!("  kept          {} ({how})\n", folder.display());
    }
    text
}
