//! A model of one's own behind `LanguageModel`, compared with the embedded one: it says `A` to everything.
//!
//! `cargo run --release -p harness-evaluation --example custom_model`

use std::{collections::BTreeMap, error::Error, sync::Arc};

use harness_core::{
    Capabilities, ChatMessage, ChatOptions, Control, Digest, Finish, LanguageModel, ModelError, ModelIdentity, Output,
    Request, Response, Usage,
};
use harness_evaluation::{
    CompareOptions, Session, compare_subjects, experiment::Experiment, gather::Subject, options::PromptOptions,
};
use harness_reports::markdown;

/// Finds every text that contains an `A` likely, and writes one.
struct AlwaysA {
    identity: ModelIdentity,
}

impl LanguageModel for AlwaysA {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { loglikelihood: true, generation: true, chat: false, patterns: false, max_length: 2048 }
    }

    fn answer(&self, requests: &[Request], sink: &mut dyn FnMut(usize, Response) -> Control) -> Result<(), ModelError> {
        for (at, request) in requests.iter().enumerate() {
            let output = match request {
                Request::LogLikelihood { continuation, .. } => {
                    let logprob = if continuation.contains('A') { -0.1 } else { -5.0 };
                    let (is_greedy, token_logprobs) = (logprob > -1.0, vec![logprob as f32]);
                    Output::LogLikelihood { logprob, is_greedy, token_ids: vec![], token_logprobs }
                }
                Request::Generate { .. } => Output::Text {
                    text: " A".to_owned(),
                    token_ids: vec![],
                    token_logprobs: vec![],
                    finish: Finish::EndOfSequence,
                    top_logprobs: vec![],
                    reasoning: String::new(),
                },
                Request::RollingLogLikelihood { .. } => {
                    return Err(ModelError::Unsupported {
                        model: "always-a".to_owned(),
                        what: "log-likelihoods of whole texts".to_owned(),
                    });
                }
            };
            if sink(at, Response { output, usage: Usage::default() }) == Control::Stop {
                break;
            }
        }
        Ok(())
    }

    fn apply_chat_template(&self, _: &[ChatMessage], _: ChatOptions) -> Result<String, ModelError> {
        Err(ModelError::ChatTemplate("always-a has none".to_owned()))
    }

    fn tokenize(&self, _: &str) -> Option<Vec<(u32, String)>> {
        None
    }
}

#[allow(clippy::print_stdout, reason = "an example shows what it found")]
fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../harness.toml");
    let session = Session::new(Experiment::load(Some(root.as_ref()))?, home.path());
    // Answers are stored under the identity: it must change when the answers would.
    let identity = ModelIdentity {
        weights: Digest::of("always-a 1"),
        adapter: None,
        tokenizer: Digest::of("none"),
        chat_template: None,
        dtype: "f32".to_owned(),
        extra: BTreeMap::new(),
    };
    let mut subjects = Subject::resolve(&session, ["base"], &PromptOptions::default())?;
    subjects.push(Subject::Given { name: "always-a".to_owned(), model: Arc::new(AlwaysA { identity }) });
    let mut options = CompareOptions::of(&session);
    options.evaluation.tasks = vec!["tiny_mmlu".to_owned(), "tiny_gsm8k".to_owned()];
    let compared = compare_subjects(&session, &subjects, "base always-a", &options)?;
    let report = &compared.stored.report;
    println!("{}", markdown(&report.comparison, &report.meta));
    Ok(())
}
