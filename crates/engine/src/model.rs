//! A model on this machine as a [`LanguageModel`].

mod device;
mod loaded;
mod plan;
mod queue;
mod together;

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicBool};

use harness_core::{
    Capabilities, ChatMessage, ChatOptions, Control, LanguageModel, ModelError, ModelIdentity, ModelStats, Output,
    PairTokens, Request, Response, Sampling, Usage, stream_whole,
};
pub use loaded::{LoadedBase, ModelOptions, Texts};
pub use plan::Plan;
pub use queue::{Ask, Prepared, PromptText, Queue, TextPiece, TextToken, serve};
use rayon::prelude::*;
pub use together::{Asked, answer_together};

use crate::{
    ChatEnding, EncodedPair, EngineError, encode_pair, encode_prompt,
    files::check_maps,
    generate::{Fresh, Generated, Listener, Pattern, Prompt, ThinkEnd},
    rolling_windows,
    schedule::{Scored, Sequence, Work, score},
};
use harness_decoder::{Adapter, Decoder};

/// A base model, alone or with an adapter, that answers requests.
#[derive(Debug)]
pub struct LocalModel {
    base: Arc<LoadedBase>,
    decoder: Decoder,
    identity: ModelIdentity,
    stats: Mutex<ModelStats>,
    stop: Arc<AtomicBool>,
}

impl LocalModel {
    /// The base model itself.
    pub fn new(base: Arc<LoadedBase>) -> Self {
        let decoder = Decoder::new(Arc::clone(&base.model));
        Self { identity: base.identity.clone(), decoder, base, stats: Mutex::default(), stop: Arc::default() }
    }

    /// The base with an adapter beside its weights, which stay in memory once.
    ///
    /// # Errors
    /// If the adapter does not fit the base.
    pub fn with_adapter(base: Arc<LoadedBase>, adapter: &Adapter) -> Result<Self, EngineError> {
        let decoder = Decoder::with_adapter(Arc::clone(&base.model), adapter)?;
        let identity = ModelIdentity { adapter: Some(adapter.digest), ..base.identity.clone() };
        Ok(Self { identity, decoder, base, stats: Mutex::default(), stop: Arc::default() })
    }

    /// The same model over the same weights with activations rounded to bf16 ([`Decoder::with_bf16_activations`]).
    pub fn with_bf16_activations(&self) -> Option<Self> {
        let decoder = self.decoder.with_bf16_activations()?;
        let identity = ModelIdentity { dtype: "bf16 activations".to_owned(), ..self.identity.clone() };
        let (base, stop) = (Arc::clone(&self.base), Arc::clone(&self.stop));
        Some(Self { base, decoder, identity, stats: Mutex::default(), stop })
    }

    /// The same model with a flag that ends its answers: it is looked at between passes through the decoder (a token of
    /// all generations in flight, a batch of prompts or scored texts), and what is not answered by then is lost.
    pub fn with_stop(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// What is shared with other adapters.
    pub fn base(&self) -> &Arc<LoadedBase> {
        &self.base
    }

    /// Whether the adapter changes nothing.
    pub fn adapter_is_no_op(&self) -> bool {
        self.decoder.adapter_is_no_op()
    }

    /// Log-probability of each token of `sequences[i]` from position `first[i]` on (at least 1), given those before, and
    /// whether it is the most probable one throughout. No token is added, and no flag stops it.
    ///
    /// # Errors
    /// If a token lies outside of the vocabulary.
    ///
    /// # Panics
    /// If the lengths differ, or a first position is 0 or behind the end.
    pub fn score_tokens(&self, sequences: &[Vec<u32>], first: &[usize]) -> Result<Vec<(Vec<f32>, bool)>, EngineError> {
        assert_eq!(sequences.len(), first.len(), "a first position for every sequence");
        let (inputs, targets): (Vec<Sequence>, Vec<Vec<u32>>) = sequences
            .iter()
            .zip(first)
            .map(|(tokens, &first)| {
                let input = tokens[..tokens.len() - 1].to_vec();
                (Sequence { tokens: input, wanted: first - 1..tokens.len() - 1 }, tokens[first..].to_vec())
            })
            .unzip();
        let mut results = vec![(vec![], true); sequences.len()];
        let requested = inputs.iter().map(|s| s.tokens.len() as u64).sum();
        let (limits, never) = (self.base.options.limits, AtomicBool::new(false));
        let work = score(&self.decoder, &inputs, &targets, limits, &never, &mut |index, scored, _| {
            results[index] = (scored.logprobs, scored.is_greedy);
            Control::Continue
        })?;
        self.count(requested, work);
        check_maps()?;
        Ok(results)
    }

    fn count(&self, requested: u64, work: Work) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.requested_tokens += requested;
        stats.computed_tokens += work.computed_tokens;
        stats.scored_positions += work.scored_positions;
        stats.drafted_tokens += work.drafted_tokens;
        stats.accepted_tokens += work.accepted_tokens;
    }

