//! Asking until every question has a verdict or its attempts are used up.

use harness_core::Hasher;

use crate::{Answer, AnswerForm, Ask, Judgment, Outcome, Plan, Unparsed};

/// The state of a judging run: which questions are open, and what came back for the others.
///
/// ```text
/// let mut asking = Asking::new(plan);
/// loop {
///     let asks = asking.pending();
///     if asks.is_empty() { break }
///     // answer all of them in any order, from a cache where possible, and for each:
///     asking.record(ask.index, &answer);
/// }
/// let judgments = asking.finish();
/// ```
#[derive(Clone, Debug)]
pub struct Asking {
    plan: Plan,
    states: Vec<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    attempts: u32,
    outcome: Option<Outcome>,
    rationale: String,
    label_share: Option<f64>,
    raw: String,
    closed: bool,
}

impl Asking {
    /// Nothing asked yet.
    pub fn new(plan: Plan) -> Self {
        let states = vec![State::default(); plan.questions.len()];
        Self { plan, states }
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The next attempt of every open question. An answer that cannot be read leaves its question open until the
    /// protocol's attempts are used up; the next attempt has another seed, and a temperature if the protocol is greedy.
    pub fn pending(&self) -> Vec<Ask> {
        let open = self.states.iter().enumerate().filter(|(_, state)| !state.closed);
        open.map(|(index, state)| self.ask(index, state.attempts + 1)).collect()
    }

    /// Number of open questions.
    pub fn open(&self) -> usize {
        self.states.iter().filter(|state| !state.closed).count()
    }

    /// Number of questions closed without a verdict.
    pub fn given_up(&self) -> usize {
        let given_up = |state: &&State| state.closed && !matches!(state.outcome, Some(Outcome::Parsed(_)));
        self.states.iter().filter(given_up).count()
    }

    /// Takes the answer to the pending attempt of a question; returns whether the question is closed. Answers to closed
    /// questions are ignored.
    ///
    /// # Panics
    /// If there is no question of this index.
    pub fn record(&mut self, index: usize, answer: &Answer) -> bool {
        let state = &mut self.states[index];
        if state.closed {
            return true;
        }
        state.attempts += 1;
        let parsed = self.plan.protocol.read(answer);
        let again = match (&parsed.outcome, answer) {
            (Outcome::Parsed(_), _) => false,
            // Log-probabilities are a function of the prompt: they would come out the same.
            (Outcome::Unparsed(_), Answer::Labels { .. }) => false,
            (Outcome::Unparsed(_), Answer::Failed { again, .. }) => *again,
            (Outcome::Unparsed(reason), Answer::Text { .. }) => !reason.is_final(),
        };
        state.closed = !again || state.attempts >= self.plan.protocol.retry.attempts;
        state.outcome = Some(parsed.outcome);
        state.rationale = parsed.rationale;
        state.label_share = parsed.label_share;
        state.raw = match answer {
            Answer::Text { text, .. } => text.clone(),
            Answer::Labels { logprobs } => serde_json::json!(logprobs).to_string(),
            Answer::Failed { message, .. } => message.clone(),
        };
        state.closed
    }

    /// All judgments: the settled ones, then one a question in the order of the plan. A question that was never answered
    /// is unparsed.
    pub fn finish(self) -> Vec<Judgment> {
        let mut judgments = self.plan.settled;
        for (question, state) in self.plan.questions.into_iter().zip(self.states) {
            let unasked = || Outcome::Unparsed(Unparsed::NotAnswered { message: "it was not asked".into() });
            judgments.push(Judgment {
                question: question.id,
                item: question.item,
                subject: question.subject,
                turn: question.turn,
                order: question.order,
                purpose: question.purpose,
                repeat: question.repeat,
                outcome: state.outcome.unwrap_or_else(unasked),
                rationale: state.rationale,
                label_share: state.label_share,
                raw: state.raw,
                attempts: state.attempts,
            });
        }
        judgments
    }

    fn ask(&self, index: usize, attempt: u32) -> Ask {
        let question = &self.plan.questions[index];
        let mut form = question.form.clone();
        let (AnswerForm::Text { sampling, .. } | AnswerForm::Labels { sampling, .. }) = &mut form;
        let mut hasher = Hasher::new("judge sampling seed");
        hasher.part(self.plan.seed.to_le_bytes()).part(question.id.0.as_bytes()).part(attempt.to_le_bytes());
        let digest = hasher.finish();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest.as_bytes()[..8]);
        // 31 bits: endpoints take no more.
        sampling.seed = u64::from_le_bytes(bytes) >> 33;
        if attempt > 1 && sampling.is_greedy() {
            sampling.temperature = self.plan.protocol.retry.temperature;
        }
        Ask { index, id: question.id, attempt, repeat: question.repeat, messages: question.messages.clone(), form }
    }
}
