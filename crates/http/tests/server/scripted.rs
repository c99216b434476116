//! A language model that says what a function of the prompt tells it.

use harness_core::{
    Capabilities, ChatMessage, ChatOptions, Control, Digest, Finish, LanguageModel, ModelError, ModelIdentity, Output,
    Request, Response, Sampling, TopLogprob, Usage, cut_at_stops,
};

/// What is said: the text, and the likeliest first tokens.
pub(crate) type Script = Box<dyn Fn(&str, &Sampling) -> (String, Vec<(&'static str, f32)>) + Send + Sync>;

/// The model; every blank-separated word is a token of its prompts and texts.
pub(crate) struct Scripted {
    identity: ModelIdentity,
    script: Script,
    max_length: usize,
}

impl Scripted {
    /// A model whose prompts have at most `max_length` words.
    pub(crate) fn new(max_length: usize, script: Script) -> Self {
        let identity = ModelIdentity {
            weights: Digest::of("script"),
            adapter: None,
            tokenizer: Digest::of("words"),
            chat_template: None,
            dtype: "none".into(),
            extra: Default::default(),
        };
        Self { identity, script, max_length }
    }
}

fn words(text: &str) -> usize {
    text.split_whitespace().count().max(1)
}

impl LanguageModel for Scripted {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            loglikelihood: false,
            generation: true,
            chat: false,
            patterns: false,
            max_length: self.max_length,
        }
    }

    fn answer(&self, requests: &[Request], sink: &mut dyn FnMut(usize, Response) -> Control) -> Result<(), ModelError> {
        for (index, request) in requests.iter().enumerate() {
            let Request::Generate { prompt, stop, sampling } = request else {
                return Err(ModelError::Unsupported { model: "script".into(), what: "score texts".into() });
            };
            let (mut text, top) = (self.script)(prompt, sampling);
            cut_at_stops(&mut text, stop, None, false);
            let top: Vec<TopLogprob> =
                top.into_iter().map(|(token, logprob)| TopLogprob { token: token.into(), logprob }).collect();
            let usage = Usage {
                prompt_tokens: words(prompt),
                completion_tokens: words(&text).min(sampling.max_new_tokens),
                truncated_tokens: words(prompt).saturating_sub(self.max_length),
                ..Usage::default()
            };
            let token_logprobs = top.first().map(|top| top.logprob).into_iter().collect();
            let top_logprobs = if top.is_empty() { vec![] } else { vec![top] };
            let output = Output::Text {
                text,
                token_ids: vec![],
                token_logprobs,
                finish: Finish::EndOfSequence,
                top_logprobs,
                reasoning: String::new(),
            };
            if sink(index, Response { output, usage }) == Control::Stop {
                break;
            }
        }
        Ok(())
    }

    fn apply_chat_template(&self, _: &[ChatMessage], _: ChatOptions) -> Result<String, ModelError> {
        Err(ModelError::Unsupported { model: "script".into(), what: "chat".into() })
    }

    fn tokenize(&self, _: &str) -> Option<Vec<(u32, String)>> {
        None
    }
}
