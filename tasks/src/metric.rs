//! The metrics of a task: what its definition asks for, and the statistics of one document.

use harness_core::{MetricKey, nearest_few};
use harness_metrics::{
    Average, Bleu, ChoiceAnswers, Chrf, ClassMeasure, Classification, ExactMatch, ExactMatchOptions,
    Gold as ChoiceGold, MetricsError, Rouge, RougeType, Statistic, Ter, byte_perplexity_stats,
    comparison::Scale,
    confusion_stats,
    lm_eval::{MetricInfo, default_metrics},
    mean_stats, perplexity_stats, token_f1, token_perplexity_stats, word_count,
};
use serde_json::Value;

use crate::{
    Place, TaskError,
    error::suggest,
    keys::{Keys, text},
    native::{self, Native},
    task::OutputType,
    yaml::{Node, Yaml},
};

/// One entry of `metric_list`.
#[derive(Clone, Debug)]
pub(crate) struct MetricConfig {
    pub name: String,
    pub kind: Kind,
    pub higher_is_better: bool,
    /// What values are in.
    pub scale: Scale,
}

/// How a metric is computed, by what it is computed from.
///
/// What follows from a kind (statistic, scale, options, standard error) is said for each by name: another kind does not
/// compile until it says all of them.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// The log-likelihoods of choices.
    Choices(OfChoices),
    /// The log-likelihood of one continuation.
    Continuation(OfContinuation),
    /// The log-likelihood of a whole text.
    Rolling(OfRolling),
    /// A generated text.
    Text(OfText),
    /// Computed by the task's `process_results`.
    Native(Statistic),
    /// Perplexity of the reference, from a log-likelihood request beside the generation.
    ReferencePerplexity,
}

/// Metrics of choices.
#[derive(Clone, Debug)]
pub(crate) enum OfChoices {
    Acc,
    AccNorm,
    AccBytes,
    AccMutualInfo,
    /// lm-eval's `exact_match`: whether the right choice is what the model would say.
    Greedy,
    Brier,
    /// F1, precision or recall.
    Class(ClassMeasure, Option<Average>),
    Matthews,
}

/// Metrics of a continuation.
#[derive(Clone, Debug)]
pub(crate) enum OfContinuation {
    Acc,
    Perplexity,
}

/// Metrics of a whole text.
#[derive(Clone, Debug)]
pub(crate) enum OfRolling {
    WordPerplexity,
    BytePerplexity,
    BitsPerByte,
}

/// Metrics of generated text.
#[derive(Clone, Debug)]
pub(crate) enum OfText {
    ExactMatch(ExactMatch),
    Bleu(Bleu),
    Chrf(Chrf),
    Ter(Ter),
    Rouge(Rouge),
    TokenF1,
}

/// The standard error that lm-eval gives a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StandardError {
    /// That of a mean, in closed form.
    OfMean,
    /// The bootstrap of the aggregation of this name.
    Bootstrap(&'static str),
    /// None (`N/A`).
    None,
}

const EXACT_MATCH_OPTIONS: &[&str] = &["regexes_to_ignore", "ignore_case", "ignore_punctuation", "ignore_numbers"];

/// Names by output type.
fn names(output: OutputType) -> &'static [&'static str] {
    match output {
        OutputType::LogLikelihood => &["acc", "perplexity"],
        OutputType::MultipleChoice => &[
            "acc",
            "acc_norm",
            "acc_bytes",
            "acc_mutual_info",
            "exact_match",
            "brier_score",
            "f1",
            "precision",
            "recall",
            "mcc",
        ],
        OutputType::LogLikelihoodRolling => &["word_perplexity", "byte_perplexity", "bits_per_byte"],
        OutputType::GenerateUntil => {
            &["exact_match", "bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum", "token_f1", "perplexity"]
        }
    }
}