    /// Tokens of a prompt, cut on the left so that the new tokens fit into the model's context.
    fn prompt(
        &self,
        index: usize,
        text: &str,
        stop: &[String],
        sampling: &Sampling,
    ) -> Result<(Prompt, Usage), ModelError> {
        let bad = |reason: String| ModelError::BadRequest { index, reason };
        let max_length = self.base.model.max_length();
        let room = max_length.saturating_sub(sampling.max_new_tokens);
        if room == 0 {
            return Err(bad(format!(
                "max_new_tokens {} leaves no room for a prompt in the model's context of {max_length} tokens",
                sampling.max_new_tokens
            )));
        }
        if sampling.max_new_tokens == 0 {
            return Err(bad("max_new_tokens is 0; expected at least 1".to_owned()));
        }
        let pattern = self.pattern(sampling).map_err(|error| bad(error.to_string()))?;
        let mut tokens = encode_prompt(&self.base.tokenizer, text, &self.base.options.pair).map_err(other)?;
        if tokens.is_empty() {
            tokens.extend(self.base.prefix());
        }
        if tokens.is_empty() {
            return Err(bad("the prompt is empty and the tokenizer has no BOS token to begin with".to_owned()));
        }
        let prompt_tokens = tokens.len();
        let cut = prompt_tokens.saturating_sub(room);
        let tokens = tokens.split_off(cut);
        let usage = Usage { prompt_tokens, truncated_tokens: cut, ..Usage::default() };
        let thinking = ThinkEnd::new(text, sampling, &self.base.tokenizer).filter(|_| pattern.is_none());
        let (stop, sampling) = (stop.to_vec(), sampling.clone());
        Ok((Prompt { model: 0, tokens, stop, sampling, pattern, thinking, scored: None, known: vec![] }, usage))
    }

    /// The pattern that a text must match, if any.
    fn pattern(&self, sampling: &Sampling) -> Result<Option<Arc<Pattern>>, EngineError> {
        let Some(expression) = &sampling.pattern else { return Ok(None) };
        let pattern = self.base.pattern(expression)?;
        if pattern.least() > sampling.max_new_tokens {
            let (least, most) = (pattern.least(), sampling.max_new_tokens);
            let reason = format!("it needs at least {least} tokens, max_new_tokens is {most}");
            return Err(EngineError::Pattern { expression: expression.clone(), reason });
        }
        Ok(Some(pattern))
    }

    /// The log-likelihood requests at `indices` in tokens: the pair, what the model reads, and how many tokens were cut.
    fn encode_pairs(
        &self,
        requests: &[Request],
        indices: &[usize],
    ) -> Result<Vec<(EncodedPair, Sequence, usize)>, ModelError> {
        let base = &self.base;
        let max_length = base.model.max_length();
        indices
            .par_iter()
            .with_min_len(16)
            .map(|&index| {
                let Request::LogLikelihood { context, continuation } = &requests[index] else {
                    return Err(other(EngineError::EmptyPrompt));
                };
                let pair = encode_pair(&base.tokenizer, context, continuation, &base.options.pair).map_err(other)?;
                let (tokens, cut) = pair.model_input(max_length);
                let scored = pair.continuation.len();
                if scored > tokens.len() {
                    let reason =
                        format!("the continuation has {scored} tokens, the model's context {max_length} tokens");
                    return Err(ModelError::BadRequest { index, reason });
                }
                let wanted = tokens.len() - scored..tokens.len();
                Ok((pair, Sequence { tokens, wanted }, cut))
            })
            .collect()
    }

