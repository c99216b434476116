//! Event files as TensorBoard reads them: records of TensorFlow's `Event` message with masked CRC-32C checksums.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use super::line::MetricLine;
use crate::TrainingError;

/// Folder of the event file in a run's folder.
const FOLDER: &str = "tensorboard";
/// What every event file of this program is named, so that its own older ones can be replaced.
const SUFFIX: &str = ".harness";

/// An event file that grows line by line.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a new file in the folder of a run, with the lines that are there already; older files of this program are
    /// removed, so that nothing appears twice. `time` is in seconds since 1970.
    ///
    /// # Errors
    /// If a file cannot be written or removed.
    pub fn create(output: &Path, lines: &[MetricLine], time: f64) -> Result<Self, TrainingError> {
        let folder = output.join(FOLDER);
        fs::create_dir_all(&folder).map_err(TrainingError::io("create", &folder))?;
        for entry in fs::read_dir(&folder).map_err(TrainingError::io("read", &folder))?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
                fs::remove_file(entry.path()).map_err(TrainingError::io("remove", entry.path()))?;
            }
        }
        let path = folder.join(format!("events.out.tfevents.{:010}{SUFFIX}", time.max(0.0) as u64));
        let file = File::create(&path).map_err(TrainingError::io("create", &path))?;
        let mut events = Self { path, file };
        let mut version = vec![];
        double(1, time, &mut version);
        bytes(3, b"brain.Event:2", &mut version);
        events.record(&version)?;
        lines.iter().try_for_each(|line| events.append(line, time))?;
        Ok(events)
    }

    /// Appends what a line says, each number under its own tag.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, line: &MetricLine, time: f64) -> Result<(), TrainingError> {
        let count = |n: Option<u64>| n.map(|n| n as f64);
        let values = [
            ("train/loss", line.loss),
            ("train/learning_rate", line.learning_rate),
            ("train/grad_norm", line.grad_norm),
            ("train/epoch", line.loss.map(|_| line.epoch)),
            ("train/tokens", count(line.tokens)),
            ("train/tokens_per_second", line.tokens_per_second),
            ("train/memory_bytes", count(line.memory_bytes)),
            ("train/loss_scale", line.loss_scale),
            ("train/spikes", count(line.spikes)),
            ("train/skipped", count(line.skipped)),
            ("eval/loss", line.eval_loss),
            ("eval/perplexity", line.eval_perplexity),
        ];
        let mut summary = vec![];
        let mut add = |tag: &str, value: f64| {
            let mut entry = vec![];
            bytes(1, tag.as_bytes(), &mut entry);
            // simple_value: field 2, a 32-bit float.
            entry.push(2 << 3 | 5);
            entry.extend((value as f32).to_le_bytes());
            bytes(1, &entry, &mut summary);
        };
        values.into_iter().filter_map(|(tag, value)| Some((tag, value?))).for_each(|(tag, value)| add(tag, value));
        line.tasks.iter().for_each(|(name, value)| add(&format!("eval/{name}"), *value));
        let mut event = vec![];
        double(1, time, &mut event);
        event.push(2 << 3);
        varint(line.step, &mut event);
        bytes(5, &summary, &mut event);
        self.record(&event)
    }

    /// Length, its checksum, data, their checksum.
    fn record(&mut self, data: &[u8]) -> Result<(), TrainingError> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked(crc32c(&length)).to_le_bytes());
        record.extend(data);
        record.extend(masked(crc32c(data)).to_le_bytes());
        self.file.write_all(&record).map_err(TrainingError::io("write", &self.path))
    }
}

/// A 64-bit float in protocol buffers' encoding.
fn double(field: u8, value: f64, to: &mut Vec<u8>) {
    to.push(field << 3 | 1);
    to.extend(value.to_le_bytes());
}

/// A run of bytes with its length.
fn bytes(field: u8, value: &[u8], to: &mut Vec<u8>) {
    to.push(field << 3 | 2);
    varint(value.len() as u64, to);
    to.extend(value);
}

/// Seven bits a byte, the lowest first.
fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// CRC-32 with Castagnoli's polynomial, reflected.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    })
}

/// A checksum that can be stored beside data that is checksummed again.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn records_can_be_taken_apart() {
        let folder = tempfile::tempdir().unwrap();
        let line = |step, loss| MetricLine { step, loss: Some(loss), ..MetricLine::default() };
        EventFile::create(folder.path(), &[line(1, 3.0)], 5.0).unwrap();
        let mut events = EventFile::create(folder.path(), &[line(1, 3.0)], 7.0).unwrap();
        events.append(&line(300, 2.5), 8.0).unwrap();
        let files: Vec<_> = fs::read_dir(folder.path().join(FOLDER)).unwrap().flatten().collect();
        assert_eq!(files.len(), 1, "the older file is replaced");
        let data = fs::read(files[0].path()).unwrap();
        let (mut at, mut records) = (0, vec![]);
        while at < data.len() {
            let length = u64::from_le_bytes(data[at..at + 8].try_into().unwrap()) as usize;
            let sum = |from: usize| u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            assert_eq!(sum(at + 8), masked(crc32c(&data[at..at + 8])));
            let body = &data[at + 12..at + 12 + length];
            assert_eq!(sum(at + 12 + length), masked(crc32c(body)));
            records.push(body.to_vec());
            at += length + 16;
        }
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"brain.Event:2"));
        let has = |record: &[u8], part: &[u8]| record.windows(part.len()).any(|window| window == part);
        assert!(has(&records[2], b"train/loss") && has(&records[2], &2.5f32.to_le_bytes()));
        // Step 300 as a varint in field 2.
        assert!(has(&records[2], &[0x10, 0xac, 0x02]));
    }
}
