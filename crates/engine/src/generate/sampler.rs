//! Choosing the next token.

use harness_core::{Sampling, Seed, StreamRng};

use harness_decoder::Draw;
use harness_kernels::cpu::logits::{argmax, log_sum_exp};

/// A token, and what is known of its place.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) token: u32,
    /// Its log-probability under the model as it is, before penalty, temperature and filters.
    pub(crate) logprob: f32,
    /// The likeliest tokens with their log-probabilities, best first, where they were asked for.
    pub(crate) top: Vec<(u32, f32)>,
}

impl From<(u32, f32)> for Drawn {
    /// A token and its log-probability.
    fn from((token, logprob): (u32, f32)) -> Self {
        Self { token, logprob, top: vec![] }
    }
}

/// Draws tokens for one sequence from its own random stream.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    rng: StreamRng,
    seen: Vec<u32>,
}

impl Sampler {
    /// A sampler for one request; `prompt` counts as seen for the repetition penalty.
    pub(crate) fn new(sampling: &Sampling, prompt: &[u32]) -> Self {
        let mut seen = if sampling.repetition_penalty == 1.0 { vec![] } else { prompt.to_vec() };
        seen.sort_unstable();
        seen.dedup();
        Self { sampling: sampling.clone(), rng: Seed(sampling.seed).stream("sampling", 0), seen }
    }

    /// Whether every token is the most probable one of the model as it is, and nothing else is asked.
    pub(crate) fn takes_the_most_probable(&self) -> bool {
        let plain = self.sampling.pattern.is_none() && self.sampling.top_logprobs.is_none();
        plain && self.sampling.repetition_penalty == 1.0 && self.sampling.is_greedy()
    }

    /// What the next `steps` tokens are drawn with, where the decoder draws them; `None` if more is asked of it.
    pub(crate) fn ahead(&self, steps: usize) -> Option<Draw> {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty: penalty, .. } = self.sampling;
        if self.sampling.pattern.is_some() || self.sampling.top_logprobs.is_some() {
            return None;
        }
        let mut rng = self.rng.clone();
        Some(Draw {
            temperature: if self.sampling.is_greedy() { 0.0 } else { temperature },
            top_k: top_k.unwrap_or(0),
            top_p: top_p.unwrap_or(1.0),
            min_p: min_p.unwrap_or(0.0),
            penalty,
            uniform: (0..steps).map(|_| rng.uniform()).collect(),
            seen: self.seen.clone(),
        })
    }

    /// Counts a token that the decoder drew.
    pub(crate) fn took(&mut self, token: u32) {
        if !self.sampling.is_greedy() {
            self.rng.uniform();
        }
        self.see(token);
    }

    fn see(&mut self, token: u32) {
        if self.sampling.repetition_penalty != 1.0
            && let Err(at) = self.seen.binary_search(&token)
        {
            self.seen.insert(at, token);
        }
    }

    /// The next token, one of `allowed` (ascending) where that is given; the others' logits are lost then.
    pub(crate) fn next(&mut self, logits: &mut [f32], allowed: Option<&[u32]>) -> Drawn {
        let normaliser = log_sum_exp(logits);
        if let Some(allowed) = allowed {
            keep_only(logits, allowed);
        }
        let top = self.sampling.top_logprobs.map_or_else(Vec::new, |count| likeliest(logits, count, normaliser));
        let token = self.choose(logits);
        Drawn { token, logprob: (f64::from(logits[token as usize]) - normaliser) as f32, top }
    }

    /// The next token's id; the logits are as before afterwards.
    fn choose(&mut self, logits: &mut [f32]) -> u32 {
        let penalty = self.sampling.repetition_penalty;
        if penalty == 1.0 && self.sampling.is_greedy() {
            return argmax(logits) as u32;
        }
        let original: Vec<(u32, f32)> = self.seen.iter().map(|&t| (t, logits[t as usize])).collect();
        for &(token, logit) in &original {
            let penalised = if logit > 0.0 { f64::from(logit) / penalty } else { f64::from(logit) * penalty };
            logits[token as usize] = penalised as f32;
        }
        let token = if self.sampling.is_greedy() { argmax(logits) as u32 } else { self.draw(logits) };
        for &(token, logit) in &original {
            logits[token as usize] = logit;
        }
        self.see(token);
        token
    }

    /// Draws from the softmax at the temperature, after top-k, top-p and min-p in this order (as transformers does).
    fn draw(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let possible = logits.iter().enumerate().filter(|&(_, &logit)| logit != f32::NEG_INFINITY);
        let mut candidates: Vec<(u32, f64)> =
            possible.map(|(token, &logit)| (token as u32, f64::from(logit) / temperature)).collect();
        if candidates.is_empty() {
            return argmax(logits) as u32;
        }
        // Descending, ties in order of token: the same on every platform.
        let descending = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = top_k.filter(|&k| k > 0 && k < candidates.len()) {
            candidates.select_nth_unstable_by(k - 1, descending);
            candidates.truncate(k);
        }
        candidates.sort_by(descending);
        let max = candidates[0].1;
        let weight = |logit: f64| (logit - max).exp();
        if let Some(p) = top_p.filter(|&p| p < 1.0) {
            let total: f64 = candidates.iter().map(|c| weight(c.1)).sum();
            let mut mass = 0.0;
            let kept = candidates.iter().take_while(|c| {
                let before = mass;
                mass += weight(c.1) / total;
                before < p
            });
            let kept = kept.count().max(1);
            candidates.truncate(kept);
        }
        if let Some(min_p) = min_p.filter(|&p| p > 0.0) {
            candidates.retain(|c| weight(c.1) >= min_p);
        }
        let total: f64 = candidates.iter().map(|c| weight(c.1)).sum();
        let mut left = self.rng.uniform() * total;
        for &(token, logit) in &candidates {
            left -= weight(logit);
            if left < 0.0 {
                return token;
            }
        }
        candidates[candidates.len() - 1].0
    }
}

