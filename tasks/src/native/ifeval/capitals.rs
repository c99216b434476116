//! Letters large and small, as Python's `str` methods and the Penn Treebank's words see them.

/// `str.isupper`: there is a letter with case, and none is small.
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}

/// `str.islower`.
pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
}

/// What stands alone whatever is beside it.
const ALONE: &str = "«»“”‘’„;@#$%&?!*()[]{}<>`\"\u{2012}\u{2013}\u{2014}\u{2015}";

/// Endings that are words of their own behind another letter; small or large throughout.
const CLITICS: [&str; 7] = ["'s", "'m", "'d", "'ll", "'re", "'ve", "n't"];

/// Words that are two, with the length of the first.
const JOINED: [(&str, usize); 8] =
    [("cannot", 3), ("gimme", 3), ("gonna", 3), ("gotta", 3), ("lemme", 3), ("wanna", 3), ("'tis", 2), ("'twas", 2)];

/// Number of words in capitals, words being those of the Penn Treebank: with hyphens one, with a clitic two.
pub(super) fn words(text: &str) -> usize {
    spaced(text).split_whitespace().flat_map(parts).filter(|word| is_upper(word)).count()
}

/// The text with blanks round everything that is no part of a word.
fn spaced(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len() + 16);
    for (at, &c) in chars.iter().enumerate() {
        let (before, after) = (at.checked_sub(1).map(|at| chars[at]), chars.get(at + 1).copied());
        let alone = match c {
            ':' | ',' => after.is_none_or(|after| !after.is_ascii_digit()),
            // A stop is part of an abbreviation unless nothing but closing marks and a blank follow.
            '.' => {
                before == Some('.')
                    || after == Some('.')
                    || chars[at + 1..]
                        .iter()
                        .find(|next| !"])}>\"'»”’".contains(**next))
                        .is_none_or(|next| next.is_whitespace())
            }
            '-' => before == Some('-') || after == Some('-'),
            c => ALONE.contains(c),
        };
        if alone {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// A word and its clitic, or the two words of a joined one.
fn parts(word: &str) -> Vec<&str> {
    let small = word.to_lowercase();
    if let Some((_, at)) = JOINED.iter().find(|(joined, _)| *joined == small) {
        let (first, second) = word.split_at(*at);
        return vec![first, second];
    }
    let one_case = |part: &str| part == part.to_lowercase() || part == part.to_uppercase();
    let clitic = CLITICS.iter().find_map(|clitic| {
        let cut = word.len().checked_sub(clitic.len()).filter(|&cut| cut > 0 && word.is_char_boundary(cut))?;
        let (stem, end) = word.split_at(cut);
        let single = clitic.len() == 2 && clitic.starts_with('\'');
        (end.to_lowercase() == *clitic && (single || one_case(end)) && !stem.ends_with('\'')).then_some((stem, end))
    });
    if let Some((stem, end)) = clitic {
        return vec![stem, end];
    }
    // An opening quotation mark.
    match word.strip_prefix('\'') {
        Some(rest) if rest.starts_with(char::is_alphanumeric) => vec!["'", rest],
        _ => vec![word],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_treebank() {
        for (text, expected) in [
            ("HELLO WORLD", 2),
            ("Hello WORLD. I AM", 3),
            ("WELL-KNOWN U.S. NASA's", 3),
            ("IT'S CAN'T WE'LL", 6),
            ("I'm", 1),
            ("CANNOT", 2),
            ("A,B;C:D 1,000", 4),
            ("NOT... THIS--THAT", 3),
            ("'QUOTED' [HTTP]", 2),
            ("123 !!!", 0),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn case_is_that_of_letters() {
        assert!(is_upper("A1!") && !is_upper("1!") && !is_upper("Ab"));
        assert!(is_lower("ab é") && !is_lower("") && !is_lower("aB"));
    }
}