/// Reads `metric_list`, or takes the output type's defaults.
pub(crate) fn read(list: Option<&[Node]>, output: OutputType, at: &Place) -> Result<Vec<MetricConfig>, TaskError> {
    let Some(list) = list else {
        return default_metrics(output.name())
            .iter()
            .map(|name| config(name, output, None).map_err(|message| TaskError::Definition { at: at.clone(), message }))
            .collect();
    };
    let mut metrics: Vec<MetricConfig> = Vec::new();
    for node in list {
        let Yaml::Map(entries) = &node.value else {
            return node.error(format!("a metric must be a mapping with the key metric, found {}", node.kind()));
        };
        let Some(entry) = entries.iter().find(|entry| entry.key == "metric") else {
            return node.error("a metric lacks the key metric");
        };
        crate::keys::python("metric", &entry.value)?;
        let name = text("metric", &entry.value)?;
        if !names(output).contains(&name.as_str()) {
            let close = nearest_few(&name, names(output).iter().copied());
            let hint =
                if close.is_empty() { format!("; known: {}", names(output).join(", ")) } else { suggest(&close) };
            return entry.value.error(format!("unknown metric {name:?} for {}{hint}", output.name()));
        }
        if metrics.iter().any(|metric| metric.name == name) {
            return entry.value.error(format!("the metric {name} is listed twice"));
        }
        metrics.push(config(&name, output, Some(node)).or_else(|message| node.error(message))?);
        let Some(metric) = metrics.last_mut() else { continue };
        let mut known = vec!["metric", "aggregation", "higher_is_better", "hf_evaluate", "weight_by_size"];
        known.extend(metric.kind.options());
        if output == OutputType::MultipleChoice {
            // lm-eval takes them for any metric; choices have no text that they could change.
            known.extend(EXACT_MATCH_OPTIONS);
        }
        let keys = Keys::of(node, &name, &known)?;
        if let Some(higher) = keys.flag("higher_is_better")? {
            metric.higher_is_better = higher;
        }
        let function = keys.raw("aggregation").and_then(|found| native::find(found, None));
        if let (Kind::Choices(OfChoices::Class(ClassMeasure::F1, average)), Some(Native::F1(own))) =
            (&mut metric.kind, function)
        {
            *average = Some(own);
        } else if let Some(found) = keys.get("aggregation")? {
            let wanted = text("aggregation", found)?;
            let own = MetricInfo::of(&name).map_or("mean", |info| info.aggregation);
            let mean = matches!(wanted.as_str(), "mean" | "nanmean");
            if wanted != own && !(mean && (own == "mean" || name == "brier_score")) {
                return found.error(format!("the aggregation of {name} is {own}, found {wanted:?}"));
            }
        }
    }
    if metrics.is_empty() {
        return Err(TaskError::Definition { at: at.clone(), message: "metric_list is empty".into() });
    }
    Ok(metrics)
}

/// Reads the `metric_list` of a task whose scores are computed by a function: any name, with its aggregation.
pub(crate) fn read_native(list: &[Node], function: &Node, task: &str) -> Result<Vec<MetricConfig>, TaskError> {
    let mut metrics = Vec::new();
    for node in list {
        let keys = Keys::of(
            node,
            "a metric",
            &["metric", "aggregation", "higher_is_better", "hf_evaluate", "weight_by_size"],
        )?;
        let name = keys.require("metric").and_then(|node| text("metric", node))?;
        let info = MetricInfo::of(&name);
        let statistic = match keys.raw("aggregation") {
            Some(found) if matches!(native::find(found, Some(task)), Some(Native::Aggregation)) => Statistic::Mean,
            Some(found) => {
                crate::keys::python("aggregation", found)?;
                let name = text("aggregation", found)?;
                match statistic_of(&name) {
                    Some(statistic) => statistic,
                    None => {
                        return found.error(format!(
                            "unknown aggregation {name:?}; known: mean, nanmean, perplexity, weighted_perplexity, \
                             bits_per_byte"
                        ));
                    }
                }
            }
            None => info.and_then(|info| statistic_of(info.aggregation)).unwrap_or(Statistic::Mean),
        };
        let higher_is_better =
            keys.flag("higher_is_better")?.unwrap_or_else(|| info.is_none_or(|info| info.higher_is_better));
        // The same name means the same kind of number, whoever computes it.
        let raw = matches!(name.as_str(), "perplexity" | "brier_score");
        let of_mean = match native::in_percent(function, &name) {
            true => Scale::Points,
            false if raw => Scale::Raw,
            false => Scale::Fraction,
        };
        let scale = statistic.scale().unwrap_or(of_mean);
        metrics.push(MetricConfig { name, kind: Kind::Native(statistic), higher_is_better, scale });
    }
    Ok(metrics)
}

/// The statistic of an aggregation over numbers or pairs of numbers.
fn statistic_of(aggregation: &str) -> Option<Statistic> {
    match aggregation {
        "mean" | "nanmean" => Some(Statistic::Mean),
        "perplexity" | "weighted_perplexity" => Some(Statistic::Perplexity),
        "bits_per_byte" => Some(Statistic::BitsPerByte),
        _ => None,
    }
}

