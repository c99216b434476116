//! Ranks as threads of one process: for tests of everything that ranks do together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::exchange::{Bytes, Exchange};
use crate::TrainingError;

/// One rank of a group of threads.
#[derive(Debug)]
pub struct ThreadExchange {
    rank: usize,
    group: Arc<Group>,
}

#[derive(Debug)]
struct Group {
    world: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// One operation at a time: first all give, then all take.
#[derive(Debug, Default)]
struct State {
    given: Vec<Option<Vec<Bytes>>>,
    taken: usize,
    full: bool,
    left: Vec<bool>,
    failed: Option<(usize, String)>,
}

impl ThreadExchange {
    /// A group of `world` ranks, one for each thread.
    pub fn group(world: usize) -> Vec<Self> {
        let state = State { given: vec![None; world], left: vec![false; world], ..State::default() };
        let group = Arc::new(Group { world, state: Mutex::new(state), changed: Condvar::new() });
        (0..world).map(|rank| Self { rank, group: Arc::clone(&group) }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.group.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the condition holds and nothing has failed.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        condition: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>, TrainingError> {
        while condition(&state) {
            if let Some((rank, message)) = &state.failed {
                return Err(TrainingError::Peer { rank: *rank, message: message.clone() });
            }
            if let Some(rank) = (0..self.group.world).find(|&r| state.left[r] && state.given[r].is_none()) {
                return Err(TrainingError::Peer { rank, message: "has left the run".to_owned() });
            }
            state = self.group.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }
}

impl Exchange for ThreadExchange {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.group.world
    }

    fn all_to_all(&self, parts: Vec<Bytes>) -> Result<Vec<Bytes>, TrainingError> {
        let state = self.lock();
        // The operation before this one is over when all have taken.
        let mut state = self.wait(state, |state| state.full)?;
        state.given[self.rank] = Some(parts);
        state.full = state.given.iter().all(Option::is_some);
        self.group.changed.notify_all();
        let mut state = self.wait(state, |state| !state.full)?;
        let taken = state.given.iter().flatten().map(|parts| Arc::clone(&parts[self.rank])).collect();
        state.taken += 1;
        if state.taken == self.group.world {
            state.given.fill(None);
            (state.taken, state.full) = (0, false);
            self.group.changed.notify_all();
        }
        Ok(taken)
    }

    fn abort(&self, message: &str) {
        self.lock().failed.get_or_insert((self.rank, message.to_owned()));
        self.group.changed.notify_all();
    }

    fn failure(&self) -> Option<(usize, String)> {
        self.lock().failed.clone().filter(|(rank, _)| *rank != self.rank)
    }
}

impl Drop for ThreadExchange {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort("panicked");
        }
        self.lock().left[self.rank] = true;
        self.group.changed.notify_all();
    }
}
