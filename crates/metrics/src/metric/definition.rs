//! What a metric says of itself.

use std::{fmt::Debug, sync::Arc};

use serde_json::Value;

use super::{
    Statistic,
    answer::{Answer, Logged, Reads},
    formula::mean_stats,
};
use crate::{MetricsError, scale::Scale};

/// A metric by its name in task files. Each is made in a file of its own and stands in [`super::METRICS`].
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The kinds of answers that it scores; none where it is only known from the results of others.
    pub reads: &'static [Reads],
    /// Keys of its entry in `metric_list` besides those of every metric.
    pub options: &'static [&'static str],
    /// What values are in.
    pub scale: Scale,
    /// What the mean of its documents' scores is in, where others computed them.
    pub scale_of_mean: Scale,
    /// Whether a column of this name in a table of others holds shares, so that a value beyond 1 is a percentage.
    pub share: bool,
    /// Whether larger is better. lm-eval declares `ter` the wrong way round; here it is an error rate.
    pub higher_is_better: bool,
    /// Whether its standard error in lm-eval's results is asked for the number of documents, which it tells where each is
    /// right or wrong.
    pub tells_documents: bool,
    /// Whether it needs the log-likelihoods of the choices after an empty context too.
    pub unconditional: bool,
    /// lm-eval's name of the aggregation used when a task names none.
    pub aggregation: &'static str,
    /// Whether lm-eval logs a pair of each document, which the aggregation takes apart, and not its score.
    pub logs_pairs: bool,
    /// The name of its cases in golden/vectors/metrics.json.
    pub cases: &'static str,
    /// The values of a case, where it is not a corpus of texts scored with the default options.
    pub(super) case: Option<Case>,
    pub(super) build: Build,
}

/// From the input of a case to its values; `None` where it is not understood.
pub(super) type Case = fn(&Value) -> Option<Vec<f64>>;

/// Makes the scorer of a kind of answer from the metric's options.
pub(super) type Build = fn(Reads, &Value) -> Result<Arc<dyn Scorer>, MetricsError>;

impl Metric {
    /// A metric whose value is a mean of shares, without options.
    pub(super) const fn new(name: &'static str, reads: &'static [Reads], build: Build) -> Self {
        Self {
            name,
            reads,
            options: &[],
            scale: Scale::Fraction,
            scale_of_mean: Scale::Fraction,
            share: false,
            higher_is_better: true,
            tells_documents: false,
            unconditional: false,
            aggregation: "mean",
            logs_pairs: false,
            cases: name,
            case: None,
            build,
        }
    }

    /// A metric in a unit of its own, better where smaller, without options.
    pub(super) const fn raw(name: &'static str, reads: &'static [Reads], build: Build) -> Self {
        Self { scale: Scale::Raw, higher_is_better: false, ..Self::new(name, reads, build) }
    }

    /// The metric for a kind of answer, with the options of its entry in `metric_list`; other keys are not looked at.
    ///
    /// # Errors
    /// [`MetricsError`] if an option has a value that it cannot have.
    pub fn configure(&self, reads: Reads, options: &Value) -> Result<Arc<dyn Scorer>, MetricsError> {
        (self.build)(reads, options)
    }

    /// The values of a case of golden/vectors/metrics.json; `None` where it is not understood.
    pub fn case(&self, input: &Value) -> Option<Vec<f64>> {
        match self.case {
            Some(case) => case(input),
            None => {
                let scorer = self.configure(Reads::Text, input).ok()?;
                let (hypotheses, references) = corpus(input)?;
                let stats: Option<Vec<Vec<f64>>> = hypotheses
                    .iter()
                    .zip(&references)
                    .map(|(text, references)| scorer.stats(&Answer::Text { text, references }).ok()?)
                    .collect();
                let statistic = scorer.statistic(0);
                Some(vec![statistic.value(&statistic.sum(stats?))])
            }
        }
    }
}

/// A metric with its options, which scores answers of one kind.
pub trait Scorer: Debug + Send + Sync {
    /// The function of summed statistics, for tasks with this many choices.
    fn statistic(&self, _classes: usize) -> Statistic {
        Statistic::Mean
    }

    /// Additive statistics of one document; `None` for an answer of another kind.
    ///
    /// # Errors
    /// [`MetricsError`] if a pattern would backtrack without end.
    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError>;

    /// The standard error that lm-eval gives it.
    fn standard_error(&self) -> StandardError {
        StandardError::OfMean
    }

    /// What lm-eval logs of a document.
    fn logged(&self, document: &Logged<'_>) -> Value {
        self.statistic(0).logged(document)
    }
}

/// A scorer of metrics that are the mean of the documents' scores and have no options.
#[derive(Debug)]
pub(super) struct Scored {
    score: Score,
    /// Whether lm-eval logs whole numbers.
    whole: bool,
}

/// The score of an answer: NaN where it has none, `None` for an answer of another kind.
type Score = fn(&Answer<'_>) -> Option<f64>;

impl Scored {
    /// The scorer of a function.
    pub(super) fn by(score: Score) -> Result<Arc<dyn Scorer>, MetricsError> {
        Ok(Arc::new(Self { score, whole: false }))
    }

    /// The same, logged as a whole number.
    pub(super) fn whole(score: Score) -> Result<Arc<dyn Scorer>, MetricsError> {
        Ok(Arc::new(Self { score, whole: true }))
    }
}

impl Scorer for Scored {
    fn stats(&self, answer: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        Ok((self.score)(answer).map(mean_stats))
    }

    fn logged(&self, document: &Logged<'_>) -> Value {
        if self.whole { Value::from(document.stats[0] as i64) } else { document.score() }
    }
}

/// The standard error that lm-eval gives a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandardError {
    /// That of a mean, in closed form.
    OfMean,
    /// A bootstrap.
    Bootstrap {
        /// The largest number of replicates.
        most: usize,
    },
    /// None (`N/A`).
    None,
}

impl StandardError {
    /// A bootstrap of as many replicates as are asked for.
    pub const BOOTSTRAP: Self = Self::Bootstrap { most: usize::MAX };

    /// The bootstrap of corpus scores of texts.
    pub const OF_TEXTS: Self = Self::Bootstrap { most: 100 };
}

/// An option that is true or false; false where it is not given.
pub(super) fn flag(options: &Value, key: &str) -> Result<bool, MetricsError> {
    match &options[key] {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        other => Err(MetricsError::Option(format!("{key} must be true or false, found {other}"))),
    }
}

/// Hypotheses and references of a case.
pub(super) fn corpus(input: &Value) -> Option<(Vec<&str>, Vec<Vec<String>>)> {
    let texts = |name: &str| -> Option<Vec<&str>> { input[name].as_array()?.iter().map(Value::as_str).collect() };
    let references = texts("references")?.into_iter().map(|text| vec![text.to_owned()]).collect();
    Some((texts("hypotheses")?, references))
}
