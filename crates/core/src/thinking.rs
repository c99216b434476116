//! The thinking of reasoning models, and the answer after it.

use harness_python::is_space;

use crate::Finish;

/// Begins a prompt that stands for the messages of a chat, as JSON, whose template a server applies: a control character
/// that no prompt of text has.
pub const CHAT_PROMPT_MARK: &str = "\u{2}messages";

/// The mark that ends the thinking of most reasoning models (DeepSeek R1, Qwen 3 and those trained on them).
pub const THINK_END: &str = "</think>";

/// A generated text, divided at the end of its thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking<'a> {
    /// No thinking is marked: the whole text is the answer.
    None(&'a str),
    /// The thinking ended.
    Closed {
        /// What stands before the last end mark, with the start mark where there is one.
        thinking: &'a str,
        /// What follows the last end mark, without leading white space.
        answer: &'a str,
    },
    /// The thinking began and never ended: the text was cut inside it and holds no answer.
    Open {
        /// The whole text.
        thinking: &'a str,
    },
}

impl<'a> Thinking<'a> {
    /// The answer; empty where the text was cut inside the thinking.
    pub fn answer(&self) -> &'a str {
        match self {
            Self::None(answer) | Self::Closed { answer, .. } => answer,
            Self::Open { .. } => "",
        }
    }

    /// The thinking, with its start mark where there is one; `None` where none is marked.
    pub fn thinking(&self) -> Option<&'a str> {
        match self {
            Self::None(_) => None,
            Self::Closed { thinking, .. } | Self::Open { thinking } => Some(thinking),
        }
    }

    /// Whether the text was cut inside the thinking.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

/// Divides a text at the last `end` mark, as lm-evaluation-harness 0.4.13 does with `think_end_token`: the answer is what
/// follows it, without leading white space. Unlike there, a text that opens a thinking block and does not end it has no
/// answer. It opens one with the start mark that belongs to `end` (`<think>` to `</think>`) at its beginning, or
/// where `opened` says that the prompt did (see [`begins_in_thinking`]). An empty `end` marks nothing.
pub fn split_thinking<'a>(text: &'a str, end: &str, opened: bool) -> Thinking<'a> {
    if end.is_empty() {
        return Thinking::None(text);
    }
    let starts = start_marks(end);
    let begins = |text: &str| starts.iter().any(|start| text.trim_start_matches(is_space).starts_with(start.as_str()));
    match text.rsplit_once(end) {
        Some((_, after)) if begins(after) => Thinking::Open { thinking: text },
        Some((thinking, after)) => Thinking::Closed { thinking, answer: after.trim_start_matches(is_space) },
        None if opened || begins(text) => Thinking::Open { thinking: text },
        None => Thinking::None(text),
    }
}

/// End marks other than [`THINK_END`] that models write.
const OTHER_ENDS: [&str; 7] = [
    "</thinking>",
    "</thought>",
    "</reasoning>",
    "</seed:think>",
    "[/THINK]",
    "<|END_THINKING|>",
    "<|end_of_thought|>",
];

/// Divides a text of a model whose marks are not known: at [`THINK_END`], or at another known end mark where the text
/// begins with the start mark that belongs to it.
pub fn split_marked_thinking(text: &str) -> Thinking<'_> {
    let start = text.trim_start_matches(is_space);
    let begun = OTHER_ENDS.iter().find(|end| start_marks(end).iter().any(|mark| start.starts_with(mark.as_str())));
    split_thinking(text, begun.unwrap_or(&THINK_END), false)
}

/// The same for the text after a prompt, which may have opened the thinking with any known mark.
pub fn split_thinking_after<'a>(prompt: &str, text: &'a str) -> Thinking<'a> {
    match opened_by(prompt) {
        Some(end) => split_thinking(text, end, true),
        None => split_marked_thinking(text),
    }
}

/// The same for a text whose prompt opened the thinking, with a mark that is not known: any known end mark ends it.
pub fn split_opened_thinking(text: &str) -> Thinking<'_> {
    split_thinking(text, known_ends().find(|end| text.contains(end)).unwrap_or(THINK_END), true)
}

/// Whether a prompt ends with a known start mark of the thinking.
pub fn opens_marked_thinking(prompt: &str) -> bool {
    opened_by(prompt).is_some()
}

fn opened_by(prompt: &str) -> Option<&'static str> {
    known_ends().find(|end| opens_thinking(prompt, end))
}

fn known_ends() -> impl Iterator<Item = &'static str> {
    std::iter::once(THINK_END).chain(OTHER_ENDS)
}

/// Whether the text generated after a prompt begins inside a thinking block: the chat templates of models that always
/// think write the start mark themselves. What a server's template writes is not known; a text of its chats that the limit
/// on tokens ended before any end mark came is taken for thinking.
pub fn begins_in_thinking(prompt: &str, end: &str, finish: Finish) -> bool {
    if prompt.starts_with(CHAT_PROMPT_MARK) {
        return finish == Finish::Length;
    }
    opens_thinking(prompt, end)
}

/// Whether a prompt ends with a start mark of the thinking.
pub fn opens_thinking(prompt: &str, end: &str) -> bool {
    let prompt = prompt.trim_end_matches(is_space);
    start_marks(end).iter().any(|start| prompt.ends_with(start.as_str()))
}

/// Cuts a text before the stop strings, one after the other as lm-evaluation-harness does; true where one was found. Where
/// an end of thinking is given they are looked for in the answer alone.
pub fn cut_at_stops(text: &mut String, stop: &[String], end: Option<&str>, opened: bool) -> bool {
    let divided = split_thinking(text, end.unwrap_or_default(), opened);
    let start = text.len() - divided.answer().len();
    let mut found = false;
    for stop in stop.iter().filter(|stop| !stop.is_empty()) {
        if let Some(at) = text[start..].find(stop.as_str()) {
            text.truncate(start + at);
            found = true;
        }
    }
    found
}

