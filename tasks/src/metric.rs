//! The metrics of a task: what its definition asks for. What they compute is in `harness_metrics`.

use std::sync::Arc;

use harness_core::{MetricKey, nearest_few};
use harness_metrics::{
    Answer, METRICS, Metric, MetricsError, Reads, Scorer, StandardError, Statistic,
    comparison::Scale,
    lm_eval::{OF_NUMBERS, OPTIONS_OF_CHOICES, default_metrics},
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
    /// The kind of answer that is scored; `None` where the task's `process_results` computes the scores.
    pub reads: Option<Reads>,
    pub scorer: Arc<dyn Scorer>,
    pub higher_is_better: bool,
    /// What values are in.
    pub scale: Scale,
    /// Whether it needs the log-likelihoods of the choices after an empty context.
    pub unconditional: bool,
}

impl MetricConfig {
    fn new(metric: &Metric, reads: Reads, options: &Value) -> Result<Self, String> {
        Ok(Self {
            name: metric.name.to_owned(),
            reads: Some(reads),
            scorer: metric.configure(reads, options).map_err(|e| e.to_string())?,
            higher_is_better: metric.higher_is_better,
            scale: metric.scale,
            unconditional: metric.unconditional,
        })
    }

    /// Key behind a pipeline; filters do not change the log-likelihood of the reference.
    pub(crate) fn key(&self, filter: &str) -> MetricKey {
        MetricKey::new(self.name.as_str(), if self.reads == Some(Reads::Reference) { "none" } else { filter })
    }

    /// Whether several answers to a document have a mean, instead of being one text of a corpus.
    pub(crate) fn averages(&self) -> bool {
        self.scorer.statistic(0).is_mean()
    }
}

/// A metric that is computed by the task's `process_results`.
#[derive(Debug)]
struct OfFunction(Statistic);

impl Scorer for OfFunction {
    fn statistic(&self, _: usize) -> Statistic {
        self.0.clone()
    }

    fn stats(&self, _: &Answer<'_>) -> Result<Option<Vec<f64>>, MetricsError> {
        Ok(None)
    }

    fn standard_error(&self) -> StandardError {
        // lm-eval has no bootstrap for sums of pairs.
        if self.0.is_mean() { StandardError::OfMean } else { StandardError::None }
    }
}

/// The metrics that score an output, each with the kind of answer.
fn offered(output: OutputType) -> impl Iterator<Item = (&'static Metric, Reads)> {
    let answers: &[Reads] = match output {
        OutputType::LogLikelihood => &[Reads::Continuation],
        OutputType::MultipleChoice => &[Reads::Choices],
        OutputType::LogLikelihoodRolling => &[Reads::Rolling],
        OutputType::GenerateUntil => &[Reads::Text, Reads::Reference],
    };
    METRICS.iter().filter_map(|metric| Some((*metric, *answers.iter().find(|kind| metric.reads.contains(kind))?)))
}

/// Keys of every entry of `metric_list`.
const KEYS: [&str; 5] = ["metric", "aggregation", "higher_is_better", "hf_evaluate", "weight_by_size"];

/// Reads `metric_list`, or takes the output type's defaults.
pub(crate) fn read(list: Option<&[Node]>, output: OutputType, at: &Place) -> Result<Vec<MetricConfig>, TaskError> {
    let Some(list) = list else {
        return default_metrics(output.name())
            .iter()
            .filter_map(|name| offered(output).find(|(metric, _)| metric.name == *name))
            .map(|(metric, reads)| MetricConfig::new(metric, reads, &Value::Null))
            .collect::<Result<_, _>>()
            .map_err(|message| TaskError::Definition { at: at.clone(), message });
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
        let Some((metric, reads)) = offered(output).find(|(metric, _)| metric.name == name) else {
            let names: Vec<&str> = offered(output).map(|(metric, _)| metric.name).collect();
            let close = nearest_few(&name, names.iter().copied());
            let hint = if close.is_empty() { format!("; known: {}", names.join(", ")) } else { suggest(&close) };
            return entry.value.error(format!("unknown metric {name:?} for {}{hint}", output.name()));
        };
        if metrics.iter().any(|metric| metric.name == name) {
            return entry.value.error(format!("the metric {name} is listed twice"));
        }
        metrics.push(entry_of(node, metric, reads)?);
    }
    if metrics.is_empty() {
        return Err(TaskError::Definition { at: at.clone(), message: "metric_list is empty".into() });
    }
    Ok(metrics)
}

