//! Asking a model for what the store lacks.

use std::collections::BTreeSet;

use harness_core::{Control, Request, RequestKey};
use harness_store::{DiskStore, RunStore as _};

use super::{App, Failure, evaluate::stopped, load::Ready, progress::Bar};

/// What is asked of a model.
pub(super) struct Open<'a> {
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
}

impl Open<'_> {
    /// Asks for the missing responses, requests with equal keys once, and stores each as it comes; returns how many
    /// there were and the bar, which runs on.
    ///
    /// # Errors
    /// If the model fails, the store cannot be written, or the user interrupts; what came before is stored.
    pub(super) fn ask(&self, app: &App, ready: &Ready, store: &DiskStore) -> Result<(usize, Bar), Failure> {
        let model = ready.entry.identity.digest();
        let mut seen = BTreeSet::new();
        let wanted: Vec<usize> = self.missing.iter().copied().filter(|&at| seen.insert(self.keys[at])).collect();
        let batch: Vec<Request> = wanted.iter().map(|&at| self.requests[at].clone()).collect();
        let bar = app.progress().bar(self.title, batch.len() as u64);
        let (mut answered, mut failed) = (0, None);
        ready.model.check(app)?;
        let result = ready.model.answer(&batch, &mut |index, response| {
            if let Err(error) = store.append(&model, &self.keys[wanted[index]], &response) {
                failed = Some(error);
                return Control::Stop;
            }
            answered += 1;
            bar.step();
            if app.interrupted() { Control::Stop } else { Control::Continue }
        });
        store.flush()?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        result.map_err(|error| stopped(error, answered, batch.len(), &ready.name))?;
        if answered < batch.len() {
            let (what, done) = self.called;
            return Err(Failure::work(format!(
                "interrupted: {answered} of {} open {what} of {} are {done} and stored; the same command goes on",
                batch.len(),
                ready.name
            )));
        }
        Ok((answered, bar))
    }
}
