//! A limit on cost that is never passed.

use std::sync::{Mutex, PoisonError};

use crate::HttpError;

/// Money, in the currency of the prices. Before a request is sent the most that it can cost is set aside; when the answer
/// is there, what it did cost is spent and the rest free again. So what is spent never passes the limit, whatever is in
/// flight. Several endpoints can share one.
#[derive(Debug)]
pub struct Budget {
    limit: f64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spent: f64,
    reserved: f64,
}

impl Budget {
    /// Nothing spent yet.
    ///
    /// # Errors
    /// If the limit is not a positive number.
    pub fn new(limit: f64) -> Result<Self, HttpError> {
        if limit.is_finite() && limit > 0.0 {
            return Ok(Self { limit, state: Mutex::default() });
        }
        Err(HttpError::Option {
            what: "the cost limit".into(),
            found: limit.to_string(),
            expected: "a positive number".into(),
        })
    }

    /// The limit.
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// What was spent so far.
    pub fn spent(&self) -> f64 {
        self.lock().spent
    }

    /// Sets `most` aside, or says why that is not possible. `Ok(false)`: what is in flight has to come back first.
    pub(crate) fn reserve(&self, most: f64) -> Result<bool, HttpError> {
        let mut state = self.lock();
        if state.spent + state.reserved + most <= self.limit {
            state.reserved += most;
            return Ok(true);
        }
        if state.reserved > 0.0 && state.spent + most <= self.limit {
            return Ok(false);
        }
        Err(HttpError::Budget { limit: self.limit, spent: state.spent, next: most })
    }

    /// Frees what was set aside and books what was spent of it.
    pub(crate) fn settle(&self, reserved: f64, spent: f64) {
        let mut state = self.lock();
        state.reserved -= reserved;
        if state.reserved < 1e-12 {
            state.reserved = 0.0;
        }
        state.spent += spent;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reservation; freed when it is dropped without being settled.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    budget: Option<&'a Budget>,
    most: f64,
    open: bool,
}

impl<'a> Reservation<'a> {
    /// A reservation that [`Budget::reserve`] granted.
    pub(crate) fn new(budget: Option<&'a Budget>, most: f64) -> Self {
        Self { budget, most, open: true }
    }

    /// Books what was spent: at most what was set aside.
    pub(crate) fn settle(mut self, spent: f64) -> f64 {
        let spent = if self.budget.is_some() { spent.min(self.most) } else { spent };
        self.close(spent);
        spent
    }

    /// Books all that was set aside: the server may have done the work.
    pub(crate) fn settle_all(self) -> f64 {
        let most = self.most;
        self.settle(most)
    }

    fn close(&mut self, spent: f64) {
        if std::mem::take(&mut self.open)
            && let Some(budget) = self.budget
        {
            budget.settle(self.most, spent);
        }
    }
}

impl Drop for Reservation<'_> {
    /// A request that is given up in flight may be charged for.
    fn drop(&mut self) {
        let most = self.most;
        self.close(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_with_requests_in_flight() {
        let budget = Budget::new(1.0).unwrap();
        assert!(budget.reserve(0.4).unwrap());
        let first = Reservation::new(Some(&budget), 0.4);
        assert!(budget.reserve(0.4).unwrap());
        let second = Reservation::new(Some(&budget), 0.4);
        assert!(!budget.reserve(0.4).unwrap(), "wait for those in flight");
        first.settle(0.1);
        assert!(budget.reserve(0.4).unwrap());
        let third = Reservation::new(Some(&budget), 0.4);
        second.settle_all();
        drop(third);
        assert!((budget.spent() - 0.9).abs() < 1e-12);
        let error = budget.reserve(0.2).unwrap_err().to_string();
        assert!(error.contains("1.0000") && error.contains("0.9000") && error.contains("0.2000"), "{error}");
        assert!(Budget::new(-1.0).is_err() && Budget::new(f64::NAN).is_err());
    }
}
