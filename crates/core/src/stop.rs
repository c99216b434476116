//! The wish that long work should stop, between who has it and who does the work.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// A wish to stop, shared by clones. Work looks at it between its steps; whoever wants it to stop may also look whether
/// something would be lost if the process ended now.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    unsaved: Arc<AtomicUsize>,
}

impl Stop {
    /// Asks for the stop; whether it had been asked for before.
    pub fn request(&self) -> bool {
        self.flag.swap(true, Ordering::SeqCst)
    }

    /// Whether the work should stop.
    pub fn is_requested(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// The flag alone.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Says that there is work whose result is nowhere on disk, until the guard is dropped.
    pub fn unsaved(&self) -> Unsaved {
        self.unsaved.fetch_add(1, Ordering::SeqCst);
        Unsaved(Arc::clone(&self.unsaved))
    }

    /// Whether work would be lost if the process ended now.
    pub fn has_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::SeqCst) > 0
    }
}

impl From<Arc<AtomicBool>> for Stop {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self { flag, unsaved: Arc::default() }
    }
}

/// Work that is not saved yet.
#[derive(Debug)]
pub struct Unsaved(Arc<AtomicUsize>);

impl Drop for Unsaved {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_wish_and_what_is_unsaved() {
        let stop = Stop::default();
        let work = stop.clone();
        let unsaved = work.unsaved();
        assert!(!stop.is_requested() && stop.has_unsaved());
        assert!(!stop.request() && stop.request());
        assert!(work.is_requested() && work.flag().load(Ordering::SeqCst));
        drop(unsaved);
        assert!(!stop.has_unsaved());
    }
}
