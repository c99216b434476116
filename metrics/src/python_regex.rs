//! Regular expressions written for Python's `re`, as task files hold them.

use fancy_regex::{Captures, NoExpand, Regex, RegexBuilder};

use crate::MetricsError;

/// Steps of backtracking after which a match is given up.
const BACKTRACK_LIMIT: usize = 1_000_000;

/// A regular expression with the meaning it has in Python's `re`, for the syntax that task files use.
///
/// What differs from the Rust engines is rewritten: `$` also holds before a final line feed, `\Z` is the very end, `\s`
/// contains U+001C to U+001F, `\w` is letters, numbers and the underscore (no combining marks), `\<` and `\>` are
/// literal, a brace that does not form a repetition is literal, and `[`, `&`, `~` in a class are literal.
///
/// Not rewritten is `\b`, which takes a few characters otherwise than Python: numbers that are not digits (½) part words,
/// combining marks do not.
#[derive(Clone, Debug)]
pub struct PythonRegex {
    pattern: String,
    regex: Regex,
}

impl PythonRegex {
    /// Compiles an expression.
    ///
    /// # Errors
    /// [`MetricsError::Pattern`] if the expression is not valid or uses what is not supported (`(?a)`, `(?L)`).
    pub fn new(pattern: &str) -> Result<Self, MetricsError> {
        RegexBuilder::new(&translate(pattern))
            .backtrack_limit(BACKTRACK_LIMIT)
            .build()
            .map(|regex| Self { pattern: pattern.to_owned(), regex })
            .map_err(|e| MetricsError::Pattern { pattern: pattern.to_owned(), reason: e.to_string() })
    }

    /// The expression as it was given.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Number of groups, not counting the whole match.
    pub fn groups(&self) -> usize {
        self.regex.captures_len().saturating_sub(1)
    }

    /// `re.sub(pattern, "", text)`: the text without the matches.
    ///
    /// # Errors
    /// [`MetricsError::Backtracking`] if the expression would backtrack without end.
    pub fn remove_all(&self, text: &str) -> Result<String, MetricsError> {
        self.regex
            .try_replacen(text, 0, NoExpand(""))
            .map(std::borrow::Cow::into_owned)
            .map_err(|e| self.gave_up(text, &e))
    }

    /// Whether the expression matches anywhere in the text (`re.search`).
    ///
    /// # Errors
    /// [`MetricsError::Backtracking`] if the expression would backtrack without end.
    pub fn is_match(&self, text: &str) -> Result<bool, MetricsError> {
        self.regex.is_match(text).map_err(|e| self.gave_up(text, &e))
    }

    /// `re.findall` as a list of groups a match: the whole match where the expression has no group, else every group,
    /// empty where it did not take part.
    ///
    /// # Errors
    /// [`MetricsError::Backtracking`] if the expression would backtrack without end.
    pub fn find_all(&self, text: &str) -> Result<Vec<Vec<String>>, MetricsError> {
        let first = usize::from(self.groups() > 0);
        let groups = |found: Captures<'_, str>| {
            (first..found.len()).map(|i| found.get(i).map_or("", |m| m.as_str()).to_owned()).collect()
        };
        self.regex.captures_iter(text).map(|found| found.map(groups).map_err(|e| self.gave_up(text, &e))).collect()
    }

    fn gave_up(&self, text: &str, error: &fancy_regex::Error) -> MetricsError {
        MetricsError::Backtracking { pattern: self.pattern.clone(), length: text.len(), reason: error.to_string() }
    }
}

