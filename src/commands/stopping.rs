//! Ctrl-C, SIGTERM and SIGHUP: the first ends the work soon, the second at once.

use std::{
    process::exit,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use harness_core::Stop;

use super::{Failure, report_failure};

/// How long work may take to end by itself, with its own words about where it goes on. What takes longer is left: answers
/// are stored as they come, and files are written whole or not at all.
const GRACE: Duration = Duration::from_millis(1_500);
/// How often is looked whether what is unsaved is saved.
const LOOK: Duration = Duration::from_millis(20);
/// How long telling of it may take: nobody may be reading standard error.
const TELLING: Duration = Duration::from_millis(200);

/// Watches for signals. While `idle` is set, no work is in flight, and the first one ends the program at once.
///
/// # Errors
/// If the system refuses.
pub(super) fn watch(stop: &Stop, idle: Arc<AtomicBool>) -> Result<(), Failure> {
    let stop = stop.clone();
    ctrlc::set_handler(move || {
        if stop.is_requested() || idle.load(Ordering::SeqCst) {
            exit(130);
        }
        request(&stop);
    })
    .map_err(|e| Failure::work(format!("cannot watch for Ctrl-C: {e}")))
}

/// Asks the work to stop, and ends the program if it has not done so by itself within the grace, unless something would
/// be lost that is not saved yet.
pub(super) fn request(stop: &Stop) {
    if stop.request() {
        return;
    }
    let stop = stop.clone();
    thread::spawn(move || {
        thread::sleep(GRACE);
        while stop.has_unsaved() {
            thread::sleep(LOOK);
        }
        let told = thread::spawn(|| {
            let words = "interrupted: what is done is kept; run the same command again to continue";
            report_failure(&Failure::work(words), false);
        });
        for _ in 0..TELLING.as_millis() / LOOK.as_millis() {
            if told.is_finished() {
                break;
            }
            thread::sleep(LOOK);
        }
        exit(1);
    });
}
