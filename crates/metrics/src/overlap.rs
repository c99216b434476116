//! Documents of a test in training data: whole texts, and runs of 13 words as in GPT-3's decontamination (Brown et al.
//! 2020, appendix C).

use std::collections::{BTreeSet, HashSet};

use crate::comparison::Overlap;

/// Words in a row that count as overlap.
pub const NGRAM: usize = 13;
/// Texts with fewer words are too common to say anything.
const FEWEST: usize = 6;

/// The words of a text: lower-case runs of letters and digits.
fn words(text: &str) -> Vec<u64> {
    text.to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| step(hash, u64::from(byte))))
        .collect()
}

/// One step of the FNV-1a hash.
fn step(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3)
}

/// Hash of some words in a row; the length is part of it.
fn run(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |hash, &word| {
        let mixed = step(hash.rotate_left(23), word);
        mixed ^ (mixed >> 31)
    })
}

/// Hash of all words of a row, for finding rows that are equal but for blanks, case and punctuation.
pub fn row_hash(text: &str) -> u64 {
    run(&words(text))
}

/// Training rows, indexed by the runs of words that documents can be found by.
pub struct TrainingText {
    runs: HashSet<u64>,
}

impl TrainingText {
    /// Indexes rows for documents with the given fields: runs of 13 words, and of the length of every shorter field.
    pub fn new<'a>(rows: &[String], fields: impl IntoIterator<Item = &'a String>) -> Self {
        let mut lengths: BTreeSet<usize> =
            fields.into_iter().map(|field| words(field).len()).filter(|n| (FEWEST..NGRAM).contains(n)).collect();
        lengths.insert(NGRAM);
        let mut runs = HashSet::new();
        for row in rows {
            let words = words(row);
            for &length in &lengths {
                runs.extend(words.windows(length).map(run));
            }
        }
        Self { runs }
    }

    /// Whether a document, by the texts of its fields, stands in the rows: [`Overlap::Exact`] if its longest field does
    /// as a whole (every 13 words in a row, or all of fewer), [`Overlap::Ngram`] if any 13 words in a row do. Fields of
    /// fewer than six words are not looked at.
    pub fn overlap(&self, fields: &[String]) -> Option<Overlap> {
        let mut fields: Vec<Vec<u64>> = fields.iter().map(|field| words(field)).filter(|w| w.len() >= FEWEST).collect();
        fields.sort_by_key(|words| std::cmp::Reverse(words.len()));
        let longest = fields.first()?;
        let length = longest.len().min(NGRAM);
        if longest.windows(length).all(|words| self.runs.contains(&run(words))) {
            return Some(Overlap::Exact);
        }
        let any = fields.iter().any(|words| words.windows(NGRAM).any(|words| self.runs.contains(&run(words))));
        any.then_some(Overlap::Ngram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(rows: &[&str], fields: &[&str]) -> Option<Overlap> {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let fields = own(fields);
        TrainingText::new(&own(rows), &fields).overlap(&fields)
    }

    #[test]
    fn whole_texts_and_runs_of_thirteen_words() {
        let long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen";
        let row = format!("Before: {long}. After.");
        assert_eq!(overlap(&[&row], &[long]), Some(Overlap::Exact));
        assert_eq!(overlap(&[&row], &[&format!("other words here {long} and more")]), Some(Overlap::Ngram));
        let twelve = "one two three four five six seven eight nine ten eleven twelve";
        assert_eq!(overlap(&[&row], &[&format!("{twelve} but then it goes on in another way altogether")]), None);
        assert_eq!(overlap(&[&row], &["seven EIGHT, nine ten: eleven twelve"]), Some(Overlap::Exact));
        assert_eq!(overlap(&[&row], &["seven eight nine"]), None, "too short to say anything");
        assert_eq!(overlap(&[], &[long]), None);
    }

    #[test]
    fn rows_are_equal_but_for_blanks_case_and_punctuation() {
        assert_eq!(row_hash("A  b,\nc."), row_hash("a b c"));
        assert_ne!(row_hash("a b c"), row_hash("a c b"));
    }
}
