//! Asking a model all questions of a plan, from the store where they were asked before.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use harness_core::{
    ChatMessage, ChatOptions, ChatRole, Control, Finish, Hasher, ModelError, Output, Request, RequestKey, Response,
    Sampling,
};
use harness_judges::{Answer, AnswerForm, Ask, Asking, Judgment, Plan};
use harness_store::{DiskStore, RunStore as _};

use crate::commands::{App, Failure, evaluate::stopped, load::Ready};

/// Judgments, and what it took to get them.
#[derive(Clone, Debug, Default)]
pub(in crate::commands) struct Asked {
    /// One a question.
    pub judgments: Vec<Judgment>,
    /// Of a jury: the judgments of each member.
    pub members: Vec<(String, Vec<Judgment>)>,
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
}

/// How a judge is asked.
struct Asker<'a> {
    app: &'a App,
    ready: &'a Ready,
    store: DiskStore,
    max_new_tokens: Option<usize>,
    constrained: bool,
    /// Requests that cannot be answered, with the reason.
    refused: BTreeMap<RequestKey, String>,
}

/// Asks until every question has a verdict or no attempts are left. Every answer is stored as it comes.
///
/// # Errors
/// If the judge fails, the limit on cost is reached, or the user interrupts: what was answered stays stored.
pub(super) fn ask(
    app: &App,
    ready: &Ready,
    plan: &Plan,
    max_new_tokens: Option<usize>,
    constrained: bool,
) -> Result<Asked, Failure> {
    let start = Instant::now();
    let before = ready.model.endpoint().map(|endpoint| endpoint.usage()).unwrap_or_default();
    let tokens_before = ready.model.stats();
    let mut asker = Asker { app, ready, store: app.store()?, max_new_tokens, constrained, refused: BTreeMap::new() };
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
    asked.seconds = start.elapsed().as_secs_f64();
    if let Some(endpoint) = ready.model.endpoint() {
        let now = endpoint.usage();
        asked.tokens = [now.prompt_tokens - before.prompt_tokens, now.completion_tokens - before.completion_tokens];
        asked.repeated = [now.throttled - before.throttled, now.retried - before.retried];
        asked.cost = now.cost - before.cost;
    } else {
        asked.tokens[0] = ready.model.stats().requested_tokens - tokens_before.requested_tokens;
    }
    Ok(asked)
}

impl Asker<'_> {
    /// The requests of one attempt, with the keys under which their answers are stored.
    fn requests(&self, ask: &Ask) -> Result<Vec<(RequestKey, Request)>, Failure> {
        let capabilities = self.ready.model.capabilities();
        let mut ask = ask.clone();
        let requests = match &mut ask.form {
            AnswerForm::Labels { top_logprobs, sampling, .. } if self.ready.model.endpoint().is_some() => {
                let sampling = Sampling { top_logprobs: Some(*top_logprobs), ..sampling.clone() };
                vec![Request::Generate { prompt: self.render(&ask.messages)?, stop: vec![], sampling }]
            }
            AnswerForm::Labels { .. } => ask.requests(|messages| self.render(messages))?,
            AnswerForm::Text { sampling, constraint } => {
                sampling.max_new_tokens = self.max_new_tokens.unwrap_or(sampling.max_new_tokens);
                if self.constrained && capabilities.patterns {
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
        let mut seen = BTreeSet::new();
        let mut open: Vec<(RequestKey, Request)> = vec![];
        for (key, request) in requests {
            if !seen.insert(*key) || self.refused.contains_key(key) {
                continue;
            }
            if self.store.get(&judge, key)?.is_some() {
                asked.stored += 1;
            } else {
                open.push((*key, request.clone()));
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        if round == 1 {
            self.ready.model.check(self.app)?;
        }
        let total = open.len();
        let title =
            if round == 1 { format!("judge {}", self.ready.name) } else { format!("judge {}, again", self.ready.name) };
        let bar = self.app.progress().bar(&title, total as u64);
        let mut answered = 0;
        while !open.is_empty() {
            let batch: Vec<Request> = open.iter().map(|(_, request)| request.clone()).collect();
            let mut done = BTreeSet::new();
            let mut failed = None;
            let result = self.ready.model.answer(&batch, &mut |index, response| {
                if let Err(error) = self.store.append(&judge, &open[index].0, &response) {
                    failed = Some(error);
                    return Control::Stop;
                }
                done.insert(index);
                bar.step();
                if self.app.interrupted() { Control::Stop } else { Control::Continue }
            });
            self.store.flush()?;
            answered += done.len();
            asked.asked += done.len();
            if let Some(error) = failed {
                return Err(error.into());
            }
            match result {
                Ok(()) if done.len() < open.len() => {
                    return Err(Failure::work(format!(
                        "interrupted: {answered} of {total} open questions to {} are answered and stored; the same \
                         command goes on",
                        self.ready.name
                    )));
                }
                Ok(()) => break,
                Err(ModelError::BadRequest { index, reason }) => {
                    self.refused.insert(open[index].0, reason);
                    done.insert(index);
                }
                Err(error) => return Err(stopped(error, answered, total, &self.ready.name)),
            }
            open = open.into_iter().enumerate().filter(|(at, _)| !done.contains(at)).map(|(_, item)| item).collect();
        }
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
