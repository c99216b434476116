//! How many sentences a text has, by rule.
//!
//! IFEval's own program asks a splitter that was trained on newspapers (Kiss & Strunk 2006). Here a full stop ends a
//! sentence unless it belongs to an abbreviation, an initial or a number, or the text goes on with a small letter behind it.

/// English abbreviations that a name or a number usually follows.
const ABBREVIATIONS: [&str; 38] = [
    "adm", "apr", "aug", "ave", "blvd", "capt", "cf", "col", "corp", "dec", "dr", "eg", "etc", "feb", "fig", "gen",
    "gov", "ie", "inc", "jan", "jr", "lt", "ltd", "mr", "mrs", "ms", "mt", "no", "nov", "oct", "prof", "rep", "rev",
    "sen", "sept", "sr", "st", "vs",
];

/// Number of sentences; a text without any stop is one, an empty one none.
pub(super) fn count(text: &str) -> usize {
    let words: Vec<&str> = text.split_whitespace().collect();
    (0..words.len()).filter(|&at| at + 1 == words.len() || ends(words[at], words[at + 1])).count()
}

/// Whether a sentence ends with a word, as the next one shows.
fn ends(word: &str, next: &str) -> bool {
    let bare = word.trim_end_matches(['"', '\'', ')', ']', '}', '”', '’', '»', '*', '_']);
    let start = next.trim_start_matches(['"', '\'', '(', '[', '{', '“', '‘', '«', '*', '_']).chars().next();
    if bare.ends_with(['?', '!']) {
        return true;
    }
    let Some(stem) = bare.strip_suffix('.') else { return false };
    if start.is_some_and(char::is_lowercase) {
        return false;
    }
    let stem = stem.trim_start_matches(['"', '\'', '(', '[', '{', '“', '‘', '«', '*', '_']);
    let mut letters = stem.chars();
    let initial =
        matches!((letters.next(), letters.next()), (Some(letter), None) if letter.is_alphabetic() && letter != 'I');
    // Between the letters of an abbreviation there are stops: U.S., e.g.
    let dotted = stem.contains('.') && !stem.ends_with('.') && stem.split('.').all(|part| part.chars().count() == 1);
    let known = ABBREVIATIONS.contains(&stem.replace('.', "").to_lowercase().as_str());
    !(initial || dotted || known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_end_sentences_where_they_are_none_of_a_word() {
        for (text, expected) in [
            ("", 0),
            ("One line\nwithout a stop", 1),
            ("It rains. It pours! Does it?", 3),
            ("Dr. Smith met Mrs. Jones at 5 p.m. on Main St. yesterday.", 1),
            ("The U.S. Army left. J. K. Rowling wrote it.", 2),
            ("He said \"Stop!\" (He did.) Then... he left.", 3),
            ("Pi is 3.14. So it is.", 2),
            ("* First\n* Second", 1),
        ] {
            assert_eq!(count(text), expected, "{text}");
        }
    }
}
