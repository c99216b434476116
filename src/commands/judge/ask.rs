//! Asking a model all questions of a plan, from the store where they were asked before.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use harness_core::{
    ChatMessage, ChatOptions, ChatRole, Finish, Hasher, ModelError, Output, Request, RequestKey, Response, Sampling,
};
use harness_judges::{Answer, AnswerForm, Ask, Asking, Judgment, Plan};
use harness_store::{DiskStore, RunStore as _};

use crate::commands::{App, Failure, answer::Open, load::Ready};

/// Judgments, and what it took to get them.
#[derive(Clone, Debug, Default)]
pub(in crate::commands) struct Asked {
    /// One a question.
    pub judgments: Vec<Judgment>,
    /// Of a jury: the name of each member, and what it judged.
    pub members: Vec<(String, Asked)>,
    /// Settings of the protocol that the judge's server does not take, with their values.
    pub dropped: BTreeSet<String>,
    /// Answers that were asked for now.
    pub asked: usize,
    /// Answers that were stored.
    pub stored: usize,
    /// Tokens of prompts and of answers, asked for now.
    pub tokens: [u64; 2],
    /// Attempts that had to be repeated: throttled, and failed for other reasons.
    pub repeated: [u64; 2],
    /// Cost, where there are prices.
    pub cost: f64,
    /// Seconds.
    pub seconds: f64,
}

impl Asked {
    /// Judgments that cost nothing.
    pub(super) fn free(judgments: Vec<Judgment>) -> Self {
        Self { judgments, ..Self::default() }
    }

    /// Counts the work of another in.
    pub(super) fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.stored += other.stored;
        for at in 0..2 {
            self.tokens[at] += other.tokens[at];
            self.repeated[at] += other.repeated[at];
        }
        self.cost += other.cost;
        self.seconds += other.seconds;
    }

    /// What a model has done so far: tokens, repeated attempts and cost.
    pub(super) fn used(ready: &Ready) -> Self {
        let Some(endpoint) = ready.model.endpoint() else {
            return Self { tokens: [ready.model.stats().requested_tokens, 0], ..Self::default() };
        };
        let usage = endpoint.usage();
        Self {
            tokens: [usage.prompt_tokens, usage.completion_tokens],
            repeated: [usage.throttled, usage.retried],
            cost: usage.cost,
            ..Self::default()
        }
    }

    /// Sets what was used between two times.
    pub(super) fn count(&mut self, before: &Self, after: &Self) {
        for at in 0..2 {
            self.tokens[at] = after.tokens[at] - before.tokens[at];
            self.repeated[at] = after.repeated[at] - before.repeated[at];
        }
        self.cost = after.cost - before.cost;
    }

    /// The judgments of each member of a jury.
    pub(in crate::commands) fn by_member(&self) -> Vec<(String, Vec<Judgment>)> {
        self.members.iter().map(|(name, asked)| (name.clone(), asked.judgments.clone())).collect()
    }
}

/// How a judge is asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AskOptions {
    /// Most tokens of a verdict, instead of the protocol's.
    pub(super) max_new_tokens: Option<usize>,
    /// Whether it is kept within the protocol's form, where it can be.
    pub(super) constrained: bool,
    /// Whether it is not asked, and only what is stored counts.
    pub(super) from_store: bool,
}

/// A judge that is asked.
struct Asker<'a> {
    app: &'a App,
    ready: &'a Ready,
    store: DiskStore,
    options: AskOptions,
    /// Requests that cannot be answered, with the reason.
    refused: BTreeMap<RequestKey, String>,
    dropped: BTreeSet<String>,
}

/// Asks until every question has a verdict or no attempts are left. Every answer is stored as it comes.
///
/// # Errors
/// If the judge fails, the limit on cost is reached, or the user interrupts: what was answered stays stored. With
/// `from_store`, if an answer is not stored.
pub(super) fn ask(app: &App, ready: &Ready, plan: &Plan, options: AskOptions) -> Result<Asked, Failure> {
    let start = Instant::now();
    let before = Asked::used(ready);
    let (refused, dropped) = (BTreeMap::new(), BTreeSet::new());
    let mut asker = Asker { app, ready, store: app.store()?, options, refused, dropped };
    let mut asking = Asking::new(plan.clone());
    let mut asked = Asked::default();
    let mut round = 0;
    loop {
        let asks = asking.pending();
        if asks.is_empty() {
            break;
        }
        round += 1;
        let requests = asks.iter().map(|ask| asker.requests(ask)).collect::<Result<Vec<_>, _>>()?;
        asker.answer(requests.iter().flatten(), round, &mut asked)?;
        for (ask, requests) in asks.iter().zip(&requests) {
            asking.record(ask.index, &asker.read(ask, requests)?);
        }
        if let (Some(reason), true) = (asker.refused.values().next(), asker.refused.len() >= asks.len()) {
            return Err(Failure::usage(format!("the judge {} can answer none of the questions: {reason}", ready.name)));
        }
    }
    asked.judgments = asking.finish();
    asked.dropped = asker.dropped;
    asked.seconds = start.elapsed().as_secs_f64();
    asked.count(&before, &Asked::used(ready));
    Ok(asked)
}

