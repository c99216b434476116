//! Load on a server: many streams at once, and how long their texts take.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use harness_core::{Control, Seed};
use serde_json::{Value, json};

use crate::{
    Endpoint, HttpError,
    rolling::{self, TOKENIZE},
    transport::Failure,
};

/// Words of which prompts are made.
const WORDS: [&str; 16] = [
    "river", "stone", "the", "of", "light", "a", "seven", "birds", "morning", "and", "old", "bridge", "under", "rain",
    "slow", "city",
];

/// What is asked of a server.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    /// Requests in all.
    pub requests: usize,
    /// Streams at once.
    pub concurrency: usize,
    /// Tokens of every prompt; words, where the server does not tell its tokens.
    pub prompt_tokens: usize,
    /// Most new tokens of every request.
    pub new_tokens: usize,
    /// Seed of the prompts.
    pub seed: u64,
}

/// How long one stream took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StreamTimes {
    /// From the request to the first text; `None` where there was none.
    pub first: Option<Duration>,
    /// Between two tokens after the first text, on average; `None` where there was one token, or no text.
    pub per_token: Option<Duration>,
    /// From the request to the end.
    pub whole: Duration,
    /// Tokens of the prompt as the server counts them.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub new_tokens: usize,
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct LoadResult {
    /// Streams that came to their end.
    pub answered: Vec<StreamTimes>,
    /// Why others did not.
    pub failures: Vec<String>,
    /// From the first request to the end of the last.
    pub took: Duration,
    /// Whether prompts were counted in words, because the server does not tell its tokens.
    pub in_words: bool,
}

impl Endpoint {
    /// Asks for texts in many streams at once, each with a prompt of its own, and measures how long they take. No request is
    /// repeated. `done` is called after each.
    ///
    /// # Errors
    /// If the server does not answer at all. Single requests that fail are in the result.
    pub fn load(&self, plan: &LoadPlan, done: &mut dyn FnMut()) -> Result<LoadResult, HttpError> {
        self.runtime.block_on(async {
            let prompts = self.prompts(plan).await?;
            let in_words = prompts.iter().any(Value::is_string);
            let begun = Instant::now();
            let streams = prompts.into_iter().map(|prompt| self.one_stream(prompt, plan.new_tokens));
            let mut streams = stream::iter(streams).buffer_unordered(plan.concurrency.max(1));
            let mut result = LoadResult { in_words, ..LoadResult::default() };
            while let Some(ended) = streams.next().await {
                match ended {
                    Ok(times) => result.answered.push(times),
                    Err(reason) => result.failures.push(reason),
                }
                done();
                if self.is_stopped() {
                    break;
                }
            }
            result.took = begun.elapsed();
            Ok(result)
        })
    }

    /// A prompt for every request; no two begin alike.
    async fn prompts(&self, plan: &LoadPlan) -> Result<Vec<Value>, HttpError> {
        let mut random = Seed(plan.seed).stream("load", 0);
        let mut word = move || WORDS[(random.uniform() * WORDS.len() as f64) as usize];
        let mut text = |words: usize| (0..words).map(|_| word()).collect::<Vec<_>>().join(" ");
        let pool = text(plan.prompt_tokens + 4096);
        let question = rolling::question(&self.options().spec.model, &pool);
        let tokens = match self.patient(TOKENIZE, Some(&question)).await {
            Ok(body) => rolling::tokens(&body).filter(|tokens| tokens.len() > plan.prompt_tokens),
            Err(HttpError::Refused { .. } | HttpError::Request { .. } | HttpError::Address { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(tokens) = tokens else {
            return Ok((0..plan.requests).map(|_| json!(text(plan.prompt_tokens))).collect());
        };
        let places = tokens.len() - plan.prompt_tokens;
        // A step that meets every place before it comes back to one.
        let at = |request: usize| request.wrapping_mul(1_000_003) % places;
        Ok((0..plan.requests).map(|request| json!(tokens[at(request)..][..plan.prompt_tokens])).collect())
    }

    async fn one_stream(&self, prompt: Value, new_tokens: usize) -> Result<StreamTimes, String> {
        let body = json!({
            "model": self.options().spec.model, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0.0,
            "stream": true, "stream_options": {"include_usage": true},
        });
        let begun = Instant::now();
        let (first, last) = (Cell::new(None), Cell::new(begun));
        let hear = |_: &str| {
            last.set(Instant::now());
            first.set(first.get().or(Some(last.get())));
            Control::Continue
        };
        let answer = self.transport().events("/completions", &body, &hear).await.map_err(|failure| match failure {
            Failure::Passing { reason, .. }
            | Failure::Throttled { reason, .. }
            | Failure::Filtered { reason }
            | Failure::Useless { reason } => reason,
            Failure::Final(error) => error.to_string(),
        })?;
        let whole = begun.elapsed();
        let count = |name: &str| answer.pointer(&format!("/usage/{name}")).and_then(Value::as_u64);
        let new_tokens = count("completion_tokens").ok_or("an answer without counts")? as usize;
        let first: Option<Instant> = first.get();
        let rest = u32::try_from(new_tokens.saturating_sub(1)).ok().filter(|&rest| rest > 0);
        Ok(StreamTimes {
            first: first.map(|first| first - begun),
            per_token: first.zip(rest).map(|(first, rest)| (last.get() - first) / rest),
            whole,
            prompt_tokens: count("prompt_tokens").unwrap_or(0) as usize,
            new_tokens,
        })
    }
}
