//! What limits the conclusions of a comparison, with figures and advice.

mod parts;
mod text;

pub use parts::{
    BelowNoise, Confounded, DifferentCondition, Dropped, FilterConflict, IdenticalTask, Incomplete, IrregularShare,
    NamedDocuments, NoiseFloor, NotShared, SameScores, SeenDocuments, Share, SharedOutputs, Underpowered, ZeroFilter,
};
pub use text::{counted, thousands};

use serde::{Deserialize, Serialize};

use super::JudgeFinding;

/// A limit on what the comparison shows. `Display` says what was found; [`Caveat::advice`] what to do about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Caveat {
    /// Two names stand for one model.
    SameModelTwice {
        /// The names.
        models: [String; 2],
    },
    /// An adapter whose updates are all zero.
    NoOpAdapter {
        /// The model with the adapter.
        model: String,
        /// What it sits on, where known.
        base: Option<String>,
    },
    /// Two models gave the same outputs.
    IdenticalOutputs {
        /// The models.
        models: [String; 2],
        /// Where.
        tasks: Vec<IdenticalTask>,
        /// How many tasks both have outputs for.
        of: usize,
    },
    /// Models were compared on the documents they share.
    PartialOverlap {
        /// Rows with documents left out.
        rows: Vec<Dropped>,
    },
    /// A task without documents.
    NoDocuments {
        /// The tasks.
        tasks: Vec<String>,
    },
    /// Primary rows whose documents would not have shown a difference as large as the margin.
    TooFewDocuments {
        /// Power at which this is stated.
        power: f64,
        /// Those rows.
        rows: Vec<Underpowered>,
        /// Number of primary rows with candidates and documents.
        of: usize,
    },
    /// Families in which the smallest p of random permutations, 1/(resamples + 1), may not survive the correction.
    TooFewResamples {
        /// Resamples used.
        resamples: usize,
        /// Resamples that would do.
        needed: usize,
        /// Families and their numbers of tests.
        families: Vec<(String, usize)>,
    },
    /// Answers from which nothing could be extracted.
    UnparsedAnswers {
        /// By row and model.
        shares: Vec<Share>,
    },
    /// Contexts cut on the left because the model's context is too short.
    TruncatedContexts {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Generations ended by the limit on tokens.
    AnswersCutByLimit {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Generations that never left their thinking.
    CutInThinking {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Generations whose thinking was taken for their answer.
    ThinkingScored {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Generations that are no whole answers of the model: withheld, refused, empty.
    IrregularAnswers {
        /// By task, model and reason.
        shares: Vec<IrregularShare>,
    },
    /// Requests where context and continuation do not part at a token boundary.
    BoundaryShifts {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Texts whose first token has no log-probability: a server that begins them with no BOS.
    FirstTokensUnscored {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Tasks whose examples come from the evaluated split.
    ExamplesFromTest {
        /// The tasks, with the number of documents that were asked with such examples.
        tasks: Vec<(String, usize)>,
    },
    /// Documents whose prompts show a row with their own question and answer.
    SharedExamples {
        /// By task.
        tasks: Vec<NamedDocuments>,
    },
    /// Requests without the system message that was given, because the chat template refuses one.
    SystemLeftOut {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Requests whose chat template shows nothing of the system message.
    SystemHidden {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Generations that a stop string ended inside their thinking.
    StoppedInThinking {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// Documents whose right answer is none of their choices: no model can be right about them.
    NoRightChoice {
        /// By task.
        tasks: Vec<NamedDocuments>,
    },
    /// Answers on which a pattern was given up, because it backtracked beyond all bounds.
    CostlyPatterns {
        /// By task and model.
        tasks: Vec<NamedDocuments>,
    },
    /// Something about a judge, found while it judged. Set by whoever runs the judge, not by [`super::Comparison`].
    Judge {
        /// The judging task, e.g. `alpaca-eval`.
        task: String,
        /// Name of the judge.
        judge: String,
        /// What was found.
        finding: JudgeFinding,
    },
    /// Results of two models were imported from files with the same content.
    SameFile {
        /// The models.
        models: [String; 2],
        /// The files they share, where they share only some.
        #[serde(default)]
        files: Vec<String>,
    },
    /// Imported results of two runs of one model, as their files name it: what differs is the noise floor.
    SameModelRuns {
        /// The names they were imported under.
        models: [String; 2],
        /// The model as the files name it.
        told: String,
        /// The largest differences, one a scale.
        largest: Vec<NoiseFloor>,
    },
    /// Two models with equal means in every row.
    SameMeans {
        /// The models.
        models: [String; 2],
        /// Number of rows.
        rows: usize,
    },
    /// Two models gave outputs equal to the last bit on some documents.
    SharedOutputs {
        /// The models.
        models: [String; 2],
        /// Where.
        tasks: Vec<SharedOutputs>,
    },
    /// Two models have equal scores on more documents than chance allows.
    SameScores {
        /// The models.
        models: [String; 2],
        /// Where.
        rows: Vec<SameScores>,
    },
    /// Models were asked or computed differently.
    DifferentConditions {
        /// What differs.
        conditions: Vec<DifferentCondition>,
    },
    /// Answers drawn at random, once a document.
    SampledOnce {
        /// By task and model.
        shares: Vec<Share>,
    },
    /// A value of 0 because (nearly) nothing could be extracted.
    NothingParsed {
        /// By row and model, where answers are known.
        shares: Vec<Share>,
        /// Imported values that are 0 behind a filter, where no answers are known.
        #[serde(default)]
        zeros: Vec<ZeroFilter>,
    },
    /// Differences that change their sign with the extraction filter, at least one of them decided.
    FilterConflicts {
        /// Those differences.
        rows: Vec<FilterConflict>,
    },
    /// Candidates whose recipes differ in more than one thing, or in more than their names say.
    ConfoundedCandidates {
        /// The pairs.
        pairs: Vec<Confounded>,
    },
    /// Documents of the test stand in a candidate's training data.
    TrainedOnTest {
        /// By row and model.
        rows: Vec<SeenDocuments>,
    },
    /// Validation rows of one recipe are training rows of another.
    SplitLeak {
        /// The model whose checkpoint was chosen on these rows.
        validated: String,
        /// The model that was trained on them.
        trained: String,
        /// How many.
        rows: usize,
        /// Out of how many validation rows.
        of: usize,
    },
    /// Differences that a test decides but that lie below the numerical noise.
    BelowNoise {
        /// Those differences.
        rows: Vec<BelowNoise>,
    },
    /// The same comparison was run before with other seeds.
    ManyLooks {
        /// Runs before this one.
        earlier: usize,
        /// What they were run with, e.g. `seed 1`.
        with: Vec<String>,
    },
    /// A model is asked in another way, or stands on something else, than when it was trained.
    TrainedOtherwise {
        /// The model.
        model: String,
        /// In what, each a clause such as `was trained without BOS, prompts here are with it`.
        how: Vec<String>,
    },
    /// An adapter that is asked with a tokenizer or chat template of its own, which is not that of its base.
    OwnTexts {
        /// The model.
        model: String,
        /// What is its own, e.g. `chat template`.
        what: Vec<String>,
    },
    /// Models of which only means are known, compared unpaired.
    Unpaired {
        /// The models.
        models: Vec<String>,
    },
    /// Results over a part of a benchmark.
    IncompleteBenchmark {
        /// By task and model.
        parts: Vec<Incomplete>,
    },
    /// Tasks and metrics of some models that others have no results of.
    NotCompared {
        /// Those tasks and metrics.
        rows: Vec<NotShared>,
    },
}

impl Caveat {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::SameModelTwice { .. } => {
                "Compare it only once: the two do not differ, and testing them costs power in the correction."
            }
            Self::NoOpAdapter { .. } => {
                "Check that the adapter was trained and saved (its B matrices are zero), and that it matches the base."
            }
            Self::IdenticalOutputs { .. } => {
                "Check that the adapter was loaded and trained: a fine-tuned model should change at least some outputs."
            }
            Self::PartialOverlap { .. } => {
                "Evaluate all models on the same documents; documents left out may be the hard ones."
            }
            Self::NoDocuments { .. } => "Check the task's data, its split and the limit on documents.",
            Self::TooFewDocuments { .. } => {
                "`undecided` means unknown, not equal: use more documents (raise the limit) or a larger margin."
            }
            Self::TooFewResamples { .. } => "Raise the number of resamples, or compare fewer models or tasks at once.",
            Self::UnparsedAnswers { .. } => {
                "Read some of these answers: an unparsed answer counts as wrong, so a difference may be one of format \
                 only."
            }
            Self::TruncatedContexts { .. } => {
                "Use fewer few-shot examples or a model with a longer context: the models may not have seen the same prompt."
            }
            Self::AnswersCutByLimit { .. } => {
                "Raise the task's max_gen_toks, or read these answers: a truncated answer may lack its conclusion."
            }
            Self::CutInThinking { .. } => {
                "Raise the task's max_gen_toks until the thinking ends: these answers are scored as empty."
            }
            Self::ThinkingScored { .. } => {
                "Set think_end_token = \"</think>\" for the model in harness.toml, or give --think-end-token \
                 \"</think>\": stop strings then apply to the answer alone, and only the answer is scored."
            }
            Self::IrregularAnswers { .. } => {
                "Find the cause before you attribute a difference to the models: such answers are scored unchanged, \
                 mostly as wrong."
            }
            Self::BoundaryShifts { .. } => {
                "Check the task's delimiter: a context that ends in a space is a usual cause, and its scores depend on the tokenizer."
            }
            Self::FirstTokensUnscored { .. } => {
                "The server adds no BOS token: have it add one, or compare only models behind such servers."
            }
            Self::ExamplesFromTest { .. } => {
                "Set fewshot_split to a split that is not evaluated: no document is its own example, but its answer \
                 appears in the prompts of others."
            }
            Self::SharedExamples { .. } => {
                "Remove them from the split that examples are drawn from: both splits contain these rows, so prompts \
                 give away their answers (in lm-eval too)."
            }
            Self::SystemLeftOut { .. } => {
                "Put the instruction into the task's description, or compare models whose templates accept a system \
                 message."
            }
            Self::SystemHidden { .. } => {
                "Check the chat template: the models may not have been given the same instruction."
            }
            Self::StoppedInThinking { .. } => {
                "Let the thinking end first (think_end_token): such a text contains no answer."
            }
            Self::NoRightChoice { .. } => {
                "Correct the data or doc_to_target: these documents count as wrong for every model, as in lm-eval."
            }
            Self::CostlyPatterns { .. } => {
                "Simplify the pattern (nested repetitions such as `(a+)+` backtrack without end): these answers count \
                 as unparsed."
            }
            Self::Judge { finding, .. } => finding.advice(),
            Self::SameFile { .. } => {
                "Check the paths given to `harness import`: one of the two has the wrong name, or one model is listed \
                 twice."
            }
            Self::SameModelRuns { .. } => {
                "Do not attribute a difference of this size to the models: two runs of the same model differ as much."
            }
            Self::SameMeans { .. } => {
                "Check that the results are of two models: a copied file or a wrong path gives equal means."
            }
            Self::SharedOutputs { .. } => {
                "Different weights do not give equal log-probabilities: check that results were not copied or mixed up."
            }
            Self::SameScores { .. } => {
                "Check that the results are of two models: a copied file or a wrong path gives equal scores."
            }
            Self::DifferentConditions { .. } => {
                "Run all models in the same way; otherwise the difference is one of model and settings together."
            }
            Self::SampledOnce { .. } => {
                "Decode greedily, or generate several answers per document (repeats): a single sample adds sampling \
                 noise."
            }
            Self::NothingParsed { .. } => {
                "The value shows that the format did not match, not that the answers are wrong: look at another filter."
            }
            Self::FilterConflicts { .. } => {
                "Read answers that only one filter extracts; a verdict that depends on the filter is a verdict about \
                 format."
            }
            Self::ConfoundedCandidates { .. } => {
                "Do not attribute the difference to what the names say; train candidates that differ in only one \
                 setting."
            }
            Self::TrainedOnTest { .. } => {
                "Read the difference without these documents, and keep them out of the training data."
            }
            Self::SplitLeak { .. } => {
                "Give both recipes the same split (shuffle_seed and fractions) before comparing their validation losses."
            }
            Self::BelowNoise { .. } => {
                "Such a difference is not a verdict: another batch size or data type could reverse it."
            }
            Self::ManyLooks { .. } => {
                "Report all runs, or decide beforehand which one counts: the best of many runs looks better than it is."
            }
            Self::TrainedOtherwise { .. } => {
                "Evaluate it the way it was trained; otherwise the difference is one of training and settings together."
            }
            Self::OwnTexts { .. } => {
                "A difference to the base is one of weights and prompts together; tokenizer = \"base\" prompts both \
                 alike."
            }
            Self::Unpaired { .. } => {
                "Import results by document if the other tool can write them: pairing detects much smaller differences."
            }
            Self::IncompleteBenchmark { .. } => {
                "Find out what is missing and why: documents that a run lost or left out may be the hard ones, and the value is not the benchmark's."
            }
            Self::NotCompared { .. } => {
                "Import the missing results, or use --tasks to choose what all models share, so that nothing is left \
                 out unnoticed."
            }
        }
    }

    /// Whether it speaks of the precision of a sound comparison, rather than of something that went wrong.
    pub fn is_statistical(&self) -> bool {
        matches!(
            self,
            Self::TooFewDocuments { .. }
                | Self::TooFewResamples { .. }
                | Self::BelowNoise { .. }
                | Self::Unpaired { .. }
        ) || matches!(self, Self::Judge { finding, .. } if finding.is_statistical())
    }
}
