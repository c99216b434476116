//! What was found about a judge, and what it means for the comparison.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Scale, code_span::code};
use crate::stats::Interval;

/// A finding about a judge. Shares, rates and preferences are from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JudgeFinding {
    /// Every pair was shown in one order only, so position bias is in the result and cannot be seen.
    OneOrderOnly {
        /// Pairs judged.
        pairs: usize,
    },
    /// In imported verdicts, a model stands at the same position in every pair.
    OnePosition {
        /// The model.
        model: String,
        /// Whether it is the first position.
        first: bool,
        /// Pairs judged.
        pairs: usize,
    },
    /// In imported verdicts of one order each, the judge favours a position.
    FirstWins {
        /// Share of decided verdicts for the output shown first.
        share: f64,
        /// Decided verdicts.
        decided: usize,
        /// p of the exact test that neither position is favoured.
        p: f64,
    },
    /// How often the longer output wins in imported verdicts.
    LongerWins {
        /// The model.
        model: String,
        /// Share of decided verdicts, on outputs of unequal length, for the longer one.
        share: f64,
        /// Its interval.
        interval: Option<Interval>,
        /// Such verdicts.
        decided: usize,
        /// Share of pairs in which the model's output is the longer one.
        longer: f64,
        /// p of the exact test that length does not matter.
        p: f64,
    },
    /// The judge favours a position.
    PositionBias {
        /// Share of pairs with the same winner in both orders.
        consistency: f64,
        /// Share of decided verdicts for the output shown first.
        first_position_rate: f64,
        /// Pairs judged in both orders.
        pairs: usize,
        /// p of the exact test that neither position is favoured.
        p: f64,
    },
    /// The judge favours longer or shorter outputs.
    LengthBias {
        /// Change of the log-odds for the candidate when it is longer by one standard deviation.
        slope: f64,
        /// Its interval.
        interval: Interval,
        /// Win rate as judged.
        win_rate: f64,
        /// Win rate at equal lengths.
        controlled: f64,
    },
    /// Asked again with another seed, the judge changes its mind.
    UnsteadyJudge {
        /// Share of changed verdicts.
        flip_rate: f64,
        /// Its interval.
        interval: Interval,
        /// Verdicts asked twice.
        asked: usize,
    },
    /// A model against itself does not come out even.
    PlaceboFailed {
        /// The model.
        model: String,
        /// Its preference over itself.
        win_rate: f64,
        /// Its interval, which lacks ½.
        interval: Interval,
    },
    /// A candidate that always gives the same empty answer is preferred too often.
    ExploitableJudge {
        /// How often it was preferred over the baseline.
        win_rate: f64,
        /// Its interval.
        interval: Interval,
        /// Instructions.
        n: usize,
    },
    /// Judge and candidate are built on one base model.
    SelfPreference {
        /// The candidate.
        model: String,
        /// The base both share.
        base: String,
        /// By how much the judge prefers it more than `against` does, beyond what it does for the others, as a share of
        /// the scale; where known.
        excess: Option<f64>,
        /// Interval of the excess.
        interval: Option<Interval>,
        /// Whose verdicts the excess is measured against; gold labels where empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        against: String,
    },
    /// Verdicts that could not be read.
    UnparsedVerdicts {
        /// How many.
        count: usize,
        /// Out of how many.
        of: usize,
        /// The value if all of them had gone against the candidate.
        worst: f64,
        /// The value if all of them had gone for it.
        best: f64,
        /// Why, and how many of each, most first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<(String, usize)>,
        /// Where the cause of most of them lies.
        #[serde(default)]
        cause: UnreadCause,
    },
    /// No verdict on a model could be read.
    NothingRead {
        /// The model.
        model: String,
        /// Verdicts asked for.
        count: usize,
        /// Why, and how many of each, most first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<(String, usize)>,
        /// Where the cause of most of them lies.
        #[serde(default)]
        cause: UnreadCause,
    },
    /// On some questions the labels, of which a verdict is the ratio, have little of the probability.
    LabelShare {
        /// Verdicts on whose labels there is less than `least`.
        below: usize,
        /// Verdicts from log-probabilities.
        of: usize,
        /// Share of the probability on the labels that is called little.
        least: f64,
        /// The median share.
        median: f64,
        /// Whether such verdicts count all the same.
        counted: bool,
    },
    /// Verdicts that were read from the label the judge wrote, because its server gave no log-probabilities.
    WrittenLabels {
        /// How many.
        count: usize,
        /// Out of how many.
        of: usize,
    },
    /// Outputs without a word in them, thinking aside.
    EmptyOutputs {
        /// The model.
        model: String,
        /// How many.
        count: usize,
        /// Out of how many.
        of: usize,
    },
    /// How far the judge is off where there are gold labels, and what follows for all items.
    GoldOffset {
        /// Whose value it is.
        model: String,
        /// Where the labels are from.
        with: String,
        /// Mean of judge less gold over the labelled items.
        offset: f64,
        /// Its interval.
        offset_interval: Option<Interval>,
        /// The judge's mean over all items.
        judged: f64,
        /// The prediction-powered mean.
        corrected: f64,
        /// Its interval.
        interval: Interval,
        /// Items with a label.
        labelled: usize,
        /// Items in all.
        n: usize,
        /// What the values are in.
        scale: Scale,
    },
    /// The length-controlled win rate does not follow from the data.
    LengthControlFails {
        /// The candidate.
        model: String,
        /// Why.
        reason: String,
    },
    /// A setting of the protocol that the judge's server does not take.
    SettingDropped {
        /// The settings with their values.
        settings: String,
    },
    /// The judge disagrees with gold labels.
    LowAgreement {
        /// Who the judge is compared with.
        with: String,
        /// Cohen's kappa.
        kappa: f64,
        /// Its interval.
        interval: Option<Interval>,
        /// Items both judged.
        n: usize,
    },
    /// The judge is no language model.
    NotALanguageModel {
        /// What it is.
        what: String,
    },
}

