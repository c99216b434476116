//! Tokenised samples: in memory, or mapped from a file that a former run has written.

use std::{
    borrow::Cow,
    fs::File,
    io::{BufWriter, Write},
    ops::Range,
    path::Path,
    sync::Arc,
};

use harness_core::{atomic_write_with, open_file};
use harness_kernels::{Map, map_file};

use super::Sample;
use crate::TrainingError;

/// First bytes of a file of samples; the digit is the version of the form.
const MAGIC: [u8; 8] = *b"samples1";
/// Magic, number of samples, of tokens, of masked runs.
const HEAD: usize = 32;

/// Samples by number; clones share them.
#[derive(Clone, Debug)]
pub struct Samples(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Memory(Arc<[Sample]>),
    Mapped(Arc<Mapped>),
}

/// A file of little-endian numbers: for each sample where its tokens end and where its masked runs end (64 bits each),
/// the first counted token and the number of tokens cut off (32 bits each); all masked runs as pairs; all tokens.
#[derive(Debug)]
struct Mapped {
    map: Map,
    samples: usize,
    runs: usize,
}

impl From<Vec<Sample>> for Samples {
    fn from(samples: Vec<Sample>) -> Self {
        Self(Inner::Memory(samples.into()))
    }
}

impl From<Arc<[Sample]>> for Samples {
    fn from(samples: Arc<[Sample]>) -> Self {
        Self(Inner::Memory(samples))
    }
}

impl Samples {
    /// Number of samples.
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Memory(samples) => samples.len(),
            Inner::Mapped(file) => file.samples,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether they lie in a file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Inner::Mapped(_))
    }

    /// One sample.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn get(&self, sample: usize) -> Cow<'_, Sample> {
        match &self.0 {
            Inner::Memory(samples) => Cow::Borrowed(&samples[sample]),
            Inner::Mapped(file) => Cow::Owned(file.get(sample)),
        }
    }

    /// Number of tokens of one sample.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn length(&self, sample: usize) -> usize {
        match &self.0 {
            Inner::Memory(samples) => samples[sample].tokens.len(),
            Inner::Mapped(file) => file.tokens(sample).len(),
        }
    }

    /// Number of tokens of every sample.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.len()).map(|sample| self.length(sample)).collect()
    }

    /// Writes them as a file that [`Samples::map`] reads.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainingError> {
        let all: Vec<Cow<'_, Sample>> = (0..self.len()).map(|sample| self.get(sample)).collect();
        let write = |file: &mut BufWriter<File>| {
            let tokens: usize = all.iter().map(|sample| sample.tokens.len()).sum();
            let runs: usize = all.iter().map(|sample| sample.masked.len()).sum();
            file.write_all(&MAGIC)?;
            for number in [all.len(), tokens, runs] {
                file.write_all(&(number as u64).to_le_bytes())?;
            }
            let (mut token, mut run) = (0u64, 0u64);
            for sample in &all {
                token += sample.tokens.len() as u64;
                run += sample.masked.len() as u64;
                file.write_all(&token.to_le_bytes())?;
                file.write_all(&run.to_le_bytes())?;
                file.write_all(&(sample.loss_from as u32).to_le_bytes())?;
                file.write_all(&(sample.truncated as u32).to_le_bytes())?;
            }
            for range in all.iter().flat_map(|sample| &sample.masked) {
                file.write_all(&(range.start as u32).to_le_bytes())?;
                file.write_all(&(range.end as u32).to_le_bytes())?;
            }
            for token in all.iter().flat_map(|sample| &sample.tokens) {
                file.write_all(&token.to_le_bytes())?;
            }
            Ok(())
        };
        atomic_write_with(path, |error| error, write).map_err(TrainingError::io("write", path))
    }

    /// The samples of a file, which is read as they are asked for. Its content must not change meanwhile.
    ///
    /// # Errors
    /// If it cannot be read or is not such a file.
    pub fn map(path: &Path) -> Result<Self, TrainingError> {
        let map = open_file(path).and_then(|file| map_file(file, path)).map_err(TrainingError::io("read", path))?;
        let wrong = |message: &str| TrainingError::Data { path: path.to_owned(), message: message.to_owned() };
        if map.len() < HEAD || map[..8] != MAGIC {
            return Err(wrong("is not a file of samples of this version"));
        }
        let number = |at: usize| usize::try_from(read_u64(&map, at)).unwrap_or(usize::MAX);
        let (samples, tokens, runs) = (number(8), number(16), number(24));
        let expected = [(samples, Mapped::ENTRY), (runs, 8), (tokens, 4)]
            .into_iter()
            .try_fold(HEAD, |sum, (count, size)| sum.checked_add(count.checked_mul(size)?));
        if expected != Some(map.len()) {
            return Err(wrong("has another length than its head says"));
        }
        let mapped = Mapped { map, samples, runs };
        let in_order = |end: fn(&Mapped, usize) -> usize, last: usize| {
            (0..samples).all(|i| end(&mapped, i) <= end(&mapped, i + 1)) && end(&mapped, samples) == last
        };
        if !in_order(Mapped::token_end, tokens) || !in_order(Mapped::run_end, runs) {
            return Err(wrong("has samples that are not in order"));
        }
        Ok(Self(Inner::Mapped(Arc::new(mapped))))
    }
}

