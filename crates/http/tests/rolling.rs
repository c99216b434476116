//! Texts longer than a server's context are scored in windows.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response as Reply},
    routing::{get, post},
};
use harness_core::{Control, LanguageModel, Output, Request};
use harness_http::{Endpoint, EndpointOptions, EndpointSpec};
use serde_json::{Value, json};

/// Longest prompt with its answer.
const MAX_LENGTH: usize = 24;
/// What texts begin with.
const BOS: u64 = 1;

/// The log-probability of a token after another: what comes before does not matter, so windows add up exactly.
fn logprob(before: u64, token: u64) -> f64 {
    -(((before * 7 + token * 3) % 16) as f64) / 8.0
}

/// A token a byte.
fn tokenize(text: &str) -> Vec<u64> {
    std::iter::once(BOS).chain(text.bytes().map(u64::from)).collect()
}

#[derive(Default)]
struct Log {
    /// Tokens of the prompts that came.
    prompts: Mutex<Vec<usize>>,
    tells: bool,
}

async fn complete(State(log): State<Arc<Log>>, Json(body): Json<Value>) -> Reply {
    let prompt = match &body["prompt"] {
        Value::String(text) => tokenize(text),
        ids => ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect(),
    };
    log.prompts.lock().unwrap().push(prompt.len());
    if prompt.len() + 1 > MAX_LENGTH {
        let message = format!("This model's maximum context length is {MAX_LENGTH} tokens");
        return (StatusCode::BAD_REQUEST, Json(json!({"error": {"message": message}}))).into_response();
    }
    let text = |id: &u64| if *id == BOS { String::new() } else { char::from(*id as u8).to_string() };
    let mut tokens: Vec<String> = prompt.iter().map(text).collect();
    let mut logprobs: Vec<Value> = vec![Value::Null];
    logprobs.extend(prompt.windows(2).map(|pair| json!(logprob(pair[0], pair[1]))));
    tokens.push("x".into());
    logprobs.push(json!(-1.0));
    Json(json!({
        "choices": [{"text": "", "logprobs": {"tokens": tokens, "token_logprobs": logprobs}}],
        "usage": {"prompt_tokens": prompt.len(), "completion_tokens": 1},
    }))
    .into_response()
}

async fn tell(State(log): State<Arc<Log>>, Json(body): Json<Value>) -> Reply {
    if !log.tells {
        return StatusCode::NOT_FOUND.into_response();
    }
    Json(json!({"tokens": tokenize(body["prompt"].as_str().unwrap())})).into_response()
}

async fn models() -> Json<Value> {
    Json(json!({"data": [{"id": "m", "max_model_len": MAX_LENGTH}]}))
}

/// Log-probability and tokens of each text, or what went wrong.
type Answers = Result<Vec<(f64, usize)>, String>;

/// Answers about texts, and the lengths of the prompts that were sent for them.
fn scored(texts: &[String], tells: bool) -> (Answers, Vec<usize>) {
    let log = Arc::new(Log { tells, ..Log::default() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let router = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/completions", post(complete))
        .route("/tokenize", post(tell))
        .with_state(Arc::clone(&log));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let spec = EndpointSpec::parse(&format!("openai:m@http://{}/v1", listener.local_addr().unwrap())).unwrap();
    runtime.spawn(async move { axum::serve(listener, router).await });
    let endpoint = Endpoint::new(EndpointOptions::new(spec)).unwrap();
    let requests: Vec<Request> =
        texts.iter().map(|text| Request::RollingLogLikelihood { text: text.clone() }).collect();
    let mut found = vec![(f64::NAN, 0); texts.len()];
    let result = endpoint.answer(&requests, &mut |index, response| {
        let Output::RollingLogLikelihood { logprob, tokens } = response.output else { panic!("another output") };
        found[index] = (logprob, tokens);
        Control::Continue
    });
    let prompts = log.prompts.lock().unwrap().clone();
    (result.map(|()| found).map_err(|error| error.to_string()), prompts)
}

#[test]
fn windows_add_up_to_the_whole_text() {
    let texts: Vec<String> = [3, 21, 22, 23, 24, 25, 40, 129]
        .iter()
        .map(|n| "The river runs to the sea. ".repeat(9)[..*n].to_owned())
        .collect();
    let (found, prompts) = scored(&texts, true);
    for (text, (found, tokens)) in texts.iter().zip(found.unwrap()) {
        let expected: f64 = tokenize(text).windows(2).map(|pair| logprob(pair[0], pair[1])).sum();
        assert_eq!((found, tokens), (expected, text.len()), "{} letters", text.len());
    }
    assert!(prompts.iter().all(|length| *length < MAX_LENGTH), "nothing was too long: {prompts:?}");
}

#[test]
fn a_server_that_does_not_tell_its_tokens_is_asked_for_the_whole() {
    let short = ["A short one.".to_owned()];
    assert_eq!(scored(&short, false).0.unwrap()[0].1, short[0].len());
    let error = scored(&["A long one that does not fit into the context.".to_owned()], false).0.unwrap_err();
    assert!(error.contains("maximum context length is 24"), "{error}");
}
