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

/// The counts of an answer. One that is missing or cannot be true becomes the bound, so that cost is never understated,
/// and is marked as untold.
pub(crate) fn counts(usage: Option<&Value>, bounds: Bounds) -> Usage {
    let count = |key: &str, least: u64, most: usize| {
        let count = usage?.get(key)?.as_u64().filter(|&count| count >= least)? as usize;
        (count <= most).then_some(count)
    };
    let prompt = count("prompt_tokens", 1, bounds.prompt);
    let completion = count("completion_tokens", 0, bounds.completion);
    let details = usage.and_then(|usage| usage.get("completion_tokens_details")?.get("reasoning_tokens")?.as_u64());
    Usage {
        prompt_tokens: prompt.unwrap_or(bounds.prompt),
        completion_tokens: completion.unwrap_or(bounds.completion),
        prompt_untold: prompt.is_none(),
        completion_untold: completion.is_none(),
        reasoning_tokens: details.map_or(0, |n| (n as usize).min(bounds.completion)),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn impossible_counts_become_bounds() {
        let bounds = Bounds { prompt: 40, completion: 8 };
        let read = |usage: Value| {
            let usage = counts(Some(&usage), bounds);
            (usage.prompt_tokens, usage.completion_tokens, [usage.prompt_untold, usage.completion_untold])
        };
        assert_eq!(read(json!({"prompt_tokens": 12, "completion_tokens": 3})), (12, 3, [false; 2]));
        assert_eq!(read(json!({"prompt_tokens": 12, "completion_tokens": 0})), (12, 0, [false; 2]));
        assert_eq!(read(json!({"prompt_tokens": -5, "completion_tokens": 3})), (40, 3, [true, false]));
        assert_eq!(read(json!({"prompt_tokens": 12, "completion_tokens": 999_999})), (12, 8, [false, true]));
        assert_eq!(read(json!({"prompt_tokens": 0, "completion_tokens": "three"})), (40, 8, [true; 2]));
        assert_eq!(read(json!({"prompt_tokens": 12})), (12, 8, [false, true]), "told in part");
        assert!(counts(None, bounds).prompt_untold);
        let usage = json!({"completion_tokens_details": {"reasoning_tokens": 6}});
        assert_eq!(counts(Some(&usage), bounds).reasoning_tokens, 6);
    }
}
