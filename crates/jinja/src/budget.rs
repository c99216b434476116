//! What one rendering may use, and what it has used.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use harness_core::{Limits, bytes_in_words, limit_name};
use minijinja::{Error, ErrorKind};

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
    let time = Duration::try_from_secs_f64(limits.template_seconds).unwrap_or(Duration::MAX);
    let rest = Rest { limits, bytes: limits.template_bytes, ends: Instant::now().checked_add(time) };
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
    let limits = &rest.limits;
    if bytes > limits.template_value {
        return Err(exceeded_value(limits.template_value));
    }
    let left = rest.bytes.checked_sub(bytes as u64);
    let more = || exceeded(format!("values of more than {}", bytes_in_words(limits.template_bytes)), "template_bytes");
    rest.bytes = left.ok_or_else(more)?;
    if rest.ends.is_some_and(|ends| Instant::now() > ends) {
        return Err(exceeded(format!("more than {} s", limits.template_seconds), "template_seconds"));
    }
    REST.set(Some(rest));
    Ok(())
}

/// The error of a value that is larger than a value may be.
pub(crate) fn exceeded_value(most: usize) -> Error {
    exceeded(format!("a value of more than {}", bytes_in_words(most as u64)), "template_value")
}

/// The error of a template that would need more than a limit of this name.
pub(crate) fn exceeded(what: impl std::fmt::Display, limit: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("the template needs {what}, which is the limit {}", limit_name(limit)),
    )
}

/// An error in words, without its line: what went wrong, the detail, and the limit that was passed.
pub fn describe(error: &Error) -> String {
    let mut text = error.kind().to_string();
    if let Some(detail) = error.detail() {
        text += &format!(": {detail}");
    }
    if error.kind() == ErrorKind::OutOfFuel {
        text += &format!(" {}", limit_name("template_instructions"));
    }
    text
}
