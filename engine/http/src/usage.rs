//! Token counts as a server gives them, and what is made of those that cannot be true.

use harness_core::Usage;
use serde_json::Value;

/// Bounds that no true count passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// Most tokens of the prompt: every token is at least a byte, and every message adds a few.
    pub(crate) prompt: usize,
    /// Most tokens generated.
    pub(crate) completion: usize,
}

/// The counts of an answer, and whether they had to be replaced. A count that is missing or impossible becomes the bound
/// where money is concerned, so that cost is never understated.
pub(crate) fn counts(usage: Option<&Value>, bounds: Bounds) -> (Usage, bool) {
    let count = |key: &str, least: u64, most: usize| {
        let count = usage?.get(key)?.as_u64().filter(|&count| count >= least)? as usize;
        (count <= most).then_some(count)
    };
    let prompt = count("prompt_tokens", 1, bounds.prompt);
    let completion = count("completion_tokens", 0, bounds.completion);
    let usage = Usage {
        prompt_tokens: prompt.unwrap_or(bounds.prompt),
        completion_tokens: completion.unwrap_or(bounds.completion),
        ..Usage::default()
    };
    (usage, prompt.is_none() || completion.is_none())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn impossible_counts_become_bounds() {
        let bounds = Bounds { prompt: 40, completion: 8 };
        let read = |usage: Value| {
            let (usage, replaced) = counts(Some(&usage), bounds);
            (usage.prompt_tokens, usage.completion_tokens, replaced)
        };
        assert_eq!(read(json!({"prompt_tokens": 12, "completion_tokens": 3})), (12, 3, false));
        assert_eq!(read(json!({"prompt_tokens": 12, "completion_tokens": 0})), (12, 0, false));
        assert_eq!(read(json!({"prompt_tokens": -5, "completion_tokens": 3})), (40, 3, true));
        assert_eq!(read(json!({"prompt_tokens": 12, "completion_tokens": 999_999})), (12, 8, true));
        assert_eq!(read(json!({"prompt_tokens": 0, "completion_tokens": "three"})), (40, 8, true));
        assert!(counts(None, bounds).1);
    }
}
