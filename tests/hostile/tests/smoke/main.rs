//! Every target over its seeds and a few thousand mutations of them, the same every time, within bounds on memory and
//! time.

mod memory;
mod mutate;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use harness_hostile::{TARGETS, run, scratch};
use harness_test_support::workspace_root;
use mutate::Mutator;

/// Mutations of the seeds of a target, unless `HARNESS_MUTATIONS` says how many.
const MUTATIONS: usize = 2000;
/// Most bytes in memory at once while one input is read.
const MEMORY: usize = 256 << 20;
/// Longest time for one input: templates have three seconds, and there are several.
const TIME: Duration = Duration::from_secs(20);

/// The seeds of a target, by name.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = workspace_root().join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    // What a fuzzer found lies beside them, without an extension.
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}: no seeds", folder.display());
    let read = |path: PathBuf| (path.clone(), fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    paths.into_iter().map(read).collect()
}

/// Runs one input, which lies in a file while it runs: also if the process ends.
#[track_caller]
fn check(target: &str, input: &[u8], origin: &dyn std::fmt::Display) {
    let file = scratch().join(format!("harness-hostile-{target}"));
    fs::write(&file, input).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (begin, before) = (Instant::now(), memory::restart());
    let result = catch_unwind(AssertUnwindSafe(|| run(target, input)));
    let (time, most) = (begin.elapsed(), memory::most().saturating_sub(before));
    let place = format!("{target}, {origin}: the input is in {}", file.display());
    assert!(result.is_ok(), "{place}");
    assert!(most <= MEMORY, "{place} and takes {} MiB of memory", most >> 20);
    assert!(time <= TIME, "{place} and takes {time:?}");
    let _ = fs::remove_file(&file);
}

#[track_caller]
fn smoke(target: &str) {
    // One at a time: memory and time are those of one input.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seeds = seeds(target);
    for (path, seed) in &seeds {
        check(target, seed, &path.display());
    }
    let contents = seeds.into_iter().map(|(_, seed)| seed).collect();
    let mutations = std::env::var("HARNESS_MUTATIONS").map_or(MUTATIONS, |count| count.parse().expect("a number"));
    for (number, input) in Mutator::new(target, contents).take(mutations).enumerate() {
        check(target, &input, &format_args!("mutation {number}"));
    }
}

#[test]
fn every_target_is_run() {
    let names = TARGETS.map(|target| target.name);
    let mut found: Vec<String> = fs::read_dir(workspace_root().join("fuzz/fuzz_targets"))
        .expect("fuzz targets")
        .flatten()
        .map(|entry| entry.path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    found.sort();
    assert_eq!(found, names);
    let own = include_str!("main.rs");
    assert!(names.iter().all(|name| own.contains(&format!("smoke(\"{name}\")"))));
}

#[test]
fn answers() {
    smoke("answers");
}

#[test]
fn config() {
    smoke("config");
}

#[test]
fn frames() {
    smoke("frames");
}

#[test]
fn gguf() {
    smoke("gguf");
}

#[test]
fn jsonl() {
    smoke("jsonl");
}

#[test]
fn results() {
    smoke("results");
}

#[test]
fn safetensors() {
    smoke("safetensors");
}

#[test]
fn segments() {
    smoke("segments");
}

#[test]
fn tasks() {
    smoke("tasks");
}

#[test]
fn templates() {
    smoke("templates");
}

#[test]
fn tokenizer() {
    smoke("tokenizer");
}
