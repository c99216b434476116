//! Text operations with the meaning they have in Python, where the reference implementations were written.

/// `string.punctuation`: the ASCII punctuation and symbols.
pub fn is_ascii_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
}

/// `str.isspace` of one character; unlike [`char::is_whitespace`] it holds for the four ASCII separators.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `text.split()`: the runs of characters that are not white space.
pub fn split_whitespace(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `text.rstrip()`.
pub fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `text.strip()`.
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.title` of Python: a letter is large where no letter stands before it.
pub fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_white_space_and_zero_width_space_is_not() {
        assert_eq!(split_whitespace("a\u{1f}b\u{a0}c\u{200b}d  ").collect::<Vec<_>>(), ["a", "b", "c\u{200b}d"]);
        assert_eq!(trim_end(" x\u{1c}\n"), " x");
        assert_eq!(trim("\u{3000}x\u{1c}"), "x");
    }
}
