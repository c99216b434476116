//! `harness explain`.

use serde_json::json;

use super::{App, Failure};
use crate::cli::ExplainArgs;

/// Runs `harness explain`.
///
/// # Errors
/// If there is no such report or number; with exit code 3 if something changed since.
pub(super) fn explain(app: &App, args: &ExplainArgs) -> Result<(), Failure> {
    let chain = harness_evaluation::explain(app, &args.report, &args.cell)?;
    let changed = chain.changed();
    app.output(&json!({ "chain": chain.0, "changed": changed }), || {
        let mut text = String::new();
        for link in &chain.0 {
            match &link.found {
                None => text.push_str(&format!("ok       {}: {}\n", link.what, link.recorded)),
                Some(found) => {
                    text.push_str(&format!("CHANGED  {}: recorded {}, found {found}\n", link.what, link.recorded));
                }
            }
        }
        text
    })?;
    if changed.is_empty() {
        return Ok(());
    }
    Err(Failure::condition(format!("changed since the report was made: {}", changed.join("; "))))
}
