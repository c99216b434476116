//! The addresses of the API.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{
        IntoResponse as _, Response,
        sse::{Event as Sent, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use harness_core::LanguageModel as _;
use serde_json::{Value, json};

use crate::{
    ask::{Chat, Completion, Detokenize, PromptInput, Tokenize},
    error::ApiError,
    metrics::Metrics,
    options::ServerOptions,
    reply::{Chunks, Form, whole},
    served::{Served, Submitted, Task},
};

/// How long the body of a request may take to arrive.
const BODY: Duration = Duration::from_secs(60);
/// After how much silence a stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(15);

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) models: Vec<Served>,
    pub(crate) options: ServerOptions,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: u64,
    pub(crate) requests: AtomicU64,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The addresses, with the method that each takes.
const ROUTES: [(&str, Method); 8] = [
    ("/v1/models", Method::GET),
    ("/v1/chat/completions", Method::POST),
    ("/v1/completions", Method::POST),
    ("/tokenize", Method::POST),
    ("/detokenize", Method::POST),
    ("/tokenizer_info", Method::GET),
    ("/health", Method::GET),
    ("/metrics", Method::GET),
];
const MODEL: &str = "/v1/models/";

/// Answers a request.
pub(crate) async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path();
    let route = match path.strip_prefix(MODEL) {
        Some(_) => Some((MODEL, &Method::GET)),
        // Clients whose base is .../v1 look for all addresses there.
        None => {
            let known = |path| ROUTES.iter().find(|(known, _)| *known == path);
            let found = known(path).or_else(|| known(path.strip_prefix("/v1")?));
            found.map(|(known, method)| (*known, method))
        }
    };
    let name = route.map_or("other", |(name, _)| name);
    let answer = match route {
        _ if name != "/health" && !is_allowed(&shared, &request) => Err(ApiError::unauthorized()),
        None => Err(ApiError::no_route(path)),
        Some((_, method)) if request.method() != method => Err(ApiError::no_method(request.method().as_str(), path)),
        Some((name, _)) => answer(&shared, name, request).await,
    };
    let response = answer.unwrap_or_else(ApiError::into_response);
    shared.metrics.replied(name, response.status().as_u16());
    response
}

fn is_allowed(shared: &Shared, request: &Request) -> bool {
    let Some(key) = &shared.options.key else { return true };
    let named = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    named.and_then(|named| named.strip_prefix("Bearer ")).is_some_and(|named| key.is(named))
}

async fn answer(shared: &Arc<Shared>, name: &str, request: Request) -> Result<Response, ApiError> {
    match name {
        "/health" => Ok(health(shared)),
        "/metrics" => Ok(metrics(shared)),
        "/v1/models" => {
            let list: Vec<Value> = shared.models.iter().map(|model| describe(shared, model)).collect();
            Ok(Json(json!({"object": "list", "data": list})).into_response())
        }
        MODEL => {
            let name = request.uri().path().strip_prefix(MODEL).unwrap_or_default();
            Ok(Json(describe(shared, find(shared, name)?)).into_response())
        }
        "/v1/chat/completions" => chat(shared, &body(shared, request).await?).await,
        "/v1/completions" => completion(shared, &body(shared, request).await?).await,
        "/tokenizer_info" => Ok(Json(find_by_texts(shared, None)?.tokenizer_info()).into_response()),
        "/detokenize" => detokenize(shared, &body(shared, request).await?).await,
        _ => tokenize(shared, &body(shared, request).await?).await,
    }
}

fn health(shared: &Shared) -> Response {
    match shared.models.iter().find_map(|model| model.desk.ended()) {
        None => Json(json!({"status": "ok"})).into_response(),
        Some(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "failed", "reason": reason}))).into_response()
        }
    }
}

fn metrics(shared: &Shared) -> Response {
    // Models over one base share a desk.
    let desks = shared.models.iter().filter(|model| model.place == 0).map(|model| model.desk.counts());
    let (waiting, running) = desks.fold((0, 0), |(a, b), (waiting, running)| (a + waiting, b + running));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shared.metrics.text(waiting, running)).into_response()
}

fn describe(shared: &Shared, model: &Served) -> Value {
    json!({"id": model.of.name, "object": "model", "created": shared.started, "owned_by": "harness",
        "root": model.of.name, "parent": model.of.base, "max_model_len": model.max_length()})
}

fn find<'a>(shared: &'a Shared, name: &str) -> Result<&'a Served, ApiError> {
    shared.models.iter().find(|model| model.of.name == name).ok_or_else(|| {
        let names: Vec<&str> = shared.models.iter().map(|model| model.of.name.as_str()).collect();
        ApiError::no_model(name, &names)
    })
}

/// The model whose tokenizer is asked for; any, where no name is given and all have the same.
fn find_by_texts<'a>(shared: &'a Shared, name: Option<&str>) -> Result<&'a Served, ApiError> {
    match (name, &shared.models[..]) {
        (Some(name), _) => find(shared, name),
        (None, [first, others @ ..]) if others.iter().all(|other| other.tokenizes_like(first)) => Ok(first),
        (None, _) => Err(ApiError::parameter(
            "model",
            "which model? those that are served have different tokenizers or chat templates",
        )),
    }
}

