//! The seam between tasks and those who run them.

use harness_core::{
    ChatMessage, ChatOptions, ChatRole, Digest, Document, LanguageModel, MetricKey, ModelError, Request, Response,
    SampleScore,
};
use harness_metrics::{Statistic, comparison::Scale};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::TaskError;

/// What a task asks of a model; lm-eval's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputType {
    /// The log-likelihood of one continuation.
    #[serde(rename = "loglikelihood")]
    LogLikelihood,
    /// The log-likelihood of each of several continuations.
    MultipleChoice,
    /// The log-likelihood of a whole text.
    #[serde(rename = "loglikelihood_rolling")]
    LogLikelihoodRolling,
    /// Generated text.
    GenerateUntil,
}

impl OutputType {
    /// lm-eval's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogLikelihood => "loglikelihood",
            Self::MultipleChoice => "multiple_choice",
            Self::LogLikelihoodRolling => "loglikelihood_rolling",
            Self::GenerateUntil => "generate_until",
        }
    }
}

/// How many documents are evaluated, always from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// At most this many.
    Count(usize),
    /// ⌈fraction · n⌉ of n documents, with the fraction in (0, 1).
    Fraction(f64),
}

impl Limit {
    /// lm-eval's `--limit`: a fraction below 1, a count (rounded down) from 1 on; `None` for a value that is neither.
    pub fn from_number(number: f64) -> Option<Self> {
        if number > 0.0 && number < 1.0 {
            Some(Self::Fraction(number))
        } else if (1.0..1e15).contains(&number) {
            Some(Self::Count(number as usize))
        } else {
            None
        }
    }

    /// Number of documents evaluated out of `n`.
    pub fn of(self, n: usize) -> usize {
        match self {
            Self::Count(count) => count.min(n),
            Self::Fraction(fraction) => ((n as f64 * fraction).ceil() as usize).min(n),
        }
    }
}

/// What of a run changes the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildOptions {
    /// Only the first documents.
    pub limit: Option<Limit>,
    /// Overrides the task's number of examples, unless the task fixes it to 0.
    pub num_fewshot: Option<usize>,
    /// Seed of the example sampler (CPython's generator); lm-eval's default is 1234.
    pub fewshot_seed: i64,
    /// Text before everything else; a system message in a chat.
    pub system_instruction: Option<String>,
    /// Renders prompts through the model's chat template.
    pub apply_chat_template: bool,
    /// With a chat template: examples as turns of their own (lm-eval's default); otherwise all in one user message.
    pub fewshot_as_multiturn: bool,
    /// The mark that ends the model's thinking, instead of the one in the task's `generation_kwargs`; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think_end_token: Option<String>,
    /// Updates of the task's `generation_kwargs`.
    pub generation_kwargs: Map<String, Value>,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            limit: None,
            num_fewshot: None,
            fewshot_seed: 1234,
            system_instruction: None,
            apply_chat_template: false,
            fewshot_as_multiturn: true,
            think_end_token: None,
            generation_kwargs: Map::new(),
        }
    }
}

/// Renders a chat as the text a model expects; implemented for `&dyn LanguageModel`.
pub trait PromptFormatter: Sync {
    /// The text of the messages.
    ///
    /// # Errors
    /// If there is no chat template or it refuses the messages.
    fn apply_chat_template(&self, messages: &[ChatMessage], options: ChatOptions) -> Result<String, ModelError>;
}

impl PromptFormatter for &dyn LanguageModel {
    fn apply_chat_template(&self, messages: &[ChatMessage], options: ChatOptions) -> Result<String, ModelError> {
        LanguageModel::apply_chat_template(*self, messages, options)
    }
}

/// What a document's answer is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gold {
    /// Number of the right choice; `None` where the data names no choice there is (scored 0, as in lm-eval).
    Choice(Option<usize>),
    /// Several right choices, any of which counts.
    Choices(Vec<usize>),
    /// The right text.
    Text(String),
    /// Several right texts.
    Texts(Vec<String>),
}

impl Gold {
    /// The right choice as metrics take it; `None` for a text.
    pub(crate) fn choice(&self) -> Option<harness_metrics::Gold> {
        match self {
            Self::Choice(Some(index)) => Some(harness_metrics::Gold::One(*index)),
            Self::Choices(indices) => Some(harness_metrics::Gold::Any(indices.clone())),
            Self::Choice(None) => Some(harness_metrics::Gold::Missing),
            Self::Text(_) | Self::Texts(_) => None,
        }
    }

    /// Whether the data name no choice there is, so that no answer can be right.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Choice(choice) => choice.is_none(),
            Self::Choices(choices) => choices.is_empty(),
            Self::Text(_) | Self::Texts(_) => false,
        }
    }
}

/// A document, what is asked about it, and what its scores need besides the responses.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentRequests {
    /// The document.
    pub doc: Document,
    /// The requests in lm-eval's order: one a choice (then the unconditional ones), or one; each `repeats` times.
    pub requests: Vec<Request>,
    /// The target as lm-eval logs it.
    pub target: String,
    /// The target as it is scored.
    pub gold: Gold,
    /// Texts of the choices without delimiter; empty where there are none.
    pub choices: Vec<String>,
}

