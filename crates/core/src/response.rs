//! What a language model answered.

use serde::{Deserialize, Serialize};

use crate::{Finish, split_marked_thinking};

/// The answer to one [`crate::Request`]; lossless, so that every score can be computed again from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The answer itself.
    pub output: Output,
    /// Token counts.
    pub usage: Usage,
}

/// The answer by kind of request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Output {
    /// Answer to [`crate::Request::LogLikelihood`].
    #[serde(rename = "loglikelihood")]
    LogLikelihood {
        /// Σ log p(token), natural logarithm.
        logprob: f64,
        /// Whether every scored token was the most probable one.
        is_greedy: bool,
        /// The token ids that were scored.
        token_ids: Vec<u32>,
        /// Log-probability of each scored token.
        token_logprobs: Vec<f32>,
    },
    /// Answer to [`crate::Request::RollingLogLikelihood`].
    #[serde(rename = "loglikelihood_rolling")]
    RollingLogLikelihood {
        /// Σ log p(token) over all windows, natural logarithm.
        logprob: f64,
        /// Number of tokens scored.
        tokens: usize,
    },
    /// Answer to [`crate::Request::Generate`].
    #[serde(rename = "generate_until")]
    Text {
        /// The generated text, cut before the first stop string.
        text: String,
        /// All generated token ids, before cutting.
        token_ids: Vec<u32>,
        /// Log-probability of each generated token under the model, before temperature and filters.
        token_logprobs: Vec<f32>,
        /// Why the generation ended.
        finish: Finish,
        /// For every generated token the most probable tokens, best first, where the request asked for them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        top_logprobs: Vec<Vec<TopLogprob>>,
        /// What the model thought, where a server gives it apart from the text.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reasoning: String,
    },
}

/// A token that could have been generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Its log-probability under the model, before temperature and filters.
    pub logprob: f32,
}

/// Why a generated text is no whole answer of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Irregular {
    /// See [`Finish::ContentFilter`].
    Filtered,
    /// See [`Finish::Refusal`].
    Refused,
    /// See [`Finish::NoChoice`].
    NoChoice,
    /// See [`Finish::NoContent`].
    NoContent,
    /// See [`Finish::ToolCall`].
    ToolCall,
    /// The model thought, and no answer came after it.
    OnlyReasoning,
    /// The text is blank.
    Empty,
    /// See [`Finish::Unknown`].
    UnknownEnd,
}

impl Irregular {
    /// What such answers are, after their number.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Filtered => "withheld by the server's filter",
            Self::Refused => "refused by the model",
            Self::NoChoice => "without a choice in the reply",
            Self::NoContent => "null instead of a text",
            Self::ToolCall => "a tool call instead of a text",
            Self::OnlyReasoning => "with nothing after the reasoning",
            Self::Empty => "empty",
            Self::UnknownEnd => "ended for an unknown reason",
        }
    }
}

impl Response {
    /// Why a generated text is no whole answer; `None` where it is one (that may be cut by the limit on tokens), and for
    /// scores of given texts.
    pub fn irregular(&self) -> Option<Irregular> {
        let Output::Text { text, finish, reasoning, .. } = &self.output else { return None };
        match finish {
            Finish::ContentFilter => return Some(Irregular::Filtered),
            Finish::Refusal => return Some(Irregular::Refused),
            Finish::ToolCall => return Some(Irregular::ToolCall),
            Finish::NoContent => return Some(Irregular::NoContent),
            Finish::NoChoice => return Some(Irregular::NoChoice),
            Finish::Unknown => return Some(Irregular::UnknownEnd),
            Finish::EndOfSequence | Finish::Stop | Finish::Length => {}
        }
        let divided = split_marked_thinking(text);
        if !divided.answer().trim().is_empty() {
            return None;
        }
        let thought = !reasoning.trim().is_empty() || self.usage.reasoning_tokens > 0 || divided.thinking().is_some();
        Some(if thought { Irregular::OnlyReasoning } else { Irregular::Empty })
    }
}

/// Token counts of one response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the context or prompt, before truncation.
    pub prompt_tokens: usize,
    /// Tokens scored or generated.
    pub completion_tokens: usize,
    /// Context tokens dropped on the left because the model's context was too short.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub truncated_tokens: usize,
    /// Whether tokenising context and continuation together moved the boundary between them (a merge crossed it).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub boundary_shifted: bool,
    /// Whether the first token of a text that was to be scored whole is left out, because it stands after nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first_unscored: bool,
    /// Whether the count of prompt tokens is an upper bound, because the server told none that can be true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prompt_untold: bool,
    /// The same of the tokens generated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub completion_untold: bool,
    /// Of the tokens generated those of reasoning, where the server tells them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reasoning_tokens: usize,
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str, finish: Finish, reasoning: &str) -> Response {
        let (text, reasoning) = (text.to_owned(), reasoning.to_owned());
        let output =
            Output::Text { text, token_ids: vec![], token_logprobs: vec![], finish, top_logprobs: vec![], reasoning };
        Response { output, usage: Usage::default() }
    }

    #[test]
    fn answers_that_are_none_are_told_apart() {
        let of = |said: &str, finish, reasoning: &str| text(said, finish, reasoning).irregular();
        assert_eq!(of("18", Finish::EndOfSequence, "hmm"), None);
        assert_eq!(of("18", Finish::Length, ""), None);
        assert_eq!(of(" \n", Finish::Stop, ""), Some(Irregular::Empty));
        assert_eq!(of("", Finish::Length, "hmm"), Some(Irregular::OnlyReasoning));
        assert_eq!(of("<think>18", Finish::Length, ""), Some(Irregular::OnlyReasoning));
        assert_eq!(of("<think>18</think> ", Finish::EndOfSequence, ""), Some(Irregular::OnlyReasoning));
        assert_eq!(of("1", Finish::ContentFilter, ""), Some(Irregular::Filtered));
        assert_eq!(of("I cannot.", Finish::Refusal, ""), Some(Irregular::Refused));
        let mut hidden = text("", Finish::Length, "");
        hidden.usage.reasoning_tokens = 40;
        assert_eq!(hidden.irregular(), Some(Irregular::OnlyReasoning), "told by the count alone");
    }

    #[test]
    fn answers_stored_before_still_load() {
        let stored = r#"{"output":{"kind":"generate_until","text":"a","token_ids":[1],"token_logprobs":[-0.5],"finish":"stop"},
            "usage":{"prompt_tokens":2,"completion_tokens":1}}"#;
        let response: Response = serde_json::from_str(stored).unwrap();
        assert_eq!(response.irregular(), None);
        let again = serde_json::to_string(&response).unwrap();
        assert_eq!(again, stored.replace("\n            ", ""), "nothing new is written where there is nothing new");
    }
}
