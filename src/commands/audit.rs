//! `harness audit`.

use serde_json::json;

use harness_evaluation::{
    gather::{Asking, Subject, alarms, gather},
    models::Missing,
};
use harness_metrics::comparison::{Alignment, Caveat, Settings, counted};

use super::{App, Failure};
use crate::{cli::AuditArgs, options};

/// Runs `harness audit`: what would make the comparison of stored results misleading. No model is asked.
///
/// # Errors
/// If a model or task is wrong, or answers are missing; with exit code 3 under `--strict` if there is an alarm.
pub(super) fn audit(app: &App, args: &AuditArgs) -> Result<(), Failure> {
    let options = options::evaluation(&args.evaluation, app.device)?;
    let subjects = Subject::resolve(app, args.models.iter().map(String::as_str), &options.texts)?;
    let settings = Settings { alignment: Alignment::Intersect, ..app.experiment.compare.settings() };
    settings.validate()?;
    let asking = Asking { missing: Missing::Refuse, from_store: true, probe: 8, until_decided: false };
    let gathered = gather(app, &subjects, &options, asking, &settings, None)?;
    let (comparison, stage) = gathered.compare(app, &settings)?;
    stage.finish("");
    let found: Vec<&Caveat> = comparison.caveats.iter().collect();
    let count = alarms(&comparison).count();
    let object: Vec<_> = found
        .iter()
        .map(|caveat| json!({"caveat": caveat, "text": caveat.to_string(), "advice": caveat.advice(), "statistical": caveat.is_statistical()}))
        .collect();
    app.output(&json!({ "alarms": count, "findings": object }), || {
        if found.is_empty() {
            return "nothing found\n".to_owned();
        }
        found.iter().map(|caveat| format!("- {caveat}\n  {}\n", caveat.advice())).collect()
    })?;
    if args.strict && count > 0 {
        return Err(Failure::condition(format!("--strict: {}", counted(count, "non-statistical finding"))));
    }
    Ok(())
}
