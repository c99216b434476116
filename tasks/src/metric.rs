//! The metrics of a task: what its definition asks for, and the statistics of one document.

use harness_core::{MetricKey, nearest_few};
use harness_metrics::{
    Average, Bleu, ChoiceAnswers, Chrf, ClassMeasure, Classification, ExactMatch, ExactMatchOptions,
    Gold as ChoiceGold, MetricsError, Rouge, RougeType, Statistic, Ter, byte_perplexity_stats, confusion_stats,
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
    /// Whether values are in per cent, not shares.
    pub percent: bool,
}

/// How a metric is computed.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Acc,
    AccNorm,
    AccBytes,
    AccMutualInfo,
    Greedy,
    Brier,
    F1(Option<Average>),
    /// Precision or recall.
    OfClass(ClassMeasure, Option<Average>),
    Matthews,
    Perplexity,
    WordPerplexity,
    BytePerplexity,
    BitsPerByte,
    ExactMatch(ExactMatch),
    Bleu(Bleu),
    Chrf(Chrf),
    Ter(Ter),
    Rouge(Rouge),
    TokenF1,
    /// Computed by the task's `process_results`.
    Native(Statistic),
    /// Perplexity of the reference, from a log-likelihood request beside the generation.
    ReferencePerplexity,
}

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
        let options: &[&str] = match metric.kind {
            Kind::ExactMatch(_) => &["regexes_to_ignore", "ignore_case", "ignore_punctuation", "ignore_numbers"],
            Kind::F1(_) | Kind::OfClass(..) => &["average"],
            Kind::Bleu(_) => &["tokenize", "lowercase"],
            Kind::Rouge(_) => &["use_stemmer"],
            _ => &[],
        };
        let mut known = vec!["metric", "aggregation", "higher_is_better", "hf_evaluate", "weight_by_size"];
        known.extend(options);
        if output == OutputType::MultipleChoice {
            // lm-eval takes them for any metric; choices have no text that they could change.
            known.extend(["regexes_to_ignore", "ignore_case", "ignore_punctuation", "ignore_numbers"]);
        }
        let keys = Keys::of(node, &name, &known)?;
        if let Some(higher) = keys.flag("higher_is_better")? {
            metric.higher_is_better = higher;
        }
        let function = keys.raw("aggregation").and_then(|found| native::find(found, None));
        if let (Kind::F1(average), Some(Native::F1(own))) = (&mut metric.kind, function) {
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
        let percent = native::in_percent(function, &name);
        metrics.push(MetricConfig { name, kind: Kind::Native(statistic), higher_is_better, percent });
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
    let kind = match name {
        "acc" => Kind::Acc,
        "acc_norm" => Kind::AccNorm,
        "acc_bytes" => Kind::AccBytes,
        "acc_mutual_info" => Kind::AccMutualInfo,
        "exact_match" if output == OutputType::MultipleChoice => Kind::Greedy,
        "exact_match" => {
            let regexes = match &options["regexes_to_ignore"] {
                Value::Null => Vec::new(),
                Value::Array(items) => items.iter().map(crate::python::text::str).collect(),
                other => vec![crate::python::text::str(other)],
            };
            let options = ExactMatchOptions {
                regexes_to_ignore: regexes,
                ignore_case: flag("ignore_case")?,
                ignore_punctuation: flag("ignore_punctuation")?,
                ignore_numbers: flag("ignore_numbers")?,
            };
            Kind::ExactMatch(ExactMatch::new(options).map_err(|e| e.to_string())?)
        }
        "brier_score" => Kind::Brier,
        "f1" => Kind::F1(average(&options["average"])?),
        "precision" => Kind::OfClass(ClassMeasure::Precision, average(&options["average"])?),
        "recall" => Kind::OfClass(ClassMeasure::Recall, average(&options["average"])?),
        "mcc" => Kind::Matthews,
        "perplexity" if output == OutputType::GenerateUntil => Kind::ReferencePerplexity,
        "perplexity" => Kind::Perplexity,
        "word_perplexity" => Kind::WordPerplexity,
        "byte_perplexity" => Kind::BytePerplexity,
        "bits_per_byte" => Kind::BitsPerByte,
        "bleu" => {
            let tokenizer = match &options["tokenize"] {
                Value::Null => Default::default(),
                name => serde_json::from_value(name.clone()).map_err(|e| format!("tokenize: {e}"))?,
            };
            Kind::Bleu(Bleu { tokenizer, lowercase: flag("lowercase")?, ..Bleu::default() })
        }
        "chrf" => Kind::Chrf(Chrf::default()),
        "ter" => Kind::Ter(Ter::default()),
        "rouge1" => Kind::Rouge(Rouge::new([RougeType::N(1)], flag("use_stemmer")?)),
        "rouge2" => Kind::Rouge(Rouge::new([RougeType::N(2)], flag("use_stemmer")?)),
        "rougeL" => Kind::Rouge(Rouge::new([RougeType::L], flag("use_stemmer")?)),
        "rougeLsum" => Kind::Rouge(Rouge::new([RougeType::Lsum], flag("use_stemmer")?)),
        "token_f1" => Kind::TokenF1,
        other => return Err(format!("unknown metric {other:?}")),
    };
    let higher_is_better = MetricInfo::of(name).is_none_or(|info| info.higher_is_better);
    Ok(MetricConfig { name: name.to_owned(), kind, higher_is_better, percent: false })
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

    /// The function of summed statistics, for tasks with this many choices.
    pub(crate) fn statistic(&self, choices: usize) -> Statistic {
        match &self.kind {
            Kind::F1(average) => of_classes(choices, ClassMeasure::F1, *average),
            Kind::OfClass(measure, average) => of_classes(choices, *measure, *average),
            Kind::Matthews => Statistic::Matthews { classes: choices.max(2) },
            Kind::Perplexity | Kind::WordPerplexity | Kind::BytePerplexity | Kind::ReferencePerplexity => {
                Statistic::Perplexity
            }
            Kind::BitsPerByte => Statistic::BitsPerByte,
            Kind::Native(statistic) => statistic.clone(),
            Kind::Bleu(bleu) => bleu.statistic(),
            Kind::Chrf(chrf) => chrf.statistic(),
            Kind::Ter(ter) => ter.statistic(),
            _ => Statistic::Mean,
        }
    }

    /// Statistics of a multiple-choice document.
    pub(crate) fn choice_stats(
        &self,
        answers: &ChoiceAnswers<'_, String>,
        gold: &ChoiceGold,
        classes: usize,
    ) -> Vec<f64> {
        let scores = answers.score(gold);
        match &self.kind {
            Kind::Acc => mean_stats(scores.acc),
            Kind::AccNorm => mean_stats(scores.acc_norm),
            Kind::AccBytes => mean_stats(scores.acc_bytes),
            Kind::AccMutualInfo => mean_stats(scores.acc_mutual_info),
            Kind::Greedy => mean_stats(scores.exact_match),
            Kind::Brier => mean_stats(scores.brier_score),
            _ => {
                let gold = gold.indices().first().copied().unwrap_or(usize::MAX);
                confusion_stats(classes.max(2), gold, scores.predicted)
            }
        }
    }

    /// Statistics of a log-likelihood document.
    pub(crate) fn likelihood_stats(&self, logprob: f64, is_greedy: bool) -> Vec<f64> {
        match self.kind {
            Kind::Perplexity => perplexity_stats(logprob),
            _ => mean_stats(f64::from(u8::from(is_greedy))),
        }
    }

    /// Statistics of a scored text; words and bytes are counted on `counted`.
    pub(crate) fn rolling_stats(&self, logprob: f64, counted: &str) -> Vec<f64> {
        match self.kind {
            Kind::WordPerplexity => vec![logprob, word_count(counted) as f64],
            _ => byte_perplexity_stats(logprob, counted),
        }
    }

    /// Statistics of a generated answer against the references.
    pub(crate) fn text_stats(&self, answer: &str, references: &[String]) -> Result<Vec<f64>, MetricsError> {
        Ok(match &self.kind {
            Kind::ExactMatch(exact) => mean_stats(f64::from(u8::from(exact.matches(answer, references)?))),
            Kind::Bleu(bleu) => bleu.stats(answer, references),
            Kind::Chrf(chrf) => chrf.stats(answer, references),
            Kind::Ter(ter) => ter.stats(answer, references),
            Kind::Rouge(rouge) => {
                mean_stats(rouge.score_multi(references, answer).first().map_or(0.0, |score| score.fmeasure))
            }
            _ => mean_stats(token_f1(answer, references)),
        })
    }

    /// Statistics of the reference's log-likelihood.
    pub(crate) fn reference_stats(logprob: f64, tokens: usize) -> Vec<f64> {
        token_perplexity_stats(logprob, tokens)
    }
}
