//! Any bytes for everything that is read from outside.
//!
//! A [`Target`] gives bytes to the function that the program itself calls for a kind of file or peer, and panics where
//! a promise is broken: nothing else may panic, errors name the file, what was read means the same when it is written
//! and read again. `fuzz/` runs the targets under libFuzzer; `tests/smoke.rs` runs each over a few thousand mutations
//! of the same seeds, with bounds on memory and time.

mod data;
mod folder;
mod models;
mod peers;
mod results;
mod store;
mod tasks;

use std::sync::Once;

pub use folder::scratch;

/// One kind of input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, that of its folder of seeds in `fuzz/corpus` and of its fuzz target.
    pub name: &'static str,
    /// Gives bytes to the program.
    pub run: fn(&[u8]),
}

/// All kinds.
pub const TARGETS: [Target; 11] = [
    Target { name: "answers", run: peers::answers },
    Target { name: "config", run: models::config },
    Target { name: "frames", run: peers::frames },
    Target { name: "gguf", run: models::gguf },
    Target { name: "jsonl", run: data::jsonl },
    Target { name: "results", run: results::results },
    Target { name: "safetensors", run: models::safetensors },
    Target { name: "segments", run: store::segments },
    Target { name: "tasks", run: tasks::tasks },
    Target { name: "templates", run: tasks::templates },
    Target { name: "tokenizer", run: models::tokenizer },
];

/// Gives bytes to the target of this name.
///
/// # Panics
/// If there is none, or a promise is broken.
pub fn run(name: &str, bytes: &[u8]) {
    static WATCH: Once = Once::new();
    WATCH.call_once(harness_core::watch_panics);
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("there is no target {name}")).run)(bytes);
}