/// Where the cause lies that verdicts could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnreadCause {
    /// In the form of the answers.
    #[default]
    Form,
    /// In the limit on tokens, or in reasoning that used them up.
    Limit,
    /// In a refusal or a filter.
    Withheld,
    /// In the labels, which have little of the probability.
    Labels,
    /// The judge could not be asked.
    NotAnswered,
}

impl UnreadCause {
    /// What to do about it.
    fn advice(self) -> &'static str {
        match self {
            Self::Form => {
                "Read some of its answers (--out); constrain the judge to the format (local judges are constrained, \
                 servers with patterns = true), or raise the protocol's attempts."
            }
            Self::Limit => {
                "Raise --judge-max-tokens, or have the judge reason less: its tokens end before its verdict."
            }
            Self::Withheld => {
                "Give these items to another judge or to people: asking this one again does not change what it withholds."
            }
            Self::Labels => {
                "Use a protocol whose verdict is written out (pairwise), or a judge that begins its answer with the label."
            }
            Self::NotAnswered => "Use a judge that can handle these prompts: the reason says what is wrong.",
        }
    }
}

impl JudgeFinding {
    /// Whether it states a figure that nothing is wrong with.
    pub fn is_statistical(&self) -> bool {
        matches!(self, Self::LongerWins { p, .. } if *p >= 0.05)
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::OneOrderOnly { .. } => {
                "Judge both orders: a judge that favours a position shifts the result unnoticed."
            }
            Self::OnePosition { .. } => {
                "Judge both orders: position bias is part of this result, and nothing in the file separates it."
            }
            Self::FirstWins { .. } => {
                "Judge both orders of every pair; with one order each, position affects every verdict."
            }
            Self::LongerWins { .. } => {
                "Compare at equal lengths (a length-controlled win rate) before you attribute the result to quality."
            }
            Self::PositionBias { .. } => {
                "Rely on both orders together, never on one; a judge this sensitive to order decides little by content."
            }
            Self::LengthBias { .. } => "Read the length-controlled win rate beside the raw one.",
            Self::UnsteadyJudge { .. } => {
                "Ask each question several times, or use a steadier judge: the interval already includes this noise."
            }
            Self::PlaceboFailed { .. } => {
                "Do not trust differences of this size: the judging itself produces them between equal outputs."
            }
            Self::ExploitableJudge { .. } => {
                "Use another judge or prompt: outputs that say nothing can win here, so winning means little."
            }
            Self::SelfPreference { .. } => {
                "Judge with a model of another family, or check the verdicts against gold labels."
            }
            Self::UnparsedVerdicts { cause, .. } | Self::NothingRead { cause, .. } => cause.advice(),
            Self::LabelShare { .. } => UnreadCause::Labels.advice(),
            Self::WrittenLabels { .. } => {
                "Use a server that gives log-probabilities to weigh verdicts as the protocol does: here each counts as \
                 a full win."
            }
            Self::EmptyOutputs { .. } => {
                "Find out why: an output that was filtered, cut inside its thinking or lost says nothing about the model."
            }
            Self::GoldOffset { .. } => {
                "Quote the corrected value; it holds if the labelled items were drawn at random from all of them."
            }
            Self::LengthControlFails { .. } => {
                "Judge more instructions, or a stronger contrast, before you quote a length-controlled rate."
            }
            Self::SettingDropped { .. } => {
                "If the setting matters for the judge, use a server that accepts it; otherwise remove it from the \
                 protocol."
            }
            Self::LowAgreement { .. } => {
                "Correct the win rate with the gold labels (prediction-powered), or use another judge or prompt."
            }
            Self::NotALanguageModel { .. } => "Read the result as similarity to the references, not as preference.",
        }
    }
}

