//! What an endpoint is and how it is asked.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use harness_core::{ChatKwargs, Request, Sampling, Usage};

use crate::{Budget, HttpError};

/// Base of OpenAI's own API.
pub const OPENAI_URL: &str = "https://api.openai.com/v1";

/// How texts are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// `/chat/completions`: the server renders the chat.
    #[default]
    Chat,
    /// `/completions`: prompts are plain text.
    Completions,
}

/// A model behind a server, as it is written: `openai:MODEL@URL`, or `openai:MODEL` for api.openai.com.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The model's name at the server.
    pub model: String,
    /// Base of the API without a slash at the end.
    pub url: String,
}

impl EndpointSpec {
    /// Whether a model's name means an endpoint.
    pub fn is_spec(text: &str) -> bool {
        text.starts_with("openai:")
    }

    /// Reads `openai:MODEL@URL`.
    ///
    /// # Errors
    /// If it is not of this form, or the URL is no address of an API.
    pub fn parse(text: &str) -> Result<Self, HttpError> {
        let form = || HttpError::Option {
            what: "endpoint".into(),
            found: format!("{text:?}"),
            expected: "openai:MODEL@URL, e.g. openai:gpt-4o-mini@https://api.openai.com/v1".into(),
        };
        let rest = text.strip_prefix("openai:").ok_or_else(form)?;
        let at = ["@http://", "@https://"].iter().filter_map(|mark| rest.find(mark)).min();
        let (model, url) = match at {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None if rest.contains('@') || rest.contains("://") => return Err(form()),
            None => (rest, OPENAI_URL),
        };
        if model.trim().is_empty() {
            return Err(form());
        }
        Ok(Self { model: model.to_owned(), url: base_url(url)? })
    }
}

/// Checks the base of an API and takes the slash from its end.
pub(crate) fn base_url(url: &str) -> Result<String, HttpError> {
    let wrong = |expected: &str, found: String| HttpError::Option {
        what: "the endpoint's URL".into(),
        found,
        expected: expected.into(),
    };
    let parsed = reqwest::Url::parse(url.trim())
        .map_err(|error| wrong("an address such as http://localhost:8000/v1", format!("{url:?} ({error})")))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(wrong("an address that begins with http:// or https://", format!("{url:?}")));
    }
    // The parts that can hold a secret are not repeated in the message.
    let shown = format!("{:?}", format!("{}://{}", parsed.scheme(), parsed.host_str().unwrap_or_default()));
    if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
        let expected = "no user, password or query: keys belong in the environment (api_key_env)";
        return Err(wrong(expected, format!("{shown} with one of them")));
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

/// Options of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// The model and its server.
    pub spec: EndpointSpec,
    /// How texts are asked for.
    pub api: Api,
    /// Environment variable that holds the key; `None` = `OPENAI_API_KEY` if it is set. That one is sent over https or to
    /// this machine only.
    pub api_key_env: Option<String>,
    /// Most requests in flight.
    pub concurrency: usize,
    /// Most requests begun a minute.
    pub requests_per_minute: Option<f64>,
    /// Longest time for one answer.
    pub timeout: Duration,
    /// How often a failed request is sent again.
    pub retries: u32,
    /// First waiting time between attempts; it doubles.
    pub backoff: Duration,
    /// Longest time that a server may ask to wait.
    pub longest_wait: Duration,
    /// Seed of the jitter in waiting times; no answer depends on it.
    pub seed: u64,
    /// Longest prompt and answer in tokens; `None` = not known here, the server says when it is passed.
    pub max_length: Option<usize>,
    /// Price of a million tokens of prompts.
    pub input_price: Option<f64>,
    /// Price of a million generated tokens.
    pub output_price: Option<f64>,
    /// Whether the server keeps answers within a regular expression (vLLM's structured outputs).
    pub patterns: bool,
    /// Whether the server takes `top_k`, `min_p` and `repetition_penalty`; `None` = all but api.openai.com do.
    pub extended_sampling: Option<bool>,
    /// Variables for the chat template that the server renders, sent as `chat_template_kwargs` (vLLM, SGLang, llama.cpp).
    pub chat_template_kwargs: ChatKwargs,
    /// Limit on cost, shared by all that hold it.
    pub budget: Option<Arc<Budget>>,
    /// Set from outside to end the work: requests in flight are dropped.
    pub stop: Option<Arc<AtomicBool>>,
}

impl EndpointOptions {
    /// The defaults for an endpoint: 8 requests in flight, 5 minutes an answer, 6 retries from half a second on.
    pub fn new(spec: EndpointSpec) -> Self {
        Self {
            spec,
            api: Api::default(),
            api_key_env: None,
            concurrency: 8,
            requests_per_minute: None,
            timeout: Duration::from_secs(300),
            retries: 6,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(300),
            seed: 0,
            max_length: None,
            input_price: None,
            output_price: None,
            patterns: false,
            extended_sampling: None,
            chat_template_kwargs: ChatKwargs::default(),
            budget: None,
            stop: None,
        }
    }