    /// Answers the log-likelihood requests at `indices`.
    fn answer_pairs(&self, requests: &[Request], indices: &[usize], sink: Sink<'_>) -> Result<Control, ModelError> {
        let pairs = self.encode_pairs(requests, indices)?;
        let mut sequences = Vec::with_capacity(pairs.len());
        let mut rest = Vec::with_capacity(pairs.len());
        for (pair, sequence, cut) in pairs {
            sequences.push(sequence);
            rest.push((pair, cut));
        }
        let targets: Vec<Vec<u32>> = rest.iter_mut().map(|(pair, _)| std::mem::take(&mut pair.continuation)).collect();
        self.score(&sequences, &targets, &mut |at, scored: Scored| {
            let (pair, cut) = &rest[at];
            let usage = Usage {
                prompt_tokens: pair.context.len(),
                completion_tokens: scored.logprobs.len(),
                truncated_tokens: *cut,
                boundary_shifted: pair.shifted,
                ..Usage::default()
            };
            let output = Output::LogLikelihood {
                logprob: scored.logprobs.iter().map(|&x| f64::from(x)).sum(),
                is_greedy: scored.is_greedy,
                token_ids: targets[at].clone(),
                token_logprobs: scored.logprobs,
            };
            sink(indices[at], Response { output, usage })
        })
    }

    /// Answers the requests that score given texts.
    fn answer_scores(&self, requests: &[Request], sink: Sink<'_>) -> Result<Control, ModelError> {
        let of = |wanted: fn(&Request) -> bool| -> Vec<usize> {
            requests.iter().enumerate().filter(|(_, r)| wanted(r)).map(|(i, _)| i).collect()
        };
        let pairs = of(|r| matches!(r, Request::LogLikelihood { .. }));
        let rolling = of(|r| matches!(r, Request::RollingLogLikelihood { .. }));
        if !pairs.is_empty() && self.answer_pairs(requests, &pairs, sink)? == Control::Stop {
            return Ok(Control::Stop);
        }
        if rolling.is_empty() { Ok(Control::Continue) } else { self.answer_rolling(requests, &rolling, sink) }
    }

    /// Answers the rolling requests at `indices`.
    fn answer_rolling(&self, requests: &[Request], indices: &[usize], sink: Sink<'_>) -> Result<Control, ModelError> {
        let base = &self.base;
        let prefix = base.options.pair.prefix_token.as_ref().or(base.tokenizer.prefix_token());
        let Some(prefix) = prefix.map(|token| token.id) else {
            let reason = "a rolling log-likelihood begins with the BOS or EOS token, and the tokenizer has neither";
            return Err(other(EngineError::Tokenizer(reason.to_owned())));
        };
        let (mut sequences, mut targets, mut owner) = (vec![], vec![], vec![]);
        let mut sums: Vec<(f64, usize, usize)> = vec![];
        for (at, &index) in indices.iter().enumerate() {
            let Request::RollingLogLikelihood { text } = &requests[index] else { continue };
            let tokens = encode_prompt(&base.tokenizer, text, &base.options.pair).map_err(other)?;
            let windows = rolling_windows(&tokens, prefix, base.model.max_length(), 1);
            sums.push((0.0, windows.len(), tokens.len()));
            for window in windows {
                let n = window.input.len();
                sequences.push(Sequence { wanted: n - window.targets.len()..n, tokens: window.input });
                targets.push(window.targets);
                owner.push(at);
            }
        }
        let respond = |sum: f64, tokens: usize| Response {
            output: Output::RollingLogLikelihood { logprob: sum, tokens },
            usage: Usage { completion_tokens: tokens, ..Usage::default() },
        };
        for (at, &(_, windows, _)) in sums.iter().enumerate() {
            if windows == 0 && sink(indices[at], respond(0.0, 0)) == Control::Stop {
                return Ok(Control::Stop);
            }
        }
        // Windows finish in any order; their sums are added up in theirs, so that the total is always the same.
        let mut parts: Vec<Vec<(usize, f64)>> = vec![vec![]; sums.len()];
        self.score(&sequences, &targets, &mut |window, scored: Scored| {
            let at = owner[window];
            parts[at].push((window, scored.logprobs.iter().map(|&x| f64::from(x)).sum()));
            if parts[at].len() < sums[at].1 {
                return Control::Continue;
            }
            parts[at].sort_by_key(|part| part.0);
            sums[at].0 = parts[at].iter().map(|part| part.1).sum();
            sink(indices[at], respond(sums[at].0, sums[at].2))
        })
    }