/// An end mark and the start marks that may belong to it.
pub fn thinking_marks(end: &str) -> Vec<String> {
    let mut marks = start_marks(end);
    marks.insert(0, end.to_owned());
    marks
}

/// The start marks that may belong to an end mark: `<think>` to `</think>`, `[THINK]` to `[/THINK]`,
/// `<|START_THINKING|>` to `<|END_THINKING|>`, `<|begin_of_thought|>` to `<|end_of_thought|>`. None for a mark of another
/// form.
fn start_marks(end: &str) -> Vec<String> {
    const PAIRS: [(&str, &str); 5] =
        [("/", ""), ("END", "START"), ("END", "BEGIN"), ("end", "start"), ("end", "begin")];
    PAIRS.iter().filter(|(from, _)| end.contains(from)).map(|(from, to)| end.replacen(from, to, 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Thinking<'_> {
        split_thinking(text, THINK_END, false)
    }

    #[test]
    fn the_answer_follows_the_last_mark() {
        assert_eq!(split("<think>a</think>\n\n 18 "), Thinking::Closed { thinking: "<think>a", answer: "18 " });
        assert_eq!(split("a</think>b</think>\u{1c}c"), Thinking::Closed { thinking: "a</think>b", answer: "c" });
        assert_eq!(split("</think>"), Thinking::Closed { thinking: "", answer: "" });
        assert_eq!(split("<think>\n\n</think>\n\nyes").answer(), "yes");
    }

    #[test]
    fn a_text_without_marks_is_an_answer() {
        assert_eq!(split(" 18"), Thinking::None(" 18"));
        assert_eq!(split("The tag <think> opens it"), Thinking::None("The tag <think> opens it"));
        assert_eq!(split_thinking("<think>a", "", true), Thinking::None("<think>a"));
        assert_eq!(split_thinking("<think>a", "[/THINK]", false), Thinking::None("<think>a"));
    }

    #[test]
    fn thinking_that_never_ends_holds_no_answer() {
        for text in ["<think>18", "\n <think>", "<think>a</think>\n<think>b"] {
            assert_eq!(split(text), Thinking::Open { thinking: text });
            assert_eq!(split(text).answer(), "");
        }
        assert!(split_thinking("18", THINK_END, true).is_open());
        assert_eq!(split_thinking("a</think>18", THINK_END, true).answer(), "18");
    }

    #[test]
    fn other_marks_count_where_the_text_begins_with_one() {
        let split = split_marked_thinking;
        assert_eq!(split("<thinking>a</thinking>\nb").answer(), "b");
        assert_eq!(split("\n[THINK]a[/THINK]b").thinking(), Some("\n[THINK]a"));
        assert_eq!(split("a</think>b").answer(), "b");
        assert!(split("<|START_THINKING|>a").is_open());
        assert_eq!(split("It ends in </thinking> here"), Thinking::None("It ends in </thinking> here"));
    }

    #[test]
    fn a_prompt_opens_it_with_any_known_mark() {
        assert!(split_thinking_after("[INST]x[/INST][THINK]", "a").is_open());
        assert_eq!(split_thinking_after("assistant\n[THINK]", "a[/THINK]b").answer(), "b");
        assert_eq!(split_thinking_after("assistant\n", "a").answer(), "a");
        assert!(opens_marked_thinking("assistant\n<think>\n") && !opens_marked_thinking("assistant\n"));
        assert_eq!(split_opened_thinking("a[/THINK]b").answer(), "b");
        assert!(split_opened_thinking("a").is_open());
    }

    #[test]
    fn the_start_mark_follows_from_the_end_mark() {
        let marks = [
            ("[/THINK]", "[THINK]"),
            ("<|END_THINKING|>", "<|START_THINKING|>"),
            ("<|end_of_thought|>", "<|begin_of_thought|>"),
        ];
        for (end, start) in marks {
            assert!(split_thinking(&format!("{start}a"), end, false).is_open(), "{start}");
            assert!(begins_in_thinking(&format!("<|assistant|>{start}\n"), end, Finish::Stop), "{start}");
        }
        let begins = |prompt: &str| begins_in_thinking(prompt, THINK_END, Finish::Length);
        assert!(begins("assistant\n<think>\n"));
        assert!(!begins("assistant\n<think>\n\n</think>\n\n"));
        assert!(!begins_in_thinking("assistant\n", "FINAL", Finish::Length));
    }

    #[test]
    fn what_a_server_was_cut_in_is_thinking() {
        let prompt = format!("{CHAT_PROMPT_MARK}[]");
        assert!(begins_in_thinking(&prompt, THINK_END, Finish::Length));
        assert!(!begins_in_thinking(&prompt, THINK_END, Finish::EndOfSequence));
    }

    #[test]
    fn stop_strings_cut_the_answer_alone() {
        let cut = |text: &str, end: Option<&str>| {
            let mut text = text.to_owned();
            let found = cut_at_stops(&mut text, &["\n\n".into(), String::new(), "Q:".into()], end, false);
            (text, found)
        };
        assert_eq!(cut("<think>Q: a\n\nb</think>\n\n18 Q: c", None).0, "<think>");
        let after = ("<think>Q: a\n\nb</think>\n\n18 ".to_owned(), true);
        assert_eq!(cut("<think>Q: a\n\nb</think>\n\n18 Q: c", Some(THINK_END)), after);
        assert_eq!(cut("<think>Q: a", Some(THINK_END)), ("<think>Q: a".to_owned(), false), "no answer");
        assert_eq!(cut("18 Q: c", Some(THINK_END)), ("18 ".to_owned(), true), "no thinking");
    }
}