fn average(option: &Value) -> Result<Option<Average>, String> {
    Ok(match option.as_str() {
        None => None,
        Some("binary") => Some(Average::Binary { positive: 1 }),
        Some("macro") => Some(Average::Macro),
        Some("micro") => Some(Average::Micro),
        Some("weighted") => Some(Average::Weighted),
        Some(other) => return Err(format!("unknown average {other:?}; known: binary, macro, micro, weighted")),
    })
}

fn config(name: &str, output: OutputType, node: Option<&Node>) -> Result<MetricConfig, String> {
    let options = node.map_or(Value::Null, Node::json);
    let flag = |key: &str| match &options[key] {
        Value::Null => Ok(false),
        Value::Bool(b) => Ok(*b),
        other => Err(format!("{key} must be true or false, found {other}")),
    };
    let kind = match output {
        OutputType::MultipleChoice => Kind::Choices(match name {
            "acc" => OfChoices::Acc,
            "acc_norm" => OfChoices::AccNorm,
            "acc_bytes" => OfChoices::AccBytes,
            "acc_mutual_info" => OfChoices::AccMutualInfo,
            "exact_match" => OfChoices::Greedy,
            "brier_score" => OfChoices::Brier,
            "f1" => OfChoices::Class(ClassMeasure::F1, average(&options["average"])?),
            "precision" => OfChoices::Class(ClassMeasure::Precision, average(&options["average"])?),
            "recall" => OfChoices::Class(ClassMeasure::Recall, average(&options["average"])?),
            "mcc" => OfChoices::Matthews,
            other => return Err(format!("unknown metric {other:?}")),
        }),
        OutputType::LogLikelihood => Kind::Continuation(match name {
            "acc" => OfContinuation::Acc,
            "perplexity" => OfContinuation::Perplexity,
            other => return Err(format!("unknown metric {other:?}")),
        }),
        OutputType::LogLikelihoodRolling => Kind::Rolling(match name {
            "word_perplexity" => OfRolling::WordPerplexity,
            "byte_perplexity" => OfRolling::BytePerplexity,
            "bits_per_byte" => OfRolling::BitsPerByte,
            other => return Err(format!("unknown metric {other:?}")),
        }),
        OutputType::GenerateUntil => match name {
            "perplexity" => Kind::ReferencePerplexity,
            "exact_match" => {
                let regexes = match &options["regexes_to_ignore"] {
                    Value::Null => Vec::new(),
                    Value::Array(items) => items.iter().map(harness_python::str).collect(),
                    other => vec![harness_python::str(other)],
                };
                let options = ExactMatchOptions {
                    regexes_to_ignore: regexes,
                    ignore_case: flag("ignore_case")?,
                    ignore_punctuation: flag("ignore_punctuation")?,
                    ignore_numbers: flag("ignore_numbers")?,
                };
                Kind::Text(OfText::ExactMatch(ExactMatch::new(options).map_err(|e| e.to_string())?))
            }
            "bleu" => {
                let tokenizer = match &options["tokenize"] {
                    Value::Null => Default::default(),
                    name => serde_json::from_value(name.clone()).map_err(|e| format!("tokenize: {e}"))?,
                };
                Kind::Text(OfText::Bleu(Bleu { tokenizer, lowercase: flag("lowercase")?, ..Bleu::default() }))
            }
            "chrf" => Kind::Text(OfText::Chrf(Chrf::default())),
            "ter" => Kind::Text(OfText::Ter(Ter::default())),
            "token_f1" => Kind::Text(OfText::TokenF1),
            rouge => {
                let kind = match rouge {
                    "rouge1" => RougeType::N(1),
                    "rouge2" => RougeType::N(2),
                    "rougeL" => RougeType::L,
                    "rougeLsum" => RougeType::Lsum,
                    other => return Err(format!("unknown metric {other:?}")),
                };
                Kind::Text(OfText::Rouge(Rouge::new([kind], flag("use_stemmer")?)))
            }
        },
    };
    let higher_is_better = MetricInfo::of(name).is_none_or(|info| info.higher_is_better);
    let scale = kind.scale();
    Ok(MetricConfig { name: name.to_owned(), kind, higher_is_better, scale })
}

