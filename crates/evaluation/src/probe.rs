//! What an endpoint can be asked, found out before it is asked anything: a server that cannot score given texts would
//! otherwise be noticed in the middle of the work, or give results at the level of chance.

use harness_core::RequestKey;
use harness_http::HttpError;
use harness_store::RunStore as _;
use harness_tasks::{DeclarativeTask, OutputType, Task as _};

use crate::{EvaluationError, Session, evaluate::prepare_one, models::Ready, suite::Suite};

/// Whether answers to a task are log-likelihoods, all or some.
fn scores_texts(task: &DeclarativeTask) -> bool {
    task.output_type() != OutputType::GenerateUntil || task.asks_for_references()
}

/// The tasks of a suite that a model behind a server cannot be asked, and what it lacks; `None` where it can be asked all. Costs two short
/// requests at most, and none where the model is on this machine, only generates, or has answered before.
///
/// # Errors
/// If the server is not there or refuses the key, or a document does not fit its task.
pub(crate) fn refusal(
    session: &Session,
    suite: &Suite,
    ready: &Ready,
) -> Result<Option<(Vec<String>, EvaluationError)>, EvaluationError> {
    let Some(endpoint) = ready.model.endpoint() else { return Ok(None) };
    let (store, model) = (session.store()?, ready.entry.identity.digest());
    let mut scored = vec![];
    for (number, task) in suite.tasks.iter().enumerate().filter(|(_, task)| scores_texts(task)) {
        let prepared = prepare_one(suite, number, ready)?;
        let keys: Vec<RequestKey> =
            prepared.documents.iter().flat_map(|document| document.requests.iter().map(|r| r.key())).collect();
        if !store.missing(&model, &keys)?.is_empty() {
            scored.push(task.id().to_owned());
        }
    }
    if scored.is_empty() {
        return Ok(None);
    }
    ready.model.check(session)?;
    if suite.uses_chat_template() {
        let failure = EvaluationError::usage(format!(
            "{}: the chat template is the server's own, so continuations of a chat cannot be scored; leave out \
             --apply-chat-template",
            endpoint.options().spec.url
        ));
        return Ok(Some((scored, failure)));
    }
    match endpoint.likelihood_api() {
        Ok(_) => Ok(None),
        Err(error @ HttpError::NoLikelihood { .. }) => Ok(Some((scored, error.into()))),
        Err(error) => Err(error.into()),
    }
}

/// The same for a comparison, whose models are all asked the same.
///
/// # Errors
/// If the model cannot be asked a task.
pub(crate) fn require(session: &Session, suite: &Suite, ready: &Ready) -> Result<(), EvaluationError> {
    match refusal(session, suite, ready)? {
        None => Ok(()),
        Some((tasks, source)) => Err(EvaluationError::CannotBeAsked { source: Box::new(source), tasks }),
    }
}