    fn score(
        &self,
        sequences: &[Sequence],
        targets: &[Vec<u32>],
        done: &mut dyn FnMut(usize, Scored) -> Control,
    ) -> Result<Control, ModelError> {
        let mut control = Control::Continue;
        let requested = sequences.iter().map(|s| s.tokens.len() as u64).sum();
        let limits = self.base.options.limits;
        let work = score(&self.decoder, sequences, targets, limits, &self.stop, &mut |at, scored, _| {
            control = done(at, scored);
            control
        })
        .map_err(other)?;
        self.count(requested, work);
        Ok(control)
    }
}

type Sink<'a> = &'a mut dyn FnMut(usize, Response) -> Control;

fn other(error: EngineError) -> ModelError {
    ModelError::Other(Box::new(error))
}

fn text_response(generated: Generated, usage: Usage) -> Response {
    let Generated { token_ids, token_logprobs, text, finish, top_logprobs } = generated;
    let usage = Usage { completion_tokens: token_ids.len(), ..usage };
    let reasoning = String::new();
    Response { output: Output::Text { text, token_ids, token_logprobs, finish, top_logprobs, reasoning }, usage }
}

impl LanguageModel for LocalModel {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            loglikelihood: true,
            generation: true,
            chat: self.base.chat_template.is_some(),
            patterns: true,
            max_length: self.base.model.max_length(),
        }
    }

    fn answer(&self, requests: &[Request], sink: &mut dyn FnMut(usize, Response) -> Control) -> Result<(), ModelError> {
        let asked = Asked { model: self, requests, drafts: &|_| vec![] };
        answer_together(&[asked], &mut |_, index, response| sink(index, response)).map_err(|(_, error)| error)
    }

    fn stream(
        &self,
        request: &Request,
        on_text: &mut dyn FnMut(&str) -> Control,
    ) -> Result<Option<Response>, ModelError> {
        struct Streaming<'a> {
            on_text: &'a mut dyn FnMut(&str) -> Control,
            result: Option<Generated>,
        }
        impl Listener for Streaming<'_> {
            fn text(&mut self, _: usize, fresh: Fresh<'_>) -> Control {
                (self.on_text)(fresh.text)
            }
            fn done(&mut self, _: usize, generated: Generated, _: Work) -> Control {
                self.result = Some(generated);
                Control::Continue
            }
        }
        let Request::Generate { prompt, stop, sampling } = request else { return stream_whole(self, request, on_text) };
        let (prompt, usage) = self.prompt(0, prompt, stop, sampling)?;
        let mut listener = Streaming { on_text, result: None };
        together::generate(&[self], vec![prompt], &mut listener).map_err(other)?;
        check_maps().map_err(other)?;
        Ok(listener.result.map(|generated| text_response(generated, usage)))
    }

    fn apply_chat_template(&self, messages: &[ChatMessage], options: ChatOptions) -> Result<String, ModelError> {
        let Some(template) = &self.base.chat_template else {
            return Err(ModelError::Unsupported {
                model: self.identity.digest().short(),
                what: "it has no chat template".to_owned(),
            });
        };
        let ending = if options.add_generation_prompt { ChatEnding::OpenAssistant } else { ChatEnding::ContinueFinal };
        template
            .render(messages, &self.base.options.chat.context(ending), &self.base.tokenizer)
            .map_err(|error| ModelError::ChatTemplate(error.to_string()))
    }

    fn tokenize(&self, text: &str) -> Option<Vec<(u32, String)>> {
        let ids = encode_prompt(&self.base.tokenizer, text, &self.base.options.pair).ok()?;
        Some(ids.into_iter().map(|id| (id, self.base.tokenizer.token_text(id))).collect())
    }

    fn tokenize_pair(&self, context: &str, continuation: &str) -> Option<PairTokens> {
        let pair = encode_pair(&self.base.tokenizer, context, continuation, &self.base.options.pair).ok()?;
        let ids = pair.context.iter().chain(&pair.continuation);
        let tokens = ids.map(|&id| (id, self.base.tokenizer.token_text(id))).collect();
        Some(PairTokens { tokens, context: pair.context.len(), shifted: pair.shifted })
    }

    fn stats(&self) -> ModelStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
