//! Segments of the run store.

use std::path::Path;

use harness_core::Digest;
use harness_store::{DiskStore, RunStore as _};

use crate::folder::{with_folder, write};

/// What a line begins with before its checksum, and how long both are.
const SUM: (&[u8], usize) = (b"{\"sum\":\"", 26);

/// A segment, as it is and with checksums that are right: whoever wrote it may have meant it.
pub(crate) fn segments(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), summed(bytes)] {
        with_folder(|folder| check(folder, &bytes));
    }
}

fn check(folder: &Path, bytes: &[u8]) {
    let model = model(bytes);
    write(folder, &format!("store/responses/{model}/000001-1-00000000.jsonl"), bytes);
    let store = DiskStore::open(&folder.join("store")).expect("a folder");
    let responses = store.responses(&model).expect("damaged lines hinder no others");
    let report = store.report(&model).expect("a report");
    assert_eq!(report.responses, responses.len());
    let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(report.responses + report.duplicates + report.conflicts + report.damaged, lines, "{report:?}");
    let copy = DiskStore::open(&folder.join("copy")).expect("a folder");
    for (key, response) in &responses {
        copy.append(&model, key, response).expect("what was read can be kept");
    }
    let reopened = DiskStore::open(&folder.join("copy")).expect("a folder");
    assert_eq!(reopened.responses(&model).expect("the copy"), responses, "written again, the responses are others");
}

/// The model of the first record.
fn model(bytes: &[u8]) -> Digest {
    let text = String::from_utf8_lossy(bytes);
    let named = text.split_once("\"model\":\"").and_then(|(_, rest)| rest.get(..64)?.parse().ok());
    named.unwrap_or_else(|| Digest::of("model"))
}

/// The same lines, each that begins like a record with the checksum of the rest of it.
fn summed(bytes: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    for line in lines.iter_mut().filter(|line| line.len() > SUM.1 && line.starts_with(SUM.0)) {
        let sum = blake3::hash(&line[SUM.1..]).to_hex();
        line[SUM.0.len()..SUM.1 - 2].copy_from_slice(&sum.as_bytes()[..SUM.1 - 2 - SUM.0.len()]);
    }
    lines.join(&b'\n')
}
