//! Tests of the way from rows to batches.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use harness_core::Seed;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::TrainingError;

/// One token a byte; BOS 256 first, EOS 257.
struct Bytes;

impl Tokenize for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TrainingError> {
        Ok(std::iter::once(256).chain(text.bytes().map(u32::from)).collect())
    }

    fn eos(&self) -> Option<u32> {
        Some(257)
    }
}

/// Like [`Bytes`], but two `=` in a row are the token 300.
struct Merging;

impl Tokenize for Merging {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TrainingError> {
        let mut tokens = Vec::new();
        for part in text.split_inclusive("==") {
            tokens.extend(part.strip_suffix("==").unwrap_or(part).bytes().map(u32::from));
            tokens.extend(part.ends_with("==").then_some(300));
        }
        Ok(tokens)
    }

    fn eos(&self) -> Option<u32> {
        None
    }
}

fn options(extra: &str) -> DataOptions {
    toml::from_str(&format!("source = \"x\"\n{extra}\n")).unwrap()
}

fn rows(n: usize) -> Vec<Map<String, Value>> {
    (0..n)
        .map(|i| {
            let response = if i % 10 == 3 { " \n" } else { " r " };
            json!({"instruction": format!(" i{i}\n"), "context": "", "response": response, "extra": i})
                .as_object()
                .unwrap()
                .clone()
        })
        .collect()
}

fn prepared(n: usize, extra: &str) -> Result<Prepared, TrainingError> {
    prepare(rows(n), &Template::built_in("instruction").unwrap(), &options(extra), Path::new("rows.jsonl"), None)
}

fn row(prompt: &str, completion: &str) -> PreparedRow {
    PreparedRow {
        number: 0,
        prompt: prompt.into(),
        completion: completion.into(),
        masked: vec![],
        rejected: None,
        rendered: false,
        fields: Map::new(),
    }
}

fn samples(lengths: &[usize]) -> Vec<Sample> {
    let mut next = 0;
    lengths
        .iter()
        .map(|&length| {
            let tokens: Vec<u32> = (next..next + length as u32).collect();
            next += length as u32;
            Sample { tokens, loss_from: 1, truncated: 0, ..Sample::default() }
        })
        .collect()
}

#[test]
fn splits_are_disjoint_and_in_proportion() {
    let prepared = prepared(200, "drop_empty = [\"response\"]").unwrap();
    let numbers = |rows: &[PreparedRow]| rows.iter().map(|row| row.number).collect::<BTreeSet<_>>();
    let (train, validation, test) = (numbers(&prepared.train), numbers(&prepared.validation), numbers(&prepared.test));
    assert!(train.is_disjoint(&validation) && train.is_disjoint(&test) && validation.is_disjoint(&test));
    assert_eq!((prepared.counts.source, prepared.counts.dropped_empty), (200, 20));
    assert_eq!((train.len(), validation.len(), test.len()), (144, 18, 18));
    // The rule of tasks that score the held-out rows: drop empty rows, then split what is left.
    let kept: Vec<usize> = (0..200).filter(|i| i % 10 != 3).collect();
    let held_out = harness_core::split_80_10_10(180, Seed(42)).test;
    assert_eq!(
        prepared.test.iter().map(|row| row.number).collect::<Vec<_>>(),
        held_out.iter().map(|&i| kept[i]).collect::<Vec<_>>()
    );
}

#[test]
fn other_fractions_cut_the_same_order() {
    let fractions = |train, validation, test| SplitFractions { train, validation, test };
    let whole = split(100, fractions(1.0, 0.0, 0.0), Seed(42));
    assert_eq!((whole.train.len(), whole.validation.len(), whole.test.len()), (100, 0, 0));
    let other = split(100, fractions(0.29, 0.71, 0.0), Seed(42));
    assert_eq!((other.train.len(), other.validation.len(), other.test.len()), (29, 71, 0));
    assert_eq!([other.train, other.validation].concat(), whole.train);
    let default = split(100, SplitFractions::default(), Seed(42));
    assert_eq!([default.train, default.validation, default.test].concat(), whole.train);
}

