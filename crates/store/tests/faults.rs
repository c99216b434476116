//! Processes that are killed, that write at once, and that run out of room.
//!
//! The tests start this very binary again with `HARNESS_TEST_CHILD` set, which makes [`child`] the writer.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "the child tells its parent what it has stored")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use harness_core::{Digest, Output, Request, RequestKey, Response, Usage};
use harness_store::{DiskStore, RunStore};

fn key(n: usize) -> RequestKey {
    Request::RollingLogLikelihood { text: n.to_string() }.key()
}

fn response(n: usize) -> Response {
    Response { output: Output::RollingLogLikelihood { logprob: -(n as f64) / 3.0, tokens: n }, usage: Usage::default() }
}

fn model() -> Digest {
    Digest::of("model")
}

/// The writer; does nothing unless a test started it. Appends the numbers `first..last` and says each that is stored.
#[test]
fn child() {
    let Ok(task) = std::env::var("HARNESS_TEST_CHILD") else { return };
    let mut parts = task.split(':');
    let mut number = || parts.next().unwrap().parse::<usize>().unwrap();
    let (first, last) = (number(), number());
    let store = DiskStore::open(&PathBuf::from(std::env::var_os("HARNESS_TEST_STORE").unwrap())).unwrap();
    for n in first..last {
        match store.append(&model(), &key(n), &response(n)) {
            Ok(()) => println!("\nstored {n}"),
            Err(error) => {
                println!("\nerror {error}");
                let again = store.append(&model(), &key(n), &response(n)).is_err();
                println!("\nagain {again}");
                return;
            }
        }
    }
}

/// Starts the writer, through a shell line in which `$0` is this binary.
fn start(store: &Path, first: usize, last: usize, shell: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" --exact child --nocapture --test-threads 1")])
        .arg(std::env::current_exe().unwrap())
        .env("HARNESS_TEST_CHILD", format!("{first}:{last}"))
        .env("HARNESS_TEST_STORE", store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}

#[test]
fn a_killed_writer_loses_nothing_it_reported() {
    let folder = tempfile::tempdir().unwrap();
    let mut all_stored = 0;
    for round in 0..3 {
        let mut child = start(folder.path(), all_stored, usize::MAX, "");
        let mut output = lines(&mut child).filter_map(|line| line.strip_prefix("stored ")?.parse::<usize>().ok());
        let seen = output.nth(100 + round).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let reported = output.last().unwrap_or(seen);
        let store = DiskStore::open(folder.path()).unwrap();
        for n in 0..=reported {
            assert_eq!(store.get(&model(), &key(n)).unwrap(), Some(response(n)), "{n} of {reported}");
        }
        let report = store.report(&model()).unwrap();
        assert!(report.damaged == 0 && report.conflicts == 0 && report.torn <= round + 1, "{report}");
        all_stored = report.responses;
        assert_eq!(store.missing(&model(), &[key(all_stored)]).unwrap(), [0]);
    }
}

#[test]
fn writers_in_several_processes_are_united() {
    let folder = tempfile::tempdir().unwrap();
    let children: Vec<Child> =
        (0..4).map(|writer| start(folder.path(), writer * 300, writer * 300 + 500, "")).collect();
    for mut child in children {
        assert_eq!(lines(&mut child).filter(|line| line.starts_with("stored ")).count(), 500);
        assert!(child.wait().unwrap().success());
    }
    let store = DiskStore::open(folder.path()).unwrap();
    let keys: Vec<RequestKey> = (0..1_400).map(key).collect();
    assert_eq!(store.missing(&model(), &keys).unwrap(), [] as [usize; 0]);
    let report = store.report(&model()).unwrap();
    assert_eq!((report.responses, report.segments, report.conflicts, report.damaged, report.torn), (1_400, 4, 0, 0, 0));
    assert!(report.duplicates <= 600, "{report}");
}

#[test]
fn no_room_is_an_error_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    DiskStore::open(folder.path()).unwrap().append(&model(), &key(0), &response(0)).unwrap();
    // A limit of 16 blocks of 512 bytes for each file; with the signal ignored, writing fails as on a full disk.
    let mut child = start(folder.path(), 1, usize::MAX, "trap '' XFSZ; ulimit -f 16;");
    let output: Vec<String> = lines(&mut child).collect();
    child.wait().unwrap();
    let stored = output.iter().filter(|line| line.starts_with("stored ")).count();
    assert!(stored > 10, "{output:?}");
    let error = output.iter().find(|line| line.starts_with("error ")).expect("the limit was reached");
    assert!(error.contains("cannot append to") && error.contains("responses/"), "{error}");
    assert!(error.contains("free some space") && error.contains("HARNESS_HOME"), "{error}");
    assert!(output.iter().any(|line| line == "again true"), "{output:?}");

    let store = DiskStore::open(folder.path()).unwrap();
    let report = store.report(&model()).unwrap();
    assert_eq!((report.responses, report.damaged, report.torn), (stored + 1, 0, 0), "{report}");
    store.append(&model(), &key(stored + 1), &response(stored + 1)).unwrap();
    assert_eq!(DiskStore::open(folder.path()).unwrap().report(&model()).unwrap().responses, stored + 2);
    let sizes = fs::read_dir(folder.path().join("responses").join(model().to_string())).unwrap();
    assert!(sizes.map(|file| file.unwrap().metadata().unwrap().len()).all(|size| size <= 16 * 512));
}
