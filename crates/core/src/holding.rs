//! Text that is handed over while it grows.

/// How much of a growing text no stop string can take away: the bytes before the first stop string in it, or before the
/// longest end of it that a stop string begins with.
pub fn before_a_stop(text: &str, stop: &[String]) -> usize {
    let first = stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
    first.unwrap_or_else(|| before_a_beginning(text, stop))
}

/// How much of a text is left without the longest end of it that is the beginning of a stop string.
pub fn before_a_beginning(text: &str, stop: &[String]) -> usize {
    let longest = stop.iter().map(String::len).max().unwrap_or(0);
    let from = text.len().saturating_sub(longest.saturating_sub(1));
    let may_begin = |at: &usize| text.get(*at..).is_some_and(|end| stop.iter().any(|stop| stop.starts_with(end)));
    (from..text.len()).find(may_begin).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_become_a_stop_string_is_held_back() {
        let stop = ["\n\nQ".to_owned(), "né".to_owned(), String::new()];
        for (text, expected) in
            [("", 0), ("a", 1), ("a\n", 1), ("a\n\n", 1), ("a\n\nb", 4), ("\nn", 1), ("én\n", 3), ("aén", 3)]
        {
            assert_eq!(before_a_stop(text, &stop), expected, "{text:?}");
            assert_eq!(before_a_beginning(text, &stop), expected, "{text:?}");
        }
        assert_eq!(before_a_stop("a\n", &[]), 2);
        assert_eq!(before_a_stop("a\n\nQ né b", &stop), 1);
    }
}
