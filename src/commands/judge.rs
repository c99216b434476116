//! `harness judge`.

use harness_reports::Meta;

use super::{App, Failure};
use crate::{cli::JudgeArgs, options};

/// Runs `harness judge`.
///
/// # Errors
/// If protocol, outputs or judge are wrong, the judge fails, or the user interrupts.
pub(super) fn judge(app: &App, args: &JudgeArgs) -> Result<(), Failure> {
    let report = harness_evaluation::judge(app, &options::judging(args)?)?;
    if let Some(folder) = &args.out {
        let files = report.write(folder)?;
        let shown: Vec<String> =
            files.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
        app.note(format!("wrote {} to {}", shown.join(", "), folder.display()));
    }
    report.run_lines().into_iter().for_each(|line| app.note(line));
    app.output(&report.object_of_run(), || report.markdown(&Meta::default(), false))?;
    report.failure().map_or(Ok(()), |message| Err(Failure::work(message).after_output()))
}
