//! `harness bench`.

use std::time::Duration;

use harness_evaluation::experiment::Candidate;
use harness_http::{Endpoint, EndpointOptions, LoadPlan, LoadResult, StreamTimes};
use harness_metrics::{comparison::counted, stats::quantile_sorted};
use serde::Serialize;

use super::{App, Failure};
use crate::{
    cli::{BenchArgs, BenchCommand, BenchServeArgs},
    options,
};

/// Runs `harness bench`.
///
/// # Errors
/// If the model is behind no server, or a stream fails.
pub(super) fn bench(app: &App, args: &BenchArgs) -> Result<(), Failure> {
    match &args.command {
        BenchCommand::Serve(args) => serve(app, args),
    }
}

/// What a load came to.
#[derive(Serialize)]
struct Loaded<'a> {
    model: &'a str,
    url: &'a str,
    requests: usize,
    concurrency: usize,
    /// Whether prompts were counted in words, because the server does not tell its tokens.
    prompts_in_words: bool,
    answered: usize,
    failures: &'a [String],
    seconds: f64,
    prompt_tokens: usize,
    new_tokens: usize,
    new_tokens_per_second: f64,
    requests_per_second: f64,
    /// From a request to its first text, of streams with a text.
    first_token_ms: Option<Spread>,
    /// Between two tokens after the first text.
    per_token_ms: Option<Spread>,
    /// From a request to its end.
    whole_ms: Option<Spread>,
}

/// Durations in milliseconds.
#[derive(Serialize)]
struct Spread {
    mean: f64,
    median: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    /// `None` of no duration.
    fn of(mut milliseconds: Vec<f64>) -> Option<Self> {
        milliseconds.sort_by(f64::total_cmp);
        let max = *milliseconds.last()?;
        let at = |p| quantile_sorted(&milliseconds, p);
        let mean = milliseconds.iter().sum::<f64>() / milliseconds.len() as f64;
        Some(Self { mean, median: at(0.5), p90: at(0.9), p99: at(0.99), max })
    }
}

fn serve(app: &App, args: &BenchServeArgs) -> Result<(), Failure> {
    let &BenchServeArgs { requests, concurrency, prompt_tokens, new_tokens, seed, .. } = args;
    options::at_least_one(&[
        ("--requests", Some(requests)),
        ("--concurrency", Some(concurrency)),
        ("--prompt-tokens", Some(prompt_tokens)),
        ("--new-tokens", Some(new_tokens)),
    ])?;
    let Candidate::Endpoint { options } = app.experiment.model(&args.model)?.candidate else {
        return Err(Failure::usage(format!(
            "{} is on this machine; expected a model behind a server, e.g. openai:{0}@http://127.0.0.1:8000/v1",
            args.model
        )));
    };
    let options = EndpointOptions { stop: Some(app.stop().flag()), ..*options };
    let endpoint = Endpoint::new(options)?;
    let bar = app.stage("bench serve", requests as u64);
    let result =
        endpoint.load(&LoadPlan { requests, concurrency, prompt_tokens, new_tokens, seed }, &mut || bar.step())?;
    bar.finish(&counted(result.answered.len(), "stream"));
    let spec = &endpoint.options().spec;
    let loaded = Loaded::new(args, (&spec.model, &spec.url), &result);
    app.output(&loaded, || loaded.text())?;
    if app.interrupted() {
        return Err(Failure::work("interrupted: the load is not complete").after_output());
    }
    match result.failures.first() {
        None => Ok(()),
        Some(first) => {
            let failed = counted(result.failures.len(), "stream");
            Err(Failure::work(format!("{failed} of {requests} failed; the first: {first}")).after_output())
        }
    }
}

impl<'a> Loaded<'a> {
    fn new(args: &BenchServeArgs, (model, url): (&'a str, &'a str), result: &'a LoadResult) -> Self {
        let LoadResult { answered, failures, took, in_words } = result;
        let seconds = took.as_secs_f64();
        let all = |of: fn(&StreamTimes) -> Option<Duration>| {
            Spread::of(answered.iter().filter_map(of).map(|time| 1e3 * time.as_secs_f64()).collect())
        };
        let new_tokens: usize = answered.iter().map(|times| times.new_tokens).sum();
        Self {
            model,
            url,
            requests: args.requests,
            concurrency: args.concurrency,
            prompts_in_words: *in_words,
            answered: answered.len(),
            failures,
            seconds,
            prompt_tokens: answered.iter().map(|times| times.prompt_tokens).sum(),
            new_tokens,
            new_tokens_per_second: new_tokens as f64 / seconds.max(1e-9),
            requests_per_second: answered.len() as f64 / seconds.max(1e-9),
            first_token_ms: all(|times| times.first),
            per_token_ms: all(|times| times.per_token),
            whole_ms: all(|times| Some(times.whole)),
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} at {}: {} of {} streams answered, {} at once, in {:.1} s\n{} prompt tokens{}, {} new tokens: {:.0} new \
             tokens/s, {:.1} requests/s\n",
            self.model,
            self.url,
            self.answered,
            self.requests,
            self.concurrency,
            self.seconds,
            self.prompt_tokens,
            if self.prompts_in_words {
                " (the server does not tell its tokens: prompts were made of words)"
            } else {
                ""
            },
            self.new_tokens,
            self.new_tokens_per_second,
            self.requests_per_second,
        );
        let rows = [
            ("time to first token", &self.first_token_ms),
            ("time per token after it", &self.per_token_ms),
            ("whole request", &self.whole_ms),
        ];
        text.push_str("\n| ms                      |     mean |   median |      p90 |      p99 |      max |\n");
        text.push_str("| ----------------------- | -------: | -------: | -------: | -------: | -------: |\n");
        for (name, spread) in rows {
            let Some(Spread { mean, median, p90, p99, max }) = spread else { continue };
            text.push_str(&format!("| {name:23} | {mean:8.1} | {median:8.1} | {p90:8.1} | {p99:8.1} | {max:8.1} |\n"));
        }
        text
    }
}