/// A measure over at least two classes; of class 1 unless an average is named.
fn of_classes(choices: usize, measure: ClassMeasure, average: Option<Average>) -> Statistic {
    let average = average.unwrap_or(Average::Binary { positive: 1 });
    Classification { classes: choices.max(2), measure, average }.statistic()
}

impl MetricConfig {
    /// Key behind a pipeline.
    pub(crate) fn key(&self, filter: &str) -> MetricKey {
        MetricKey::new(self.name.as_str(), filter)
    }

    /// Statistics of the reference's log-likelihood.
    pub(crate) fn reference_stats(logprob: f64, tokens: usize) -> Vec<f64> {
        token_perplexity_stats(logprob, tokens)
    }
}

impl Kind {
    /// The function of summed statistics, for tasks with this many choices.
    pub(crate) fn statistic(&self, choices: usize) -> Statistic {
        match self {
            Self::Choices(kind) => kind.statistic(choices),
            Self::Continuation(OfContinuation::Acc) => Statistic::Mean,
            Self::Continuation(OfContinuation::Perplexity) => Statistic::Perplexity,
            Self::Rolling(OfRolling::WordPerplexity | OfRolling::BytePerplexity) => Statistic::Perplexity,
            Self::Rolling(OfRolling::BitsPerByte) => Statistic::BitsPerByte,
            Self::Text(kind) => kind.statistic(),
            Self::Native(statistic) => statistic.clone(),
            Self::ReferencePerplexity => Statistic::Perplexity,
        }
    }

    /// What values are in.
    fn scale(&self) -> Scale {
        match self {
            Self::Choices(kind) => match kind {
                OfChoices::Acc
                | OfChoices::AccNorm
                | OfChoices::AccBytes
                | OfChoices::AccMutualInfo
                | OfChoices::Greedy
                | OfChoices::Class(..)
                | OfChoices::Matthews => Scale::Fraction,
                OfChoices::Brier => Scale::Raw,
            },
            Self::Continuation(OfContinuation::Acc) => Scale::Fraction,
            Self::Continuation(OfContinuation::Perplexity) | Self::ReferencePerplexity => Scale::Raw,
            Self::Rolling(OfRolling::WordPerplexity | OfRolling::BytePerplexity | OfRolling::BitsPerByte) => Scale::Raw,
            Self::Text(OfText::ExactMatch(_) | OfText::Rouge(_) | OfText::TokenF1) => Scale::Fraction,
            Self::Text(OfText::Bleu(_) | OfText::Chrf(_) | OfText::Ter(_)) => Scale::Points,
            Self::Native(statistic) => statistic.scale().unwrap_or(Scale::Fraction),
        }
    }

    /// Keys of its entry in `metric_list` besides those of every metric.
    fn options(&self) -> &'static [&'static str] {
        match self {
            Self::Choices(OfChoices::Class(..)) => &["average"],
            Self::Choices(
                OfChoices::Acc
                | OfChoices::AccNorm
                | OfChoices::AccBytes
                | OfChoices::AccMutualInfo
                | OfChoices::Greedy
                | OfChoices::Brier
                | OfChoices::Matthews,
            ) => &[],
            Self::Text(OfText::ExactMatch(_)) => EXACT_MATCH_OPTIONS,
            Self::Text(OfText::Bleu(_)) => &["tokenize", "lowercase"],
            Self::Text(OfText::Rouge(_)) => &["use_stemmer"],
            Self::Text(OfText::Chrf(_) | OfText::Ter(_) | OfText::TokenF1) => &[],
            Self::Continuation(OfContinuation::Acc | OfContinuation::Perplexity) => &[],
            Self::Rolling(OfRolling::WordPerplexity | OfRolling::BytePerplexity | OfRolling::BitsPerByte) => &[],
            Self::Native(_) | Self::ReferencePerplexity => &[],
        }
    }

    /// The standard error in lm-eval's files.
    pub(crate) fn standard_error(&self) -> StandardError {
        match self {
            Self::Choices(kind) => match kind {
                OfChoices::Acc
                | OfChoices::AccNorm
                | OfChoices::AccBytes
                | OfChoices::AccMutualInfo
                | OfChoices::Greedy => StandardError::OfMean,
                OfChoices::Class(ClassMeasure::F1, Some(Average::Weighted)) | OfChoices::Brier => StandardError::None,
                OfChoices::Class(ClassMeasure::F1, _) => StandardError::Bootstrap("f1"),
                OfChoices::Class(ClassMeasure::Precision | ClassMeasure::Recall, _) => StandardError::None,
                OfChoices::Matthews => StandardError::Bootstrap("matthews_corrcoef"),
            },
            Self::Continuation(OfContinuation::Acc) => StandardError::OfMean,
            Self::Continuation(OfContinuation::Perplexity) => StandardError::Bootstrap("perplexity"),
            Self::Rolling(OfRolling::WordPerplexity | OfRolling::BytePerplexity | OfRolling::BitsPerByte)
            | Self::ReferencePerplexity => StandardError::None,
            Self::Text(OfText::ExactMatch(_) | OfText::Rouge(_) | OfText::TokenF1) => StandardError::OfMean,
            Self::Text(OfText::Bleu(_)) => StandardError::Bootstrap("bleu"),
            Self::Text(OfText::Chrf(_)) => StandardError::Bootstrap("chrf"),
            Self::Text(OfText::Ter(_)) => StandardError::Bootstrap("ter"),
            Self::Native(Statistic::Mean) => StandardError::OfMean,
            // Sums of pairs; lm-eval has a bootstrap for none of them.
            Self::Native(_) => StandardError::None,
        }
    }
}