/// The body of a request, within the limits on its length and time.
async fn body(shared: &Shared, request: Request) -> Result<Vec<u8>, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // A page of another site cannot send this type without being allowed to.
    if !kind.trim_start().to_ascii_lowercase().starts_with("application/json") {
        return Err(ApiError::media_type());
    }
    let limit = shared.options.body_bytes;
    let reading = async {
        let (mut body, mut pieces) = (vec![], request.into_body().into_data_stream());
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| ApiError::bad(format!("the body broke off: {error}")))?;
            if body.len() + piece.len() > limit {
                return Err(ApiError::too_large(limit));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    };
    tokio::time::timeout(BODY, reading).await.unwrap_or_else(|_| Err(ApiError::slow_body(BODY.as_secs())))
}

/// Runs what takes a while where it blocks nobody.
async fn aside<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let shared = Arc::clone(shared);
    let done = tokio::task::spawn_blocking(move || work(&shared)).await;
    done.unwrap_or_else(|error| Err(ApiError::internal(error.to_string())))
}

async fn chat(shared: &Arc<Shared>, body: &[u8]) -> Result<Response, ApiError> {
    let chat = Chat::read(body)?;
    let (stream, top) = (chat.stream, chat.logprobs.unwrap_or(0));
    let form = form(shared, &chat.model, true, chat.choosing.n)?;
    let form = Form { logprobs: chat.logprobs.is_some(), include_usage: chat.include_usage, ..form };
    let submitted = aside(shared, move |shared| {
        let served = find(shared, &chat.model)?;
        let prompts = vec![PromptInput::Text(served.render(&chat.messages, chat.continues)?)];
        let (choosing, max_tokens) = (chat.choosing, chat.max_tokens);
        served.submit(&Task { prompts, choosing, max_tokens, top, prompt_top: None })
    });
    reply(form, submitted.await?, stream).await
}

async fn completion(shared: &Arc<Shared>, body: &[u8]) -> Result<Response, ApiError> {
    let asked = Completion::read(body)?;
    let (stream, top) = (asked.stream, asked.logprobs.unwrap_or(0));
    let form = form(shared, &asked.model, false, asked.choosing.n)?;
    let (logprobs, include_usage) = (asked.logprobs.is_some(), asked.include_usage);
    let form = Form { logprobs, echo: asked.echo, include_usage, ..form };
    let submitted = aside(shared, move |shared| {
        let prompt_top = asked.logprobs.filter(|_| asked.echo);
        let (prompts, choosing, max_tokens) = (asked.prompts, asked.choosing, Some(asked.max_tokens));
        find(shared, &asked.model)?.submit(&Task { prompts, choosing, max_tokens, top, prompt_top })
    });
    reply(form, submitted.await?, stream).await
}

fn form(shared: &Shared, model: &str, chat: bool, n: usize) -> Result<Form, ApiError> {
    let served = find(shared, model)?;
    let number = shared.requests.fetch_add(1, Ordering::Relaxed);
    Ok(Form {
        chat,
        id: format!("{}-{:x}-{number}", if chat { "chatcmpl" } else { "cmpl" }, shared.started),
        created: now(),
        model: served.of.name.clone(),
        fingerprint: served.of.model.identity().digest().short(),
        logprobs: false,
        echo: false,
        include_usage: false,
        n,
        prompts: vec![],
    })
}

async fn reply(form: Form, submitted: Submitted, stream: bool) -> Result<Response, ApiError> {
    let Submitted { prompts, events } = submitted;
    let form = Form { prompts, ..form };
    if !stream {
        return Ok(Json(whole(&form, events).await?).into_response());
    }
    let chunks = Chunks::begin(form, events).await?;
    let pieces = stream::unfold(chunks, |mut chunks| async move {
        let piece = chunks.next().await?;
        Some((Ok::<_, Infallible>(Sent::default().data(piece)), chunks))
    });
    Ok(Sse::new(pieces).keep_alive(KeepAlive::new().interval(ALIVE)).into_response())
}

async fn tokenize(shared: &Arc<Shared>, body: &[u8]) -> Result<Response, ApiError> {
    let (model, asked) = Tokenize::read(body)?;
    let answer = aside(shared, move |shared| {
        let served = find_by_texts(shared, model.as_deref())?;
        let tokens = served.tokenize(&asked)?;
        Ok(json!({"count": tokens.len(), "max_model_len": served.max_length(), "tokens": tokens}))
    });
    Ok(Json(answer.await?).into_response())
}

async fn detokenize(shared: &Arc<Shared>, body: &[u8]) -> Result<Response, ApiError> {
    let Detokenize { model, tokens } = Detokenize::read(body)?;
    let answer = aside(shared, move |shared| {
        Ok(json!({"prompt": find_by_texts(shared, model.as_deref())?.detokenize(&tokens)?}))
    });
    Ok(Json(answer.await?).into_response())
}
