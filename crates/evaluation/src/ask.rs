//! Asking models for what the store lacks.

use std::collections::{BTreeMap, BTreeSet};

use harness_core::{Control, Digest, ModelError, Request, RequestKey, Response};
use harness_engine::{Asked, answer_together};
use harness_http::HttpError;
use harness_store::{DiskStore, RunStore as _, StoreError};

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
    /// Requests without a response, those with equal keys once.
    fn open(&self) -> Vec<usize> {
        let mut seen = BTreeSet::new();
        self.missing.iter().copied().filter(|&at| seen.insert(self.keys[at])).collect()
    }

    fn batch(&self, open: &[usize]) -> Vec<Request> {
        open.iter().map(|&at| self.requests[at].clone()).collect()
    }

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
        let mut open = self.open();
        let (total, mut answered) = (open.len(), 0);
        let bar = session.stage(self.title, total as u64);
        ready.model.check(session)?;
        loop {
            let batch = self.batch(&open);
            let mut done = BTreeSet::new();
            let mut keeping = Keeping { session, store, bar: &bar, failed: None };
            let result = ready.model.answer(&batch, &mut |index, response| {
                done.insert(index);
                keeping.keep(&model, &self.keys[open[index]], &response)
            });
            let failed = keeping.failed;
            store.flush()?;
            if let Some(error) = failed {
                return Err(error.into());
            }
            answered += done.len();
            match (result, &mut self.refused) {
                (Ok(()), _) if done.len() < open.len() => {
                    return Err(interrupted(answered, total, self.called, &ready.name));
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

/// Asks models over one base for their missing responses as [`Open::ask`] does, and decodes what they generate in one
/// batch. The bar has the title of the first.
///
/// # Errors
/// As [`Open::ask`].
///
/// # Panics
/// If one is no model on this machine, or they are not over one base.
pub(crate) fn ask_together(
    session: &Session,
    asked: &[(&Ready, Open<'_>)],
    store: &DiskStore,
) -> Result<(usize, Stage), EvaluationError> {
    let Some((_, first)) = asked.first() else { return Ok((0, session.stage("", 0))) };
    let open: Vec<Vec<usize>> = asked.iter().map(|(_, of)| of.open()).collect();
    let batches: Vec<Vec<Request>> = asked.iter().zip(&open).map(|((_, of), open)| of.batch(open)).collect();
    let digests: Vec<Digest> = asked.iter().map(|(ready, _)| ready.entry.identity.digest()).collect();
    let total: usize = open.iter().map(Vec::len).sum();
    let bar = session.stage(first.title, total as u64);
    let together: Vec<Asked<'_>> = asked
        .iter()
        .zip(&batches)
        .map(|((ready, _), requests)| {
            let model = ready.model.local().expect("a model on this machine");
            Asked { model, requests, drafts: &|_| vec![] }
        })
        .collect();
    let (mut answered, mut keeping) = (0, Keeping { session, store, bar: &bar, failed: None });
    let result = answer_together(&together, &mut |model, index, response| {
        answered += 1;
        keeping.keep(&digests[model], &asked[model].1.keys[open[model][index]], &response)
    });
    let failed = keeping.failed;
    store.flush()?;
    match (failed, result) {
        (Some(error), _) => Err(error.into()),
        (None, Err((model, error))) => Err(stopped(error, answered, total, &asked[model].0.name)),
        (None, Ok(())) if answered < total => {
            let names: Vec<&str> = asked.iter().map(|(ready, _)| ready.name.as_str()).collect();
            Err(interrupted(answered, total, first.called, &names.join(", ")))
        }
        (None, Ok(())) => Ok((answered, bar)),
    }
}

/// Stores responses as they come.
struct Keeping<'a> {
    session: &'a Session,
    store: &'a DiskStore,
    bar: &'a Stage,
    failed: Option<StoreError>,
}

impl Keeping<'_> {
    fn keep(&mut self, model: &Digest, key: &RequestKey, response: &Response) -> Control {
        if let Err(error) = self.store.append(model, key, response) {
            self.failed = Some(error);
            return Control::Stop;
        }
        self.bar.step();
        if self.session.interrupted() { Control::Stop } else { Control::Continue }
    }
}

fn interrupted(answered: usize, total: usize, (what, past): (&str, &str), names: &str) -> EvaluationError {
    EvaluationError::Interrupted(format!(
        "interrupted: {answered} of {total} open {what} of {names} are {past} and stored; run the same command again to \
         continue"
    ))
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
