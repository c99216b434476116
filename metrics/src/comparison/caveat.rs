//! What limits the conclusions of a comparison, with figures and advice.

use std::fmt;

use harness_core::MetricKey;
use serde::{Deserialize, Serialize};

use super::{JudgeFinding, Scale};

/// A limit on what the comparison shows. `Display` says what was found; [`Caveat::advice`] what to do about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Caveat {
    /// Two names stand for one model.
    SameModelTwice {
        /// The names.
        models: [String; 2],
    },
    /// An adapter whose updates are all zero.
    NoOpAdapter {
        /// The model with the adapter.
        model: String,
        /// What it sits on, where known.
        base: Option<String>,
    },
    /// Two models gave the same outputs.
    IdenticalOutputs {
        /// The models.
        models: [String; 2],
        /// Where.
        tasks: Vec<IdenticalTask>,
        /// How many tasks both have outputs for.
        of: usize,
    },
    /// Models were compared on the documents they share.
    PartialOverlap {
        /// Rows with documents left out.
        rows: Vec<Dropped>,
    },
    /// A task without documents.
    NoDocuments {
        /// The tasks.
        tasks: Vec<String>,
    },
    /// Primary rows whose documents would not have shown a difference as large as the margin.
    TooFewDocuments {
        /// Power at which this is stated.
        power: f64,
        /// Those rows.
        rows: Vec<Underpowered>,
        /// Number of primary rows with candidates and documents.
        of: usize,
    },
    /// Families in which the smallest p of random permutations, 1/(resamples + 1), may not survive the correction.
    TooFewResamples {
        /// Resamples used.
        resamples: usize,
        /// Resamples that would do.
        needed: usize,
        /// Families and their numbers of tests.
        families: Vec<(String, usize)>,
    },
    /// Answers from which nothing could be extracted.
    UnparsedAnswers {
        /// By row and model.
        shares: Vec<Share>,
    },
    /// Contexts cut on the left because the model's context is too short.
    TruncatedContexts {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Generations ended by the limit on tokens.
    AnswersCutByLimit {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Requests where context and continuation do not part at a token boundary.
    BoundaryShifts {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Something about a judge, found while it judged. Set by whoever runs the judge, not by [`super::Comparison`].
    Judge {
        /// The judging task, e.g. `alpaca-eval`.
        task: String,
        /// Name of the judge.
        judge: String,
        /// What was found.
        finding: JudgeFinding,
    },
}

/// A task on which two models gave the same outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdenticalTask {
    /// The task.
    pub task: String,
    /// Requests answered.
    pub requests: usize,
}

/// Documents left out of one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The task.
    pub task: String,
    /// The metric.
    pub key: MetricKey,
    /// Documents used.
    pub used: usize,
    /// Documents left out, by model, where any were.
    pub dropped: Vec<(String, usize)>,
}

/// A row with too few documents; of several candidates the one with the largest detectable difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Underpowered {
    /// The task.
    pub task: String,
    /// The metric.
    pub key: MetricKey,
    /// The candidate.
    pub model: String,
    /// Documents.
    pub n: usize,
    /// What the row's values are in.
    pub scale: Scale,
    /// Smallest detectable difference; `None` where no difference could have been shown.
    pub detectable: Option<f64>,
    /// The margin in the row's unit.
    pub margin: f64,
    /// About how many documents would show a difference as large as the margin.
    pub needed: Option<u64>,
}

/// A count out of a total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The task.
    pub task: String,
    /// The metric, where the count belongs to one.
    pub key: Option<MetricKey>,
    /// The model.
    pub model: String,
    /// How many.
    pub count: usize,
    /// Out of how many.
    pub of: usize,
}

/// How many items of a list are spelled out.
const SHOWN: usize = 4;

