//! A task's definition in the form in which lm-eval saves it.

use harness_metrics::{Scorer, StandardError};
use serde_json::{Map, Value, json};

use crate::{BuildOptions, DeclarativeTask, Task as _};

/// lm-eval's keys in its order, with the values it fills in; `null` where a missing key stays missing.
const KEYS: [(&str, &str); 28] = [
    ("task", "null"),
    ("task_alias", "null"),
    ("tag", "null"),
    ("dataset_path", "null"),
    ("dataset_name", "null"),
    ("dataset_kwargs", "null"),
    ("training_split", "null"),
    ("validation_split", "null"),
    ("test_split", "null"),
    ("fewshot_split", "null"),
    ("process_docs", "null"),
    ("doc_to_text", "null"),
    ("doc_to_target", "null"),
    ("unsafe_code", "false"),
    ("doc_to_choice", "null"),
    ("process_results", "null"),
    ("description", "\"\""),
    ("target_delimiter", "\" \""),
    ("fewshot_delimiter", "\"\\n\\n\""),
    ("fewshot_config", "null"),
    ("num_fewshot", "null"),
    ("metric_list", "null"),
    ("output_type", "\"generate_until\""),
    ("generation_kwargs", "null"),
    ("repeats", "1"),
    ("filter_list", "null"),
    ("should_decontaminate", "false"),
    ("doc_to_decontamination_query", "null"),
];

impl DeclarativeTask {
    /// The definition as `configs` of a results file holds it.
    pub(crate) fn lm_eval_config(&self, options: &BuildOptions) -> Value {
        let definition = self.definition();
        let mut config = Map::new();
        for (key, default) in KEYS {
            let value = match key {
                "num_fewshot" => json!(self.shots(options)),
                "generation_kwargs" if self.output_type() == crate::OutputType::GenerateUntil => {
                    Value::Object(self.generation_kwargs(options))
                }
                "fewshot_config" => self.lm_eval_fewshot_config(),
                _ => definition.get(key).cloned().unwrap_or(Value::Null),
            };
            let value = if value.is_null() { serde_json::from_str(default).unwrap_or(Value::Null) } else { value };
            if !value.is_null() {
                config.insert(key.to_owned(), value);
            }
        }
        for key in ["gen_prefix", "metadata"] {
            config.extend(definition.get(key).filter(|value| !value.is_null()).map(|v| (key.to_owned(), v.clone())));
        }
        Value::Object(config)
    }

    fn lm_eval_fewshot_config(&self) -> Value {
        let definition = self.definition();
        let own = definition.get("fewshot_config");
        let of = |key: &str, inherited: &str, default: Value| -> Value {
            let found = own.and_then(|own| own.get(key)).or_else(|| definition.get(inherited));
            found.filter(|value| !value.is_null()).cloned().unwrap_or(default)
        };
        json!({
            "sampler": own.and_then(|own| own.get("sampler")).cloned().unwrap_or_else(|| json!("default")),
            "split": of("split", "fewshot_split", Value::Null),
            "process_docs": of("process_docs", "process_docs", Value::Null),
            "fewshot_indices": own.and_then(|own| own.get("fewshot_indices")),
            "samples": own.and_then(|own| own.get("samples")),
            "doc_to_text": of("doc_to_text", "doc_to_text", Value::Null),
            "doc_to_choice": of("doc_to_choice", "doc_to_choice", Value::Null),
            "doc_to_target": of("doc_to_target", "doc_to_target", Value::Null),
            "gen_prefix": of("gen_prefix", "gen_prefix", Value::Null),
            "fewshot_delimiter": of("fewshot_delimiter", "fewshot_delimiter", json!("\n\n")),
            "target_delimiter": of("target_delimiter", "target_delimiter", json!(" ")),
        })
    }

    /// The version in the type in which the definition has it.
    pub(crate) fn lm_eval_version(&self) -> Value {
        let version = self.definition().get("metadata").and_then(|metadata| metadata.get("version"));
        version.cloned().unwrap_or_else(|| Value::from("Yaml"))
    }

    /// The settings of a generation as lm-eval logs them.
    pub(crate) fn generation_kwargs(&self, options: &BuildOptions) -> Map<String, Value> {
        let mut kwargs = self.config.generation_kwargs.clone();
        kwargs.extend(options.generation_kwargs.clone());
        if let Some(temperature) = kwargs.get("temperature").and_then(Value::as_f64) {
            kwargs.insert("temperature".into(), json!(temperature));
        }
        kwargs
    }

    /// How the metric of a specification is computed.
    pub(crate) fn scorer(&self, index: usize) -> Option<&dyn Scorer> {
        let key = &self.metrics().get(index)?.key;
        self.config.metrics.iter().find(|metric| metric.name == key.metric).map(|metric| &*metric.scorer)
    }

    /// Whether the definition names a function that takes a mean over the parts of all documents.
    fn aggregates_parts(&self, index: usize) -> bool {
        let Some(metric) = self.metrics().get(index).map(|spec| &spec.key.metric) else { return false };
        let listed = self.definition().get("metric_list").and_then(Value::as_array);
        let entry = listed.and_then(|list| list.iter().find(|entry| entry["metric"] == metric.as_str()));
        let named = entry.and_then(|entry| entry.get("aggregation")).and_then(Value::as_str);
        self.config.process_results.is_some() && named.is_some_and(|name| name.contains('.'))
    }

    /// The standard error that lm-eval gives a metric.
    pub(crate) fn standard_error(&self, index: usize) -> StandardError {
        match self.scorer(index) {
            Some(scorer) if !self.aggregates_parts(index) => scorer.standard_error(),
            _ => StandardError::None,
        }
    }
}