impl OfChoices {
    fn statistic(&self, choices: usize) -> Statistic {
        match self {
            Self::Acc | Self::AccNorm | Self::AccBytes | Self::AccMutualInfo | Self::Greedy | Self::Brier => {
                Statistic::Mean
            }
            Self::Class(measure, average) => of_classes(choices, *measure, *average),
            Self::Matthews => Statistic::Matthews { classes: choices.max(2) },
        }
    }

    /// Statistics of one document.
    pub(crate) fn stats(&self, answers: &ChoiceAnswers<'_, String>, gold: &ChoiceGold, classes: usize) -> Vec<f64> {
        let scores = answers.score(gold);
        match self {
            Self::Acc => mean_stats(scores.acc),
            Self::AccNorm => mean_stats(scores.acc_norm),
            Self::AccBytes => mean_stats(scores.acc_bytes),
            Self::AccMutualInfo => mean_stats(scores.acc_mutual_info),
            Self::Greedy => mean_stats(scores.exact_match),
            Self::Brier => mean_stats(scores.brier_score),
            Self::Class(..) | Self::Matthews => {
                let gold = gold.indices().first().copied().unwrap_or(usize::MAX);
                confusion_stats(classes.max(2), gold, scores.predicted)
            }
        }
    }
}

impl OfContinuation {
    /// Statistics of one document.
    pub(crate) fn stats(&self, logprob: f64, is_greedy: bool) -> Vec<f64> {
        match self {
            Self::Acc => mean_stats(f64::from(u8::from(is_greedy))),
            Self::Perplexity => perplexity_stats(logprob),
        }
    }
}

impl OfRolling {
    /// Statistics of one document; words and bytes are counted on `counted`.
    pub(crate) fn stats(&self, logprob: f64, counted: &str) -> Vec<f64> {
        match self {
            Self::WordPerplexity => vec![logprob, word_count(counted) as f64],
            Self::BytePerplexity | Self::BitsPerByte => byte_perplexity_stats(logprob, counted),
        }
    }
}

impl OfText {
    fn statistic(&self) -> Statistic {
        match self {
            Self::ExactMatch(_) | Self::Rouge(_) | Self::TokenF1 => Statistic::Mean,
            Self::Bleu(bleu) => bleu.statistic(),
            Self::Chrf(chrf) => chrf.statistic(),
            Self::Ter(ter) => ter.statistic(),
        }
    }

    /// Whether several answers to a document have a mean, instead of being one text of a corpus.
    pub(crate) fn averages(&self) -> bool {
        self.statistic() == Statistic::Mean
    }

    /// Statistics of an answer against the references.
    pub(crate) fn stats(&self, answer: &str, references: &[String]) -> Result<Vec<f64>, MetricsError> {
        Ok(match self {
            Self::ExactMatch(exact) => mean_stats(f64::from(u8::from(exact.matches(answer, references)?))),
            Self::Bleu(bleu) => bleu.stats(answer, references),
            Self::Chrf(chrf) => chrf.stats(answer, references),
            Self::Ter(ter) => ter.stats(answer, references),
            Self::Rouge(rouge) => {
                mean_stats(rouge.score_multi(references, answer).first().map_or(0.0, |score| score.fmeasure))
            }
            Self::TokenF1 => mean_stats(token_f1(answer, references)),
        })
    }
}
