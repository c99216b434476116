//! One HTTP exchange, and what its outcome means for the next attempt.

use std::time::{Duration, SystemTime};

use reqwest::{Client, Response, StatusCode, header};
use serde_json::Value;

use crate::{
    EndpointOptions, HttpError,
    date::retry_after,
    key::{ApiKey, DEFAULT_VARIABLE},
    options::is_this_machine,
    rolling::TOKENIZE,
};

/// Most bytes of an answer that are read.
pub(crate) const LONGEST: usize = 64 << 20;

/// Most characters of a server's message that are shown.
const SHOWN: usize = 300;

/// Why an exchange brought no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Trying again may help. The flag says whether the server may have done the work.
    Passing { reason: String, worked: bool },
    /// The server wants fewer requests.
    Throttled { reason: String, wait: Option<Duration> },
    /// A filter of the server refused the prompt of this one request.
    Filtered { reason: String },
    /// An answer came, and the same that cannot be used would come again.
    Useless { reason: String },
    /// Trying again does not help.
    Final(HttpError),
}

/// A connection to one server.
#[derive(Debug)]
pub(crate) struct Transport {
    client: Client,
    base: String,
    key: Option<ApiKey>,
    variable: String,
}

impl Transport {
    pub(crate) fn new(options: &EndpointOptions) -> Result<Self, HttpError> {
        let variable = options.api_key_env.clone().unwrap_or_else(|| DEFAULT_VARIABLE.to_owned());
        let allowed = options.api_key_env.is_some() || options.is_trusted();
        let key = if allowed { ApiKey::from_env(&variable) } else { None };
        if let Some(key) = &key
            && key.header().is_none()
        {
            return Err(HttpError::Key {
                url: options.spec.url.clone(),
                reason: format!("the content of {variable} has characters that are not allowed in a key"),
                variable,
            });
        }
        let setup = |error: &dyn std::fmt::Display| HttpError::Setup(error.to_string());
        let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| setup(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("harness/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(options.timeout);
        let host = reqwest::Url::parse(&options.spec.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        if host.is_some_and(|host| is_this_machine(&host)) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| setup(&error))?;
        Ok(Self { client, base: options.spec.url.clone(), key, variable })
    }

    /// Whether there is a key.
    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The variable the key is looked for in.
    pub(crate) fn variable(&self) -> &str {
        &self.variable
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        // Tokens are told beside the API, not below it.
        let base = if path == TOKENIZE { self.base.trim_end_matches("/v1") } else { &self.base };
        format!("{base}{path}")
    }

    /// Posts JSON, or gets if there is no body, and reads JSON. What comes back, an answer or a reason, does not hold the
    /// key.
    pub(crate) async fn exchange(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let response = self.send(path, body).await?;
        self.whole(path, response).await
    }

    /// Sends a request and waits for the beginning of its answer.
    pub(crate) async fn send(&self, path: &str, body: Option<&Value>) -> Result<Response, Failure> {
        let url = self.url(path);
        let mut request = match body {
            Some(body) => {
                self.client.post(&url).header(header::CONTENT_TYPE, "application/json").body(body.to_string())
            }
            None => self.client.get(&url),
        };
        if let Some(value) = self.key.as_ref().and_then(ApiKey::header) {
            request = request.header(header::AUTHORIZATION, value);
        }
        request.send().await.map_err(|error| self.broken(&error))
    }

    /// Reads a whole answer.
    pub(crate) async fn whole(&self, path: &str, mut response: Response) -> Result<Value, Failure> {
        let url = self.url(path);
        let status = response.status();
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = wait.and_then(|value| retry_after(value, SystemTime::now()));
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.map(|to| self.scrub(to));
        let mut bytes = vec![];
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Err(self.broken(&error)),
            }
            if bytes.len() > LONGEST {
                let reason = format!("an answer of more than {} MiB", LONGEST >> 20);
                return Err(Failure::Passing { reason, worked: true });
            }
        }
        let text = self.scrub(&String::from_utf8_lossy(&bytes));
        if status.is_success() {
            let mut body = serde_json::from_slice(&bytes).map_err(|error| Failure::Passing {
                reason: self.scrub(&if is_html(&text) {
                    format!("a web page instead of JSON{}", title(&text))
                } else if text.trim().is_empty() {
                    "an empty answer".to_owned()
                } else {
                    format!("an answer that is not JSON ({error}): {:?}", shorten(&text))
                }),
                worked: true,
            })?;
            self.scrub_json(&mut body);
            // Gateways wrap what the server behind them said in an answer of their own.
            return match wrapped_status(&body) {
                Some(status) => Err(self.refusal(&url, status, &text, wait, location)),
                None => Ok(body),
            };
        }
        Err(self.refusal(&url, status, &text, wait, location))
    }

