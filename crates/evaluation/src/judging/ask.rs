//! Asking a model all questions of a plan, from the store where they were asked before.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use harness_core::{
    ChatMessage, ChatOptions, ChatRole, Finish, Hasher, Irregular, ModelError, Output, Request, RequestKey, Response,
    Sampling, opens_marked_thinking,
};
use harness_http::Endpoint;
use harness_judges::{Answer, AnswerForm, Ask, Asking, Judgment, Plan, Purpose};
use harness_store::{DiskStore, RunStore as _};

use super::bill::{Bill, RunBill};
use crate::{EvaluationError, Session, ask::Open, models::Ready};

/// Judgments, and what it took to get them.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// One a question.
    pub judgments: Vec<Judgment>,
    /// Of a jury: the name of each member, and what it judged.
    pub members: Vec<(String, Asked)>,
    /// Settings of the protocol that the judge's server does not take, with their values.
    pub dropped: BTreeSet<String>,
    /// Verdicts that are a label the judge wrote, because there were no log-probabilities; out of how many from labels.
    pub written_labels: [usize; 2],
    /// All answers.
    pub bill: Bill,
    /// What this run did for them.
    pub run: RunBill,
}

impl Asked {
    /// Judgments that cost nothing.
    pub fn free(judgments: Vec<Judgment>) -> Self {
        Self { judgments, ..Self::default() }
    }

    /// Counts the work of another in.
    pub fn add(&mut self, other: &Self) {
        self.bill.merge(&other.bill);
        self.run.merge(&other.run);
    }

    /// Whether there are answers.
    pub fn is_any(&self) -> bool {
        self.bill.answers > 0
    }

    /// The judgments of each member of a jury.
    pub fn by_member(&self) -> Vec<(String, Vec<Judgment>)> {
        self.members.iter().map(|(name, asked)| (name.clone(), asked.judgments.clone())).collect()
    }
}

/// How a judge is asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AskOptions {
    /// Most tokens of a verdict, instead of the protocol's.
    pub max_new_tokens: Option<usize>,
    /// Whether it is kept within the protocol's form, where it can be.
    pub constrained: bool,
    /// Whether it is not asked, and only what is stored counts.
    pub from_store: bool,
}

/// A judge that is asked.
struct Asker<'a> {
    session: &'a Session,
    ready: &'a Ready,
    store: DiskStore,
    options: AskOptions,
    /// Requests that cannot be answered, with the reason.
    refused: BTreeMap<RequestKey, String>,
    dropped: BTreeSet<String>,
    /// Answers that were counted.
    counted: BTreeSet<RequestKey>,
}

/// Asks until every question has a verdict or no attempts are left. Every answer is stored as it comes.
///
/// # Errors
/// If the judge fails, the limit on cost is reached, or the user interrupts: what was answered stays stored. With
/// `from_store`, if an answer is not stored.
pub(super) fn ask(
    session: &Session,
    ready: &Ready,
    plan: &Plan,
    options: AskOptions,
) -> Result<Asked, EvaluationError> {
    let start = Instant::now();
    let before = ready.model.endpoint().map(Endpoint::usage);
    let (refused, dropped, counted) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    let mut asker = Asker { session, ready, store: session.store()?, options, refused, dropped, counted };
    let mut asking = Asking::new(plan.clone());
    let mut asked = Asked::default();
    // Of questions about labels: whether the last answer was a text.
    let mut labels: BTreeMap<usize, bool> = BTreeMap::new();
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
            let answer = asker.read(ask, requests)?;
            if let (AnswerForm::Labels { .. }, false) = (&ask.form, matches!(answer, Answer::Failed { .. })) {
                let written = matches!(answer, Answer::Text { .. });
                labels.insert(ask.index, written);
            }
            asking.record(ask.index, &answer);
        }
        if let (Some(reason), true) = (asker.refused.values().next(), asker.refused.len() >= asks.len()) {
            return Err(EvaluationError::usage(format!(
                "the judge {} can answer none of the questions: {reason}",
                ready.name
            )));
        }
    }
    asked.judgments = asking.finish();
    // The settled judgments come first.
    let read = asked.judgments.iter().skip(plan.settled.len()).enumerate();
    let read = read.filter(|(_, judgment)| judgment.purpose == Purpose::Main && judgment.outcome.verdict().is_some());
    for written in read.filter_map(|(index, _)| labels.get(&index)) {
        asked.written_labels[0] += usize::from(*written);
        asked.written_labels[1] += 1;
    }
    asked.dropped = asker.dropped;
    asked.run.seconds = start.elapsed().as_secs_f64();
    asked.run.since(before, ready);
    Ok(asked)
}

