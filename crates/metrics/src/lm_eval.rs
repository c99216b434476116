//! lm-eval's aggregation, standard errors and metric table, so that its numbers can be read across.

use harness_python::PythonRandom;
use rayon::prelude::*;

use crate::Statistic;
use crate::sums::add;

/// Replicates drawn from one generator by lm-eval's bootstrap.
const CHUNK: usize = 1000;

/// Arithmetic mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean of the values that are not NaN; NaN if there are none.
pub fn nanmean(values: &[f64]) -> f64 {
    let present: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    mean(&present)
}

/// The upper median: the element at position n/2 in ascending order; NaN of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Standard deviation with n − 1; `None` for fewer than two values.
pub fn sample_stddev(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// Standard error of the mean; `None` (lm-eval's `N/A`) for fewer than two values.
pub fn mean_stderr(values: &[f64]) -> Option<f64> {
    Some(sample_stddev(values)? / (values.len() as f64).sqrt())
}

/// One answer of a passage with several questions, each with several candidate answers (MultiRC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupedAnswer {
    /// The passage.
    pub paragraph: i64,
    /// The question.
    pub question: i64,
    /// Whether this answer was judged rightly.
    pub correct: bool,
}

/// Share of questions of which every answer was judged rightly.
pub fn acc_all(answers: &[GroupedAnswer]) -> f64 {
    mean(&all_correct(answers, |answer| (answer.paragraph, answer.question)))
}

/// Its standard error as lm-eval computes it, which groups by question alone.
pub fn acc_all_stderr(answers: &[GroupedAnswer]) -> Option<f64> {
    mean_stderr(&all_correct(answers, |answer| (0, answer.question)))
}

fn all_correct(answers: &[GroupedAnswer], key: impl Fn(&GroupedAnswer) -> (i64, i64)) -> Vec<f64> {
    let mut groups = std::collections::BTreeMap::new();
    for answer in answers {
        *groups.entry(key(answer)).or_insert(true) &= answer.correct;
    }
    groups.into_values().map(|all| f64::from(u8::from(all))).collect()
}

/// lm-eval's bootstrap standard error: the standard deviation of a statistic over resamples of `0..n`.
///
/// Chunk i of `min(1000, iterations)` resamples draws from CPython's `Random(i)`; a remainder of iterations is dropped,
/// as there. `None` for no iterations or no items. Chunks run in parallel; the result does not depend on it.
pub fn bootstrap_stderr<F>(n: usize, iterations: usize, statistic: F) -> Option<f64>
where
    F: Fn(&[usize]) -> f64 + Sync,
{
    if n == 0 || iterations == 0 {
        return None;
    }
    let chunk = iterations.min(CHUNK);
    let replicates: Vec<Vec<f64>> = (0..iterations / chunk)
        .into_par_iter()
        .map(|seed| {
            let mut rng = PythonRandom::from_int(seed as i64);
            (0..chunk).map(|_| statistic(&rng.choices(n, n))).collect()
        })
        .collect();
    sample_stddev(&replicates.concat())
}

/// [`bootstrap_stderr`] of a statistic of summed per-document statistics.
pub fn bootstrap_stderr_of_sums(statistic: &Statistic, documents: &[Vec<f64>], iterations: usize) -> Option<f64> {
    bootstrap_stderr(documents.len(), iterations, |drawn| {
        let mut sums = vec![0.0; statistic.dim()];
        drawn.iter().for_each(|&i| add(&mut sums, &documents[i]));
        statistic.value(&sums)
    })
}

/// Value of a group of tasks: their mean, weighted by size or not.
pub fn aggregate_subtasks(values: &[f64], sizes: &[usize], weight_by_size: bool) -> f64 {
    if !weight_by_size {
        return mean(values);
    }
    let total: usize = sizes.iter().sum();
    values.iter().zip(sizes).map(|(value, &size)| value * size as f64).sum::<f64>() / total as f64
}

/// Standard error of a group from those of its tasks, always weighted by size: `√(Σ (nᵢ−1) nᵢ seᵢ² / (Σ nᵢ − k) / Σ nᵢ)`.
/// `None` where a task has none, or there are no more documents than tasks.
pub fn pooled_stderr(stderrs: &[Option<f64>], sizes: &[usize]) -> Option<f64> {
    let total: usize = sizes.iter().sum();
    let freedom = total.checked_sub(sizes.len()).filter(|&freedom| freedom > 0)?;
    let mut squares = 0.0;
    for (stderr, &size) in stderrs.iter().zip(sizes) {
        squares += (size as f64 - 1.0) * size as f64 * (*stderr)?.powi(2);
    }
    Some((squares / freedom as f64 / total as f64).sqrt())
}

/// The function of lm-eval's aggregations that take numbers, or pairs of a number and a count.
pub const OF_NUMBERS: [(&str, Statistic); 5] = [
    ("mean", Statistic::Mean),
    ("nanmean", Statistic::Mean),
    ("perplexity", Statistic::Perplexity),
    ("weighted_perplexity", Statistic::Perplexity),
    ("bits_per_byte", Statistic::BitsPerByte),
];

/// Options that lm-eval takes for any metric of choices, which have no text that they could change.
pub const OPTIONS_OF_CHOICES: &[&str] = crate::metric::exact_match::OPTIONS;

/// The metrics lm-eval computes for an output type when a task lists none.
pub fn default_metrics(output_type: &str) -> &'static [&'static str] {
    match output_type {
        "loglikelihood" => &["perplexity", "acc"],
        "multiple_choice" => &["acc", "acc_norm"],
        "loglikelihood_rolling" => &["word_perplexity", "byte_perplexity", "bits_per_byte"],
        "generate_until" => &["exact_match"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_medians_by_hand() {
        assert_eq!(median(&[3.0, 1.0, 2.0, 4.0]), 3.0);
        assert!(median(&[]).is_nan());
        assert_eq!(nanmean(&[1.0, f64::NAN, 3.0]), 2.0);
        assert_eq!(mean_stderr(&[1.0]), None);
        assert!((mean_stderr(&[1.0, 0.0, 1.0]).unwrap() - 1.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn a_question_counts_only_if_all_its_answers_are_right() {
        let answer = |paragraph, question, correct| GroupedAnswer { paragraph, question, correct };
        let answers =
            [answer(0, 0, true), answer(0, 0, true), answer(0, 1, true), answer(0, 1, false), answer(1, 0, false)];
        assert!((acc_all(&answers) - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(acc_all_stderr(&answers), Some(0.0));
    }

    #[test]
    fn the_bootstrap_of_a_constant_is_zero_and_of_nothing_is_not_there() {
        assert_eq!(bootstrap_stderr(5, 2500, |_| 1.0), Some(0.0));
        assert_eq!(bootstrap_stderr(0, 100, |_| 1.0), None);
        assert_eq!(bootstrap_stderr(5, 0, |_| 1.0), None);
    }

    #[test]
    fn groups_are_weighted_by_size() {
        assert_eq!(aggregate_subtasks(&[1.0, 0.0], &[3, 1], true), 0.75);
        assert_eq!(aggregate_subtasks(&[1.0, 0.0], &[3, 1], false), 0.5);
        assert_eq!(pooled_stderr(&[Some(0.1), None], &[3, 1]), None);
    }

    #[test]
    fn the_defaults_are_known() {
        for output_type in ["loglikelihood", "multiple_choice", "loglikelihood_rolling", "generate_until"] {
            assert!(default_metrics(output_type).iter().all(|name| crate::Metric::of(name).is_some()));
        }
        assert!(default_metrics("other").is_empty());
    }
}
