//! The run store: against a model in memory, with damage, and over several openings.

#![allow(clippy::print_stdout, reason = "the speed check says its figures")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use harness_core::{Digest, Finish, Output, Request, RequestKey, Response, TopLogprob, Usage};
use harness_store::{DiskStore, MemoryStore, RunStore, StoreError};
use proptest::prelude::*;

fn model(n: u8) -> Digest {
    Digest::of([n])
}

fn key(n: usize) -> RequestKey {
    Request::LogLikelihood { context: format!("question {n}"), continuation: " answer".into() }.key()
}

fn loglikelihood(n: usize) -> Response {
    let logprob = -(n as f64) / 7.0;
    Response {
        output: Output::LogLikelihood {
            logprob,
            is_greedy: n.is_multiple_of(3),
            token_ids: vec![n as u32, 7],
            token_logprobs: vec![logprob as f32, -0.1],
        },
        usage: Usage { prompt_tokens: n, completion_tokens: 2, ..Usage::default() },
    }
}

fn text(text: &str) -> Response {
    Response {
        output: Output::Text {
            text: text.into(),
            token_ids: vec![1, 2],
            token_logprobs: vec![-0.3, -1e-7],
            finish: Finish::Stop,
            top_logprobs: vec![vec![TopLogprob { token: " m".into(), logprob: -0.3 }], vec![]],
            reasoning: "well".into(),
        },
        usage: Usage { truncated_tokens: 3, boundary_shifted: true, ..Usage::default() },
    }
}

fn segments(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for model in fs::read_dir(folder.join("responses")).unwrap() {
        files.extend(fs::read_dir(model.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    files.sort();
    files
}

#[test]
fn responses_read_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let responses = [
        loglikelihood(3),
        text("line\nbreaks \"quotes\" \u{2028} é \0"),
        Response { output: Output::RollingLogLikelihood { logprob: -0.1 - 0.2, tokens: 12 }, usage: Usage::default() },
        Response { output: Output::RollingLogLikelihood { logprob: -0.0, tokens: 0 }, usage: Usage::default() },
    ];
    let store = DiskStore::open(folder.path()).unwrap();
    for (i, response) in responses.iter().enumerate() {
        store.append(&model(0), &key(i), response).unwrap();
    }
    store.append(&model(1), &key(0), &text("other model")).unwrap();
    store.flush().unwrap();
    let store = DiskStore::open(folder.path()).unwrap();
    for (i, response) in responses.iter().enumerate() {
        let found = store.get(&model(0), &key(i)).unwrap().unwrap();
        assert_eq!(found, *response);
        assert_eq!(format!("{found:?}"), format!("{response:?}"), "the sign of zero too");
    }
    assert_eq!(store.get(&model(1), &key(0)).unwrap(), Some(text("other model")));
    assert_eq!(store.get(&model(1), &key(1)).unwrap(), None);
    assert_eq!(store.missing(&model(0), &[key(9), key(1), key(8)]).unwrap(), [0, 2]);
    assert_eq!(store.missing(&model(2), &[key(0)]).unwrap(), [0]);
    let mut models = vec![model(0), model(1)];
    models.sort();
    assert_eq!(store.models().unwrap(), models);
    assert_eq!(store.responses(&model(0)).unwrap().len(), 4);
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(folder.path()).unwrap();
    for logprob in [f64::NAN, f64::NEG_INFINITY] {
        let response =
            Response { output: Output::RollingLogLikelihood { logprob, tokens: 1 }, usage: Usage::default() };
        for store in [&disk as &dyn RunStore, &MemoryStore::new()] {
            let error = store.append(&model(0), &key(0), &response).unwrap_err();
            assert!(matches!(error, StoreError::NotFinite { .. }), "{error}");
            assert_eq!(store.missing(&model(0), &[key(0)]).unwrap(), [0]);
        }
    }
}

#[test]
fn repeated_responses_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).unwrap();
    for _ in 0..3 {
        store.append(&model(0), &key(0), &text("same")).unwrap();
    }
    assert_eq!(fs::read_to_string(&segments(folder.path())[0]).unwrap().lines().count(), 1);
    // Two writers that do not know of each other.
    let (a, b) = (DiskStore::open(folder.path()).unwrap(), DiskStore::open(folder.path()).unwrap());
    a.missing(&model(0), &[]).unwrap();
    b.missing(&model(0), &[]).unwrap();
    a.append(&model(0), &key(1), &text("both")).unwrap();
    b.append(&model(0), &key(1), &text("both")).unwrap();
    let report = DiskStore::open(folder.path()).unwrap().report(&model(0)).unwrap();
    assert_eq!((report.responses, report.duplicates, report.conflicts, report.segments), (2, 1, 0, 3));
    assert!(!report.has_losses());
}

