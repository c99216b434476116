//! What is asked of a language model.

use serde::{Deserialize, Serialize};

use crate::{Digest, Hasher, Output, Thinking, begins_in_thinking, canonical_json, split_thinking};

/// A question to a language model; serialisable and hashable, it knows no engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Request {
    /// Sum of the log-probabilities of `continuation` after `context`.
    #[serde(rename = "loglikelihood")]
    LogLikelihood {
        /// Conditioning text; may be empty, then the model's prefix token stands in.
        context: String,
        /// The text that is scored.
        continuation: String,
    },
    /// Log-likelihood of a whole text, in windows when it is longer than the model's context.
    #[serde(rename = "loglikelihood_rolling")]
    RollingLogLikelihood {
        /// The text that is scored, every token of it once.
        text: String,
    },
    /// Text generated after a prompt.
    #[serde(rename = "generate_until")]
    Generate {
        /// Text before the generated part.
        prompt: String,
        /// Strings that end the generation; the text is cut before the first of them. While the model thinks (see
        /// [`Sampling::think_end`]) they end nothing.
        stop: Vec<String>,
        /// How tokens are chosen.
        sampling: Sampling,
    },
}

/// How generated tokens are chosen. The default is greedy with 256 new tokens at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// Most tokens generated.
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 is greedy.
    pub temperature: f64,
    /// Only the k most probable tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Only the smallest set of tokens whose probability reaches p.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Only tokens at least this fraction as probable as the best one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Divides positive and multiplies negative logits of tokens already seen (Keskar et al. 2019); 1 is off.
    pub repetition_penalty: f64,
    /// Seed of the random stream; with equal seeds the answer is equal whatever else is in the batch.
    pub seed: u64,
    /// A regular expression that the whole generated text must match. Only tokens that keep a match within
    /// `max_new_tokens` possible are chosen, and stop strings are not looked at. Needs a model whose
    /// [`crate::Capabilities::patterns`] is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// For every generated token this many of the most probable ones are reported; with a pattern, of those allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<usize>,
    /// The mark that ends the model's thinking, where it thinks before it answers (see [`crate::split_thinking`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think_end: Option<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            seed: 0,
            pattern: None,
            top_logprobs: None,
            think_end: None,
        }
    }
}

impl Sampling {
    /// Whether the most probable token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 || self.top_k == Some(1)
    }
}

/// Hash of a request's content: the key, with the model's identity, under which its response is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestKey(pub Digest);

impl Request {
    /// The content hash; the seed of a greedy generation is left out, because it has no effect.
    pub fn key(&self) -> RequestKey {
        let mut hasher = Hasher::new("request");
        match self {
            Self::LogLikelihood { context, continuation } => {
                hasher.part("loglikelihood").part(context).part(continuation);
            }
            Self::RollingLogLikelihood { text } => {
                hasher.part("loglikelihood_rolling").part(text);
            }
            Self::Generate { prompt, stop, sampling } => {
                let mut sampling = sampling.clone();
                if sampling.is_greedy() {
                    sampling = Sampling {
                        temperature: 0.0,
                        max_new_tokens: sampling.max_new_tokens,
                        repetition_penalty: sampling.repetition_penalty,
                        pattern: sampling.pattern,
                        top_logprobs: sampling.top_logprobs,
                        think_end: sampling.think_end,
                        ..Sampling::default()
                    };
                }
                hasher.part("generate_until").part(prompt).part(canonical_json(stop)).part(canonical_json(&sampling));
            }
        }
        RequestKey(hasher.finish())
    }

    /// A text generated for this request, divided at the end of its thinking; `None` for an output of another kind. Without
    /// [`Sampling::think_end`] all of it is answer.
    pub fn divide<'a>(&self, output: &'a Output) -> Option<Thinking<'a>> {
        let (Self::Generate { prompt, sampling, .. }, Output::Text { text, finish, .. }) = (self, output) else {
            return None;
        };
        let end = sampling.think_end.as_deref().unwrap_or_default();
        Some(split_thinking(text, end, begins_in_thinking(prompt, end, *finish)))
    }

    /// The name of the request type in lm-eval's words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LogLikelihood { .. } => "loglikelihood",
            Self::RollingLogLikelihood { .. } => "loglikelihood_rolling",
            Self::Generate { .. } => "generate_until",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generate(sampling: Sampling) -> Request {
        Request::Generate { prompt: "p".into(), stop: vec![], sampling }
    }

    #[test]
    fn seed_counts_only_when_sampling() {
        let greedy = |seed| generate(Sampling { seed, ..Sampling::default() }).key();
        assert_eq!(greedy(1), greedy(2));
        let sampled = |seed| generate(Sampling { seed, temperature: 0.7, ..Sampling::default() }).key();
        assert_ne!(sampled(1), sampled(2));
        assert_ne!(greedy(1), sampled(1));
    }

    #[test]
    fn later_options_count_only_when_given() {
        // Computed before `pattern`, `top_logprobs` and `think_end` were there: what was stored then is still found.
        let plain = generate(Sampling::default()).key();
        assert_eq!(plain.0.to_string(), "3d489cb2818ee97ad9e82f73b5a2d833dfc4ede112f4fd597af5324c5933854a");
        let with = |pattern: Option<&str>, top_logprobs| {
            generate(Sampling { pattern: pattern.map(str::to_owned), top_logprobs, ..Sampling::default() }).key()
        };
        assert_eq!(with(None, None), plain);
        assert_ne!(with(Some("a|b"), None), plain);
        assert_ne!(with(None, Some(5)), plain);
        let thinking = Sampling { think_end: Some("</think>".to_owned()), ..Sampling::default() };
        assert_ne!(generate(thinking).key(), plain);
        assert_ne!(with(Some("a|b"), None), with(Some("a|c"), None));
    }

    #[test]
    fn reads_back_from_json() {
        let request = generate(Sampling { top_p: Some(0.9), ..Sampling::default() });
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        assert!(text.contains(r#""kind":"generate_until""#), "{text}");
    }
}
