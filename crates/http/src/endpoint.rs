//! An endpoint as a language model.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use harness_core::{
    Capabilities, ChatMessage, ChatOptions, Control, Digest, Finish, Hasher, LanguageModel, ModelError, ModelIdentity,
    ModelStats, Output, Request, Response, Usage,
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    Api, EndpointOptions, HttpError, LikelihoodApi,
    answer::Call,
    budget::Reservation,
    chat::chat_prompt,
    choice::Unreadable,
    job::Job,
    likelihood,
    limiter::{Backoff, Limiter},
    options::{OPENAI_URL, billed},
    rolling,
    transport::{Failure, Transport},
};

/// Throttled attempts count this part of a failed one.
const PATIENCE: u32 = 8;
/// How often it is looked whether the work is to end.
const TICK: Duration = Duration::from_millis(50);

/// What an endpoint has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EndpointStats {
    /// Requests sent, every attempt counted.
    pub sent: u64,
    /// Requests answered.
    pub answered: u64,
    /// Attempts that failed and were repeated.
    pub retried: u64,
    /// Attempts that the server throttled.
    pub throttled: u64,
    /// Answers whose token counts were missing or impossible and were replaced by upper bounds.
    pub counts_replaced: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// Cost in the currency of the prices; 0 without prices. Attempts that broke off count in full.
    pub cost: f64,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// Names of its models; empty where it does not tell.
    pub models: Vec<String>,
    /// Longest prompt and answer of this model, where it tells.
    pub max_length: Option<usize>,
}

/// A model behind an OpenAI-compatible server.
#[derive(Debug)]
pub struct Endpoint {
    pub(crate) options: EndpointOptions,
    identity: ModelIdentity,
    transport: Transport,
    pub(crate) runtime: Runtime,
    state: Mutex<State>,
    likelihood: Mutex<Option<LikelihoodApi>>,
    /// Whether the server has refused to give log-probabilities of what it generates.
    without_logprobs: AtomicBool,
}

#[derive(Debug)]
struct State {
    limiter: Limiter,
    backoff: Backoff,
    stats: EndpointStats,
}

/// A job that is to be sent.
#[derive(Clone, Copy)]
struct Open {
    job: usize,
    failed: u32,
    throttled: u32,
    not_before: Option<Instant>,
}

