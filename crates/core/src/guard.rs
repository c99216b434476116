//! Calls into libraries that panic over broken files.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in [`guarded`], so that a panic is about to become an error and is not worth a message.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Calls what reads a file of others' with a library that panics where the file is broken. What is left behind by a
/// panic must not be used again.
///
/// # Errors
/// The panic's message.
pub fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(before);
    result.map_err(|panic| match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => {
            panic.downcast_ref::<&str>().map_or_else(|| "no reason given".to_owned(), |text| (*text).to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(guarded(|| 1), Ok(1));
        assert_eq!(guarded(|| assert!(is_guarded())), Ok(()));
        let none: &[u8] = &[];
        assert_eq!(
            guarded(|| none[none.len() + 3]),
            Err("index out of bounds: the len is 0 but the index is 3".into())
        );
        assert!(!is_guarded());
    }
}
