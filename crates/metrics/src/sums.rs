//! Sums of the statistics of documents.

use rayon::prelude::*;

/// The sum of the statistics of the documents of a corpus, which are computed in parallel.
pub(crate) fn corpus_sums<H: AsRef<str> + Sync, R: Sync>(
    dim: usize,
    hypotheses: &[H],
    references: &[Vec<R>],
    stats: impl Fn(&str, &[R]) -> Vec<f64> + Sync,
) -> Vec<f64> {
    let documents: Vec<Vec<f64>> = hypotheses
        .par_iter()
        .zip(references)
        .map(|(hypothesis, references)| stats(hypothesis.as_ref(), references))
        .collect();
    let mut sums = vec![0.0; dim];
    documents.iter().for_each(|stats| add(&mut sums, stats));
    sums
}

/// Adds a document's statistics to a sum.
pub(crate) fn add(sums: &mut [f64], stats: &[f64]) {
    for (sum, value) in sums.iter_mut().zip(stats) {
        *sum += value;
    }
}
