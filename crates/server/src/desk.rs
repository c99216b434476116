//! Where requests wait for the engine, and where its answers go on to them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use harness_core::Response;
use harness_engine::{EngineError, Prepared, Queue, TextPiece, TextToken};
use tokio::sync::mpsc::UnboundedSender;

use crate::{error::ApiError, metrics::Metrics};

/// What a request hears of one of its generations.
#[derive(Debug)]
pub(crate) enum Event {
    /// The tokens of the prompt with their log-probabilities.
    Prompt(Vec<TextToken>),
    /// New text.
    Text(TextPiece),
    /// It is finished.
    Done(Box<Response>),
    /// It ends without an answer.
    Failed(ApiError),
}

/// Where a request listens: the place of the generation in it, and what happened.
pub(crate) type Sender = UnboundedSender<(usize, Event)>;

/// A generation that is asked for.
pub(crate) struct Ticket {
    pub(crate) prepared: Prepared,
    /// Its place in the request.
    pub(crate) choice: usize,
    pub(crate) sender: Sender,
}

/// The requests to the models over one base.
pub(crate) struct Desk {
    state: Mutex<State>,
    arrived: Condvar,
    /// Most generations that wait.
    longest: usize,
    /// How long a request may take.
    patience: Duration,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Instant, Ticket)>,
    running: HashMap<usize, Running>,
    next: usize,
    /// No more requests come.
    closed: bool,
    /// The engine has ended, and why.
    ended: Option<String>,
}

/// A generation that the engine works at.
struct Running {
    choice: usize,
    sender: Sender,
    since: Instant,
    /// When its first and its last text came.
    first: Option<Instant>,
}

impl Desk {
    pub(crate) fn new(longest: usize, patience: Duration, metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), longest, patience, metrics }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all generations of a request, or none.
    ///
    /// # Errors
    /// If too many wait, or the engine takes no more.
    pub(crate) fn push(&self, tickets: Vec<Ticket>) -> Result<(), ApiError> {
        let mut state = self.lock();
        if let Some(reason) = &state.ended {
            return Err(ApiError::internal(reason.as_str()));
        }
        if state.closed {
            return Err(ApiError::ending());
        }
        forget_who_left(&mut state);
        // A request of more generations than may wait is taken where none waits.
        if !state.waiting.is_empty() && state.waiting.len() + tickets.len() > self.longest {
            return Err(ApiError::queue_full(self.longest));
        }
        let now = Instant::now();
        state.waiting.extend(tickets.into_iter().map(|ticket| (now, ticket)));
        self.arrived.notify_all();
        Ok(())
    }

    /// Takes no more requests; the engine ends when it has answered those that it has.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    /// Tells all that the engine has ended without an answer to them.
    pub(crate) fn end(&self, reason: &str) {
        let mut state = self.lock();
        let running = state.running.drain().map(|(_, running)| (running.choice, running.sender)).collect::<Vec<_>>();
        let waiting = state.waiting.drain(..).map(|(_, ticket)| (ticket.choice, ticket.sender));
        for (choice, sender) in waiting.chain(running) {
            let _ = sender.send((choice, Event::Failed(ApiError::internal(reason))));
        }
        state.ended = Some(reason.to_owned());
    }

    /// Why the engine has ended, if it has.
    pub(crate) fn ended(&self) -> Option<String> {
        self.lock().ended.clone()
    }

    /// Generations that wait, and that the engine works at.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let mut state = self.lock();
        forget_who_left(&mut state);
        let running = state.running.values().filter(|running| !running.sender.is_closed()).count();
        (state.waiting.len(), running)
    }

    fn is_late(&self, since: Instant) -> bool {
        since.elapsed() > self.patience
    }

    fn late(&self) -> Event {
        Event::Failed(ApiError::timed_out(self.patience.as_secs()))
    }
}

fn forget_who_left(state: &mut State) {
    state.waiting.retain(|(_, ticket)| !ticket.sender.is_closed());
}

impl Queue for Desk {
    fn next(&self, fits: &dyn Fn(&Prepared) -> bool) -> Option<(usize, Prepared)> {
        let mut state = self.lock();
        forget_who_left(&mut state);
        while let Some((since, ticket)) = state.waiting.front()
            && self.is_late(*since)
        {
            let _ = ticket.sender.send((ticket.choice, self.late()));
            state.waiting.pop_front();
        }
        state.waiting.front().filter(|(_, ticket)| fits(&ticket.prepared))?;
        let (since, Ticket { prepared, choice, sender }) = state.waiting.pop_front()?;
        let index = state.next;
        state.next += 1;
        state.running.insert(index, Running { choice, sender, since, first: None });
        Some((index, prepared))
    }

    fn wait(&self) -> bool {
        let mut state = self.lock();
        // Who left while they ran is forgotten: the engine has nothing to do.
        state.running.clear();
        loop {
            forget_who_left(&mut state);
            if !state.waiting.is_empty() {
                return true;
            }
            if state.closed {
                return false;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wants(&self, index: usize) -> bool {
        let mut state = self.lock();
        let Some(running) = state.running.get(&index) else { return false };
        let late = self.is_late(running.since);
        if late {
            let _ = running.sender.send((running.choice, self.late()));
        }
        if late || running.sender.is_closed() {
            state.running.remove(&index);
            self.metrics.left();
            return false;
        }
        true
    }

    fn prompt(&self, index: usize, tokens: Vec<TextToken>) {
        if let Some(running) = self.lock().running.get(&index) {
            let _ = running.sender.send((running.choice, Event::Prompt(tokens)));
        }
    }

    fn text(&self, index: usize, piece: TextPiece) {
        if let Some(running) = self.lock().running.get_mut(&index) {
            running.first.get_or_insert_with(Instant::now);
            let _ = running.sender.send((running.choice, Event::Text(piece)));
        }
    }

    fn done(&self, index: usize, response: Response) {
        let Some(running) = self.lock().running.remove(&index) else { return };
        let first = running.first.map(|first| first - running.since);
        self.metrics.answered(response.usage, first, running.since.elapsed());
        let _ = running.sender.send((running.choice, Event::Done(Box::new(response))));
    }

    fn failed(&self, index: usize, error: EngineError) {
        if let Some(running) = self.lock().running.remove(&index) {
            let _ = running.sender.send((running.choice, Event::Failed(ApiError::internal(error.to_string()))));
        }
    }
}
