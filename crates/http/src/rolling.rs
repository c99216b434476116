//! Texts that are longer than a server's context: the windows they are scored in.

use harness_core::{Output, Response, rolling_windows};
use serde_json::{Value, json};

/// Where vLLM and llama.cpp tell the tokens of a text, beside the API.
pub(crate) const TOKENIZE: &str = "/tokenize";
/// Room in the context that a window leaves: its last token stands in the prompt too, and one has to be generated.
const ROOM: usize = 2;

/// One window of a text as a prompt of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// All tokens that are sent.
    pub(crate) prompt: Vec<u32>,
    /// How many of them, at the end, are scored.
    pub(crate) scored: usize,
    /// Whether the text begins in it.
    pub(crate) begins: bool,
}

/// What asks for the tokens of a text: vLLM's names and llama.cpp's.
pub(crate) fn question(model: &str, text: &str) -> Value {
    json!({"model": model, "prompt": text, "content": text, "add_special_tokens": true, "add_special": true})
}

/// The tokens in an answer to [`question`].
pub(crate) fn tokens(body: &Value) -> Option<Vec<u32>> {
    let list = body.get("tokens")?.as_array()?;
    list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

/// The windows of a text whose tokens do not fit into `max_length` with one that is generated; `None` if they do. The
/// first token (BOS where the server sets one) is read and not scored, as where the text is sent whole.
pub(crate) fn windows(tokens: &[u32], max_length: usize) -> Option<Vec<Window>> {
    let (&first, rest) = tokens.split_first().filter(|_| tokens.len() >= max_length)?;
    let windows = rolling_windows(rest, first, max_length.saturating_sub(ROOM), 1);
    let one = |(at, window): (usize, harness_core::RollingWindow)| {
        let last = window.targets.last().copied();
        let prompt = window.input.into_iter().chain(last).collect();
        Window { prompt, scored: window.targets.len(), begins: at == 0 }
    };
    Some(windows.into_iter().enumerate().map(one).collect())
}

/// Adds the answer about one window to that about others.
pub(crate) fn add(sum: &mut Response, next: &Response) {
    if let (
        Output::RollingLogLikelihood { logprob, tokens },
        Output::RollingLogLikelihood { logprob: more, tokens: others },
    ) = (&mut sum.output, &next.output)
    {
        *logprob += more;
        *tokens += others;
    }
    sum.usage.prompt_tokens += next.usage.prompt_tokens;
    sum.usage.completion_tokens += next.usage.completion_tokens;
    sum.usage.first_unscored |= next.usage.first_unscored;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_fit_and_score_every_token_but_the_first_once() {
        let tokens: Vec<u32> = (100..150).collect();
        for max_length in [3, 4, 7, 20, 49, 50] {
            let windows = windows(&tokens, max_length).unwrap();
            assert!(windows.iter().all(|window| window.prompt.len() < max_length && window.scored > 0));
            let scored: Vec<u32> =
                windows.iter().flat_map(|w| w.prompt[w.prompt.len() - w.scored..].to_vec()).collect();
            assert_eq!(scored, tokens[1..], "{max_length}");
        }
        assert_eq!(windows(&tokens, 51), None, "fifty tokens and one more fit");
        assert_eq!(windows(&[], 0), None);
    }
}
