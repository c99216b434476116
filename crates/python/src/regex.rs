//! Regular expressions written for Python's `re`, as task files hold them.

use fancy_regex::{Captures, Regex, RegexBuilder};

use crate::translate_python_regex;

/// Steps of backtracking after which a match is given up.
const BACKTRACK_LIMIT: usize = 1_000_000;

/// What can go wrong with a regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// A regular expression could not be compiled.
    #[error("regular expression `{pattern}` is not valid: {reason}; expected the syntax of Python's `re`")]
    Pattern {
        /// The expression as it was given.
        pattern: String,
        /// What the compiler said.
        reason: String,
    },
    /// A regular expression was given up on a text, because it would backtrack without end.
    #[error(
        "regular expression `{pattern}` gave up on a text of {length} bytes: {reason}; write it without nested repetition"
    )]
    Backtracking {
        /// The expression as it was given.
        pattern: String,
        /// Length of the text in bytes.
        length: usize,
        /// What the matcher said.
        reason: String,
    },
}

/// A regular expression with the meaning it has in Python's `re`, for the syntax that task files use.
///
/// What differs from the Rust engines is rewritten: `$` also holds before a final line feed, `\Z` is the very end, `\s`
/// contains U+001C to U+001F, `\w` is letters, numbers and the underscore (no combining marks), `\<` and `\>` are
/// literal, a brace that does not form a repetition is literal, `[`, `&`, `~` in a class are literal, and comments
/// `(?#…)` and the flags `a`, `L`, `u` are dropped.
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
    /// [`RegexError::Pattern`] if the expression is not valid.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        RegexBuilder::new(&translate_python_regex(pattern))
            .backtrack_limit(BACKTRACK_LIMIT)
            .build()
            .map(|regex| Self { pattern: pattern.to_owned(), regex })
            .map_err(|e| RegexError::Pattern { pattern: pattern.to_owned(), reason: e.to_string() })
    }

    /// `re.escape`: an expression that matches this text only.
    pub fn escape(text: &str) -> String {
        fancy_regex::escape(text).into_owned()
    }

    /// The expression as it was given.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Number of groups, not counting the whole match.
    pub fn groups(&self) -> usize {
        self.regex.captures_len().saturating_sub(1)
    }

    /// Whether the expression matches anywhere in the text (`re.search`).
    ///
    /// # Errors
    /// [`RegexError::Backtracking`] if the expression would backtrack without end.
    pub fn is_match(&self, text: &str) -> Result<bool, RegexError> {
        self.regex.is_match(text).map_err(|e| self.gave_up(text, &e))
    }

    /// `re.findall` as a list of groups a match: the whole match where the expression has no group, else every group,
    /// empty where it did not take part.
    ///
    /// # Errors
    /// [`RegexError::Backtracking`] if the expression would backtrack without end.
    pub fn find_all<'t>(&self, text: &'t str) -> Result<Vec<Vec<&'t str>>, RegexError> {
        let first = usize::from(self.groups() > 0);
        let groups = |found: &Captures<'t, str>| {
            (first..=self.groups()).map(|i| found.get(i).map_or("", |m: fancy_regex::Match<'t>| m.as_str())).collect()
        };
        Ok(self.matches(text)?.iter().map(groups).collect())
    }

    /// `re.sub` with a Python replacement (`\1`, `\g<1>`, `\g<name>`, `\\`, `\n`), at most `count` times; 0 is no limit.
    ///
    /// # Errors
    /// [`RegexError::Backtracking`] if the expression would backtrack without end.
    pub fn sub(&self, replacement: &str, text: &str, count: usize) -> Result<String, RegexError> {
        let mut out = String::with_capacity(text.len());
        let mut position = 0;
        let limit = if count == 0 { usize::MAX } else { count };
        for captures in self.matches(text)?.into_iter().take(limit) {
            let Some(whole) = captures.get(0) else { continue };
            out.push_str(&text[position..whole.start()]);
            expand(replacement, &captures, &mut out);
            position = whole.end();
        }
        out.push_str(&text[position..]);
        Ok(out)
    }

    /// `re.split`: the parts between matches, and the groups of each match between them.
    ///
    /// # Errors
    /// [`RegexError::Backtracking`] if the expression would backtrack without end.
    pub fn split<'t>(&self, text: &'t str) -> Result<Vec<&'t str>, RegexError> {
        let mut parts = Vec::new();
        let mut position = 0;
        for captures in self.matches(text)? {
            let Some(whole) = captures.get(0) else { continue };
            parts.push(&text[position..whole.start()]);
            parts.extend((1..=self.groups()).map(|i| captures.get(i).map_or("", |m| m.as_str())));
            position = whole.end();
        }
        parts.push(&text[position..]);
        Ok(parts)
    }

    /// `re.sub(pattern, "", text)`: the text without the matches.
    ///
    /// # Errors
    /// [`RegexError::Backtracking`] if the expression would backtrack without end.
    pub fn remove_all(&self, text: &str) -> Result<String, RegexError> {
        self.sub("", text, 0)
    }

    /// All matches from left to right, empty ones included.
    fn matches<'t>(&self, text: &'t str) -> Result<Vec<Captures<'t, str>>, RegexError> {
        let mut found = Vec::new();
        let mut position = 0;
        while position <= text.len() {
            let captures = self.regex.captures_from_pos(text, position).map_err(|e| self.gave_up(text, &e))?;
            let Some((captures, whole)) = captures.and_then(|c| c.get(0).map(|m| m.range()).map(|m| (c, m))) else {
                break;
            };
            position = if whole.end > whole.start {
                whole.end
            } else {
                whole.end + text[whole.end..].chars().next().map_or(1, char::len_utf8)
            };
            found.push(captures);
        }
        Ok(found)
    }

    fn gave_up(&self, text: &str, error: &fancy_regex::Error) -> RegexError {
        RegexError::Backtracking { pattern: self.pattern.clone(), length: text.len(), reason: error.to_string() }
    }
}

