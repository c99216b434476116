//! How many requests are in flight: as many as the server bears.

use std::time::{Duration, Instant};

use harness_core::{Seed, StreamRng};

/// Additive increase, multiplicative decrease: each answer raises the limit by its reciprocal, a throttled request halves
/// it, but only once for all that were sent before the halving.
#[derive(Debug)]
pub(crate) struct Limiter {
    limit: f64,
    most: usize,
    lowered: Option<Instant>,
    resume: Option<Instant>,
    /// Least time between two requests.
    pace: Option<Duration>,
    next: Option<Instant>,
}

impl Limiter {
    /// At most `most` in flight and `per_minute` begun a minute.
    pub(crate) fn new(most: usize, per_minute: Option<f64>) -> Self {
        let most = most.max(1);
        let pace = per_minute.map(|rate| Duration::from_secs_f64(60.0 / rate));
        Self { limit: most as f64, most, lowered: None, resume: None, pace, next: None }
    }

    /// How many may be in flight.
    pub(crate) fn limit(&self) -> usize {
        self.limit as usize
    }

    /// When the next request may be sent; in the past if at once.
    pub(crate) fn ready_at(&self) -> Option<Instant> {
        self.resume.max(self.next)
    }

    /// A request is sent.
    pub(crate) fn sent(&mut self, now: Instant) {
        if let Some(pace) = self.pace {
            self.next = Some(self.next.map_or(now, |next| next.max(now)) + pace);
        }
    }

    /// An answer came.
    pub(crate) fn succeeded(&mut self) {
        self.limit = (self.limit + 1.0 / self.limit).min(self.most as f64);
    }

    /// A request that was sent at `sent` was throttled; nothing is sent for `wait`.
    pub(crate) fn throttled(&mut self, now: Instant, sent: Instant, wait: Duration) {
        if self.lowered.is_none_or(|lowered| sent >= lowered) {
            self.limit = (self.limit / 2.0).max(1.0);
            self.lowered = Some(now);
        }
        self.resume = self.resume.max(Some(now + wait));
    }
}

/// Waiting times between attempts: exponential, with jitter from a seed, so that those who failed together do not come
/// back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    base: Duration,
    rng: StreamRng,
}

impl Backoff {
    /// Longest wait that is chosen here; a server may ask for more.
    const LONGEST: Duration = Duration::from_secs(60);

    pub(crate) fn new(base: Duration, seed: u64) -> Self {
        Self { base, rng: Seed(seed).stream("backoff", 0) }
    }

    /// The wait after failed attempt number `attempt`, from 1: between half and all of `base · 2^(attempt − 1)`.
    pub(crate) fn wait(&mut self, attempt: u32) -> Duration {
        let whole = self.base.saturating_mul(1 << (attempt - 1).min(16)).min(Self::LONGEST);
        whole.mul_f64(0.5 + 0.5 * self.rng.uniform())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_halve_once_a_wave_and_recover() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut limiter = Limiter::new(16, None);
        assert_eq!((limiter.limit(), limiter.ready_at()), (16, None));
        limiter.throttled(at(10), at(9), Duration::from_secs(2));
        limiter.throttled(at(10), at(9), Duration::from_secs(1));
        limiter.throttled(at(11), at(8), Duration::ZERO);
        assert_eq!(limiter.limit(), 8, "one wave of requests counts once");
        assert_eq!(limiter.ready_at(), Some(at(12)), "the longest wait holds");
        limiter.throttled(at(13), at(12), Duration::ZERO);
        assert_eq!(limiter.limit(), 4);
        for _ in 0..40 {
            limiter.throttled(at(100), at(100), Duration::ZERO);
        }
        assert_eq!(limiter.limit(), 1, "one request is always allowed");
        (0..200).for_each(|_| limiter.succeeded());
        assert_eq!(limiter.limit(), 16);
    }

    #[test]
    fn requests_keep_their_distance() {
        let start = Instant::now();
        let mut limiter = Limiter::new(4, Some(30.0));
        limiter.sent(start);
        limiter.sent(start);
        assert_eq!(limiter.ready_at(), Some(start + Duration::from_secs(4)));
    }

    #[test]
    fn waits_double_with_jitter_from_the_seed() {
        let waits = |seed| {
            let mut backoff = Backoff::new(Duration::from_millis(100), seed);
            (1..=12).map(|attempt| backoff.wait(attempt)).collect::<Vec<_>>()
        };
        let found = waits(1);
        for (n, wait) in found.iter().enumerate() {
            let whole = Duration::from_millis(100 << n).min(Backoff::LONGEST);
            assert!(*wait >= whole / 2 && *wait <= whole, "attempt {}: {wait:?}", n + 1);
        }
        assert_eq!(found, waits(1));
        assert_ne!(found, waits(2));
    }
}