    /// What an error in the midst of a stream means.
    pub(crate) fn told(&self, path: &str, body: &Value) -> Failure {
        let text = self.scrub(&body.to_string());
        match wrapped_status(body) {
            Some(status) => self.refusal(&self.url(path), status, &text, None, None),
            None => Failure::Passing { reason: message(&text, |found| self.scrub(found)), worked: true },
        }
    }

    /// Takes the key out of an answer.
    pub(crate) fn scrub_json(&self, body: &mut Value) {
        if let Some(key) = &self.key {
            key.scrub_json(body);
        }
    }

    /// What a status other than success means.
    fn refusal(
        &self,
        url: &str,
        status: StatusCode,
        text: &str,
        wait: Option<Duration>,
        to: Option<String>,
    ) -> Failure {
        let message = message(text, |found| self.scrub(found));
        let url = url.to_owned();
        match status.as_u16() {
            400 | 403 | 422 | 451 if is_filtered(&message) => Failure::Filtered { reason: message },
            401 | 403 => {
                let sent = if self.has_key() { "the key was refused" } else { "a key is needed and none is set" };
                let reason = format!("{sent} ({}: {message})", status.as_u16());
                Failure::Final(HttpError::Key { url, reason, variable: self.variable.clone() })
            }
            429 if message.contains("insufficient_quota") => {
                Failure::Final(HttpError::Refused { url, status: 429, message })
            }
            429 => Failure::Throttled { reason: format!("429: {message}"), wait },
            503 if wait.is_some() => Failure::Throttled { reason: format!("503: {message}"), wait },
            300..=399 => {
                let found = format!("a redirection to {}", to.unwrap_or_else(|| "nowhere".into()));
                Failure::Final(HttpError::Address { url, found })
            }
            404 | 405 if is_html(text) || text.trim().is_empty() => {
                Failure::Final(HttpError::Address { url, found: format!("{status}") })
            }
            400 | 413 | 422 if is_too_long(&message) => Failure::Final(HttpError::Request { reason: message }),
            408 | 409 | 425 | 500..=599 => {
                Failure::Passing { reason: format!("{}: {message}", status.as_u16()), worked: false }
            }
            code => Failure::Final(HttpError::Refused { url, status: code, message }),
        }
    }

    /// A connection that failed. It names neither key nor headers.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> Failure {
        let what = if error.is_timeout() {
            "no answer within the time limit"
        } else if error.is_connect() {
            "cannot connect"
        } else {
            "the connection broke"
        };
        let mut deepest: &dyn std::error::Error = error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        let reason = self.scrub(&format!("{what} ({deepest})"));
        Failure::Passing { reason, worked: !error.is_connect() }
    }

    fn scrub(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.scrub(text))
    }
}

/// What a body says is wrong, without the key, which may be written in JSON's escapes; `scrub` comes before the text is
/// cut, so that no part of a key stays.
fn message(text: &str, scrub: impl Fn(&str) -> String) -> String {
    if is_html(text) {
        return format!("a web page{}", title(text));
    }
    let json: Option<Value> = serde_json::from_str(text).ok();
    let found = json.as_ref().and_then(|json| {
        let error = json.get("error").unwrap_or(json);
        let text =
            error.as_str().or_else(|| error.get("message")?.as_str()).or_else(|| json.get("detail")?.as_str())?;
        let code = error.get("code").and_then(Value::as_str).filter(|code| !text.contains(code));
        Some(code.map_or_else(|| text.to_owned(), |code| format!("{text} ({code})")))
    });
    let found = scrub(&found.unwrap_or_else(|| text.to_owned()));
    if found.trim().is_empty() { "no message".to_owned() } else { shorten(&found) }
}

