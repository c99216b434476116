//! The folder of a training run: what may be written into it, and what may be removed.

use std::path::Path;

use harness_core::Digest;
use harness_training::{TrainingRecord, export::is_written_by_a_run};

use crate::EvaluationError;

/// Written last: its presence says that the run is finished.
pub const DONE: &str = TrainingRecord::FILE;

/// Fails if the folder is a file, or holds the finished result of another run than this one.
///
/// # Errors
/// With the folder and what it holds.
pub fn check(folder: &Path, run: Digest) -> Result<(), EvaluationError> {
    if folder.is_file() {
        return Err(EvaluationError::usage(format!("--out {}: is a file; expected a folder", folder.display())));
    }
    if !folder.join(DONE).exists() {
        return Ok(());
    }
    let record = TrainingRecord::read_file(&folder.join(DONE)).ok().flatten().unwrap_or_default();
    match record.run {
        Some(found) if found == run => Ok(()),
        _ => {
            let name = record.recipe_name().map(|name| format!(" ({name})")).unwrap_or_default();
            Err(EvaluationError::usage(format!(
                "--out {}: contains the result of another run{name}: recipe, data or base differ; choose another \
                 folder, or use --force to train there again",
                folder.display()
            )))
        }
    }
}

/// Removes the folder of a run, so that it can begin again.
///
/// # Errors
/// If there is something in it that no run has written, or it cannot be removed.
pub fn remove(folder: &Path) -> Result<(), EvaluationError> {
    let failed = |e: std::io::Error| EvaluationError::work(format!("cannot remove {}: {e}", folder.display()));
    if !folder.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !is_written_by_a_run(&name) {
            return Err(EvaluationError::usage(format!(
                "--force: {} contains {name:?}, which was not written by a training run and would be removed; choose \
                 another folder, or move it away",
                folder.display()
            )));
        }
    }
    std::fs::remove_dir_all(folder).map_err(failed)
}
