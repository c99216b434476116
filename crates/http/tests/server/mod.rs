//! An OpenAI-compatible server over any language model, with faults on demand: the other end of the client's tests.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod scripted;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use harness_core::{ChatMessage, ChatOptions, ChatRole, Control, Finish, LanguageModel, Output, Request, Sampling};
use serde_json::{Value, json};

/// What a server does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 429 with `Retry-After: 0`.
    Throttle,
    /// 429 that asks to wait a day.
    LongThrottle,
    /// 500 with a JSON message.
    Broken,
    /// No answer at all.
    Silent,
    /// The connection is closed in the middle of the answer.
    Cut,
    /// An answer that is no JSON.
    Garbage,
    /// A web page with status 200.
    Html,
    /// Token counts that cannot be true, beside a right answer.
    WrongCount,
    /// A body with status 200.
    Says(&'static str),
    /// A message with another status.
    Refuses(u16, &'static str),
}

impl Fault {
    /// All that pass when asked again.
    pub(crate) const PASSING: [Self; 7] =
        [Self::Throttle, Self::Broken, Self::Silent, Self::Cut, Self::Garbage, Self::Html, Self::WrongCount];
}

/// Decides about the n-th request for a body: how often was it asked before?
pub(crate) type Faults = Box<dyn Fn(usize, &Value) -> Option<Fault> + Send + Sync>;

/// A running server; it ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

pub(crate) struct Shared {
    model: Arc<dyn LanguageModel>,
    name: String,
    faults: Faults,
    key: Option<String>,
    seen: Mutex<BTreeMap<String, usize>>,
    /// Every body that came, and its `Authorization`.
    pub(crate) log: Mutex<Vec<(Value, Option<String>)>>,
    in_flight: AtomicUsize,
    /// Most requests there were at once.
    pub(crate) most_in_flight: AtomicUsize,
}

impl Server {
    /// Serves a model under a name.
    pub(crate) fn start(model: Arc<dyn LanguageModel>, name: &str, key: Option<&str>, faults: Faults) -> Self {
        let shared = Arc::new(Shared {
            model,
            name: name.to_owned(),
            faults,
            key: key.map(str::to_owned),
            seen: Mutex::default(),
            log: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let router = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(completions))
            .with_state(Arc::clone(&shared));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { address, shared, _runtime: runtime }
    }

    /// Serves a model that makes no faults.
    pub(crate) fn sound(model: Arc<dyn LanguageModel>, name: &str) -> Self {
        Self::start(model, name, None, Box::new(|_, _| None))
    }

    /// Base of the API.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The bodies that came.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.shared.log.lock().unwrap().iter().map(|(body, _)| body.clone()).collect()
    }
}

type Reply = Response<Body>;

fn json_reply(status: StatusCode, body: &Value) -> Reply {
    Response::builder().status(status).header("content-type", "application/json").body(body.to_string().into()).unwrap()
}

fn refusal(status: StatusCode, message: &str) -> Reply {
    json_reply(status, &json!({"error": {"message": message, "type": "test", "code": null}}))
}

fn authorised(shared: &Shared, headers: &HeaderMap) -> Result<Option<String>, Box<Reply>> {
    let sent = headers.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
    match &shared.key {
        Some(key) if sent.as_deref() != Some(&format!("Bearer {key}")) => {
            // A careless server repeats what it was sent.
            let message = format!("Incorrect API key provided: {}", sent.unwrap_or_default());
            Err(Box::new(refusal(StatusCode::UNAUTHORIZED, &message)))
        }
        _ => Ok(sent),
    }
}

async fn models(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Reply {
    if let Err(reply) = authorised(&shared, &headers) {
        return *reply;
    }
    let length = shared.model.capabilities().max_length;
    json_reply(StatusCode::OK, &json!({"object": "list", "data": [{"id": shared.name, "max_model_len": length}]}))
}

async fn chat(state: State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Reply {
    handle(state, headers, body, true).await
}

async fn completions(state: State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Reply {
    handle(state, headers, body, false).await
}

async fn handle(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes, chat: bool) -> Reply {
    let sent = match authorised(&shared, &headers) {
        Ok(sent) => sent,
        Err(reply) => return *reply,
    };
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return refusal(StatusCode::BAD_REQUEST, "the body is no JSON");
    };
    shared.log.lock().unwrap().push((body.clone(), sent));
    let before = {
        let mut seen = shared.seen.lock().unwrap();
        let count = seen.entry(body.to_string()).or_default();
        *count += 1;
        *count - 1
    };
    let fault = (shared.faults)(before, &body);
    match fault {
        Some(Fault::Throttle) => {
            let mut reply = refusal(StatusCode::TOO_MANY_REQUESTS, "slow down");
            reply.headers_mut().insert("retry-after", "0".parse().unwrap());
            return reply;
        }
        Some(Fault::LongThrottle) => {
            let mut reply = refusal(StatusCode::TOO_MANY_REQUESTS, "come back tomorrow");
            reply.headers_mut().insert("retry-after", "86400".parse().unwrap());
            return reply;
        }
        Some(Fault::Broken) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, "the server stumbled"),
        Some(Fault::Silent) => std::future::pending::<()>().await,
        Some(Fault::Garbage) => return "{\"choices\": [{\"message\": ".into_response(),
        Some(Fault::Html) => return "<!DOCTYPE html><html><title>Sign in</title></html>".into_response(),
        Some(Fault::Cut) => {
            let pieces: Vec<Result<Bytes, std::io::Error>> =
                vec![Ok("{\"choices\"".into()), Err(std::io::Error::other("cut"))];
            return Body::from_stream(futures_util::stream::iter(pieces)).into_response();
        }
        Some(Fault::Says(body)) => return json_reply(StatusCode::OK, &serde_json::from_str(body).unwrap()),
        Some(Fault::Refuses(status, message)) => return refusal(StatusCode::from_u16(status).unwrap(), message),
        Some(Fault::WrongCount) | None => {}
    }
    let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most_in_flight.fetch_max(now, Ordering::SeqCst);
    let work = Arc::clone(&shared);
    let answered =
        tokio::task::spawn_blocking(move || if chat { answer_chat(&work, &body) } else { answer_text(&work, &body) });
    let answered = answered.await.unwrap();
    shared.in_flight.fetch_sub(1, Ordering::SeqCst);
    match answered {
        Ok(mut body) => {
            if fault == Some(Fault::WrongCount) {
                body["usage"] = json!({"prompt_tokens": -7, "completion_tokens": 4_000_000_000u64});
            }
            json_reply(StatusCode::OK, &body)
        }
        Err(message) => refusal(StatusCode::BAD_REQUEST, &message),
    }
}

fn sampling(body: &Value) -> Sampling {
    let number = |key: &str| body.get(key).and_then(Value::as_f64);
    let count = |key: &str| body.get(key).and_then(Value::as_u64);
    Sampling {
        max_new_tokens: count("max_tokens").unwrap_or(16) as usize,
        temperature: number("temperature").unwrap_or(1.0),
        top_p: number("top_p"),
        top_k: count("top_k").map(|k| k as usize),
        min_p: number("min_p"),
        repetition_penalty: number("repetition_penalty").unwrap_or(1.0),
        seed: count("seed").unwrap_or(0),
        pattern: body.get("guided_regex").and_then(Value::as_str).map(str::to_owned),
        top_logprobs: count("top_logprobs").map(|k| k as usize),
        ..Sampling::default()
    }
}

fn one(model: &dyn LanguageModel, request: Request) -> Result<harness_core::Response, String> {
    let mut found = None;
    let result = model.answer(&[request], &mut |_, response| {
        found = Some(response);
        Control::Continue
    });
    result.map_err(|error| error.to_string())?;
    found.ok_or_else(|| "the model gave no answer".to_owned())
}

fn stops(body: &Value) -> Vec<String> {
    let stops = body.get("stop").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    stops.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn generate(shared: &Shared, body: &Value, prompt: String) -> Result<(Value, Value, Value), String> {
    let request = Request::Generate { prompt, stop: stops(body), sampling: sampling(body) };
    let response = one(&*shared.model, request)?;
    if response.usage.truncated_tokens > 0 {
        return Err(format!(
            "This model's maximum context length is {} tokens, your messages have {}",
            shared.model.capabilities().max_length,
            response.usage.prompt_tokens
        ));
    }
    let usage =
        json!({"prompt_tokens": response.usage.prompt_tokens, "completion_tokens": response.usage.completion_tokens});
    let Output::Text { text, token_logprobs, finish, top_logprobs, .. } = response.output else {
        return Err("the model gave no text".into());
    };
    let content: Vec<Value> = top_logprobs
        .iter()
        .zip(&token_logprobs)
        .map(|(top, logprob)| {
            let token = top.first().map(|top| top.token.clone()).unwrap_or_default();
            json!({"token": token, "logprob": logprob, "top_logprobs": top})
        })
        .collect();
    let finish = if finish == Finish::Length { "length" } else { "stop" };
    Ok((json!({"text": text, "finish_reason": finish}), json!({"content": content}), usage))
}

fn answer_chat(shared: &Shared, body: &Value) -> Result<Value, String> {
    let messages: Vec<ChatMessage> =
        serde_json::from_value(body["messages"].clone()).map_err(|error| error.to_string())?;
    let prompt = if shared.model.capabilities().chat {
        let options = ChatOptions { add_generation_prompt: true };
        shared.model.apply_chat_template(&messages, options).map_err(|error| error.to_string())?
    } else {
        let role = |role| match role {
            ChatRole::System => "system",
            ChatRole::User => "user",
            ChatRole::Assistant => "assistant",
        };
        messages.iter().map(|message| format!("<{}> {}\n", role(message.role), message.content)).collect()
    };
    let (choice, logprobs, usage) = generate(shared, body, prompt)?;
    let message = json!({"role": "assistant", "content": choice["text"]});
    let logprobs = if body["logprobs"] == json!(true) { logprobs } else { Value::Null };
    Ok(json!({"object": "chat.completion", "model": shared.name, "usage": usage, "choices": [
        {"index": 0, "message": message, "finish_reason": choice["finish_reason"], "logprobs": logprobs}]}))
}

fn answer_text(shared: &Shared, body: &Value) -> Result<Value, String> {
    let prompt = body["prompt"].as_str().ok_or("a prompt was expected")?.to_owned();
    let echo = body["echo"] == json!(true);
    let vllm = body.get("prompt_logprobs").is_some();
    if !echo && !vllm {
        let (mut choice, _, usage) = generate(shared, body, prompt)?;
        choice["index"] = json!(0);
        return Ok(json!({"object": "text_completion", "model": shared.name, "usage": usage, "choices": [choice]}));
    }
    if shared.name.contains(if echo { "no-echo" } else { "no-prompt-logprobs" }) {
        return Err(format!("{} is not supported here", if echo { "echo" } else { "prompt_logprobs" }));
    }
    let tokens = shared.model.tokenize(&prompt).ok_or("no tokenizer")?;
    // All tokens at once after the prefix token; a special token at the beginning has no log-probability of its own, nor has
    // the first token without one.
    let whole = Request::LogLikelihood { context: String::new(), continuation: prompt.clone() };
    let Output::LogLikelihood { token_logprobs, .. } = one(&*shared.model, whole)?.output else {
        return Err("no score".into());
    };
    let special = tokens.len().saturating_sub(token_logprobs.len());
    let (mut offset, mut offsets, mut logprobs) = (0, vec![], vec![]);
    for (at, (_, text)) in tokens.iter().enumerate() {
        offsets.push(offset);
        logprobs.push(if at < special.max(1) { Value::Null } else { json!(token_logprobs[at - special]) });
        // A special token at the beginning is no part of the text.
        offset += if prompt[offset..].starts_with(text.as_str()) { text.len() } else { 0 };
    }
    let mut texts: Vec<&str> = tokens.iter().map(|(_, text)| text.as_str()).collect();
    let usage = json!({"prompt_tokens": texts.len(), "completion_tokens": 1});
    if vllm {
        let place = |((id, text), logprob): (&(u32, String), &Value)| match logprob {
            Value::Null => Value::Null,
            logprob => json!({id.to_string(): {"logprob": logprob, "rank": 2, "decoded_token": text}}),
        };
        let list: Vec<Value> = tokens.iter().zip(&logprobs).map(place).collect();
        return Ok(
            json!({"usage": usage, "choices": [{"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": list}]}),
        );
    }
    texts.push("x");
    offsets.push(offset);
    logprobs.push(json!(-1.0));
    let top: Vec<Value> =
        logprobs.iter().map(|logprob| if logprob.is_null() { Value::Null } else { json!({"?": logprob}) }).collect();
    let logprobs = json!({"tokens": texts, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets});
    Ok(
        json!({"usage": usage, "choices": [{"index": 0, "text": prompt, "finish_reason": "length", "logprobs": logprobs}]}),
    )
}