/// Whether a message says that the prompt does not fit.
fn is_too_long(message: &str) -> bool {
    let message = message.to_lowercase();
    ["context length", "context_length", "maximum length", "too long", "longer than the maximum", "reduce the length"]
        .iter()
        .any(|sign| message.contains(sign))
}

/// Whether a message says that a filter held the prompt back.
fn is_filtered(message: &str) -> bool {
    let message = message.to_lowercase();
    let signs = [
        "content_filter",
        "content management policy",
        "content_policy",
        "content policy",
        "responsibleaipolicy",
        "data_inspection_failed",
        "safety system",
        "requires moderation",
    ];
    signs.iter().any(|sign| message.contains(sign))
}

/// The status that an error in the body of a successful exchange stands for, where there is no answer beside it and the
/// error says which.
fn wrapped_status(body: &Value) -> Option<StatusCode> {
    let error = body.get("error").filter(|error| !error.is_null() && body.get("choices").is_none())?;
    let number = |key: &str| {
        let value = error.get(key)?;
        let code = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
        StatusCode::from_u16(u16::try_from(code).ok()?)
            .ok()
            .filter(|code| code.is_client_error() || code.is_server_error())
    };
    let named = |key: &str| match error.get(key)?.as_str()? {
        "invalid_request_error" | "content_filter" => Some(StatusCode::BAD_REQUEST),
        "authentication_error" => Some(StatusCode::UNAUTHORIZED),
        "not_found_error" | "model_not_found" => Some(StatusCode::NOT_FOUND),
        "rate_limit_error" | "rate_limit_exceeded" => Some(StatusCode::TOO_MANY_REQUESTS),
        _ => None,
    };
    ["code", "status"].iter().find_map(|key| number(key)).or_else(|| ["code", "type"].iter().find_map(|key| named(key)))
}

pub(crate) fn is_html(text: &str) -> bool {
    let start = text.trim_start().get(..15).unwrap_or(text.trim_start()).to_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html") || start.starts_with("<head")
}

fn title(text: &str) -> String {
    let title = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    title.map_or_else(String::new, |(title, _)| format!(" titled {:?}", shorten(title.trim())))
}

fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN { line } else { line.chars().take(SHOWN).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_the_usual_places() {
        let message = |text: &str| message(text, str::to_owned);
        assert_eq!(
            message(r#"{"error": {"message": "no such model", "code": "model_not_found"}}"#),
            "no such model (model_not_found)"
        );
        assert_eq!(message(r#"{"error": "busy"}"#), "busy");
        assert_eq!(message(r#"{"object": "error", "message": "bad"}"#), "bad");
        assert_eq!(message(r#"{"detail": "Not Found"}"#), "Not Found");
        assert_eq!(message("<html><title>502 Bad Gateway</title></html>"), "a web page titled \"502 Bad Gateway\"");
        assert_eq!(message(""), "no message");
        assert!(is_too_long("This model's maximum context length is 8192 tokens."));
        assert!(is_filtered("filtered due to Azure OpenAI's content management policy (content_filter)"));
        assert!(is_html("  <!DOCTYPE html><html>") && !is_html("{}") && !is_html("<é"));
    }

    #[test]
    fn errors_in_the_body_of_a_success_have_their_status() {
        let status = |body: &str| wrapped_status(&serde_json::from_str(body).unwrap()).map(|status| status.as_u16());
        assert_eq!(status(r#"{"error": {"message": "busy", "code": 429}}"#), Some(429));
        assert_eq!(status(r#"{"error": {"message": "gone", "code": "502"}}"#), Some(502));
        assert_eq!(status(r#"{"error": {"message": "no", "type": "invalid_request_error", "code": null}}"#), Some(400));
        assert_eq!(status(r#"{"error": {"message": "overloaded"}}"#), None);
        assert_eq!(status(r#"{"error": null, "choices": []}"#), None);
    }
}