#[test]
fn rows_are_stripped_limited_and_written() {
    let prepared = prepared(50, "max_samples = 7").unwrap();
    assert_eq!((prepared.counts.train, prepared.counts.beyond_max_samples), (7, 33));
    let folder = tempfile::tempdir().unwrap();
    prepared.write(folder.path()).unwrap();
    let text = std::fs::read_to_string(folder.path().join("train.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 7);
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let number = prepared.train[0].number;
    assert_eq!(first["instruction"], format!("i{number}"));
    assert_eq!(first["extra"], number);
    let response = first["response"].as_str().unwrap();
    assert_eq!(first["text"], format!("### Instruction:\ni{number}\n\n### Response:\n{response}"));
    for (name, rows) in [("validation", &prepared.validation), ("test", &prepared.test)] {
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.jsonl"))).unwrap();
        assert_eq!(text.lines().count(), rows.len());
    }
}

#[test]
fn bad_rows_are_named() {
    let message = prepared(5, "drop_empty = [\"answer\"]").unwrap_err().to_string();
    assert!(message.starts_with("rows.jsonl: row ") && message.contains("no column \"answer\""), "{message}");
    let message = prepared(1, "").unwrap_err().to_string();
    assert!(message.contains("none is left to train on"), "{message}");
    let mut bad = rows(5);
    bad[2].remove("response");
    let template = Template::built_in("instruction").unwrap();
    let message = prepare(bad, &template, &options(""), Path::new("rows.jsonl"), None).unwrap_err().to_string();
    assert!(message.starts_with("rows.jsonl: row 3: no column \"response\""), "{message}");
}

#[test]
fn labels_begin_with_the_completion() {
    let (samples, counts) = tokenize(&[row("ab", "cd")], &Bytes, Loss::Completion, 100).unwrap();
    assert_eq!(samples[0].tokens, [256, 97, 98, 99, 100, 257]);
    let batch = Batch::of(&samples);
    assert_eq!(batch.labels, [None, None, Some(99), Some(100), Some(257), None]);
    assert_eq!((counts.tokens, counts.labels, batch.num_labels()), (6, 3, 3));
    let (samples, counts) = tokenize(&[row("ab", "cd")], &Bytes, Loss::Full, 100).unwrap();
    let labels = Batch::of(&samples).labels;
    assert_eq!(labels, [Some(97), Some(98), Some(99), Some(100), Some(257), None]);
    assert_eq!(counts.labels, 5);
    // A token that straddles the joint is predicted.
    let (samples, _) = tokenize(&[row("a=", "=b")], &Merging, Loss::Completion, 100).unwrap();
    assert_eq!((samples[0].tokens.as_slice(), samples[0].loss_from), ([97, 300, 98].as_slice(), 1));
}

#[test]
fn truncation_is_counted() {
    let rows = [row("ab", "cdef"), row("ab", "c"), row("abcdefgh", "i")];
    let (samples, counts) = tokenize(&rows, &Bytes, Loss::Completion, 5).unwrap();
    assert_eq!(samples.iter().map(|s| s.tokens.len()).collect::<Vec<_>>(), [5, 5]);
    assert_eq!(samples[0].tokens, [256, 97, 98, 99, 100]);
    assert_eq!((counts.truncated_samples, counts.truncated_tokens, counts.without_labels), (2, 9, 1));
    assert_eq!((counts.samples, counts.tokens, counts.labels), (2, 10, 4));
}

#[test]
fn threads_do_not_matter() {
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let prepared = prepared(500, "drop_empty = [\"response\"]").unwrap();
            let (samples, counts) = tokenize(&prepared.train, &Bytes, Loss::Completion, 40).unwrap();
            let rows = pack(&lengths(&samples), 100);
            let mut source = BatchSource::new(samples, rows, 3, Seed(1));
            let batches: Vec<Batch> = (0..50).filter_map(|_| source.next_batch()).collect();
            (prepared, counts, batches)
        })
    };
    let one = run(1);
    assert_eq!(one, run(4));
    assert_eq!(one, run(7));
}

