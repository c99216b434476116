//! `harness train`.

mod matrix;
mod one;
mod outline;
mod output;

use super::{App, Failure, launch};
use crate::cli::TrainArgs;

/// Runs `harness train`.
///
/// # Errors
/// If the recipe is wrong or the training fails.
pub(super) fn train(app: &App, args: &TrainArgs) -> Result<(), Failure> {
    if args.max_steps == Some(0) {
        return Err(Failure::usage("--max-steps 0: expected at least 1"));
    }
    if let Some(path) = &args.matrix {
        // A plan by formula needs no GPU.
        if !args.dry_run {
            app.device.check()?;
        }
        return matrix::train(app, args, path);
    }
    match one::run(app, args) {
        Ok(Some(outcome)) => app.output(&outcome.object, || outcome.text),
        Ok(None) => Ok(()),
        // All ranks that were started together have the same arguments and files; rank 0 tells what is wrong with them.
        Err(failure) if failure.code() == 2 && launch::follows() => Err(failure.silent()),
        Err(failure) => Err(failure),
    }
}