#[test]
fn first_segment_wins_a_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let stores: Vec<DiskStore> = (0..2).map(|_| DiskStore::open(folder.path()).unwrap()).collect();
    for store in &stores {
        store.missing(&model(0), &[]).unwrap();
    }
    // The first store's segment is the first; its contradicting answer comes later and wins all the same.
    stores[0].append(&model(0), &key(0), &text("unrelated")).unwrap();
    stores[1].append(&model(0), &key(1), &text("second")).unwrap();
    stores[0].append(&model(0), &key(1), &text("first")).unwrap();
    let again = DiskStore::open(folder.path()).unwrap();
    assert_eq!(again.get(&model(0), &key(1)).unwrap(), Some(text("first")));
    let report = again.report(&model(0)).unwrap();
    assert_eq!(report.conflicts, 1);
    assert!(report.has_losses() && report.to_string().contains("1 contradicting"), "{report}");
    assert!(report.places[0].contains("000002-") && report.places[0].contains("line 1"), "{report}");
    // One that was open all the time comes to the same answer once it reads on.
    let seen = stores[1].refresh(&model(0)).unwrap();
    assert_eq!((stores[1].get(&model(0), &key(1)).unwrap(), seen.conflicts), (Some(text("first")), 1));
}

#[test]
fn refresh_sees_other_writers() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, reader) = (DiskStore::open(folder.path()).unwrap(), DiskStore::open(folder.path()).unwrap());
    for n in 0..5 {
        writer.append(&model(0), &key(n), &loglikelihood(n)).unwrap();
        assert_eq!(reader.missing(&model(0), &[key(n)]).unwrap(), if n == 0 { vec![] } else { vec![0] });
        assert_eq!(reader.refresh(&model(0)).unwrap().responses, n + 1);
        assert_eq!(reader.missing(&model(0), &[key(n)]).unwrap(), [] as [usize; 0]);
    }
    // A line that is being written is torn until it is whole.
    let path = &segments(folder.path())[0];
    let whole = fs::read(path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    fs::write(path, &whole[..last + 40]).unwrap();
    let late = DiskStore::open(folder.path()).unwrap();
    assert_eq!((late.report(&model(0)).unwrap().responses, late.report(&model(0)).unwrap().torn), (4, 1));
    fs::write(path, &whole).unwrap();
    let report = late.refresh(&model(0)).unwrap();
    assert_eq!((report.responses, report.torn, report.damaged), (5, 0, 0));
}

/// A store of three answers with its one segment and what that holds.
fn three_answers() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open(folder.path()).unwrap();
    for n in 0..3 {
        store.append(&model(0), &key(n), &loglikelihood(n)).unwrap();
    }
    let path = segments(folder.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    (folder, path, whole)
}

#[test]
fn truncation_at_every_byte_costs_one_record() {
    let (folder, path, whole) = three_answers();
    let last = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    assert!(whole.len() - last > 100);
    for cut in last..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let store = DiskStore::open(folder.path()).unwrap();
        let report = store.report(&model(0)).unwrap();
        assert_eq!((report.responses, report.torn, report.damaged), (2, usize::from(cut > last), 0), "cut at {cut}");
        assert_eq!(store.missing(&model(0), &[key(0), key(1), key(2)]).unwrap(), [2]);
    }
    // The store goes on after it: the torn line stays alone.
    let store = DiskStore::open(folder.path()).unwrap();
    store.append(&model(0), &key(2), &loglikelihood(2)).unwrap();
    let again = DiskStore::open(folder.path()).unwrap();
    assert_eq!(again.missing(&model(0), &[key(0), key(1), key(2)]).unwrap(), [] as [usize; 0]);
    assert_eq!(again.report(&model(0)).unwrap().torn, 1);
}

#[test]
fn any_changed_byte_is_noticed() {
    let (folder, path, whole) = three_answers();
    let start = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    let end = start + whole[start..].iter().position(|&byte| byte == b'\n').unwrap();
    for position in start..end {
        let mut bytes = whole.clone();
        bytes[position] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let store = DiskStore::open(folder.path()).unwrap();
        let report = store.report(&model(0)).unwrap();
        assert_eq!(store.get(&model(0), &key(0)).unwrap(), Some(loglikelihood(0)));
        assert_eq!(store.get(&model(0), &key(1)).unwrap(), None, "byte {position}");
        assert_eq!(store.get(&model(0), &key(2)).unwrap(), Some(loglikelihood(2)));
        assert!(report.damaged >= 1 && report.places[0].contains("line 2"), "byte {position}: {report}");
    }
}

#[test]
fn records_of_another_model_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    DiskStore::open(folder.path()).unwrap().append(&model(0), &key(0), &text("x")).unwrap();
    let responses = folder.path().join("responses");
    fs::rename(responses.join(model(0).to_string()), responses.join(model(1).to_string())).unwrap();
    let store = DiskStore::open(folder.path()).unwrap();
    assert_eq!((store.get(&model(1), &key(0)).unwrap(), store.report(&model(1)).unwrap().damaged), (None, 1));
}