#[test]
fn an_epoch_takes_every_sample_once_and_orders_differ() {
    let samples: Arc<[Sample]> = samples(&[3; 11]).into();
    let mut source = BatchSource::new(samples.clone(), one_a_row(&lengths(&samples)), 4, Seed(7));
    assert_eq!((source.batches_per_epoch(), source.tokens_per_epoch()), (3, 33));
    let mut epoch = || (0..3).flat_map(|_| source.next_batch().unwrap().tokens).collect::<Vec<u32>>();
    let (first, second) = (epoch(), epoch());
    assert_ne!(first, second);
    for mut tokens in [first, second] {
        tokens.sort_unstable();
        assert_eq!(tokens, (0..33).collect::<Vec<u32>>());
    }
    assert_eq!(source.cursor(), Cursor { epoch: 1, index: 3 });
}

#[test]
fn a_cursor_resumes_exactly() {
    let samples: Arc<[Sample]> = samples(&[2, 5, 3, 1, 4, 2, 2]).into();
    let make = || BatchSource::new(samples.clone(), pack(&lengths(&samples), 6), 2, Seed(3));
    let mut whole = make();
    let batches: Vec<Batch> = (0..9).map(|_| whole.next_batch().unwrap()).collect();
    for taken in 0..9 {
        let mut first = make();
        (0..taken).for_each(|_| drop(first.next_batch()));
        let saved = serde_json::to_string(&first.cursor()).unwrap();
        let mut resumed = make();
        resumed.seek(serde_json::from_str(&saved).unwrap());
        let rest: Vec<Batch> = (taken..9).map(|_| resumed.next_batch().unwrap()).collect();
        assert_eq!(rest, batches[taken..]);
    }
    let none: Arc<[Sample]> = Arc::new([]);
    assert_eq!(BatchSource::new(none, Vec::new(), 2, Seed(3)).next_batch(), None);
}

#[test]
fn best_fit_fills_the_fullest_row() {
    let samples = samples(&[2, 7, 5, 3, 8]);
    // 8 | 7 | 5, then 3 beside the 7 (fullest that fits), then 2 beside the 8.
    assert_eq!(pack(&lengths(&samples), 10), [vec![4, 0], vec![1, 3], vec![2]]);
    assert_eq!(one_a_row(&lengths(&samples)).len(), 5);
    assert_eq!(in_order(&Samples::from(samples), 2).map(|batch| batch.num_samples()).collect::<Vec<_>>(), [2, 2, 1]);
}

proptest! {
    #[test]
    fn packing_keeps_samples_whole(sizes in prop::collection::vec(0usize..40, 0..60), room in 40usize..80) {
        let (samples, lengths) = (samples(&sizes), sizes);
        let rows = pack(&lengths, room);
        let mut seen: Vec<usize> = rows.concat();
        seen.sort_unstable();
        let expected: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] > 0).collect();
        prop_assert_eq!(seen, expected);
        for row in &rows {
            prop_assert!(row.iter().map(|&i| lengths[i]).sum::<usize>() <= room);
            let batch = Batch::of(row.iter().map(|&i| &samples[i]));
            prop_assert_eq!(batch.num_samples(), row.len());
            prop_assert_eq!((batch.labels.len(), batch.positions.len()), (batch.len(), batch.len()));
            for (place, &i) in row.iter().enumerate() {
                let (begin, end) = (batch.boundaries[place], batch.boundaries[place + 1]);
                prop_assert_eq!(&batch.tokens[begin..end], samples[i].tokens.as_slice());
                prop_assert_eq!(batch.labels[end - 1], None);
                for at in begin..end {
                    prop_assert_eq!(batch.positions[at] as usize, at - begin);
                    if at + 1 < end {
                        prop_assert_eq!(batch.labels[at], Some(batch.tokens[at + 1]));
                    }
                }
            }
        }
        // Any two rows of which both could hold the other were not needed: at most one row is half empty.
        let half_empty = rows.iter().filter(|row| row.iter().map(|&i| lengths[i]).sum::<usize>() * 2 <= room).count();
        prop_assert!(half_empty <= 1);
    }

    #[test]
    fn split_parts_are_a_partition(n in 0usize..300, a in 0.0f64..1.0, b in 0.0f64..1.0, seed: u64) {
        let (low, high) = (a.min(b), a.max(b));
        let fractions = SplitFractions { train: low, validation: high - low, test: 1.0 - high };
        let split = split(n, fractions, Seed(seed));
        prop_assert!(split.train.len().abs_diff((n as f64 * low) as usize) <= 1);
        let mut all = [split.train, split.validation, split.test].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
    }
}

