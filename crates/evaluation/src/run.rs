//! One model by itself.

use harness_metrics::comparison::{Comparison, Settings};

use crate::{
    EvaluationError, Session,
    evaluate::{Evaluated, evaluate},
    models::{Ready, caveats},
    probe::refusal,
    suite::Suite,
    tables::{Noise, Scores, tables},
};

/// One model's results.
pub struct Run {
    /// The tasks that it was asked.
    pub suite: Suite,
    /// Requests, answers and scores.
    pub evaluated: Evaluated,
    /// Its table.
    pub comparison: Comparison,
    /// Why some tasks of the suite were not asked, where they could not be.
    pub refused: Option<EvaluationError>,
}

/// Evaluates one model. Tasks that it cannot be asked are left out, unless all are.
///
/// # Errors
/// If the model can be asked no task, the evaluation fails, or the caller interrupts.
pub fn run(session: &Session, suite: Suite, ready: &Ready) -> Result<Run, EvaluationError> {
    let (mut suite, mut refused) = (suite, None);
    if let Some((tasks, source)) = refusal(session, &suite, ready)? {
        suite = suite.without(&tasks);
        let error = EvaluationError::CannotBeAsked { source: Box::new(source), tasks };
        if suite.tasks.is_empty() {
            return Err(error);
        }
        session.note(format!("{}; running the other tasks", error.message()));
        refused = Some(error);
    }
    let asked_how = caveats(session, suite.uses_chat_template(), ready);
    let evaluated = evaluate(session, &suite, ready, false)?;
    let tables = tables(&suite, &[Scores::Evaluated(&evaluated)], &Noise::new());
    let mut comparison = Comparison::compute(&tables, std::slice::from_ref(&evaluated.facts), &Settings::default())?;
    comparison.caveats.extend(asked_how);
    Ok(Run { suite, evaluated, comparison, refused })
}
