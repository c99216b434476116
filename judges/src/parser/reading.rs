//! How a protocol reads an answer.

use harness_core::{Finish, split_marked_thinking, split_opened_thinking};

use super::{Found, Parsed, Parser, diagnosis, label_preference};
use crate::{Answer, Outcome, Protocol, Unparsed, Verdict};

impl Protocol {
    /// Reads the verdict of an answer. Thinking is set aside before: what stands in it is no verdict.
    pub fn read(&self, answer: &Answer) -> Parsed {
        match answer {
            Answer::Failed { message, .. } => {
                Parsed::unread(Unparsed::NotAnswered { message: message.clone() }, String::new())
            }
            Answer::Labels { logprobs } => self.read_labels(logprobs),
            Answer::Text { text, reasoning, opened, finish } => {
                let divided = match opened {
                    true => split_opened_thinking(text),
                    false => split_marked_thinking(text),
                };
                let thinking = [reasoning.trim(), divided.thinking().unwrap_or_default().trim()];
                let thinking: Vec<&str> = thinking.into_iter().filter(|part| !part.is_empty()).collect();
                let (text, thought) = (divided.answer(), !thinking.is_empty());
                let outcome = match withheld(*finish) {
                    Some(reason) => Err(reason),
                    None if text.trim().is_empty() && thought => {
                        Err(Unparsed::OnlyReasoning { cut: *finish == Finish::Length })
                    }
                    None => self.read_text(text, *finish == Finish::Length),
                };
                let (outcome, rationale) = match outcome {
                    Ok((verdict, rationale)) => (Outcome::Parsed(verdict), rationale),
                    Err(reason) => (Outcome::Unparsed(reason), text.to_owned()),
                };
                let all = thinking.into_iter().chain([rationale.as_str()]).filter(|part| !part.is_empty());
                Parsed { outcome, rationale: all.collect::<Vec<_>>().join("\n\n"), label_share: None }
            }
        }
    }

    /// The verdict of a text without its thinking.
    fn read_text(&self, text: &str, cut: bool) -> Found {
        let found = match (self.parser, &self.labels) {
            (Parser::Labels, Some(labels)) => label_text(labels, text),
            _ => self.parser.read(self.kind, self.scale.unwrap_or([1.0, 5.0]), text),
        };
        found.map_err(|reason| diagnosis::refine(reason, text, cut))
    }

    /// The verdict of log-probabilities: the share of the second label in the probability of both, where both together
    /// have enough of it.
    fn read_labels(&self, logprobs: &[(String, f64)]) -> Parsed {
        let Some([first, second]) = &self.labels else { return Parsed::unread(Unparsed::NoLabel, String::new()) };
        let Some(preference) = label_preference(logprobs, first, [first, second], false) else {
            return Parsed { label_share: Some(0.0), ..Parsed::unread(Unparsed::NoLabel, String::new()) };
        };
        let share = label_share(logprobs, [first, second]);
        let outcome = if share < self.least_label_share {
            Outcome::Unparsed(Unparsed::FewOnLabels)
        } else {
            Outcome::Parsed(Verdict::Preference(preference - 1.0))
        };
        Parsed { outcome, rationale: String::new(), label_share: Some(share) }
    }
}

impl Parsed {
    fn unread(reason: Unparsed, rationale: String) -> Self {
        Self { outcome: Outcome::Unparsed(reason), rationale, label_share: None }
    }
}

/// Why there is no verdict, where the end of an answer says it.
fn withheld(finish: Finish) -> Option<Unparsed> {
    match finish {
        Finish::ContentFilter => Some(Unparsed::Filtered),
        Finish::Refusal => Some(Unparsed::Refusal),
        Finish::NoChoice => Some(Unparsed::NoChoice),
        Finish::ToolCall => Some(Unparsed::ToolCall),
        Finish::EndOfSequence | Finish::Stop | Finish::Length | Finish::NoContent | Finish::Unknown => None,
    }
}

/// Share of all probability that lies on the labels; of equal tokens the last counts, as in [`label_preference`].
fn label_share(logprobs: &[(String, f64)], labels: [&str; 2]) -> f64 {
    let of = |label: &str| logprobs.iter().rev().find(|(token, _)| token == label).map_or(0.0, |(_, x)| x.exp());
    labels.into_iter().map(of).sum::<f64>().min(1.0)
}

/// A judge without log-probabilities can still write a label: a whole verdict for it.
fn label_text(labels: &[String; 2], text: &str) -> Found {
    let found = labels.iter().position(|label| text.trim() == label);
    found.map(|position| (Verdict::Preference(position as f64), String::new())).ok_or(Unparsed::NoLabel)
}
