//! What every command works with: experiment, folders, store, output.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use harness_engine::{ComputeType, Placement};
use harness_store::{DataLocator, DiskStore, FileHashes};
use serde::Serialize;

use super::{Failure, progress::Progress};
use crate::{cli::GlobalArgs, experiment::Experiment};

/// The surroundings of one command.
pub(super) struct App {
    /// Options of every command.
    pub global: GlobalArgs,
    /// Where models are trained and run.
    pub device: Placement,
    /// In which type.
    pub dtype: Option<ComputeType>,
    /// The experiment.
    pub experiment: Experiment,
    /// Store and caches: `HARNESS_HOME`, else `.harness` beside the experiment.
    pub home: PathBuf,
    interrupted: Arc<AtomicBool>,
    waiting: Arc<AtomicBool>,
}

impl App {
    /// Reads the experiment and watches for Ctrl-C: the first ends the work after the batch or token in flight, the second
    /// at once.
    ///
    /// # Errors
    /// If the experiment file is wrong, or there is no such device or type.
    pub(super) fn new(global: GlobalArgs) -> Result<Self, Failure> {
        let wrong = |option: &str, error: String| Failure::usage(format!("{option}: {error}"));
        let device = global.device.as_deref().map(str::parse).transpose().map_err(|e| wrong("--device", e))?;
        let dtype = global.dtype.as_deref().map(str::parse).transpose().map_err(|e| wrong("--dtype", e))?;
        let experiment = Experiment::load(global.experiment.as_deref())?;
        let home = std::env::var_os("HARNESS_HOME").map_or_else(|| experiment.folder.join(".harness"), PathBuf::from);
        let interrupted = Arc::new(AtomicBool::new(false));
        let waiting = Arc::new(AtomicBool::new(false));
        let (flag, idle) = (Arc::clone(&interrupted), Arc::clone(&waiting));
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) || idle.load(Ordering::SeqCst) {
                std::process::exit(130);
            }
        })
        .map_err(|e| Failure::work(format!("cannot watch for Ctrl-C: {e}")))?;
        Ok(Self { global, device: device.unwrap_or_default(), dtype, experiment, home, interrupted, waiting })
    }

    /// Whether the user wants to stop.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// The flag behind [`App::interrupted`].
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupted)
    }

    /// Waits for the user: there is no work in flight, so that Ctrl-C ends the program at once.
    pub(super) fn wait<T>(&self, for_user: impl FnOnce() -> T) -> T {
        self.waiting.store(true, Ordering::SeqCst);
        let answer = for_user();
        self.waiting.store(false, Ordering::SeqCst);
        answer
    }

    /// Where data sets are looked for.
    pub(super) fn locator(&self) -> DataLocator {
        let mut folders = self.global.data_dir.clone();
        folders.extend(self.experiment.data_dirs.iter().map(|dir| self.experiment.folder.join(dir)));
        let mut locator = DataLocator::from_env(folders);
        // Splits that a training run wrote can be evaluated.
        locator.data_dirs.push(self.home.join("data"));
        locator
    }

    /// Where prepared training data are kept.
    pub(super) fn prepared(&self) -> PathBuf {
        self.home.join("prepared")
    }

    /// The store of responses.
    ///
    /// # Errors
    /// If its folder is no folder.
    pub(super) fn store(&self) -> Result<DiskStore, Failure> {
        Ok(DiskStore::open(&self.home.join("store"))?)
    }

    /// Hashes of files, remembered between runs.
    pub(super) fn hashes(&self) -> FileHashes {
        FileHashes::open(&self.home)
    }

    /// A progress display on standard error.
    pub(super) fn progress(&self) -> Progress {
        Progress::new(self.global.quiet, std::io::stderr().is_terminal())
    }

    /// Prints text to standard output.
    ///
    /// # Errors
    /// If nobody reads it any more.
    pub(super) fn print(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        let text = text.as_ref();
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        write!(out, "{text}{end}").and_then(|()| out.flush()).map_err(|e| Failure::work(format!("cannot print: {e}")))
    }

    /// Prints one JSON object with `--json`, else the text.
    ///
    /// # Errors
    /// As [`App::print`].
    pub(super) fn output(&self, object: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if !self.global.json {
            return self.print(text());
        }
        let json = serde_json::to_string_pretty(object).map_err(|e| Failure::work(format!("cannot print: {e}")))?;
        self.print(json)
    }
}
