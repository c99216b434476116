//! A run store that is gone with the process.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use harness_core::{Digest, RequestKey, Response};

use super::{LoadReport, RunStore, record};
use crate::{Result, StoreError};

/// Responses in memory, for tests and for runs that are not to be kept.
#[derive(Debug, Default)]
pub struct MemoryStore {
    models: Mutex<HashMap<Digest, Held>>,
}

#[derive(Debug, Default)]
struct Held {
    responses: HashMap<RequestKey, Response>,
    conflicts: usize,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Held>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunStore for MemoryStore {
    fn get(&self, model: &Digest, key: &RequestKey) -> Result<Option<Response>> {
        Ok(self.lock().get(model).and_then(|held| held.responses.get(key)).cloned())
    }

    fn missing(&self, model: &Digest, keys: &[RequestKey]) -> Result<Vec<usize>> {
        let models = self.lock();
        let held = models.get(model);
        let answered = |key: &RequestKey| held.is_some_and(|held| held.responses.contains_key(key));
        Ok((0..keys.len()).filter(|&i| !answered(&keys[i])).collect())
    }

    fn append(&self, model: &Digest, key: &RequestKey, response: &Response) -> Result<()> {
        if !record::is_finite(response) {
            return Err(StoreError::NotFinite { model: *model, key: *key });
        }
        let mut models = self.lock();
        let held = models.entry(*model).or_default();
        match held.responses.get(key) {
            None => {
                held.responses.insert(*key, response.clone());
            }
            Some(known) if known == response => {}
            Some(_) => held.conflicts += 1,
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn report(&self, model: &Digest) -> Result<LoadReport> {
        let models = self.lock();
        Ok(models.get(model).map_or_else(LoadReport::default, |held| LoadReport {
            responses: held.responses.len(),
            conflicts: held.conflicts,
            ..LoadReport::default()
        }))
    }
}
