//! What every command works with: the session of the evaluation, and the program's output.

use std::{
    io::{IsTerminal as _, Write as _},
    ops::Deref,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use harness_core::{Stop, set_limits, visible, visible_json};
use harness_evaluation::{Session, experiment::Experiment};
use harness_store::DataLocator;
use serde::Serialize;

use super::{Failure, launch, progress::Display, stopping};
use crate::cli::GlobalArgs;

/// The surroundings of one command.
pub(super) struct App {
    /// Options of every command.
    pub global: GlobalArgs,
    session: Session,
    waiting: Arc<AtomicBool>,
}

impl Deref for App {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl App {
    /// Reads the experiment and watches for Ctrl-C and its like. Store and caches lie in `HARNESS_HOME`, else in `.harness` beside the experiment.
    ///
    /// # Errors
    /// If the experiment file or `HARNESS_HOME` is wrong, or there is no such device or type.
    pub(super) fn new(global: GlobalArgs) -> Result<Self, Failure> {
        let wrong = |option: &str, error: String| Failure::usage(format!("{option}: {error}"));
        let device = global.device.as_deref().map(str::parse).transpose().map_err(|e| wrong("--device", e))?;
        let dtype = global.dtype.as_deref().map(str::parse).transpose().map_err(|e| wrong("--dtype", e))?;
        let experiment = Experiment::load(global.experiment.as_deref())?;
        set_limits(experiment.limits);
        let home = match std::env::var_os("HARNESS_HOME") {
            None => experiment.folder.join(".harness"),
            Some(home) if home.is_empty() => {
                return Err(Failure::usage(
                    "HARNESS_HOME is empty: expected a folder; unset it for .harness beside the experiment",
                ));
            }
            Some(home) => PathBuf::from(home),
        };
        let mut folders = global.data_dir.clone();
        folders.extend(experiment.data_dirs.iter().map(|dir| experiment.folder.join(dir)));
        let (stop, waiting) = (Stop::default(), Arc::new(AtomicBool::new(false)));
        stopping::watch(&stop, Arc::clone(&waiting))?;
        let display = Display::new(global.quiet, std::io::stderr().is_terminal());
        let mut session = Session::new(experiment, home).watched_by(Arc::new(display)).stopped_by(stop);
        session.data = DataLocator::from_env(folders);
        session.device = device.unwrap_or_default();
        session.dtype = dtype;
        session.is_rank = launch::is_rank();
        session.command = std::env::args().collect();
        Ok(Self { global, session, waiting })
    }

    /// Waits for the user: there is no work in flight, so that Ctrl-C ends the program at once.
    pub(super) fn wait<T>(&self, for_user: impl FnOnce() -> T) -> T {
        self.waiting.store(true, Ordering::SeqCst);
        let answer = for_user();
        self.waiting.store(false, Ordering::SeqCst);
        answer
    }

    /// Prints text to standard output. Control characters of models, servers and files act on no terminal: [`visible`].
    ///
    /// # Errors
    /// If nobody reads it any more.
    pub(super) fn print(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        let text = visible(text.as_ref());
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        write!(out, "{text}{end}").and_then(|()| out.flush()).map_err(|e| Failure::work(format!("cannot print: {e}")))
    }

    /// Prints one JSON object with `--json`, else the text. The object has its exact strings, with escapes.
    ///
    /// # Errors
    /// As [`App::print`].
    pub(super) fn output(&self, object: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if !self.global.json {
            return self.print(text());
        }
        let json = serde_json::to_string_pretty(object).map_err(|e| Failure::work(format!("cannot print: {e}")))?;
        self.print(visible_json(&json))
    }
}
