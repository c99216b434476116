//! The run store on disk; its format and promises are in the module above.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use harness_core::{Digest, RequestKey, Response};

use super::{
    LoadReport, RunStore, record,
    segment::{self, ReadState, SegmentWriter},
};
use crate::{Result, StoreError};

/// Most places named in a report.
const PLACES: usize = 10;

/// Responses on disk. Opening reads nothing: a model's records are read when it is first asked for.
#[derive(Debug)]
pub struct DiskStore {
    folder: PathBuf,
    models: Mutex<HashMap<Digest, Arc<Mutex<ModelRecords>>>>,
}

impl DiskStore {
    /// The store in a folder (`HARNESS_HOME/store`), which is made when the first response is stored.
    ///
    /// # Errors
    /// If something else than a folder is there.
    pub fn open(folder: &Path) -> Result<Self> {
        if let Ok(metadata) = fs::metadata(folder)
            && !metadata.is_dir()
        {
            return Err(StoreError::bad_file(folder, "a file", "a folder for the run store"));
        }
        Ok(Self { folder: folder.join("responses"), models: Mutex::default() })
    }

    /// Digests of the models that have records, sorted.
    ///
    /// # Errors
    /// If the store's folder cannot be listed.
    pub fn models(&self) -> Result<Vec<Digest>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("list", &self.folder)(error)),
        };
        let mut models = Vec::new();
        for entry in entries {
            let name = entry.map_err(StoreError::io("list", &self.folder))?.file_name();
            models.extend(name.to_str().and_then(|name| name.parse::<Digest>().ok()));
        }
        models.sort();
        Ok(models)
    }

    /// Reads what other writers have stored for a model since it was last read.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn refresh(&self, model: &Digest) -> Result<LoadReport> {
        let records = self.records(model);
        let mut records = lock(&records);
        records.read()?;
        Ok(records.report())
    }

    /// Every response of a model, sorted by request.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn responses(&self, model: &Digest) -> Result<BTreeMap<RequestKey, Response>> {
        let records = self.records(model);
        let mut records = lock(&records);
        records.read_once()?;
        Ok(records.held.iter().map(|(key, held)| (*key, held.response.clone())).collect())
    }

    fn records(&self, model: &Digest) -> Arc<Mutex<ModelRecords>> {
        let mut models = lock(&self.models);
        let records = models
            .entry(*model)
            .or_insert_with(|| Arc::new(Mutex::new(ModelRecords::new(*model, self.folder.join(model.to_string())))));
        Arc::clone(records)
    }
}

impl RunStore for DiskStore {
    fn get(&self, model: &Digest, key: &RequestKey) -> Result<Option<Response>> {
        let records = self.records(model);
        let mut records = lock(&records);
        records.read_once()?;
        Ok(records.held.get(key).map(|held| held.response.clone()))
    }

    fn missing(&self, model: &Digest, keys: &[RequestKey]) -> Result<Vec<usize>> {
        let records = self.records(model);
        let mut records = lock(&records);
        records.read_once()?;
        Ok((0..keys.len()).filter(|&i| !records.held.contains_key(&keys[i])).collect())
    }

    fn append(&self, model: &Digest, key: &RequestKey, response: &Response) -> Result<()> {
        let records = self.records(model);
        let mut records = lock(&records);
        records.read_once()?;
        records.append(key, response)
    }

    fn flush(&self) -> Result<()> {
        let models: Vec<_> = lock(&self.models).values().cloned().collect();
        models.iter().try_for_each(|records| lock(records).writer.as_ref().map_or(Ok(()), SegmentWriter::sync))
    }

    fn report(&self, model: &Digest) -> Result<LoadReport> {
        let records = self.records(model);
        let mut records = lock(&records);
        records.read_once()?;
        Ok(records.report())
    }
}

/// A panic in another thread leaves the records as they were after their last whole step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Held {
    /// Name of the segment the response was read from.
    segment: Arc<str>,
    response: Response,
}

/// What is known of one model.
#[derive(Debug)]
struct ModelRecords {
    model: Digest,
    folder: PathBuf,
    read: bool,
    held: HashMap<RequestKey, Held>,
    segments: BTreeMap<Arc<str>, ReadState>,
    writer: Option<SegmentWriter>,
    duplicates: usize,
    conflicts: usize,
    damaged: usize,
    places: Vec<String>,
}

impl ModelRecords {
    fn new(model: Digest, folder: PathBuf) -> Self {
        Self {
            model,
            folder,
            read: false,
            held: HashMap::new(),
            segments: BTreeMap::new(),
            writer: None,
            duplicates: 0,
            conflicts: 0,
            damaged: 0,
            places: Vec::new(),
        }
    }

    fn read_once(&mut self) -> Result<()> {
        if self.read { Ok(()) } else { self.read() }
    }

    /// Reads what is new in all segments.
    fn read(&mut self) -> Result<()> {
        for name in segment::list(&self.folder)? {
            let path = self.folder.join(&name);
            let name: Arc<str> = name.into();
            let mut state = self.segments.get(&name).copied().unwrap_or_default();
            let model = self.model;
            let result = segment::read_from(&path, &mut state, |line, bytes| match record::decode(&model, bytes) {
                Some((key, response)) => self.insert(key, response, &name, line),
                None => {
                    self.damaged += 1;
                    self.note(&name, line, "damaged");
                }
            });
            // What was handed over stays known even if reading then failed.
            self.segments.insert(name, state);
            result?;
        }
        self.read = true;
        Ok(())
    }

    fn insert(&mut self, key: RequestKey, response: Response, segment: &Arc<str>, line: usize) {
        match self.held.get_mut(&key) {
            None => {
                self.held.insert(key, Held { segment: Arc::clone(segment), response });
            }
            Some(held) if held.response == response => self.duplicates += 1,
            Some(held) => {
                // A writer that started earlier may have been read later: its answer holds.
                if *segment < held.segment {
                    *held = Held { segment: Arc::clone(segment), response };
                }
                self.conflicts += 1;
                self.note(segment, line, "contradicts another response");
            }
        }
    }

    fn note(&mut self, segment: &str, line: usize, what: &str) {
        if self.places.len() < PLACES {
            self.places.push(format!("{}, line {line}: {what}", self.folder.join(segment).display()));
        }
    }

    fn append(&mut self, key: &RequestKey, response: &Response) -> Result<()> {
        if self.held.get(key).is_some_and(|held| held.response == *response) {
            return Ok(());
        }
        let line = record::encode(&self.model, key, response)?;
        if self.writer.as_ref().is_none_or(|writer| writer.spoilt) {
            self.writer = Some(SegmentWriter::create(&self.folder)?);
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.append(&line)?;
        let name: Arc<str> = writer.name.as_str().into();
        let state = self.segments.entry(Arc::clone(&name)).or_default();
        state.offset = writer.len;
        state.lines += 1;
        let line = state.lines;
        self.insert(*key, response.clone(), &name, line);
        Ok(())
    }

    fn report(&self) -> LoadReport {
        LoadReport {
            responses: self.held.len(),
            segments: self.segments.len(),
            duplicates: self.duplicates,
            conflicts: self.conflicts,
            damaged: self.damaged,
            torn: self.segments.values().filter(|state| state.torn).count(),
            places: self.places.clone(),
        }
    }
}
