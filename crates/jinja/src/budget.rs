//! What one rendering may use, and what it has used.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use minijinja::{Error, ErrorKind};

/// The limits of a template; the defaults are far above what templates of models and tasks need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the template itself.
    pub source: usize,
    /// Operators, calls and brackets within one pair of template marks.
    pub operators: usize,
    /// Instructions that one rendering executes.
    pub instructions: u64,
    /// Bytes of one value: a text, or a list with all that is in it.
    pub value: usize,
    /// Bytes of all values that one rendering makes, and of its text.
    pub bytes: u64,
    /// Time of one rendering.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            source: 4 << 20,
            operators: 500,
            instructions: 15_000_000,
            value: 64 << 20,
            bytes: 256 << 20,
            time: Duration::from_secs(3),
        }
    }
}

/// What the rendering on this thread has left.
#[derive(Clone, Copy)]
struct Rest {
    limits: Limits,
    bytes: u64,
    ends: Option<Instant>,
}

thread_local! {
    static REST: Cell<Option<Rest>> = const { Cell::new(None) };
}

/// Runs a rendering with a budget of its own.
pub(crate) fn with_budget<T>(limits: Limits, render: impl FnOnce() -> T) -> T {
    /// Gives the budget of an outer rendering back, also if this one panics.
    struct Outer(Option<Rest>);
    impl Drop for Outer {
        fn drop(&mut self) {
            REST.set(self.0);
        }
    }
    let rest = Rest { limits, bytes: limits.bytes, ends: Instant::now().checked_add(limits.time) };
    let _outer = Outer(REST.replace(Some(rest)));
    render()
}

/// The limits of the rendering on this thread.
pub(crate) fn limits() -> Limits {
    REST.get().map_or_else(Limits::default, |rest| rest.limits)
}

/// Takes the bytes of a value that is made or written off the budget.
///
/// # Errors
/// If one value may not be as large, or the budget or the time is used up.
pub(crate) fn charge(bytes: usize) -> Result<(), Error> {
    let Some(mut rest) = REST.get() else { return Ok(()) };
    if bytes > rest.limits.value {
        return Err(exceeded(format!("a value of more than {}", size(rest.limits.value as u64))));
    }
    let left = rest.bytes.checked_sub(bytes as u64);
    rest.bytes = left.ok_or_else(|| exceeded(format!("values of more than {}", size(rest.limits.bytes))))?;
    if rest.ends.is_some_and(|ends| Instant::now() > ends) {
        return Err(exceeded(format!("more than {:?} of time", rest.limits.time)));
    }
    REST.set(Some(rest));
    Ok(())
}

/// The error of a template that would need more than a limit.
pub(crate) fn exceeded(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("the template needs {what}, which is the limit"))
}

/// Bytes in words.
pub(crate) fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(1 << 20) { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}