fn read_u64(map: &Map, at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&map[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn read_u32(map: &Map, at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&map[at..at + 4]);
    u32::from_le_bytes(bytes)
}

impl Mapped {
    /// Bytes of what is said of one sample.
    const ENTRY: usize = 24;

    fn entry(sample: usize) -> usize {
        HEAD + sample * Self::ENTRY
    }

    /// Where the tokens of the first `count` samples end.
    fn token_end(&self, count: usize) -> usize {
        if count == 0 { 0 } else { read_u64(&self.map, Self::entry(count - 1)) as usize }
    }

    /// Where the masked runs of the first `count` samples end.
    fn run_end(&self, count: usize) -> usize {
        if count == 0 { 0 } else { read_u64(&self.map, Self::entry(count - 1) + 8) as usize }
    }

    fn tokens(&self, sample: usize) -> Range<usize> {
        assert!(sample < self.samples, "sample {sample} of {}", self.samples);
        self.token_end(sample)..self.token_end(sample + 1)
    }

    fn get(&self, sample: usize) -> Sample {
        let runs_at = Self::entry(self.samples);
        let tokens_at = runs_at + 8 * self.runs;
        let words = |bytes: &[u8]| -> Vec<u32> {
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let tokens = self.tokens(sample);
        let runs = runs_at + 8 * self.run_end(sample)..runs_at + 8 * self.run_end(sample + 1);
        let masked = words(&self.map[runs]);
        Sample {
            tokens: words(&self.map[tokens_at + 4 * tokens.start..tokens_at + 4 * tokens.end]),
            loss_from: read_u32(&self.map, Self::entry(sample) + 16) as usize,
            truncated: read_u32(&self.map, Self::entry(sample) + 20) as usize,
            masked: masked.chunks_exact(2).map(|run| run[0] as usize..run[1] as usize).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Sample> {
        let sample = |tokens: Vec<u32>, loss_from, truncated, masked| Sample { tokens, loss_from, truncated, masked };
        vec![
            sample(vec![1, 2, 70_000], 1, 0, vec![]),
            sample(vec![], 0, 4, vec![]),
            sample((0..50).collect(), 7, 1, vec![9..12, 20..21]),
        ]
    }

    #[test]
    fn a_mapped_file_has_the_samples_that_were_written() {
        let folder = tempfile::tempdir().unwrap();
        for samples in [some(), vec![]] {
            let path = folder.path().join(format!("{}.bin", samples.len()));
            let memory = Samples::from(samples.clone());
            memory.write(&path).unwrap();
            let mapped = Samples::map(&path).unwrap();
            assert!(mapped.is_mapped() && !memory.is_mapped());
            assert_eq!((mapped.len(), mapped.lengths()), (memory.len(), memory.lengths()));
            assert!(samples.iter().enumerate().all(|(i, sample)| *mapped.get(i) == *sample));
        }
    }

    #[test]
    fn files_that_are_something_else_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        Samples::from(some()).write(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Samples::map(&path).unwrap_err().to_string()
        };
        assert!(refused(&good[..good.len() - 1]).contains("another length"));
        assert!(refused(b"samples0").contains("not a file of samples"));
        let mut turned = good.clone();
        turned[HEAD..HEAD + 8].copy_from_slice(&53u64.to_le_bytes());
        assert!(refused(&turned).contains("not in order") || refused(&turned).contains("another length"));
    }
}