    /// Checks the numbers.
    pub(crate) fn check(&self) -> Result<(), HttpError> {
        let wrong = |what: &str, found: String, expected: &str| {
            Err(HttpError::Option { what: what.into(), found, expected: expected.into() })
        };
        if self.concurrency == 0 {
            return wrong("concurrency", "0".into(), "at least 1");
        }
        if let Some(rate) = self.requests_per_minute.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return wrong("requests_per_minute", rate.to_string(), "a positive number");
        }
        if self.timeout.is_zero() {
            return wrong("timeout", "0".into(), "a positive number of seconds");
        }
        for (name, price) in [("input_price", self.input_price), ("output_price", self.output_price)] {
            if let Some(price) = price.filter(|price| !(price.is_finite() && *price >= 0.0)) {
                return wrong(name, price.to_string(), "the price of a million tokens");
            }
        }
        if !self.chat_template_kwargs.is_empty() {
            let found = self.chat_template_kwargs.to_string();
            if self.api == Api::Completions {
                return wrong("chat_template_kwargs", found, "api = \"chat\": with completions no chat is rendered");
            }
            if self.is_openai() {
                return wrong(
                    "chat_template_kwargs",
                    found,
                    "none for api.openai.com, which does not accept this setting",
                );
            }
        }
        if self.budget.is_some() && (self.input_price.is_none() || self.output_price.is_none()) {
            return Err(HttpError::Prices { model: self.spec.model.clone() });
        }
        Ok(())
    }

    /// Cost of tokens, 0 without prices.
    pub fn cost(&self, prompt_tokens: f64, completion_tokens: f64) -> f64 {
        let price = |price: Option<f64>| price.unwrap_or(0.0) / 1e6;
        prompt_tokens * price(self.input_price) + completion_tokens * price(self.output_price)
    }

    /// The settings of a sampling, with their values, that matter and that the server does not take.
    pub fn untaken(&self, sampling: &Sampling) -> Vec<String> {
        if self.extended_sampling.unwrap_or(!self.is_openai()) {
            return vec![];
        }
        let drawn = !sampling.is_greedy();
        let mut found = vec![];
        found.extend(sampling.top_k.filter(|_| drawn).map(|k| format!("top_k {k}")));
        found.extend(sampling.min_p.filter(|_| drawn).map(|p| format!("min_p {p}")));
        if sampling.repetition_penalty != 1.0 {
            found.push(format!("repetition_penalty {}", sampling.repetition_penalty));
        }
        found
    }

    /// Takes out of a sampling what the server does not take, and says what that was.
    pub fn drop_extended(&self, sampling: &mut Sampling) -> Vec<String> {
        let found = self.untaken(sampling);
        if !found.is_empty() {
            (sampling.top_k, sampling.min_p, sampling.repetition_penalty) = (None, None, 1.0);
        }
        found
    }

    /// Whether the server is OpenAI's own, which refuses what it does not know.
    pub(crate) fn is_openai(&self) -> bool {
        self.spec.url.starts_with("https://api.openai.com/")
    }

    /// Whether the default key may be sent there.
    pub(crate) fn is_trusted(&self) -> bool {
        let url = reqwest::Url::parse(&self.spec.url);
        url.is_ok_and(|url| url.scheme() == "https" || url.host_str().is_some_and(is_this_machine))
    }
}

/// Tokens of the prompt and tokens generated that an answer is charged for: of a scored text one is generated.
pub fn billed(request: &Request, usage: &Usage) -> (usize, usize) {
    match request {
        Request::Generate { .. } => (usage.prompt_tokens, usage.completion_tokens),
        _ => (usage.prompt_tokens + usage.completion_tokens, 1),
    }
}

/// Whether a host is this machine.
pub(crate) fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_are_read() {
        let parse = |text: &str| EndpointSpec::parse(text).map(|spec| (spec.model, spec.url));
        let pair = |model: &str, url: &str| (model.to_owned(), url.to_owned());
        assert_eq!(parse("openai:gpt-4o-mini").unwrap(), pair("gpt-4o-mini", OPENAI_URL));
        assert_eq!(parse("openai:org/m@v1@http://host:8000/v1/").unwrap(), pair("org/m@v1", "http://host:8000/v1"));
        for (bad, says) in [
            ("openai:", "openai:MODEL@URL"),
            ("openai:m@host/v1", "openai:MODEL@URL"),
            ("openai:@http://host", "openai:MODEL@URL"),
            ("openai:m@http://", "an address such as"),
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
        for secret in ["openai:m@https://user:sk-secret@host/v1", "openai:m@https://host/v1?key=sk-secret"] {
            let error = parse(secret).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("sk-secret"), "{error}");
            assert!(error.to_string().contains("environment"), "{error}");
        }
    }

    #[test]
    fn the_default_key_stays_on_safe_ways() {
        let trusted =
            |url: &str| EndpointOptions::new(EndpointSpec { model: "m".into(), url: url.into() }).is_trusted();
        assert!(trusted("https://example.org/v1") && trusted("http://localhost:1/v1") && trusted("http://127.0.0.1:1"));
        assert!(trusted("http://[::1]:1/v1"));
        assert!(!trusted("http://example.org/v1") && !trusted("http://10.0.0.1/v1"));
    }
}
