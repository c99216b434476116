//! What is known of a model's answers beyond its scores.

use std::collections::BTreeMap;

use harness_core::{Digest, DocId, Finish, Irregular, Output, Request, Response, Thinking, split_marked_thinking};
use serde::{Deserialize, Serialize};

/// Facts about one model, for caveats; everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Name of the model, as in the tables.
    pub model: String,
    /// Digest of the model's identity: equal digests mean the same model.
    #[serde(default)]
    pub identity: Option<Digest>,
    /// Name or identity of the model the adapter sits on, for the text of caveats.
    #[serde(default)]
    pub base: Option<String>,
    /// Whether the adapter is known to change nothing (all of its updates are zero).
    #[serde(default)]
    pub adapter_is_noop: bool,
    /// What all answers were made under, by name: type of computation, chat template, engine.
    #[serde(default)]
    pub conditions: BTreeMap<String, String>,
    /// The recipe it was trained with, flattened: `training.learning_rate` and so on; empty where there is none.
    #[serde(default)]
    pub recipe: BTreeMap<String, String>,
    /// Hash of the files its results were imported from and of what was taken from them; `None` where they were made here.
    #[serde(default)]
    pub source: Option<Digest>,
    /// The model as these files name it.
    #[serde(default)]
    pub told: Option<String>,
    /// Names of these files by the hash of their content.
    #[serde(default)]
    pub files: BTreeMap<Digest, String>,
    /// By task id.
    #[serde(default)]
    pub tasks: BTreeMap<String, TaskFacts>,
}

/// Facts about a model's answers to one task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFacts {
    /// Hash of all outputs in document order; equal hashes mean equal outputs.
    #[serde(default)]
    pub outputs: Option<Digest>,
    /// Requests answered.
    #[serde(default)]
    pub requests: usize,
    /// Requests whose context was cut on the left to fit the model.
    #[serde(default)]
    pub truncated: usize,
    /// Generations ended by the limit on tokens.
    #[serde(default)]
    pub cut_by_limit: usize,
    /// Generations that never left their thinking; they are not among those ended by the limit.
    #[serde(default)]
    pub cut_in_thinking: usize,
    /// Generations that hold thinking although no end of it is set, so that it was taken for the answer.
    #[serde(default)]
    pub thinking_scored: usize,
    /// Generations that are no whole answers, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub irregular: BTreeMap<Irregular, usize>,
    /// Requests where joint tokenisation moved the boundary between context and continuation.
    #[serde(default)]
    pub boundary_shifted: usize,
    /// Texts whose first token was not scored.
    #[serde(default)]
    pub first_unscored: usize,
    /// Documents whose examples come from the evaluated split.
    #[serde(default)]
    pub examples_from_test: usize,
    /// Positions of documents whose prompts show a row with their own question and answer.
    #[serde(default)]
    pub shared_examples: Vec<usize>,
    /// Requests without the system message that was given, because the chat template refuses one.
    #[serde(default)]
    pub system_left_out: usize,
    /// Requests whose chat template shows nothing of the system message.
    #[serde(default)]
    pub system_hidden: usize,
    /// Generations that a stop string ended inside their thinking.
    #[serde(default)]
    pub stopped_in_thinking: usize,
    /// Positions of documents whose right answer is none of their choices.
    #[serde(default)]
    pub no_right_choice: Vec<usize>,
    /// Positions of documents on whose answers a pattern was given up.
    #[serde(default)]
    pub costly_patterns: Vec<usize>,
    /// Generations whose tokens were drawn at random.
    #[serde(default)]
    pub sampled: usize,
    /// Answers a document; 0 where it is not known.
    #[serde(default)]
    pub repeats: usize,
    /// Hash of the outputs of each document, where they hold log-probabilities: equal numbers to the last bit are then no
    /// accident.
    #[serde(default)]
    pub documents: BTreeMap<DocId, Digest>,
    /// What the answers were made under, by name: prompts, number of examples, sampling, version of the task.
    #[serde(default)]
    pub conditions: BTreeMap<String, String>,
    /// Documents of the task that the model was trained on.
    #[serde(default)]
    pub seen: BTreeMap<DocId, Overlap>,
    /// How much of the benchmark there is, where its size is known and not all of it is.
    #[serde(default)]
    pub coverage: Option<Coverage>,
}

/// A part of a benchmark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Documents with a result.
    pub found: usize,
    /// Documents of the benchmark.
    pub of: usize,
    /// What it calls one of them: `document`, `instruction`, `turn`.
    pub unit: String,
    /// Names of the missing ones, where they are known.
    pub missing: Vec<String>,
}

/// How a document was found in training data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The whole text stands in a training row.
    Exact,
    /// A run of 13 words stands in a training row.
    Ngram,
}

impl TaskFacts {
    /// Counts one response in; `outputs` is left to the caller, who knows the order of documents.
    pub fn count(&mut self, request: &Request, response: &Response) {
        self.requests += 1;
        self.truncated += usize::from(response.usage.truncated_tokens > 0);
        self.boundary_shifted += usize::from(response.usage.boundary_shifted);
        self.first_unscored += usize::from(response.usage.first_unscored);
        let open = request.divide(&response.output).is_some_and(|divided| divided.is_open());
        // An answer that was cut inside its thinking is counted as that alone.
        if let Some(reason) = response.irregular().filter(|reason| !open || *reason != Irregular::OnlyReasoning) {
            *self.irregular.entry(reason).or_default() += 1;
        }
        let (Request::Generate { sampling, .. }, Output::Text { text, finish, .. }) = (request, &response.output)
        else {
            return;
        };
        let unset = sampling.think_end.is_none() && sampling.pattern.is_none();
        self.cut_in_thinking += usize::from(open);
        self.cut_by_limit += usize::from(!open && *finish == Finish::Length);
        let thinks = !matches!(split_marked_thinking(text), Thinking::None(_));
        self.thinking_scored += usize::from(unset && thinks);
    }
}

/// The facts of the models in their order.
pub(super) fn ordered<'a>(models: &[String], facts: &'a [ModelFacts]) -> Vec<&'a ModelFacts> {
    models.iter().filter_map(|model| facts.iter().find(|facts| &facts.model == model)).collect()
}

/// Whether none of a model's answers to a task is one: then nothing could be extracted, and another caveat says why.
pub(super) fn no_answer(facts: &[ModelFacts], task: &str, model: &str) -> bool {
    let of = facts.iter().find(|facts| facts.model == model).and_then(|facts| facts.tasks.get(task));
    let missing = |of: &TaskFacts| -> usize {
        of.irregular.iter().filter(|(reason, _)| **reason != Irregular::UnknownEnd).map(|(_, count)| count).sum()
    };
    of.is_some_and(|of| of.requests > 0 && missing(of) >= of.requests)
}