/// Rewrites what Python's `re` reads otherwise than fancy-regex does.
fn translate(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let multiline = leading_flags(pattern).contains('m');
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut i = 0;
    while i < chars.len() {
        match chars[i] {
            '\\' if i + 1 < chars.len() => {
                match chars[i + 1] {
                    's' => out.push_str(r"[\s\x1c-\x1f]"),
                    'S' => out.push_str(r"[^\s\x1c-\x1f]"),
                    'w' => out.push_str(r"[\p{L}\p{N}_]"),
                    'W' => out.push_str(r"[^\p{L}\p{N}_]"),
                    'Z' => out.push_str(r"\z"),
                    c @ ('<' | '>') => out.push(c),
                    c => out.extend(['\\', c]),
                }
                i += 2;
            }
            '[' => i = translate_class(&chars, i, &mut out),
            '$' if !multiline => {
                out.push_str(r"(?=\n?\z)");
                i += 1;
            }
            '{' => match repetition(&chars[i..]) {
                Some((text, length)) => {
                    out.push_str(&text);
                    i += length;
                }
                None => {
                    out.push_str(r"\{");
                    i += 1;
                }
            },
            '}' => {
                out.push_str(r"\}");
                i += 1;
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

/// Letters of a leading `(?…)`, the only place where Python takes flags for the whole expression.
fn leading_flags(pattern: &str) -> &str {
    pattern
        .strip_prefix("(?")
        .and_then(|rest| rest.split_once(')'))
        .map(|(flags, _)| flags)
        .filter(|flags| flags.chars().all(|c| c.is_ascii_alphabetic()))
        .unwrap_or("")
}

/// Copies a character class that opens at `start`; returns the position after it.
fn translate_class(chars: &[char], start: usize, out: &mut String) -> usize {
    out.push('[');
    let mut i = start + 1;
    if chars.get(i) == Some(&'^') {
        out.push('^');
        i += 1;
    }
    if chars.get(i) == Some(&']') {
        out.push_str(r"\]");
        i += 1;
    }
    while i < chars.len() {
        match chars[i] {
            ']' => {
                out.push(']');
                return i + 1;
            }
            '\\' if i + 1 < chars.len() => {
                match chars[i + 1] {
                    's' => out.push_str(r"\s\x1c-\x1f"),
                    'S' => out.push_str(r"[^\s\x1c-\x1f]"),
                    'w' => out.push_str(r"\p{L}\p{N}_"),
                    'W' => out.push_str(r"[^\p{L}\p{N}_]"),
                    'b' => out.push_str(r"\x08"),
                    c @ ('<' | '>') => out.push(c),
                    c => out.extend(['\\', c]),
                }
                i += 2;
            }
            c @ ('[' | '&' | '~') => {
                out.extend(['\\', c]);
                i += 1;
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    i
}

/// A repetition `{m}`, `{m,}`, `{,n}` or `{m,n}` at the start of `chars`, rewritten, with its length.
fn repetition(chars: &[char]) -> Option<(String, usize)> {
    let end = chars.iter().position(|&c| c == '}')?;
    let inside: String = chars[1..end].iter().collect();
    let (low, high) = inside.split_once(',').map_or((inside.as_str(), None), |(l, h)| (l, Some(h)));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if inside.is_empty() || !digits(low) || !high.is_none_or(digits) {
        return None;
    }
    let low = if low.is_empty() { "0" } else { low };
    let text = high.map_or_else(|| format!("{{{low}}}"), |high| format!("{{{low},{high}}}"));
    Some((text, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(pattern: &str, text: &str) -> String {
        PythonRegex::new(pattern).unwrap().remove_all(text).unwrap()
    }

    #[test]
    fn the_dollar_holds_before_a_final_line_feed() {
        assert_eq!(removed(r"\.$", "5.\n"), "5\n");
        assert_eq!(removed(r"\.\Z", "5.\n"), "5.\n");
        assert_eq!(removed(r"\.$", "5.\n6."), "5.\n6");
        assert_eq!(removed(r"(?m)\.$", "5.\n6."), "5\n6");
        assert_eq!(removed(r"[$]", "$5"), "5");
        assert_eq!(removed(r"\$", "$5"), "5");
    }

    #[test]
    fn braces_that_do_not_repeat_are_literal() {
        let found = PythonRegex::new(r"\boxed{(.*?)}").unwrap().find_all(r"so oxed{42} and").unwrap();
        assert_eq!(found, [["42"]]);
        assert_eq!(removed(r"a{,2}b", "aab ab b"), "  ");
        assert_eq!(removed(r"a{2}", "aaa"), "a");
        assert_eq!(removed(r"{}", "x{}y"), "xy");
    }

    #[test]
    fn classes_are_read_as_python_reads_them() {
        assert_eq!(removed(r"[[&~]", "a[b&&c~"), "abc");
        assert_eq!(removed(r"[]x]", "a]x"), "a");
        assert_eq!(removed(r"[^]x]", "a]x"), "]x");
        assert_eq!(removed(r"[\s,]+", "a ,\u{1f}b"), "ab");
        assert_eq!(removed(r"\<b\>", "<b>x"), "x");
    }

    #[test]
    fn groups_that_took_no_part_are_empty() {
        let regex = PythonRegex::new(r"(-?[$0-9.,]{2,})|(-?[0-9]+)").unwrap();
        assert_eq!(regex.groups(), 2);
        assert_eq!(regex.find_all("7 or $12").unwrap(), [["", "7"], ["$12", ""]]);
        assert!(PythonRegex::new(r"\d+").unwrap().is_match("a1").unwrap());
    }

    #[test]
    fn bad_and_endless_expressions_are_errors() {
        assert!(matches!(PythonRegex::new("(a"), Err(MetricsError::Pattern { .. })));
        let endless = PythonRegex::new(r"(?:(?=(x))\1+)+\1 z").unwrap();
        let text = "x".repeat(60) + " y z";
        assert!(matches!(endless.remove_all(&text), Err(MetricsError::Backtracking { .. })));
    }
}
