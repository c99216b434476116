//! Calls into libraries that panic over broken files.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic that becomes an error, see [`guarded`], has no message of its own: the hook that was there before
/// is told of the others. For programs, at their start.
pub fn watch_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !GUARDED.get() {
            tell(panic);
        }
    }));
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
        assert_eq!(guarded(|| GUARDED.get()), Ok(true));
        let none: &[u8] = &[];
        assert_eq!(
            guarded(|| none[none.len() + 3]),
            Err("index out of bounds: the len is 0 but the index is 3".into())
        );
        assert!(!GUARDED.get());
    }
}