impl Asker<'_> {
    /// The requests of one attempt, with the keys under which their answers are stored.
    fn requests(&mut self, ask: &Ask) -> Result<Vec<(RequestKey, Request)>, Failure> {
        let capabilities = self.ready.model.capabilities();
        let mut ask = ask.clone();
        if let (AnswerForm::Text { sampling, .. } | AnswerForm::Labels { sampling, .. }, Some(endpoint)) =
            (&mut ask.form, self.ready.model.endpoint())
        {
            self.dropped.extend(endpoint.options().drop_extended(sampling));
        }
        let requests = match &mut ask.form {
            AnswerForm::Labels { top_logprobs, sampling, .. } if self.ready.model.endpoint().is_some() => {
                let sampling = Sampling { top_logprobs: Some(*top_logprobs), ..sampling.clone() };
                vec![Request::Generate { prompt: self.render(&ask.messages)?, stop: vec![], sampling }]
            }
            AnswerForm::Labels { .. } => ask.requests(|messages| self.render(messages))?,
            AnswerForm::Text { sampling, constraint } => {
                sampling.max_new_tokens = self.options.max_new_tokens.unwrap_or(sampling.max_new_tokens);
                if self.options.constrained && capabilities.patterns {
                    sampling.pattern.clone_from(constraint);
                }
                ask.requests(|messages| self.render(messages))?
            }
        };
        let keyed = requests.into_iter().map(|request| {
            let key = request.key();
            // A server need not say the same twice even when it is asked greedily.
            let again = ask.repeat > 0 && self.ready.model.endpoint().is_some();
            let repeated = || Hasher::new("repeat").part(key.0.as_bytes()).part(ask.repeat.to_le_bytes()).finish();
            (if again { RequestKey(repeated()) } else { key }, request)
        });
        Ok(keyed.collect())
    }

    /// Messages as the judge's prompt. A template that takes no system message gets its text in the user's.
    fn render(&self, messages: &[ChatMessage]) -> Result<String, Failure> {
        let joined = || messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n\n");
        if !self.ready.model.capabilities().chat {
            return Ok(joined() + "\n");
        }
        let options = ChatOptions { add_generation_prompt: true };
        match self.ready.model.apply_chat_template(messages, options) {
            Err(ModelError::ChatTemplate(_)) if messages[0].role == ChatRole::System => {
                Ok(self.ready.model.apply_chat_template(&[ChatMessage::new(ChatRole::User, joined())], options)?)
            }
            rendered => Ok(rendered?),
        }
    }

    /// Asks for what is not stored.
    fn answer<'r>(
        &mut self,
        requests: impl Iterator<Item = &'r (RequestKey, Request)>,
        round: usize,
        asked: &mut Asked,
    ) -> Result<(), Failure> {
        let judge = self.ready.entry.identity.digest();
        let wanted: Vec<&(RequestKey, Request)> = requests.filter(|(key, _)| !self.refused.contains_key(key)).collect();
        let keys: Vec<RequestKey> = wanted.iter().map(|(key, _)| *key).collect();
        let requests: Vec<&Request> = wanted.iter().map(|(_, request)| request).collect();
        let missing = self.store.missing(&judge, &keys)?;
        let open: BTreeSet<&RequestKey> = missing.iter().map(|&at| &keys[at]).collect();
        asked.stored += keys.iter().collect::<BTreeSet<_>>().len() - open.len();
        if missing.is_empty() {
            return Ok(());
        }
        if self.options.from_store {
            return Err(Failure::usage(format!(
                "--from-store: {} of {} verdicts of the judge {} are not stored; run without --from-store to get them",
                missing.len(),
                keys.len(),
                self.ready.name
            )));
        }
        let title =
            if round == 1 { format!("judge {}", self.ready.name) } else { format!("judge {}, again", self.ready.name) };
        let open = Open {
            requests: &requests,
            keys: &keys,
            missing: &missing,
            title: &title,
            called: ("questions", "answered"),
            refused: Some(&mut self.refused),
        };
        let (answered, bar) = open.ask(self.app, self.ready, &self.store)?;
        asked.asked += answered;
        let rate = answered as f64 / bar.seconds().max(1e-9);
        bar.finish(&format!("{answered} answers, {rate:.2} a second"));
        Ok(())
    }

    /// What the judge answered, from the store.
    fn read(&self, ask: &Ask, requests: &[(RequestKey, Request)]) -> Result<Answer, Failure> {
        if let Some(reason) = requests.iter().find_map(|(key, _)| self.refused.get(key)) {
            return Ok(Answer::failed(reason.clone()));
        }
        let judge = self.ready.entry.identity.digest();
        let mut responses: Vec<Response> = vec![];
        for (key, _) in requests {
            let response = self.store.get(&judge, key)?;
            responses.push(response.ok_or_else(|| {
                Failure::work(format!("the store lost an answer of {} (request {})", self.ready.name, key.0))
            })?);
        }
        if let Some(cut) = responses.iter().map(|response| response.usage).find(|usage| usage.truncated_tokens > 0) {
            return Ok(Answer::failed(format!(
                "the prompt has {} tokens, {} more than the judge's context has room for",
                cut.prompt_tokens, cut.truncated_tokens
            )));
        }
        let labels = matches!(ask.form, AnswerForm::Labels { .. });
        let [Response { output: Output::Text { text, finish, top_logprobs, .. }, .. }] = &responses[..] else {
            return Ok(ask.answer(&responses));
        };
        Ok(match top_logprobs.first() {
            Some(top) if labels => {
                Answer::Labels { logprobs: top.iter().map(|top| (top.token.clone(), f64::from(top.logprob))).collect() }
            }
            _ => Answer::Text { text: text.clone(), finish: if labels { Finish::Stop } else { *finish } },
        })
    }
}