/// Makes all tokens but the allowed ones (ascending) impossible.
fn keep_only(logits: &mut [f32], allowed: &[u32]) {
    let mut from = 0;
    for &token in allowed {
        let token = token as usize;
        logits[from..token.max(from)].fill(f32::NEG_INFINITY);
        from = token + 1;
    }
    logits[from..].fill(f32::NEG_INFINITY);
}

/// The `count` likeliest possible tokens with their log-probabilities, best first, ties in order of token.
pub(super) fn likeliest(logits: &[f32], count: usize, normaliser: f64) -> Vec<(u32, f32)> {
    let possible = logits.iter().enumerate().filter(|&(_, &logit)| logit.is_finite());
    let mut tokens: Vec<(u32, f32)> = possible.map(|(token, &logit)| (token as u32, logit)).collect();
    let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < tokens.len() && count > 0 {
        tokens.select_nth_unstable_by(count - 1, descending);
    }
    tokens.truncate(count);
    tokens.sort_by(descending);
    tokens.into_iter().map(|(token, logit)| (token, (f64::from(logit) - normaliser) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 2.9];

    fn draws(sampling: Sampling, n: usize) -> Vec<u32> {
        (0..n as u64)
            .map(|seed| Sampler::new(&Sampling { seed, ..sampling.clone() }, &[]).next(&mut LOGITS.clone(), None).token)
            .collect()
    }

    #[test]
    fn greedy_takes_the_best_and_reports_the_raw_probability() {
        let drawn = Sampler::new(&Sampling::default(), &[]).next(&mut LOGITS.clone(), None);
        let Drawn { token, logprob, top } = drawn;
        assert_eq!((token, top), (1, vec![]));
        assert!((f64::from(logprob) - (3.0 - log_sum_exp(&LOGITS))).abs() < 1e-6);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let n = 20_000;
        let found = draws(Sampling { temperature: 1.0, ..Sampling::default() }, n);
        let normaliser = log_sum_exp(&LOGITS);
        for (token, &logit) in LOGITS.iter().enumerate() {
            let p = (f64::from(logit) - normaliser).exp();
            let share = found.iter().filter(|&&t| t as usize == token).count() as f64 / n as f64;
            assert!((share - p).abs() < 4.0 * (p * (1.0 - p) / n as f64).sqrt(), "token {token}: {share} for {p}");
        }
    }

    #[test]
    fn filters_leave_only_what_they_should() {
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let kinds = |sampling: Sampling| {
            let mut found = draws(sampling, 300);
            found.sort_unstable();
            found.dedup();
            found
        };
        assert_eq!(kinds(Sampling { top_k: Some(2), ..base.clone() }), [1, 4]);
        assert_eq!(kinds(Sampling { top_k: Some(1), ..base.clone() }), [1]);
        // p = 0.41, 0.37, 0.15, ...: the second reaches 0.6.
        assert_eq!(kinds(Sampling { top_p: Some(0.6), ..base.clone() }), [1, 4]);
        assert_eq!(kinds(Sampling { top_p: Some(0.1), ..base.clone() }), [1]);
        // exp(2 - 3) = 0.37 of the best.
        assert_eq!(kinds(Sampling { min_p: Some(0.3), ..base }), [1, 2, 4]);
    }

    #[test]
    fn only_what_is_allowed_is_drawn() {
        let normaliser = log_sum_exp(&LOGITS);
        let sampling = Sampling { top_logprobs: Some(3), ..Sampling::default() };
        let drawn = Sampler::new(&sampling, &[]).next(&mut LOGITS.clone(), Some(&[0, 2]));
        assert_eq!(drawn.token, 2);
        let expected = |logit: f64| (logit - normaliser) as f32;
        assert_eq!(
            drawn.top,
            [(2, expected(2.0)), (0, expected(1.0))],
            "probabilities are those of the whole vocabulary"
        );
        assert_eq!(drawn.logprob, expected(2.0));
        let free = Sampler::new(&sampling, &[]).next(&mut LOGITS.clone(), None);
        assert_eq!(free.top.iter().map(|top| top.0).collect::<Vec<_>>(), [1, 4, 2]);
        for seed in 0..50 {
            let sampling = Sampling { temperature: 3.0, seed, ..Sampling::default() };
            let token = Sampler::new(&sampling, &[]).next(&mut LOGITS.clone(), Some(&[0, 3])).token;
            assert!(token == 0 || token == 3);
        }
    }

    #[test]
    fn penalty_moves_away_from_what_was_seen() {
        let sampling = Sampling { repetition_penalty: 1.5, ..Sampling::default() };
        let mut sampler = Sampler::new(&sampling, &[1]);
        let mut logits = LOGITS;
        assert_eq!(sampler.next(&mut logits, None).token, 4, "3.0 / 1.5 is below 2.9");
        assert_eq!(logits, LOGITS, "the logits are put back");
        assert_eq!(sampler.next(&mut logits, None).token, 1, "2.9 / 1.5 is below 3.0 / 1.5");
    }
}
