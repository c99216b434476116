//! Numbers on the command line, with readable errors.

use std::str::FromStr;

/// A count or a seed.
///
/// # Errors
/// If the text is no whole number of at least 0, or too large.
pub(super) fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number, 0 or more".to_owned())
}