impl Endpoint {
    /// Prepares an endpoint; nothing is sent yet.
    ///
    /// # Errors
    /// If an option is wrong, or the machine cannot set up HTTP.
    pub fn new(options: EndpointOptions) -> Result<Self, HttpError> {
        options.check()?;
        let transport = Transport::new(&options)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| HttpError::Setup(error.to_string()))?;
        let api = match options.api {
            Api::Chat => "chat",
            Api::Completions => "completions",
        };
        let mut extra = BTreeMap::from([
            ("api".to_owned(), api.to_owned()),
            ("endpoint".to_owned(), options.spec.url.clone()),
            ("model".to_owned(), options.spec.model.clone()),
        ]);
        if let Some(length) = options.max_length {
            extra.insert("max_length".to_owned(), length.to_string());
        }
        if !options.chat_template_kwargs.is_empty() {
            extra.insert("chat_template_kwargs".to_owned(), options.chat_template_kwargs.to_string());
        }
        let identity = ModelIdentity {
            weights: Hasher::new("endpoint").part(&options.spec.url).part(&options.spec.model).finish(),
            adapter: None,
            tokenizer: Digest::of("the endpoint's"),
            chat_template: None,
            dtype: "remote".to_owned(),
            extra,
        };
        let state = State {
            limiter: Limiter::new(options.concurrency, options.requests_per_minute),
            backoff: Backoff::new(options.backoff, options.seed),
            stats: EndpointStats::default(),
        };
        let (likelihood, without_logprobs) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { options, identity, transport, runtime, state: Mutex::new(state), likelihood, without_logprobs })
    }

    /// The options.
    pub fn options(&self) -> &EndpointOptions {
        &self.options
    }

    /// What was done so far.
    pub fn usage(&self) -> EndpointStats {
        self.lock().stats
    }

    /// How many requests may be in flight at the moment.
    pub fn concurrency(&self) -> usize {
        self.lock().limiter.limit()
    }

    /// Whether a key is set, and the variable that it is looked for in.
    pub fn key(&self) -> (bool, &str) {
        (self.transport.has_key(), self.transport.variable())
    }

    /// Asks the server for its models: a call that costs nothing and shows a wrong address or key before work begins.
    ///
    /// # Errors
    /// If there is no server, it is no OpenAI-compatible one, or it wants another key.
    pub fn check(&self) -> Result<Served, HttpError> {
        if self.options.spec.url == OPENAI_URL && !self.transport.has_key() {
            return Err(HttpError::Key {
                url: self.options.spec.url.clone(),
                reason: "a key is needed and none is set".into(),
                variable: self.transport.variable().to_owned(),
            });
        }
        let body = match self.runtime.block_on(self.patient("/models", None)) {
            Ok(body) => body,
            // A server need not list its models.
            Err(HttpError::Refused { status: 404 | 405 | 501, .. }) => return Ok(Served::default()),
            Err(error) => return Err(error),
        };
        let list = body.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let name = |model: &Value| model.get("id").and_then(Value::as_str).map(str::to_owned);
        let own = list.iter().find(|model| name(model).as_ref() == Some(&self.options.spec.model));
        let length = own.and_then(|model| model.get("max_model_len")).and_then(Value::as_u64);
        Ok(Served { models: list.iter().filter_map(name).collect(), max_length: length.map(|n| n as usize) })
    }

    /// Finds out how the server gives log-probabilities of prompts; asked once.
    ///
    /// # Errors
    /// If it gives none, or does not answer.
    pub fn likelihood_api(&self) -> Result<LikelihoodApi, HttpError> {
        let mut known = self.likelihood.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(api) = *known {
            return Ok(api);
        }
        let (context, continuation) = ("The sky is", " blue");
        let text = format!("{context}{continuation}");
        let mut reasons = vec![];
        for (name, api) in [("echo", LikelihoodApi::Echo), ("prompt_logprobs", LikelihoodApi::PromptLogprobs)] {
            let Call { path, body, bounds } = likelihood::call(&self.options, api, &text);
            match self.runtime.block_on(self.patient(path, Some(&body))) {
                Ok(body) => match likelihood::read_pair(api, context, continuation, bounds, &body) {
                    Ok(_) => {
                        *known = Some(api);
                        return Ok(api);
                    }
                    Err(reason) => reasons.push(format!("{name}: {reason}")),
                },
                Err(error @ (HttpError::Key { .. } | HttpError::Unanswered { .. })) => return Err(error),
                Err(error) => reasons.push(format!("{name}: {error}")),
            }
        }
        Err(HttpError::NoLikelihood { url: self.options.spec.url.clone(), reason: reasons.join("; ") })
    }

    /// The connection.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the work is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.options.stop.as_ref().is_some_and(|stop| stop.load(Ordering::SeqCst))
    }

    /// One exchange, repeated while that may help; dropped when the work is to end.
    pub(crate) async fn patient(&self, path: &str, body: Option<&Value>) -> Result<Value, HttpError> {
        let mut exchange = std::pin::pin!(self.repeated(path, body));
        loop {
            match tokio::time::timeout(TICK, &mut exchange).await {
                Ok(result) => return result,
                Err(_) if self.is_stopped() => {
                    return Err(HttpError::Interrupted { url: self.transport.url(path) });
                }
                Err(_) => {}
            }
        }
    }

    async fn repeated(&self, path: &str, body: Option<&Value>) -> Result<Value, HttpError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            self.lock().stats.sent += 1;
            let (reason, wait) = match self.transport.exchange(path, body).await {
                Ok(body) => return Ok(body),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Filtered { reason } | Failure::Useless { reason }) => {
                    return Err(HttpError::Request { reason });
                }
                Err(Failure::Passing { reason, .. }) => (reason, None),
                Err(Failure::Throttled { reason, wait }) => (reason, wait),
            };
            // A server that is not there, or serves web pages, is noticed at once; one that stumbles gets its time.
            let hopeless = reason.starts_with("a web page");
            if hopeless {
                return Err(HttpError::Address { url: self.transport.url(path), found: reason });
            }
            if attempts > self.options.retries || (path == "/models" && reason.starts_with("cannot connect")) {
                return Err(HttpError::Unanswered { url: self.transport.url(path), attempts, last: reason });
            }
            let wait = self.wait(wait, attempts, path)?;
            self.lock().stats.retried += 1;
            tokio::time::sleep(wait).await;
        }
    }

    /// The wait before the next attempt: what the server asks for, else the backoff.
    fn wait(&self, asked: Option<Duration>, attempt: u32, path: &str) -> Result<Duration, HttpError> {
        let own = self.lock().backoff.wait(attempt);
        match asked {
            Some(asked) if asked > self.options.longest_wait => Err(HttpError::Wait {
                url: self.transport.url(path),
                seconds: asked.as_secs_f64(),
                limit: self.options.longest_wait.as_secs_f64(),
            }),
            Some(asked) => Ok(asked),
            None => Ok(own),
        }
    }

    /// Sends all jobs, as many at a time as the server bears. When the work is to end, what is in flight is dropped.
    pub(crate) async fn run(
        &self,
        jobs: &[Job<'_>],
        sink: &mut dyn FnMut(usize, Response) -> Control,
    ) -> Result<(), (Option<usize>, HttpError)> {
        let mut fresh: Range<usize> = 0..jobs.len();
        let mut later: Vec<Open> = vec![];
        let mut flight = FuturesUnordered::new();
        let mut stopping: Option<(Option<usize>, HttpError)> = None;
        loop {
            if self.is_stopped() {
                return Ok(());
            }
            let now = Instant::now();
            let mut full = false;
            while stopping.is_none() && !full {
                let (limit, ready) = {
                    let state = self.lock();
                    (state.limiter.limit(), state.limiter.ready_at().is_none_or(|at| at <= now))
                };
                if flight.len() >= limit {
                    full = true;
                    break;
                }
                if !ready {
                    break;
                }
                let due = later.iter().position(|open| open.not_before.is_none_or(|at| at <= now));
                let open = match due {
                    Some(at) => later.remove(at),
                    None => match fresh.next() {
                        Some(job) => Open { job, failed: 0, throttled: 0, not_before: None },
                        None => break,
                    },
                };
                let job = &jobs[open.job];
                let bounds = job.call.bounds;
                let most = self.options.cost(bounds.prompt as f64, bounds.completion as f64);
                let budget = self.options.budget.as_deref();
                match budget.map_or(Ok(true), |budget| budget.reserve(most)) {
                    Ok(true) => {}
                    Ok(false) => {
                        later.push(open);
                        full = !flight.is_empty();
                        if !full {
                            // Another holder of the budget has requests in flight.
                            later.iter_mut().for_each(|open| open.not_before = Some(now + Duration::from_millis(50)));
                        }
                        break;
                    }
                    Err(error) => {
                        stopping = Some((None, error));
                        break;
                    }
                }
                let reservation = Reservation::new(budget, most);
                {
                    let mut state = self.lock();
                    state.limiter.sent(now);
                    state.stats.sent += 1;
                }
                let plain = self.without_logprobs.load(Ordering::Relaxed);
                flight.push(async move {
                    let call = if plain { Cow::Owned(job.call.without_logprobs()) } else { Cow::Borrowed(&job.call) };
                    let outcome = match job.heard {
                        Some(hear) => self.transport.events(call.path, &call.body, hear).await,
                        None => self.transport.exchange(call.path, Some(&call.body)).await,
                    };
                    (open, now, plain, outcome, reservation)
                });
            }
            if flight.is_empty() {
                if let Some(stopped) = stopping {
                    return Err(stopped);
                }
                if later.is_empty() && fresh.is_empty() {
                    return Ok(());
                }
            }
            let wake = if full || stopping.is_some() { None } else { self.next_start(&later, !fresh.is_empty()) };
            let tick = Instant::now() + TICK;
            let until = wake.map_or(tick, |at| at.min(tick)).into();
            let done = if flight.is_empty() {
                tokio::time::sleep_until(until).await;
                None
            } else {
                tokio::time::timeout_at(until, flight.next()).await.unwrap_or(None)
            };
            let Some((open, sent, plain, outcome, reservation)) = done else { continue };
            let job = &jobs[open.job];
            let outcome = outcome.and_then(|body| {
                self.read(job, &body).map_err(|unreadable| match unreadable {
                    Unreadable::Again(reason) => Failure::Passing { reason, worked: true },
                    Unreadable::Never(reason) => Failure::Useless { reason },
                })
            });
            match outcome.or_else(|failure| filtered(job.request, failure)) {
                Ok(response) => {
                    let usage = response.usage;
                    let (prompt, completion) = billed(job.request, &usage);
                    let cost = reservation.settle(self.options.cost(prompt as f64, completion as f64));
                    let mut state = self.lock();
                    state.limiter.succeeded();
                    state.stats.answered += 1;
                    state.stats.counts_replaced += u64::from(usage.prompt_untold || usage.completion_untold);
                    state.stats.prompt_tokens += prompt as u64;
                    state.stats.completion_tokens += completion as u64;
                    state.stats.cost += cost;
                    drop(state);
                    if sink(open.job, response) == Control::Stop {
                        return Ok(());
                    }
                }
                // What is generated is worth having without them.
                Err(Failure::Final(HttpError::Refused { ref message, .. }))
                    if !plain && job.call.asks_logprobs() && message.to_lowercase().contains("logprob") =>
                {
                    reservation.settle(0.0);
                    self.without_logprobs.store(true, Ordering::Relaxed);
                    self.lock().stats.retried += 1;
                    later.push(open);
                }
                Err(Failure::Filtered { reason }) => {
                    reservation.settle(0.0);
                    stopping.get_or_insert((Some(open.job), HttpError::Request { reason }));
                }
                Err(Failure::Useless { reason }) => {
                    self.lock().stats.cost += reservation.settle_all();
                    stopping.get_or_insert((Some(open.job), HttpError::Request { reason }));
                }
                Err(Failure::Final(error)) => {
                    reservation.settle(0.0);
                    match error {
                        // Paid answers that are on their way are waited for.
                        HttpError::Request { .. } => {
                            stopping.get_or_insert((Some(open.job), error));
                        }
                        error => return Err((None, error)),
                    }
                }
                Err(Failure::Passing { reason, worked }) => {
                    let cost = if worked { reservation.settle_all() } else { reservation.settle(0.0) };
                    self.lock().stats.cost += cost;
                    later.push(self.again(jobs, open, reason, None).map_err(|error| (None, error))?);
                }
                Err(Failure::Throttled { reason, wait }) => {
                    reservation.settle(0.0);
                    later.push(self.again(jobs, open, reason, Some((sent, wait))).map_err(|error| (None, error))?);
                }
            }
        }
    }

    /// The job for its next attempt, unless there were enough. `throttled`: when it was sent, and the wait asked for.
    fn again(
        &self,
        jobs: &[Job<'_>],
        open: Open,
        last: String,
        throttled: Option<(Instant, Option<Duration>)>,
    ) -> Result<Open, HttpError> {
        let path = jobs[open.job].call.path;
        let mut next = open;
        match throttled {
            Some(_) => next.throttled += 1,
            None => next.failed += 1,
        }
        let attempts = next.failed + next.throttled;
        if next.failed > self.options.retries || next.throttled > self.options.retries.saturating_mul(PATIENCE) {
            return Err(HttpError::Unanswered { url: self.transport.url(path), attempts, last });
        }
        let now = Instant::now();
        match throttled {
            Some((sent, asked)) => {
                let wait = self.wait(asked, next.throttled, path)?;
                let mut state = self.lock();
                state.stats.throttled += 1;
                state.limiter.throttled(now, sent, wait);
                next.not_before = None;
            }
            None => {
                let wait = self.wait(None, next.failed, path)?;
                self.lock().stats.retried += 1;
                next.not_before = Some(now + wait);
            }
        }
        Ok(next)
    }

    /// When the next job can start, if there is one that waits for time alone.
    fn next_start(&self, later: &[Open], fresh: bool) -> Option<Instant> {
        let ready = self.lock().limiter.ready_at();
        let due = if fresh { None } else { later.iter().map(|open| open.not_before).min()? };
        Some(ready.max(due).unwrap_or_else(Instant::now))
    }
}

/// What a filter held back before anything was generated, as an answer: there is none, and it would be held back again.
fn filtered(request: &Request, failure: Failure) -> Result<Response, Failure> {
    match (request, failure) {
        (Request::Generate { .. }, Failure::Filtered { .. }) => {
            let output = Output::Text {
                text: String::new(),
                token_ids: vec![],
                token_logprobs: vec![],
                finish: Finish::ContentFilter,
                top_logprobs: vec![],
                reasoning: String::new(),
            };
            Ok(Response { output, usage: Usage::default() })
        }
        (_, failure) => Err(failure),
    }
}

impl LanguageModel for Endpoint {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// What can be asked; whether texts can be scored is known for sure only after [`Endpoint::likelihood_api`].
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            loglikelihood: true,
            generation: true,
            chat: self.options.api == Api::Chat,
            patterns: self.options.patterns,
            max_length: self.options.max_length.unwrap_or(usize::MAX),
        }
    }

    fn answer(&self, requests: &[Request], sink: &mut dyn FnMut(usize, Response) -> Control) -> Result<(), ModelError> {
        let scores = requests.iter().any(|request| !matches!(request, Request::Generate { .. }));
        let api = if scores { Some(self.likelihood_api().map_err(|error| self.failed(None, error))?) } else { None };
        let longest = self.longest(requests)?;
        let jobs = requests.iter().enumerate().map(|(index, request)| self.jobs(index, request, api, longest));
        let jobs: Vec<Job<'_>> = jobs.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let mut left = vec![0usize; requests.len()];
        jobs.iter().for_each(|job| left[job.index] += 1);
        let mut sums: BTreeMap<usize, Response> = BTreeMap::new();
        let mut whole = |job: usize, response: Response| {
            let index = jobs[job].index;
            left[index] -= 1;
            let response = match sums.remove(&index) {
                Some(mut sum) => {
                    rolling::add(&mut sum, &response);
                    sum
                }
                None => response,
            };
            if left[index] == 0 {
                return sink(index, response);
            }
            sums.insert(index, response);
            Control::Continue
        };
        self.runtime
            .block_on(self.run(&jobs, &mut whole))
            .map_err(|(job, error)| self.failed(job.map(|job| jobs[job].index), error))
    }

    fn stream(
        &self,
        request: &Request,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Option<Response>, ModelError> {
        self.streamed(request, on_text)
    }

    fn apply_chat_template(&self, messages: &[ChatMessage], options: ChatOptions) -> Result<String, ModelError> {
        let unsupported =
            |what: &str| Err(ModelError::Unsupported { model: self.options.spec.model.clone(), what: what.to_owned() });
        if self.options.api != Api::Chat {
            return unsupported("hold a chat: its api is \"completions\"; set api = \"chat\"");
        }
        if !options.add_generation_prompt {
            return unsupported("continue a message that an assistant began");
        }
        Ok(chat_prompt(messages))
    }

    fn tokenize(&self, _: &str) -> Option<Vec<(u32, String)>> {
        None
    }

    fn stats(&self) -> ModelStats {
        let stats = self.usage();
        ModelStats {
            requested_tokens: stats.prompt_tokens,
            computed_tokens: stats.prompt_tokens + stats.completion_tokens,
            scored_positions: stats.completion_tokens,
            ..ModelStats::default()
        }
    }
}

impl Endpoint {
    /// An error as that of a language model, about the request of this position.
    pub(crate) fn failed(&self, index: Option<usize>, error: HttpError) -> ModelError {
        match (index, error) {
            (Some(index), HttpError::Request { reason }) => ModelError::BadRequest { index, reason },
            (_, error @ HttpError::NoLikelihood { .. }) => {
                ModelError::Unsupported { model: self.options.spec.model.clone(), what: error.to_string() }
            }
            (_, error) => ModelError::Other(Box::new(error)),
        }
    }
}
