//! What is asked of a judge, and what it answers.

use harness_core::{ChatMessage, Digest, Finish, Hasher, Output, Request, Response, Sampling};
use serde::{Deserialize, Serialize};

use crate::{Order, Purpose, QuestionId, Subject};

/// The form of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerForm {
    /// A text with a verdict in it.
    Text {
        /// How it is sampled.
        sampling: Sampling,
        /// Regular expression of all legal texts, for judges that can be constrained; matched against the whole text.
        constraint: Option<String>,
    },
    /// The log-probabilities of two labels as the first token of the answer.
    Labels {
        /// Label of the output shown first, and of the one shown second.
        labels: [String; 2],
        /// How many alternatives an endpoint is asked for.
        top_logprobs: usize,
        /// How an endpoint samples the one token it has to generate.
        sampling: Sampling,
    },
}

/// One question to a judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Its identity.
    pub id: QuestionId,
    /// Id of the item.
    pub item: String,
    /// Whose output is judged.
    pub subject: Subject,
    /// Turn that is judged, from 1.
    pub turn: usize,
    /// Which output is shown first.
    pub order: Order,
    /// What it is asked for.
    pub purpose: Purpose,
    /// Number of the repetition; 0 for the first time.
    pub repeat: u32,
    /// Name of the prompt.
    pub template: String,
    /// What the judge sees.
    pub messages: Vec<ChatMessage>,
    /// What the answer looks like, at the first attempt.
    pub form: AnswerForm,
}

impl Question {
    /// The id that belongs to the other fields.
    pub(crate) fn make_id(&self, context: &Digest) -> QuestionId {
        let mut hasher = Hasher::new("judge question");
        hasher.part(context.as_bytes()).part(&self.item).part(Digest::of_json(&self.subject).as_bytes());
        hasher.part(Digest::of_json(&(self.turn, self.order, self.purpose, self.repeat)).as_bytes());
        for message in &self.messages {
            hasher.part(Digest::of_json(message).as_bytes());
        }
        QuestionId(hasher.finish())
    }
}

/// One attempt at a question: what is to be sent now.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Position of the question in the plan; [`crate::Asking::record`] takes it.
    pub index: usize,
    /// The question's id.
    pub id: QuestionId,
    /// Number of the attempt, from 1. A cache has to tell attempts and repetitions apart even for a greedy judge.
    pub attempt: u32,
    /// Number of the repetition.
    pub repeat: u32,
    /// What the judge sees.
    pub messages: Vec<ChatMessage>,
    /// What the answer looks like, with the seed of this attempt.
    pub form: AnswerForm,
}

impl Ask {
    /// The requests to a model that takes plain prompts: one generation, or the log-likelihood of each label.
    /// `render` turns messages into a prompt (a model's chat template with a generation prompt).
    ///
    /// # Errors
    /// Those of `render`.
    pub fn requests<E>(&self, render: impl Fn(&[ChatMessage]) -> Result<String, E>) -> Result<Vec<Request>, E> {
        let prompt = render(&self.messages)?;
        Ok(match &self.form {
            AnswerForm::Text { sampling, .. } => {
                vec![Request::Generate { prompt, stop: vec![], sampling: sampling.clone() }]
            }
            AnswerForm::Labels { labels, .. } => labels
                .iter()
                .map(|label| Request::LogLikelihood { context: prompt.clone(), continuation: label.clone() })
                .collect(),
        })
    }

    /// The answer from the responses to [`Ask::requests`], in their order.
    pub fn answer(&self, responses: &[Response]) -> Answer {
        let kind = |response: &Response| match &response.output {
            Output::Text { .. } => "a text",
            _ => "a log-likelihood",
        };
        match &self.form {
            AnswerForm::Text { .. } => match responses {
                [response] if matches!(response.output, Output::Text { .. }) => Answer::of_text(response, false),
                other => Answer::failed(format!("expected one text, found {} responses", other.len())),
            },
            AnswerForm::Labels { labels, .. } => {
                let mut found = vec![];
                for (label, response) in labels.iter().zip(responses) {
                    match &response.output {
                        Output::LogLikelihood { logprob, .. } => found.push((label.clone(), *logprob)),
                        _ => return Answer::failed(format!("expected a log-likelihood, found {}", kind(response))),
                    }
                }
                Answer::Labels { logprobs: found }
            }
        }
    }
}

/// What came back for an [`Ask`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A text.
    Text {
        /// All of it, with thinking that is marked in it.
        text: String,
        /// What the judge thought, where it came apart from the text.
        reasoning: String,
        /// Whether the prompt began the thinking, so that the text begins inside it.
        opened: bool,
        /// Why it ended.
        finish: Finish,
    },
    /// Log-probabilities of tokens as the beginning of the answer: the two labels, or an endpoint's `top_logprobs` of the
    /// first token.
    Labels {
        /// Token and natural log-probability.
        logprobs: Vec<(String, f64)>,
    },
    /// No answer could be had, e.g. because the prompt is longer than the judge's context.
    Failed {
        /// Why.
        message: String,
        /// Whether asking again may help.
        again: bool,
    },
}

impl Answer {
    /// The text of a response; without one for what is no text. `opened`: see [`Answer::Text`].
    pub fn of_text(response: &Response, opened: bool) -> Self {
        match &response.output {
            Output::Text { text, finish, reasoning, .. } => {
                // Reasoning that is told by its tokens alone was there all the same.
                let hidden = reasoning.is_empty() && response.usage.reasoning_tokens > 0;
                let reasoning =
                    if hidden { format!("({} tokens)", response.usage.reasoning_tokens) } else { reasoning.clone() };
                Self::Text { text: text.clone(), reasoning, opened, finish: *finish }
            }
            _ => Self::failed("expected a text, found a log-likelihood"),
        }
    }

    /// A finished text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into(), reasoning: String::new(), opened: false, finish: Finish::EndOfSequence }
    }

    /// A failure that asking again does not help.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), again: false }
    }
}