impl Asker<'_> {
    /// The requests of one attempt, with the keys under which their answers are stored.
    fn requests(&mut self, ask: &Ask) -> Result<Vec<(RequestKey, Request)>, EvaluationError> {
        let capabilities = self.ready.model.capabilities();
        let mut ask = ask.clone();
        if let (AnswerForm::Text { sampling, .. } | AnswerForm::Labels { sampling, .. }, Some(endpoint)) =
            (&mut ask.form, self.ready.model.endpoint())
        {
            self.dropped.extend(endpoint.options().drop_extended(sampling));
        }
        let requests = match &mut ask.form {
            AnswerForm::Labels { top_logprobs, sampling, .. } if self.ready.model.endpoint().is_some() => {
                let max_new_tokens = self.options.max_new_tokens.unwrap_or(sampling.max_new_tokens);
                let sampling = Sampling { max_new_tokens, top_logprobs: Some(*top_logprobs), ..sampling.clone() };
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
    fn render(&self, messages: &[ChatMessage]) -> Result<String, EvaluationError> {
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
    ) -> Result<(), EvaluationError> {
        let judge = self.ready.entry.identity.digest();
        let wanted: Vec<&(RequestKey, Request)> = requests.filter(|(key, _)| !self.refused.contains_key(key)).collect();
        let keys: Vec<RequestKey> = wanted.iter().map(|(key, _)| *key).collect();
        let requests: Vec<&Request> = wanted.iter().map(|(_, request)| request).collect();
        let missing = self.store.missing(&judge, &keys)?;
        if missing.is_empty() {
            return self.count(wanted, &mut asked.bill);
        }
        if self.options.from_store {
            return Err(EvaluationError::usage(format!(
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
        let (answered, bar) = open.ask(self.session, self.ready, &self.store)?;
        asked.run.requested += answered;
        self.count(wanted, &mut asked.bill)?;
        let rate = answered as f64 / bar.seconds().max(1e-9);
        bar.finish(&format!("{answered} answers, {rate:.2} a second"));
        Ok(())
    }

    /// Counts the answers to requests that were not counted before; those that the judge refused have none.
    fn count(&mut self, requests: Vec<&(RequestKey, Request)>, bill: &mut Bill) -> Result<(), EvaluationError> {
        let judge = self.ready.entry.identity.digest();
        for (key, request) in requests {
            if let (true, Some(response)) = (self.counted.insert(*key), self.store.get(&judge, key)?) {
                bill.add(self.ready, request, &response);
            }
        }
        Ok(())
    }

    /// What the judge answered, from the store.
    fn read(&self, ask: &Ask, requests: &[(RequestKey, Request)]) -> Result<Answer, EvaluationError> {
        if let Some(reason) = requests.iter().find_map(|(key, _)| self.refused.get(key)) {
            return Ok(Answer::failed(reason.clone()));
        }
        let judge = self.ready.entry.identity.digest();
        let mut responses: Vec<Response> = vec![];
        for (key, _) in requests {
            let response = self.store.get(&judge, key)?;
            responses.push(response.ok_or_else(|| {
                EvaluationError::work(format!("the store lost an answer of {} (request {})", self.ready.name, key.0))
            })?);
        }
        if let Some(cut) = responses.iter().map(|response| response.usage).find(|usage| usage.truncated_tokens > 0) {
            return Ok(Answer::failed(format!(
                "the prompt has {} tokens, {} more than the judge's context has room for",
                cut.prompt_tokens, cut.truncated_tokens
            )));
        }
        let labels = matches!(ask.form, AnswerForm::Labels { .. });
        let [response @ Response { output: Output::Text { text, top_logprobs, .. }, .. }] = &responses[..] else {
            return Ok(ask.answer(&responses));
        };
        // Log-probabilities beside an answer that was withheld are no verdict.
        let withheld = matches!(
            response.irregular(),
            Some(
                Irregular::Filtered
                    | Irregular::Refused
                    | Irregular::NoChoice
                    | Irregular::NoContent
                    | Irregular::ToolCall
            )
        );
        if let (true, false, Some(top)) = (labels, withheld, top_logprobs.first()) {
            let logprobs = top.iter().map(|top| (top.token.clone(), f64::from(top.logprob))).collect();
            return Ok(Answer::Labels { logprobs });
        }
        // What is kept to a pattern does not begin inside the thinking that the prompt may have opened.
        let opened = requests.iter().any(|(_, request)| {
            matches!(request, Request::Generate { prompt, sampling, .. }
                if sampling.pattern.is_none() && opens_marked_thinking(prompt))
        });
        let mut answer = Answer::of_text(response, opened);
        if let (true, false, Answer::Text { finish: finish @ Finish::Length, .. }) =
            (labels, text.trim().is_empty(), &mut answer)
        {
            // A label is all there was to write.
            *finish = Finish::Stop;
        }
        Ok(answer)
    }
}