fn percent(x: f64) -> String {
    format!("{:.1} %", 100.0 * x)
}

/// A share that may be tiny, with two digits that say something.
fn tiny_percent(x: f64) -> String {
    let percent = 100.0 * x;
    let decimals = if percent > 0.0 { (1.0 - percent.log10().floor()).clamp(1.0, 9.0) } else { 1.0 };
    format!("{percent:.*} %", decimals as usize)
}

/// Reasons in brackets, with their numbers where there are several.
fn because(reasons: &[(String, usize)]) -> String {
    match reasons {
        [] => String::new(),
        [(reason, _)] => format!(" ({reason})"),
        several => {
            let listed: Vec<String> = several.iter().map(|(reason, count)| format!("{count}: {reason}")).collect();
            format!(" ({})", listed.join("; "))
        }
    }
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p:.3}") }
}

fn range(interval: &Interval) -> String {
    format!("[{:.1}, {:.1}] %", 100.0 * interval.low, 100.0 * interval.high)
}

impl fmt::Display for JudgeFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneOrderOnly { pairs } => write!(f, "All {pairs} pairs were shown in one order only."),
            Self::OnePosition { model, first, pairs } => write!(
                f,
                "{model} is shown {} in all of {pairs} pairs: always the same position, as far as the file says.",
                if *first { "first" } else { "second" },
                model = code(model)
            ),
            Self::FirstWins { share, decided, p } => write!(
                f,
                "The output shown first wins in {} of {decided} decided verdicts ({}).",
                percent(*share),
                p_value(*p)
            ),
            Self::LongerWins { model, share, interval, decided, longer, p } => {
                write!(f, "The longer output wins in {} of {decided} decided verdicts", percent(*share))?;
                if let Some(interval) = interval {
                    write!(f, " {}", range(interval))?;
                }
                write!(
                    f,
                    " ({}); that of {model} is the longer one in {} of the pairs.",
                    p_value(*p),
                    percent(*longer),
                    model = code(model)
                )
            }
            Self::PositionBias { consistency, first_position_rate, pairs, p } => write!(
                f,
                "The judge names the same winner in both orders for {} of {pairs} pairs, and the output shown first in {} \
                 of its decided verdicts ({}).",
                percent(*consistency),
                percent(*first_position_rate),
                p_value(*p)
            ),
            Self::LengthBias { slope, interval, win_rate, controlled } => write!(
                f,
                "The judge favours {} outputs: {slope:+.2} log-odds per standard deviation of length [{:+.2}, {:+.2}]; \
                 the win rate of {} is {} at equal lengths.",
                if *slope > 0.0 { "longer" } else { "shorter" },
                interval.low,
                interval.high,
                percent(*win_rate),
                percent(*controlled)
            ),
            Self::UnsteadyJudge { flip_rate, interval, asked } => write!(
                f,
                "Asked again, the judge changed {} of {asked} verdicts {}.",
                percent(*flip_rate),
                range(interval)
            ),
            Self::PlaceboFailed { model, win_rate, interval } => write!(
                f,
                "{model} against itself comes out at {} {} instead of 50 %.",
                percent(*win_rate),
                range(interval),
                model = code(model)
            ),
            Self::ExploitableJudge { win_rate, interval, n } => write!(
                f,
                "A candidate that always gives the same empty answer wins {} {} of {n} instructions.",
                percent(*win_rate),
                range(interval)
            ),
            Self::SelfPreference { model, base, excess, interval, against } => {
                let against = if against.is_empty() { "gold labels" } else { against };
                write!(f, "The judge and {model} share the base {base}", model = code(model), base = code(base))?;
                match (excess, interval) {
                    (Some(excess), Some(interval)) => write!(
                        f,
                        "; the judge's verdicts on it lie {:+.1} points of the scale above those of {against}, beyond the \
                         other models {}.",
                        100.0 * excess,
                        range(interval)
                    ),
                    (Some(excess), None) => write!(
                        f,
                        "; the judge's verdicts on it lie {:+.1} points of the scale above those of {against}.",
                        100.0 * excess
                    ),
                    _ => f.write_str("; whether it favours it is not known without gold labels or another judge."),
                }
            }
            Self::GoldOffset {
                model,
                with,
                offset,
                offset_interval,
                judged,
                corrected,
                interval,
                labelled,
                n,
                scale,
            } => {
                let value = |x: f64| match scale {
                    Scale::Fraction => percent(x),
                    _ => format!("{x:.2}"),
                };
                let factor = if *scale == Scale::Fraction { 100.0 } else { 1.0 };
                write!(
                    f,
                    "On {labelled} of {n} items with labels of {with} the judge is off by {:+.2}",
                    factor * offset
                )?;
                if *scale == Scale::Fraction {
                    f.write_str(" points")?;
                }
                if let Some(interval) = offset_interval {
                    write!(f, " [{:+.2}, {:+.2}]", factor * interval.low, factor * interval.high)?;
                }
                write!(
                    f,
                    " for {model}: corrected {} [{}, {}] instead of {}.",
                    value(*corrected),
                    value(interval.low),
                    value(interval.high),
                    value(*judged),
                    model = code(model)
                )
            }
            Self::NothingRead { model, count, reasons, .. } => {
                let because = because(reasons);
                write!(
                    f,
                    "None of {count} verdicts on {model} could be read{because}: there is no result for it.",
                    model = code(model)
                )
            }
            Self::LabelShare { below, of, least, median, counted } => write!(
                f,
                "The labels have less than {} of the probability on {below} of {of} questions (median {}); {}.",
                percent(*least),
                tiny_percent(*median),
                if *counted { "the verdicts count all the same" } else { "they have no verdict" }
            ),
            Self::WrittenLabels { count, of } => write!(
                f,
                "{count} of {of} verdicts are the label that the judge wrote, because its server gave no \
                 log-probabilities."
            ),
            Self::EmptyOutputs { model, count, of } => {
                let (are, they) = if *count == 1 { ("is", "it was") } else { ("are", "they were") };
                write!(
                    f,
                    "{count} of {of} outputs of {model} {are} empty; {they} shown to the judge unchanged.",
                    model = code(model)
                )
            }
            Self::LengthControlFails { model, reason } => {
                write!(
                    f,
                    "The length-controlled win rate of {model} cannot be relied on: {reason}.",
                    model = code(model)
                )
            }
            Self::SettingDropped { settings } => {
                write!(
                    f,
                    "The judge was asked without {settings}, which the protocol sets and its server does not accept."
                )
            }
            Self::UnparsedVerdicts { count, of, worst, best, reasons, .. } => write!(
                f,
                "{count} of {of} verdicts could not be read{}: the value lies between {worst:.3} and {best:.3} whatever \
                 they were.",
                because(reasons)
            ),
            Self::LowAgreement { with, kappa, interval, n } => {
                write!(f, "The judge agrees little with {with}: kappa {kappa:.2}")?;
                if let Some(interval) = interval {
                    write!(f, " [{:.2}, {:.2}]", interval.low, interval.high)?;
                }
                write!(f, " on {n} items.")
            }
            Self::NotALanguageModel { what } => write!(f, "The judge is no language model: {what}."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_shares_keep_their_digits() {
        assert_eq!(
            [0.0, 0.00002, 0.0123, 0.5, 1.0].map(tiny_percent),
            ["0.0 %", "0.0020 %", "1.2 %", "50.0 %", "100.0 %"]
        );
    }

    #[test]
    fn unread_verdicts_say_why() {
        let reasons = vec![("the judge refused".to_owned(), 3), ("the answer is empty".to_owned(), 1)];
        let finding = JudgeFinding::NothingRead { model: "m".into(), count: 4, reasons, cause: UnreadCause::Withheld };
        let text = "None of 4 verdicts on `m` could be read (3: the judge refused; 1: the answer is empty): there is no \
                    result for it.";
        assert_eq!(finding.to_string(), text);
        assert!(finding.advice().starts_with("Give these items to another judge"));
        let stored = r#"{"finding":"nothing_read","model":"m","count":4}"#;
        let JudgeFinding::NothingRead { cause, .. } = serde_json::from_str(stored).unwrap() else { panic!("another") };
        assert_eq!(cause, UnreadCause::Form, "a report of before");
    }

    #[test]
    fn findings_read_as_sentences() {
        let interval = Interval { low: 0.101, high: 0.3 };
        let finding = JudgeFinding::UnsteadyJudge { flip_rate: 0.2, interval, asked: 40 };
        assert_eq!(finding.to_string(), "Asked again, the judge changed 20.0 % of 40 verdicts [10.1, 30.0] %.");
        let finding = JudgeFinding::LengthBias { slope: -0.5, interval, win_rate: 0.6, controlled: 0.5 };
        assert!(finding.to_string().starts_with("The judge favours shorter outputs: -0.50 log-odds"), "{finding}");
        let text = serde_json::to_string(&finding).unwrap();
        assert!(text.contains(r#""finding":"length_bias""#), "{text}");
        assert_eq!(serde_json::from_str::<JudgeFinding>(&text).unwrap(), finding);
    }
}