#[test]
fn a_file_in_the_way_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store");
    fs::write(&file, "precious").unwrap();
    let error = DiskStore::open(&file).unwrap_err().to_string();
    assert!(error.contains("store: found a file, expected a folder"), "{error}");
    let store = DiskStore::open(folder.path()).unwrap();
    fs::write(folder.path().join("responses"), "precious").unwrap();
    let error = store.append(&model(0), &key(0), &text("x")).unwrap_err().to_string();
    assert!(error.contains("responses") && error.contains("where a folder is needed"), "{error}");
    assert_eq!(fs::read_to_string(folder.path().join("responses")).unwrap(), "precious");
}

#[test]
fn sixty_thousand_responses_in_seconds() {
    const COUNT: usize = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<RequestKey> = (0..COUNT).map(key).collect();
    let started = std::time::Instant::now();
    let store = DiskStore::open(folder.path()).unwrap();
    for (n, key) in keys.iter().enumerate() {
        store.append(&model(0), key, &loglikelihood(n)).unwrap();
    }
    store.flush().unwrap();
    let appended = started.elapsed().as_secs_f64();
    let store = DiskStore::open(folder.path()).unwrap();
    assert_eq!(store.missing(&model(0), &keys).unwrap(), [] as [usize; 0]);
    let reopened = started.elapsed().as_secs_f64() - appended;
    assert!(appended < 10.0 && reopened < 10.0, "appending took {appended} s, reopening {reopened} s");
    // For who runs this with `--nocapture`.
    println!("appended {COUNT} in {appended:.2} s, reopened in {reopened:.2} s");
}

#[derive(Clone, Debug)]
enum Operation {
    Append { model: u8, key: usize, answer: usize },
    Reopen,
    Tear { bytes: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (0u8..3, 0usize..12, 0usize..3).prop_map(|(model, key, answer)| Operation::Append { model, key, answer }),
        2 => Just(Operation::Reopen),
        1 => (1usize..60).prop_map(|bytes| Operation::Tear { bytes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever is done, the store holds what a map holds that keeps the first answer under each key; tearing the end
    /// off the last record written loses that record and no other.
    #[test]
    fn agrees_with_a_map(operations in proptest::collection::vec(operation(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DiskStore::open(folder.path()).unwrap();
        let memory = MemoryStore::new();
        // Every record written, in order; the map is what they amount to.
        let mut written: Vec<(u8, usize, usize)> = Vec::new();
        let map = |written: &[(u8, usize, usize)]| {
            let mut map = BTreeMap::new();
            for &(model, key, answer) in written {
                map.entry((model, key)).or_insert(answer);
            }
            map
        };
        let mut torn = false;
        for operation in operations {
            match operation {
                Operation::Append { model: m, key: k, answer } => {
                    let known = map(&written).get(&(m, k)) == Some(&answer);
                    store.append(&model(m), &key(k), &loglikelihood(answer)).unwrap();
                    memory.append(&model(m), &key(k), &loglikelihood(answer)).unwrap();
                    if !known {
                        written.push((m, k, answer));
                    }
                }
                Operation::Reopen => store = DiskStore::open(folder.path()).unwrap(),
                Operation::Tear { bytes } => {
                    let Some((m, _, _)) = written.last().copied() else { continue };
                    let in_folder = folder.path().join("responses").join(model(m).to_string());
                    let mut files: Vec<_> = fs::read_dir(in_folder).unwrap().map(|f| f.unwrap().path()).collect();
                    files.sort();
                    let last = files.pop().unwrap();
                    let content = fs::read(&last).unwrap();
                    // Only a segment that ends in the record written last is torn.
                    let whole = content.last() == Some(&b'\n');
                    if !whole {
                        continue;
                    }
                    fs::write(&last, &content[..content.len() - bytes]).unwrap();
                    written.pop();
                    torn = true;
                    store = DiskStore::open(folder.path()).unwrap();
                }
            }
            let expected = map(&written);
            for m in 0..3 {
                let keys: Vec<RequestKey> = (0..12).map(key).collect();
                let missing: Vec<usize> = (0..12).filter(|k| !expected.contains_key(&(m, *k))).collect();
                prop_assert_eq!(store.missing(&model(m), &keys).unwrap(), missing);
                for (k, key) in keys.iter().enumerate() {
                    let answer = expected.get(&(m, k)).map(|&answer| loglikelihood(answer));
                    if !torn {
                        prop_assert_eq!(&memory.get(&model(m), key).unwrap(), &answer);
                    }
                    prop_assert_eq!(store.get(&model(m), key).unwrap(), answer);
                }
            }
        }
    }
}
