//! Asking a model for what the store lacks.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{Control, ModelError, Request, RequestKey};
use harness_http::HttpError;
use harness_store::{DiskStore, RunStore as _};

use crate::{EvaluationError, Session, events::Stage, models::Ready};

/// What is asked of a model.
pub(crate) struct Open<'a> {
    /// The requests.
    pub requests: &'a [&'a Request],
    /// Their keys.
    pub keys: &'a [RequestKey],
    /// Which of them have no response in the store.
    pub missing: &'a [usize],
    /// Title of the progress bar.
    pub title: &'a str,
    /// What the requests are called where the work is interrupted, and what is done with them.
    pub called: (&'a str, &'a str),
    /// Requests that the model cannot answer, with the reason: they are put here and the others are asked. Where this is
    /// `None`, the first of them is a failure.
    pub refused: Option<&'a mut BTreeMap<RequestKey, String>>,
}

impl Open<'_> {
    /// Asks for the missing responses, requests with equal keys once, and stores each as it comes; returns how many
    /// came and the bar, which runs on.
    ///
    /// # Errors
    /// If the model fails, the store cannot be written, or the user interrupts; what came before is stored.
    pub(crate) fn ask(
        mut self,
        session: &Session,
        ready: &Ready,
        store: &DiskStore,
    ) -> Result<(usize, Stage), EvaluationError> {
        let model = ready.entry.identity.digest();
        let mut seen = BTreeSet::new();
        let mut open: Vec<usize> = self.missing.iter().copied().filter(|&at| seen.insert(self.keys[at])).collect();
        let (total, mut answered) = (open.len(), 0);
        let bar = session.stage(self.title, total as u64);
        ready.model.check(session)?;
        loop {
            let batch: Vec<Request> = open.iter().map(|&at| self.requests[at].clone()).collect();
            let mut done = BTreeSet::new();
            let mut failed = None;
            let result = ready.model.answer(&batch, &mut |index, response| {
                if let Err(error) = store.append(&model, &self.keys[open[index]], &response) {
                    failed = Some(error);
                    return Control::Stop;
                }
                done.insert(index);
                bar.step();
                if session.interrupted() { Control::Stop } else { Control::Continue }
            });
            store.flush()?;
            answered += done.len();
            if let Some(error) = failed {
                return Err(error.into());
            }
            match (result, &mut self.refused) {
                (Ok(()), _) if done.len() < open.len() => {
                    let (what, past) = self.called;
                    return Err(EvaluationError::Interrupted(format!(
                        "interrupted: {answered} of {total} open {what} of {} are {past} and stored; run the same \
                         command again to continue",
                        ready.name
                    )));
                }
                (Ok(()), _) => return Ok((answered, bar)),
                (Err(ModelError::BadRequest { index, reason }), Some(refused)) => {
                    refused.insert(self.keys[open[index]], reason);
                    done.insert(index);
                }
                (Err(error), _) => return Err(stopped(error, answered, total, &ready.name)),
            }
            open = open.into_iter().enumerate().filter(|(at, _)| !done.contains(at)).map(|(_, at)| at).collect();
        }
    }
}

/// The failure of a model, with what is kept where the limit on cost ended the work.
fn stopped(error: ModelError, answered: usize, open: usize, name: &str) -> EvaluationError {
    let over = matches!(&error, ModelError::Other(source)
        if matches!(source.downcast_ref::<HttpError>(), Some(HttpError::Budget { .. })));
    let source = EvaluationError::from(error);
    if !over {
        return source;
    }
    EvaluationError::Cost { source: Box::new(source), answered, open, model: name.to_owned() }
}