#[test]
fn grouped_batches_hold_rows_of_like_length() {
    let lengths: Vec<usize> = (0..103).map(|i| 2 + i * 37 % 90).collect();
    let samples = samples(&lengths);
    let source = |grouped| BatchSource::new(samples.clone(), one_a_row(&lengths), 4, Seed(1)).grouped(grouped);
    let spread = |mut source: BatchSource| -> (usize, Vec<usize>) {
        let mut all = vec![];
        let spread = (0..source.batches_per_epoch())
            .filter_map(|_| source.next_batch())
            .map(|batch| {
                let lengths: Vec<usize> = batch.boundaries.windows(2).map(|b| b[1] - b[0]).collect();
                all.extend(&lengths);
                lengths.iter().max().unwrap_or(&0) - lengths.iter().min().unwrap_or(&0)
            })
            .sum();
        all.sort_unstable();
        (spread, all)
    };
    let ((plain, plain_all), (grouped, grouped_all)) = (spread(source(false)), spread(source(true)));
    assert!(grouped * 10 < plain, "{grouped} {plain}");
    assert_eq!(plain_all, grouped_all, "every row once");
    let first = |mut source: BatchSource| source.next_batch().map(|batch| batch.len());
    let lengths = |source: BatchSource| (source.longest_batch(), first(source));
    assert_eq!(lengths(source(true)), lengths(source(true)));
}

#[test]
fn filled_batches_hold_the_same_samples_and_labels() {
    let samples = samples(&[2, 7, 5, 3, 8, 1, 4]);
    let source =
        |padding| BatchSource::new(samples.clone(), one_a_row(&lengths(&samples)), 3, Seed(1)).padded(padding, 9);
    let batches = |mut source: BatchSource| -> Vec<Batch> { (0..3).filter_map(|_| source.next_batch()).collect() };
    let plain = batches(source(Padding::None));
    for padding in [Padding::Longest, Padding::MaxLength] {
        let filled = batches(source(padding));
        for (plain, filled) in plain.iter().zip(&filled) {
            let lengths: Vec<usize> = filled.boundaries.windows(2).map(|bounds| bounds[1] - bounds[0]).collect();
            let longest = plain.boundaries.windows(2).map(|bounds| bounds[1] - bounds[0]).max().unwrap();
            let expected = if padding == Padding::MaxLength { 9 } else { longest };
            assert_eq!(lengths, vec![expected; plain.num_samples()]);
            assert_eq!((filled.num_tokens(), filled.num_labels()), (plain.len(), plain.num_labels()));
            assert_eq!(
                filled.labels.iter().flatten().collect::<Vec<_>>(),
                plain.labels.iter().flatten().collect::<Vec<_>>()
            );
        }
        let filling: usize = filled.iter().map(|batch| batch.padding).sum();
        assert_eq!(source(padding).padding_per_epoch(), filling);
        assert!(source(padding).longest_batch() >= filled.iter().map(Batch::len).max().unwrap());
    }
}