fn expand(replacement: &str, captures: &Captures<'_, str>, out: &mut String) {
    let group = |i: usize| captures.get(i).map_or("", |m: fancy_regex::Match<'_>| m.as_str());
    let mut rest = replacement;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some((name, after)) = rest.strip_prefix("g<").and_then(|r| r.split_once('>')) {
            match name.parse::<usize>() {
                Ok(number) => out.push_str(group(number)),
                Err(_) => out.push_str(captures.name(name).map_or("", |m: fancy_regex::Match<'_>| m.as_str())),
            }
            rest = after;
            continue;
        }
        let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            out.push_str(rest[..digits].parse().map_or("", group));
            rest = &rest[digits..];
            continue;
        }
        let Some(c) = rest.chars().next() else {
            out.push('\\');
            break;
        };
        match c {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            '\\' => out.push('\\'),
            other => {
                out.push('\\');
                out.push(other);
            }
        }
        rest = &rest[c.len_utf8()..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert!(matches!(PythonRegex::new("(a"), Err(RegexError::Pattern { .. })));
        let endless = PythonRegex::new(r"(?:(?=(x))\1+)+\1 z").unwrap();
        let text = "x".repeat(60) + " y z";
        assert!(matches!(endless.remove_all(&text), Err(RegexError::Backtracking { .. })));
    }

    fn findall(pattern: &str, text: &str) -> Vec<Vec<String>> {
        let matches = PythonRegex::new(pattern).unwrap();
        matches.find_all(text).unwrap().iter().map(|m| m.iter().map(|s| (*s).to_owned()).collect()).collect()
    }

    /// Answers of CPython 3.11.
    #[test]
    fn finds_what_python_finds() {
        assert_eq!(findall(r"\.$", "5.\n"), [["."]]);
        assert_eq!(findall(r"\.\Z", "5.\n"), Vec::<Vec<String>>::new());
        assert_eq!(findall(r"(?m)x$", "x\nx"), [["x"], ["x"]]);
        assert_eq!(findall(r"[[(]a[])]", "[a] (a) [a)"), [["[a]"], ["(a)"], ["[a)"]]);
        assert_eq!(findall(r"boxed{(.*?)}", r"\boxed{7}"), [["7"]]);
        assert_eq!(findall(r"a{,2}b", "aaab"), [["aab"]]);
        assert_eq!(findall(r"(a)|(b)", "ab"), [["a", ""], ["", "b"]]);
        assert_eq!(findall(r"(?<=x)\d+(?!y)", "x12 x3y"), [["12"]]);
        assert_eq!(findall(r"\s", "a\u{1c}b"), [["\u{1c}"]]);
        assert_eq!(findall("a*", "baac"), [["",], ["aa"], [""], [""]]);
        assert_eq!(findall(r"(?P<n>\d)(?P=n)", "1233"), [["3"]]);
        assert_eq!(findall(r"(?i)ANSWER\:\ (\w+)", "answer: yes"), [["yes"]]);
        assert_eq!(findall(r"a(?#note)b", "ab"), [["ab"]]);
    }

    #[test]
    fn replaces_as_python_replaces() {
        let sub =
            |pattern: &str, with: &str, text: &str| PythonRegex::new(pattern).unwrap().sub(with, text, 0).unwrap();
        assert_eq!(sub(r"(\w+) (\w+)", r"\2 \g<1>!", "a b"), "b a!");
        assert_eq!(sub(r"(?s).*#### ", "", "x\n#### 5"), "5");
        assert_eq!(sub(r"\$", "", "$1,2$"), "1,2");
        assert_eq!(sub("x*", "-", "abxd"), "-a-b--d-");
        assert_eq!(PythonRegex::new("a").unwrap().sub("b", "aaa", 2).unwrap(), "bba");
    }

    #[test]
    fn costly_patterns_are_reported() {
        let pattern = PythonRegex::new(r"(?:a(?=a|!)|a(?!c))*d").unwrap();
        assert!(matches!(pattern.find_all(&("a".repeat(60) + "!d")), Err(RegexError::Backtracking { .. })));
        assert_eq!(PythonRegex::new(r"\s*,\s*").unwrap().split("a , b,c").unwrap(), ["a", "b", "c"]);
        assert_eq!(PythonRegex::new("(x)|y").unwrap().split("axby").unwrap(), ["a", "x", "b", "", ""]);
    }

    proptest! {
        #[test]
        fn never_panics(pattern in r"[a-z0-9\\\[\](){}|*+?^$.,<>=!#:-]{0,12}", text in ".{0,20}") {
            if let Ok(pattern) = PythonRegex::new(&pattern) {
                let _ = pattern.find_all(&text);
                let _ = pattern.sub(r"\1\g<2>x", &text, 0);
            }
        }
    }
}