/// One entry of `metric_list`: its options, its direction, and the aggregation, which can only be the metric's own.
fn entry_of(node: &Node, metric: &Metric, reads: Reads) -> Result<MetricConfig, TaskError> {
    let mut options = node.json();
    let mut config = MetricConfig::new(metric, reads, &options).or_else(|message| node.error(message))?;
    let mut known: Vec<&str> = KEYS.iter().chain(metric.options).copied().collect();
    if reads == Reads::Choices {
        known.extend(OPTIONS_OF_CHOICES.iter().filter(|key| !metric.options.contains(key)));
    }
    let keys = Keys::of(node, metric.name, &known)?;
    let higher_is_better = keys.flag("higher_is_better")?.unwrap_or(metric.higher_is_better);
    let function = keys.raw("aggregation").and_then(|found| native::find(found, None));
    if let Some(Native::Option { metric: of, key, value }) = function
        && of == metric.name
    {
        options[key] = Value::from(value);
        config = MetricConfig::new(metric, reads, &options).or_else(|message| node.error(message))?;
    } else if let Some(found) = keys.get("aggregation")? {
        let (wanted, own) = (text("aggregation", found)?, metric.aggregation);
        let mean = matches!(wanted.as_str(), "mean" | "nanmean") && (own == "mean" || config.averages());
        if wanted != own && !mean {
            return found.error(format!("the aggregation of {} is {own}, found {wanted:?}", metric.name));
        }
    }
    Ok(MetricConfig { higher_is_better, ..config })
}

/// Reads the `metric_list` of a task whose scores are computed by a function: any name, with its aggregation.
pub(crate) fn read_native(list: &[Node], function: &Node, task: &str) -> Result<Vec<MetricConfig>, TaskError> {
    let of_numbers = |name: &str| OF_NUMBERS.into_iter().find(|(known, _)| *known == name).map(|(_, of)| of);
    let mut metrics = Vec::new();
    for node in list {
        let keys = Keys::of(node, "a metric", &KEYS)?;
        let name = keys.require("metric").and_then(|node| text("metric", node))?;
        let statistic = match keys.raw("aggregation") {
            Some(found) if matches!(native::find(found, Some(task)), Some(Native::Aggregation)) => Statistic::Mean,
            Some(found) => {
                crate::keys::python("aggregation", found)?;
                let name = text("aggregation", found)?;
                match of_numbers(&name) {
                    Some(statistic) => statistic,
                    None => {
                        let known = OF_NUMBERS.map(|(known, _)| known).join(", ");
                        return found.error(format!("unknown aggregation {name:?}; known: {known}"));
                    }
                }
            }
            None => Metric::of(&name).and_then(|metric| of_numbers(metric.aggregation)).unwrap_or(Statistic::Mean),
        };
        let higher_is_better = keys.flag("higher_is_better")?.unwrap_or_else(|| Metric::is_higher_better(&name));
        // The same name means the same kind of number, whoever computes it.
        let of_mean = if native::in_percent(function, &name) { Scale::Points } else { Metric::scale_of_means(&name) };
        metrics.push(MetricConfig {
            name,
            reads: None,
            higher_is_better,
            scale: statistic.scale().unwrap_or(of_mean),
            scorer: Arc::new(OfFunction(statistic)),
            unconditional: false,
        });
    }
    Ok(metrics)
}