impl Caveat {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::SameModelTwice { .. } => {
                "Compare it once: differences between the two are none, and their tests cost power in the correction."
            }
            Self::NoOpAdapter { .. } => {
                "Check that the adapter was trained and saved (its B matrices are zero), and that it matches the base."
            }
            Self::IdenticalOutputs { .. } => {
                "Check that the adapter was loaded and trained: a fine-tuned model should change at least some outputs."
            }
            Self::PartialOverlap { .. } => {
                "Evaluate all models on the same documents; documents left out may be the hard ones."
            }
            Self::NoDocuments { .. } => "Check the task's data, its split and the limit on documents.",
            Self::TooFewDocuments { .. } => {
                "Read `undecided` as not known rather than as equal; use more documents (raise the limit) or a larger margin."
            }
            Self::TooFewResamples { .. } => "Raise the number of resamples, or compare fewer models or tasks at once.",
            Self::UnparsedAnswers { .. } => {
                "Read some of these answers: an unparsed answer counts as wrong, so a difference may be one of format."
            }
            Self::TruncatedContexts { .. } => {
                "Use fewer few-shot examples or a model with a longer context: the models may not have seen the same prompt."
            }
            Self::AnswersCutByLimit { .. } => {
                "Raise the task's max_gen_toks, or read such answers: one that is cut may lack its conclusion."
            }
            Self::BoundaryShifts { .. } => {
                "Check the task's delimiter: a context that ends in a space is a usual cause, and its scores depend on the tokenizer."
            }
            Self::Judge { finding, .. } => finding.advice(),
        }
    }
}

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameModelTwice { models: [a, b] } => write!(f, "`{a}` and `{b}` are the same model."),
            Self::NoOpAdapter { model, base } => match base {
                Some(base) => write!(f, "The adapter of `{model}` changes nothing: it answers as `{base}` does."),
                None => write!(f, "The adapter of `{model}` changes nothing."),
            },
            Self::IdenticalOutputs { models: [a, b], tasks, of } => {
                write!(f, "`{a}` and `{b}` gave identical outputs on {} of {of} tasks: ", tasks.len())?;
                list(f, tasks, |f, t| write!(f, "{} ({})", t.task, counted(t.requests, "request")))?;
                f.write_str(".")
            }
            Self::PartialOverlap { rows } => {
                f.write_str("Only shared documents are compared: ")?;
                list(f, rows, |f, row| {
                    write!(f, "{} {} uses {}", row.task, row.key, counted(row.used, "document"))?;
                    for (model, count) in &row.dropped {
                        write!(f, ", {count} of `{model}` left out")?;
                    }
                    Ok(())
                })?;
                f.write_str(".")
            }
            Self::NoDocuments { tasks } => {
                f.write_str("No documents: ")?;
                list(f, tasks, |f, task| f.write_str(task))?;
                f.write_str(".")
            }
            Self::TooFewDocuments { power, rows, of } => {
                write!(
                    f,
                    "Too few documents in {} of {of} rows to show a difference as large as the margin with {:.0} % power: ",
                    rows.len(),
                    power * 100.0
                )?;
                list(f, rows, |f, row| {
                    write!(f, "{} {} ({}) ", row.task, row.key, counted(row.n, "document"))?;
                    match row.detectable {
                        Some(detectable) => write!(f, "shows differences from {}", amount(detectable, row.scale))?,
                        None => f.write_str("could not have shown any difference")?,
                    }
                    if let Some(needed) = row.needed {
                        let margin = amount(row.margin, row.scale);
                        write!(f, " ({margin} would take about {})", counted(rounded(needed), "document"))?;
                    }
                    Ok(())
                })?;
                f.write_str(".")
            }
            Self::TooFewResamples { resamples, needed, families } => {
                write!(
                    f,
                    "With {} resamples a permutation test may be unable to decide after the correction; {} would do: ",
                    thousands(*resamples as u64),
                    thousands(*needed as u64)
                )?;
                list(f, families, |f, (name, tests)| write!(f, "{name} ({})", counted(*tests, "test")))?;
                f.write_str(".")
            }
            Self::UnparsedAnswers { shares } => shares_text(f, "No answer could be extracted", "answers", shares),
            Self::TruncatedContexts { shares } => {
                shares_text(f, "Contexts were cut to the model's length", "requests", shares)
            }
            Self::AnswersCutByLimit { shares } => {
                shares_text(f, "Answers were cut by the limit on tokens", "requests", shares)
            }
            Self::BoundaryShifts { shares } => {
                shares_text(f, "The token boundary before the answer moved", "requests", shares)
            }
            Self::Judge { task, judge, finding } => write!(f, "{task}, judge `{judge}`: {finding}"),
        }
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    mut one: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.iter().take(SHOWN).enumerate() {
        if i > 0 {
            f.write_str("; ")?;
        }
        one(f, item)?;
    }
    if items.len() > SHOWN {
        write!(f, "; and {} more", items.len() - SHOWN)?;
    }
    Ok(())
}

fn shares_text(f: &mut fmt::Formatter<'_>, what: &str, unit: &str, shares: &[Share]) -> fmt::Result {
    write!(f, "{what}: ")?;
    list(f, shares, |f, share| {
        write!(f, "{}", share.task)?;
        if let Some(key) = &share.key {
            write!(f, " {key}")?;
        }
        let percent = 100.0 * share.count as f64 / share.of.max(1) as f64;
        write!(f, " `{}` {} of {} {unit} ({percent:.1} %)", share.model, share.count, share.of)
    })?;
    f.write_str(".")
}

fn counted(n: usize, noun: &str) -> String {
    format!("{} {noun}{}", thousands(n as u64), if n == 1 { "" } else { "s" })
}

/// Two significant digits: a projection is no more precise than that.
fn rounded(n: u64) -> usize {
    let unit = 10u64.saturating_pow(n.max(1).ilog10().saturating_sub(1));
    usize::try_from(n.div_ceil(unit).saturating_mul(unit)).unwrap_or(usize::MAX)
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn amount(value: f64, scale: Scale) -> String {
    match scale {
        Scale::Fraction => format!("{:.1} percentage points", value * 100.0),
        Scale::Points => format!("{value:.1} points"),
        Scale::Raw => format!("{value:.3}"),
    }
}
