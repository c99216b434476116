//! Numbers for Prometheus.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use harness_core::Usage;

/// Upper bounds of the buckets of times, in seconds.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// What the server has done since it started.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By address and status.
    requests: BTreeMap<(&'static str, u16), u64>,
    prompt_tokens: u64,
    generated_tokens: u64,
    generations: u64,
    left: u64,
    first_text: Histogram,
    per_token: Histogram,
    generation: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; SECONDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        if let Some(bucket) = SECONDS.iter().position(|&bound| seconds <= bound) {
            self.buckets[bucket] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut total = 0;
        for (bound, count) in SECONDS.iter().zip(self.buckets) {
            total += count;
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ =
            writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {0}\n{name}_sum {1}\n{name}_count {0}", self.count, self.sum);
    }
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered with a status.
    pub(crate) fn replied(&self, path: &'static str, status: u16) {
        *self.lock().requests.entry((path, status)).or_default() += 1;
    }

    /// A generation ended because nobody waited for it any more.
    pub(crate) fn left(&self) {
        self.lock().left += 1;
    }

    /// A generation is finished: its tokens, the time to its first text, and its whole time in queue and engine.
    pub(crate) fn answered(&self, usage: Usage, first: Option<Duration>, whole: Duration) {
        let mut counts = self.lock();
        counts.prompt_tokens += usage.prompt_tokens as u64;
        counts.generated_tokens += usage.completion_tokens as u64;
        counts.generations += 1;
        counts.generation.add(whole);
        let Some(first) = first else { return };
        counts.first_text.add(first);
        if let Some(rest) =
            u32::try_from(usage.completion_tokens).ok().and_then(|n| n.checked_sub(1)).filter(|&n| n > 0)
        {
            counts.per_token.add((whole - first.min(whole)) / rest);
        }
    }

    /// All of it in Prometheus' text form, with the generations that wait and run now.
    pub(crate) fn text(&self, waiting: usize, running: usize) -> String {
        let counts = self.lock();
        let mut out = String::new();
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        one("harness_generations_waiting", "gauge", "Generations in the queue.", waiting as u64);
        one("harness_generations_running", "gauge", "Generations that are computed.", running as u64);
        one("harness_generations_total", "counter", "Generations finished.", counts.generations);
        one("harness_generations_left_total", "counter", "Generations that nobody waited for any more.", counts.left);
        one(
            "harness_prompt_tokens_total",
            "counter",
            "Tokens of prompts of finished generations.",
            counts.prompt_tokens,
        );
        one("harness_generated_tokens_total", "counter", "Tokens generated.", counts.generated_tokens);
        let name = "harness_http_requests_total";
        let _ = writeln!(out, "# HELP {name} Requests answered, by address and status.\n# TYPE {name} counter");
        for ((path, status), count) in &counts.requests {
            let _ = writeln!(out, "{name}{{path=\"{path}\",status=\"{status}\"}} {count}");
        }
        counts.first_text.write("harness_time_to_first_text_seconds", "From the request to its first text.", &mut out);
        counts.per_token.write(
            "harness_time_per_token_seconds",
            "Mean time of a token after the first text.",
            &mut out,
        );
        counts.generation.write("harness_generation_seconds", "From the request to its last token.", &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_buckets() {
        let metrics = Metrics::default();
        let usage = Usage { prompt_tokens: 5, completion_tokens: 11, ..Usage::default() };
        metrics.answered(usage, Some(Duration::from_millis(30)), Duration::from_millis(130));
        metrics.answered(Usage { completion_tokens: 1, ..usage }, None, Duration::from_secs(100));
        metrics.replied("/v1/completions", 200);
        let text = metrics.text(3, 4);
        for line in [
            "harness_generations_waiting 3",
            "harness_generated_tokens_total 12",
            "harness_http_requests_total{path=\"/v1/completions\",status=\"200\"} 1",
            "harness_time_to_first_text_seconds_bucket{le=\"0.025\"} 0",
            "harness_time_to_first_text_seconds_bucket{le=\"0.05\"} 1",
            "harness_time_per_token_seconds_bucket{le=\"0.01\"} 1",
            "harness_generation_seconds_bucket{le=\"60\"} 1",
            "harness_generation_seconds_bucket{le=\"+Inf\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