/// All requests of one evaluation of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Documents in evaluation order.
    pub documents: Vec<DocumentRequests>,
    /// Number of documents before the limit.
    pub available: usize,
    /// Number of examples before each question.
    pub num_fewshot: usize,
    /// Whether the examples come from the evaluated split: other documents' prompts show a document's answer.
    pub evaluated_split_shown: bool,
    /// Positions of documents whose prompts show a row with their own question and answer: one that two splits share.
    pub shared_examples: Vec<usize>,
    /// Prompts without the system message, because the chat template refuses one.
    pub system_left_out: usize,
    /// Prompts whose chat template shows nothing of the system message.
    pub system_hidden: usize,
    /// What the user should know, e.g. that the definition fixes the number of examples.
    pub warnings: Vec<String>,
}

/// A metric behind a filter pipeline, as the task reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricSpec {
    /// Name and filter.
    pub key: MetricKey,
    /// How summed statistics become the value.
    pub statistic: Statistic,
    /// Whether larger values are better.
    pub higher_is_better: bool,
    /// What values are in.
    pub scale: Scale,
    /// The one metric that stands for the task where there is room for one.
    pub primary: bool,
}

/// What a filter pipeline made of a response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Name of the pipeline.
    pub filter: String,
    /// The filtered answer: a string, or a list of strings.
    pub value: Value,
    /// How it came about.
    pub outcome: AnswerOutcome,
}

/// Whether an answer could be extracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerOutcome {
    /// Extracted, or no extraction was asked for.
    Parsed,
    /// No pattern matched; the value is the fallback.
    Fallback,
    /// A pattern needed more backtracking than is allowed; the value is the fallback.
    PatternTooCostly,
    /// The generation was cut inside its thinking; the value is what the filters make of an empty answer.
    CutInThinking,
}

impl AnswerOutcome {
    /// Whether the answer counts as read: one that was cut inside its thinking is empty, and counted apart.
    pub(crate) fn is_read(self) -> bool {
        match self {
            Self::Parsed | Self::CutInThinking => true,
            Self::Fallback | Self::PatternTooCostly => false,
        }
    }
}

/// The scores of one document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// One score a metric, in the order of [`Task::metrics`].
    pub scores: Vec<SampleScore>,
    /// The filtered answers of a generation, one a pipeline.
    pub answers: Vec<Answer>,
}

/// What a piece of a prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptPart {
    /// System instruction and description.
    System,
    /// The question of an example, by its number from 0.
    ExampleQuestion(usize),
    /// The answer of an example, by its number from 0.
    ExampleAnswer(usize),
    /// The question of the document.
    Question,
    /// The beginning of the answer that the task gives (`gen_prefix`).
    AnswerPrefix,
}

/// One piece of a prompt; in plain mode the texts of all pieces concatenate to the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptPiece {
    /// What it is.
    pub part: PromptPart,
    /// Who says it in a chat.
    pub role: ChatRole,
    /// The text with its delimiter.
    pub text: String,
}

/// A document as the model will see it.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptView {
    /// The pieces before the chat template.
    pub pieces: Vec<PromptPiece>,
    /// The requests, target and choices.
    pub item: DocumentRequests,
}

/// Documents, the requests of a document, and the scores of its responses; pure after loading.
pub trait Task: Send + Sync {
    /// Name, unique in a registry; lm-eval's where it has the task.
    fn id(&self) -> &str;

    /// Name for tables.
    fn alias(&self) -> &str;

    /// Version from the definition's metadata; a higher one means other numbers.
    fn version(&self) -> &str;

    /// Hash of the resolved definition, everything included.
    fn digest(&self) -> Digest;

    /// The resolved definition as JSON, for manifests.
    fn definition(&self) -> &Value;

    /// What it asks.
    fn output_type(&self) -> OutputType;

    /// Examples before each question unless overridden.
    fn num_fewshot(&self) -> usize;

    /// All documents of the evaluated split, in order.
    fn documents(&self) -> &[Document];

    /// What it reports, in the order of the definition, filters in blocks.
    fn metrics(&self) -> &[MetricSpec];

    /// Builds the requests of all documents within the limit. `formatter` is needed for a chat template only.
    ///
    /// # Errors
    /// If a document does not fit the templates, there are too few examples, or the chat template fails.
    fn build(&self, options: &BuildOptions, formatter: Option<&dyn PromptFormatter>) -> Result<Prepared, TaskError>;

    /// Scores the responses to the requests of one document, in their order.
    ///
    /// # Errors
    /// If number or kind of the responses do not fit the requests.
    fn score(&self, item: &DocumentRequests, responses: &[Response]) -> Result<Scored, TaskError>;

    /// The prompt of one document in pieces.
    ///
    /// # Errors
    /// As [`Task::build`]; if there is no such document.
    fn show(
        &self,
        index: usize,
        options: &BuildOptions,
        formatter: Option<&dyn PromptFormatter>,
    ) -> Result<PromptView, TaskError>;
}
