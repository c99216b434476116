//! What all work here needs: the experiment, folders, device, someone who watches, and a way to stop.

use std::{path::PathBuf, sync::Arc};

use harness_core::Stop;
use harness_engine::{ComputeType, Placement};
use harness_store::{DataLocator, DiskStore, FileHashes};

use crate::{
    EvaluationError,
    events::{Events, Stage, Unwatched},
    experiment::Experiment,
};

/// The surroundings of evaluations.
pub struct Session {
    /// The experiment, by which names of models and suites are understood.
    pub experiment: Experiment,
    /// Folder of everything that is stored.
    pub home: PathBuf,
    /// Where data sets are looked for, besides those that training wrote below `home`.
    pub data: DataLocator,
    /// Where models are trained and run.
    pub device: Placement,
    /// In which type; the device's usual one unless given.
    pub dtype: Option<ComputeType>,
    /// Whether this process is one of several ranks: then a candidate that is missing is not trained on the side.
    pub is_rank: bool,
    /// The command line, for manifests; empty where there is none.
    pub command: Vec<String>,
    events: Arc<dyn Events>,
    stop: Stop,
}

impl Session {
    /// A session on the processor that nobody watches. Data sets are looked for in the folders of the experiment.
    pub fn new(experiment: Experiment, home: impl Into<PathBuf>) -> Self {
        let folders = experiment.data_dirs.iter().map(|dir| experiment.folder.join(dir)).collect();
        Self {
            home: home.into(),
            data: DataLocator { data_dirs: folders, hub_cache: None },
            device: Placement::default(),
            dtype: None,
            is_rank: false,
            command: vec![],
            events: Arc::new(Unwatched),
            stop: Stop::default(),
            experiment,
        }
    }

    /// The same session, watched.
    #[must_use]
    pub fn watched_by(self, events: Arc<dyn Events>) -> Self {
        Self { events, ..self }
    }

    /// The same session, which stops after the batch, token or row in flight once this is asked for.
    #[must_use]
    pub fn stopped_by(self, stop: impl Into<Stop>) -> Self {
        Self { stop: stop.into(), ..self }
    }

    /// Whether the work should stop.
    pub fn interrupted(&self) -> bool {
        self.stop.is_requested()
    }

    /// What is behind [`Session::interrupted`].
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Where data sets are looked for: those that training runs wrote can be evaluated too.
    pub fn locator(&self) -> DataLocator {
        let mut locator = self.data.clone();
        locator.data_dirs.push(self.home.join("data"));
        locator
    }

    /// Folder of prepared training data.
    pub fn prepared(&self) -> PathBuf {
        self.home.join("prepared")
    }

    /// The store of responses.
    ///
    /// # Errors
    /// If its folder is no folder.
    pub fn store(&self) -> Result<DiskStore, EvaluationError> {
        Ok(DiskStore::open(&self.home.join("store"))?)
    }

    /// Hashes of files, remembered between runs.
    pub fn hashes(&self) -> FileHashes {
        FileHashes::open(&self.home)
    }

    /// Who watches.
    pub fn events(&self) -> &dyn Events {
        &*self.events
    }

    /// Tells a sentence.
    pub fn note(&self, text: impl AsRef<str>) {
        self.events.note(text.as_ref());
    }

    /// Work that has no steps to count, which whoever watches is told of if it takes its time.
    pub fn phase<T>(&self, title: impl AsRef<str>, work: impl FnOnce() -> T) -> T {
        let stage = self.stage(title.as_ref(), 0);
        let result = work();
        stage.finish("");
        result
    }

    /// Begins a stage; of 0 steps if nobody knows how many there are.
    pub fn stage(&self, title: &str, steps: u64) -> Stage {
        Stage::new(self.events.stage(title, steps))
    }
}
