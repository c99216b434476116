//! Errors in OpenAI's form.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// Why the server does not start, or ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An option is wrong.
    #[error("{0}")]
    Option(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The machine cannot set up what serves.
    #[error("cannot set up the server: {0}")]
    Setup(std::io::Error),
    /// A model cannot be computed any more.
    #[error("{0}")]
    Engine(String),
}

/// Why a request gets no answer.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind, code, param: None, message: message.into() }
    }

    /// The request is wrong.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    /// A parameter of the request is wrong.
    pub(crate) fn parameter(name: &str, message: impl Into<String>) -> Self {
        Self { param: Some(name.to_owned()), ..Self::bad(message) }
    }

    /// A parameter, or its value, has no meaning here and would change the answer.
    pub(crate) fn unsupported(name: &str, message: impl Into<String>) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::parameter(name, message) }
    }

    /// Prompt and new tokens do not fit into the model's context.
    pub(crate) fn too_long(message: impl Into<String>) -> Self {
        Self { code: Some("context_length_exceeded"), ..Self::parameter("messages", message) }
    }

    /// No model of this name is served.
    pub(crate) fn no_model(name: &str, served: &[&str]) -> Self {
        let message = format!("no model {name:?} is served; expected one of: {}", served.join(", "));
        let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message);
        Self { param: Some("model".to_owned()), ..error }
    }

    /// There is nothing at this address.
    pub(crate) fn no_route(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("not_found"), format!("{path}: no such address"))
    }

    /// The address takes another method.
    pub(crate) fn no_method(method: &str, path: &str) -> Self {
        let message = format!("{path} does not take {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", Some("method_not_allowed"), message)
    }

    /// The key is missing or wrong.
    pub(crate) fn unauthorized() -> Self {
        let message = "the API key is missing or wrong; expected the header Authorization: Bearer KEY";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    /// The body is longer than is taken.
    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the body is longer than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("body_too_large"), message)
    }

    /// The body is of another type than JSON.
    pub(crate) fn media_type() -> Self {
        let message = "expected the header Content-Type: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", Some("unsupported_media_type"), message)
    }

    /// Too many requests wait already.
    pub(crate) fn queue_full(limit: usize) -> Self {
        let message = format!("{limit} generations are waiting already; try again later");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full"), message)
    }

    /// The request took longer than is allowed.
    pub(crate) fn timed_out(seconds: u64) -> Self {
        let message = format!("the request took longer than the limit of {seconds} s");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", Some("timeout"), message)
    }

    /// The body did not arrive in time.
    pub(crate) fn slow_body(seconds: u64) -> Self {
        let message = format!("the body did not arrive within {seconds} s");
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", Some("timeout"), message)
    }

    /// The server ends.
    pub(crate) fn ending() -> Self {
        let message = "the server is shutting down";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("shutting_down"), message)
    }

    /// The server is at fault.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None, message)
    }

    /// The error as OpenAI's servers write it.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}
