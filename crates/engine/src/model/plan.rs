//! What requests would cost, without asking them.

use harness_core::{ModelError, Request};
use serde::Serialize;

use super::{LocalModel, other};
use crate::{
    EngineError, encode_prompt,
    schedule::{Forest, Sequence},
    tokenizer::rolling_windows,
};

/// The tokens of a batch of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Requests.
    pub requests: usize,
    /// Input tokens, each request counted in full; new tokens of generations apart.
    pub requested_tokens: u64,
    /// Token positions that are computed, because requests that begin alike share what they share.
    pub computed_tokens: u64,
    /// Requests in which a merge crosses the join of context and continuation.
    pub boundary_shifts: usize,
    /// Requests whose context is cut on the left.
    pub truncated: usize,
}

impl LocalModel {
    /// Tokenises requests and shares their prefixes as an evaluation would.
    ///
    /// # Errors
    /// If the tokenizer fails, or a request cannot be answered.
    pub fn plan(&self, requests: &[Request]) -> Result<Plan, ModelError> {
        let indices: Vec<usize> =
            (0..requests.len()).filter(|&i| matches!(requests[i], Request::LogLikelihood { .. })).collect();
        let mut plan = Plan { requests: requests.len(), ..Plan::default() };
        let mut sequences = Vec::with_capacity(requests.len());
        for (pair, sequence, cut) in self.encode_pairs(requests, &indices)? {
            plan.boundary_shifts += usize::from(pair.shifted);
            plan.truncated += usize::from(cut > 0);
            sequences.push(sequence);
        }
        let base = self.base();
        for (index, request) in requests.iter().enumerate() {
            match request {
                Request::LogLikelihood { .. } => {}
                Request::RollingLogLikelihood { text } => {
                    let prefix = base.options.pair.prefix_token.as_ref().or(base.tokenizer().prefix_token());
                    let reason =
                        "a rolling log-likelihood begins with the BOS or EOS token, and the tokenizer has neither";
                    let prefix = prefix.ok_or_else(|| other(EngineError::Tokenizer(reason.to_owned())))?;
                    let tokens = encode_prompt(base.tokenizer(), text, &base.options.pair).map_err(other)?;
                    for window in rolling_windows(&tokens, prefix.id, base.model().max_length(), 1) {
                        let n = window.input.len();
                        sequences.push(Sequence { wanted: n - window.targets.len()..n, tokens: window.input });
                    }
                }
                Request::Generate { prompt, stop, sampling } => {
                    let (prompt, usage) = self.prompt(index, prompt, stop, sampling)?;
                    plan.truncated += usize::from(usage.truncated_tokens > 0);
                    let n = prompt.tokens.len();
                    sequences.push(Sequence { wanted: n - 1..n, tokens: prompt.tokens });
                }
            }
        }
        plan.requested_tokens = sequences.iter().map(|sequence| sequence.tokens.len() as u64).sum();
        let forest = Forest::build(&sequences, self.decoder.longest_short()).prune();
        plan.computed_tokens = forest.nodes.iter().map(|node| node.span.len() as u64).sum();
        Ok(plan)
    }
}
