//! Models behind OpenAI-compatible servers: what `harness.toml` and a name on the command line say about them.

use std::time::Duration;

use harness_http::{Api, EndpointOptions, EndpointSpec, HttpError};

use super::ModelSection;
use crate::EvaluationError;

impl ModelSection {
    /// The keys of an endpoint that are set although the model is none.
    pub fn stray_endpoint_key(&self) -> Option<&'static str> {
        let set = [
            ("model", self.model.is_some()),
            ("api", self.api.is_some()),
            ("api_key_env", self.api_key_env.is_some()),
            ("concurrency", self.concurrency.is_some()),
            ("requests_per_minute", self.requests_per_minute.is_some()),
            ("timeout", self.timeout.is_some()),
            ("retries", self.retries.is_some()),
            ("input_price", self.input_price.is_some()),
            ("output_price", self.output_price.is_some()),
            ("patterns", self.patterns.is_some()),
            ("extended_sampling", self.extended_sampling.is_some()),
        ];
        if self.endpoint.is_some() { None } else { set.into_iter().find(|(_, set)| *set).map(|(key, _)| key) }
    }

    /// A key about prompts that is set although the model is an endpoint, whose server makes them.
    pub fn stray_local_key(&self) -> Option<&'static str> {
        let set = [("tokenizer", self.tokenizer.is_some()), ("date", self.date.is_some())];
        if self.endpoint.is_none() { None } else { set.into_iter().find(|(_, set)| *set).map(|(key, _)| key) }
    }

    /// How the endpoint is asked. `spec` is `openai:MODEL@URL`, or the URL alone, where `model` names the model.
    ///
    /// # Errors
    /// If the specification or a key is wrong.
    pub fn endpoint_options(&self, spec: &str) -> Result<EndpointOptions, EvaluationError> {
        let spec = match (EndpointSpec::is_spec(spec), &self.model) {
            (true, None) => EndpointSpec::parse(spec)?,
            (true, Some(model)) => {
                let spec = EndpointSpec::parse(spec)?;
                if spec.model != *model {
                    return Err(EvaluationError::usage(format!(
                        "endpoint names the model {:?} and `model` is {model:?}: give one of them",
                        spec.model
                    )));
                }
                spec
            }
            (false, Some(model)) => EndpointSpec::parse(&format!("openai:{model}@{spec}"))?,
            (false, None) => {
                return Err(EvaluationError::usage(format!(
                    "endpoint = {spec:?}: which model? set `model` to its name at the server, or write openai:MODEL@URL"
                )));
            }
        };
        let mut options = EndpointOptions::new(spec);
        options.api = match self.api.as_deref() {
            None | Some("chat") => Api::Chat,
            Some("completions") => Api::Completions,
            Some(other) => {
                return Err(EvaluationError::usage(format!("api = {other:?}: expected \"chat\" or \"completions\"")));
            }
        };
        options.api_key_env.clone_from(&self.api_key_env);
        options.max_length = self.max_length;
        options.requests_per_minute = self.requests_per_minute;
        options.input_price = self.input_price;
        options.output_price = self.output_price;
        options.patterns = self.patterns.unwrap_or(false);
        options.extended_sampling = self.extended_sampling;
        options.chat_template_kwargs.clone_from(&self.chat_template_kwargs);
        if let Some(concurrency) = self.concurrency {
            options.concurrency = concurrency;
        }
        if let Some(retries) = self.retries {
            options.retries = retries;
        }
        if let Some(seconds) = self.timeout {
            options.timeout = Duration::try_from_secs_f64(seconds).map_err(|_| {
                EvaluationError::from(HttpError::Option {
                    what: "timeout".into(),
                    found: seconds.to_string(),
                    expected: "a number of seconds".into(),
                })
            })?;
        }
        Ok(options)
    }
}
