//! Windows over a text that is longer than the model's context, as lm-evaluation-harness cuts them
//! (`get_rolling_token_windows`, `make_disjoint_window`).

/// One window: the model reads `input` and predicts `targets`, the tokens of its last `targets.len()` positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollingWindow {
    /// Tokens the model reads.
    pub input: Vec<u32>,
    /// Tokens scored in this window; every token of the text is scored in exactly one window.
    pub targets: Vec<u32>,
}

impl RollingWindow {
    /// The input up to the position that predicts the first target: the disjoint form's context.
    pub fn context(&self) -> &[u32] {
        let given = self.targets.len().saturating_sub(1);
        &self.input[..self.input.len().saturating_sub(given)]
    }
}

/// Cuts `tokens` into windows of at most `max_length` input tokens, each later one with at least `context_length` tokens
/// of context. The first window begins with `prefix`. Lengths are taken as at least 1, the context as at most
/// `max_length`.
pub fn rolling_windows(tokens: &[u32], prefix: u32, max_length: usize, context_length: usize) -> Vec<RollingWindow> {
    let max_length = max_length.max(1);
    let step = max_length - context_length.clamp(1, max_length) + 1;
    if tokens.is_empty() {
        return Vec::new();
    }
    let first = max_length.min(tokens.len());
    let input = std::iter::once(prefix).chain(tokens[..first - 1].iter().copied()).collect();
    let mut windows = vec![RollingWindow { input, targets: tokens[..first].to_vec() }];
    let mut predicted = first;
    while predicted < tokens.len() {
        let end = predicted + step.min(tokens.len() - predicted);
        // The first window predicted `max_length` tokens, so `end` is beyond `max_length`.
        windows.push(RollingWindow {
            input: tokens[end - max_length - 1..end - 1].to_vec(),
            targets: tokens[predicted..end].to_vec(),
        });
        predicted = end;
    }
    windows
}
