//! Python's `re` on top of fancy-regex: the pattern is translated, matches are found as `re` finds them, and
//! backtracking is bounded.

use fancy_regex::{Captures, Regex, RegexBuilder};

/// Most backtracking steps of one search; a pattern that needs more is reported, not waited for.
const BACKTRACK_LIMIT: usize = 1_000_000;

/// A search that needed too much backtracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooCostly;

/// A compiled Python pattern.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    regex: Regex,
}

impl Pattern {
    /// `re.compile(pattern)`; the message says what is wrong with the pattern.
    pub(crate) fn new(pattern: &str) -> Result<Self, String> {
        let regex = RegexBuilder::new(&translate(pattern))
            .backtrack_limit(BACKTRACK_LIMIT)
            .build()
            .map_err(|error| format!("{pattern:?} is not a valid regular expression: {error}"))?;
        Ok(Self { regex })
    }

    /// All matches from left to right, empty ones included.
    fn matches<'t>(&self, text: &'t str) -> Result<Vec<Captures<'t, str>>, TooCostly> {
        let mut found = Vec::new();
        let mut position = 0;
        while position <= text.len() {
            let Some(captures) = self.regex.captures_from_pos(text, position).map_err(|_| TooCostly)? else { break };
            let Some(whole) = captures.get(0) else { break };
            position = if whole.end() > whole.start() {
                whole.end()
            } else {
                whole.end() + text[whole.end()..].chars().next().map_or(1, char::len_utf8)
            };
            found.push(captures);
        }
        Ok(found)
    }

    /// `re.findall`: for each match its groups, or the whole match where the pattern has no group; a group that took
    /// no part is empty.
    pub(crate) fn findall<'t>(&self, text: &'t str) -> Result<Vec<Vec<&'t str>>, TooCostly> {
        let groups = self.regex.captures_len();
        let group =
            |captures: &Captures<'t, str>, i| captures.get(i).map_or("", |m: fancy_regex::Match<'t>| m.as_str());
        Ok(self
            .matches(text)?
            .iter()
            .map(
                |captures| {
                    if groups == 1 {
                        vec![group(captures, 0)]
                    } else {
                        (1..groups).map(|i| group(captures, i)).collect()
                    }
                },
            )
            .collect())
    }

    /// `re.sub` with a Python replacement (`\1`, `\g<1>`, `\g<name>`, `\\`, `\n`) and a limit; 0 is none.
    pub(crate) fn sub(&self, replacement: &str, text: &str, count: usize) -> Result<String, TooCostly> {
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

/// `re.escape` as a pattern of fancy-regex.
pub(crate) fn escape(text: &str) -> String {
    fancy_regex::escape(text).into_owned()
}

/// Rewrites the syntax in which Python differs: `$` and `\Z`, `\w` and `\s`, brackets inside of classes, braces that
/// are no quantifier, escapes of letters' neighbours, comments.
fn translate(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let multi_line = has_flag(&chars, 'm');
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut i = 0;
    let mut class_start = None;
    while i < chars.len() {
        let c = chars[i];
        if c == '\\' {
            i += escape_sequence(&chars[i..], class_start.is_some(), &mut out);
            continue;
        }
        if let Some(start) = class_start {
            match c {
                ']' if i > start => {
                    class_start = None;
                    out.push(']');
                }
                '[' | ']' | '&' | '~' => {
                    out.push('\\');
                    out.push(c);
                }
                '-' if chars.get(i + 1) == Some(&'-') => out.push_str("\\-"),
                _ => out.push(c),
            }
            i += 1;
            continue;
        }
        match c {
            '[' => {
                out.push('[');
                if chars.get(i + 1) == Some(&'^') {
                    out.push('^');
                    i += 1;
                }
                class_start = Some(i + 1);
            }
            '$' if !multi_line => out.push_str("(?=\\n?\\z)"),
            '{' => match quantifier(&chars[i..]) {
                Some((text, length)) => {
                    out.push_str(&text);
                    i += length;
                    continue;
                }
                None => out.push_str("\\{"),
            },
            '}' => out.push_str("\\}"),
            '(' if chars[i..].starts_with(&['(', '?', '#']) => {
                i += chars[i..].iter().position(|&c| c == ')').unwrap_or(chars.len() - i - 1);
            }
            '(' if chars[i..].starts_with(&['(', '?']) => {
                out.push_str("(?");
                i += 2;
                // Flags without a counterpart: a (ASCII), L, u (the default).
                while i < chars.len() && (chars[i].is_ascii_lowercase() || chars[i] == 'L') {
                    if !matches!(chars[i], 'a' | 'L' | 'u') || chars.get(i.wrapping_sub(1)) == Some(&'<') {
                        out.push(chars[i]);
                    }
                    i += 1;
                }
                continue;
            }
            _ => out.push(c),
        }
        i += 1;
    }
    out
}

/// Whether a global or scoped inline flag is set anywhere.
fn has_flag(chars: &[char], flag: char) -> bool {
    chars.windows(2).enumerate().any(|(i, pair)| {
        pair == ['(', '?']
            && chars[i + 2..].iter().take_while(|c| c.is_ascii_alphabetic()).any(|&c| c == flag)
            && chars[i + 2..].iter().find(|c| !c.is_ascii_alphabetic()).is_some_and(|&c| matches!(c, ')' | ':' | '-'))
    })
}

/// A quantifier in braces with its length in characters; `{,n}` is written with its 0.
fn quantifier(chars: &[char]) -> Option<(String, usize)> {
    let end = chars.iter().position(|&c| c == '}')?;
    let body: String = chars[1..end].iter().collect();
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    let text = match body.split_once(',') {
        None if !body.is_empty() && digits(&body) => format!("{{{body}}}"),
        Some((low, high)) if digits(low) && digits(high) && (!low.is_empty() || !high.is_empty()) => {
            format!("{{{},{high}}}", if low.is_empty() { "0" } else { low })
        }
        _ => return None,
    };
    Some((text, end + 1))
}

/// Writes one escape sequence; returns its length in characters.
fn escape_sequence(chars: &[char], in_class: bool, out: &mut String) -> usize {
    let Some(&c) = chars.get(1) else {
        out.push('\\');
        return 1;
    };
    let hex = |digits: usize| -> Option<String> {
        let code: String = chars.get(2..2 + digits)?.iter().collect();
        code.chars().all(|c| c.is_ascii_hexdigit()).then_some(code)
    };
    match c {
        'Z' => out.push_str("\\z"),
        'w' if in_class => out.push_str("\\p{L}\\p{N}_"),
        'w' => out.push_str("[\\p{L}\\p{N}_]"),
        'W' if !in_class => out.push_str("[^\\p{L}\\p{N}_]"),
        's' if in_class => out.push_str("\\s\\x1c-\\x1f"),
        's' => out.push_str("[\\s\\x1c-\\x1f]"),
        'S' if !in_class => out.push_str("[^\\s\\x1c-\\x1f]"),
        'b' if in_class => out.push_str("\\x08"),
        '0' => out.push_str("\\x00"),
        'u' | 'U' => {
            let digits = if c == 'u' { 4 } else { 8 };
            match hex(digits) {
                Some(code) => {
                    out.push_str(&format!("\\x{{{code}}}"));
                    return 2 + digits;
                }
                None => out.push_str("\\u"),
            }
        }
        c if c.is_ascii_alphanumeric() => {
            out.push('\\');
            out.push(c);
        }
        c if c.is_ascii_punctuation()
            && !matches!(c, '<' | '>' | '\'' | '"' | '`' | '_' | '/' | '@' | '!' | '%' | ',' | ':' | ';' | '=') =>
        {
            out.push('\\');
            out.push(c);
        }
        c => out.push(c),
    }
    2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn findall(pattern: &str, text: &str) -> Vec<Vec<String>> {
        let matches = Pattern::new(pattern).unwrap();
        matches.findall(text).unwrap().iter().map(|m| m.iter().map(|s| (*s).to_owned()).collect()).collect()
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
        let sub = |pattern: &str, with: &str, text: &str| Pattern::new(pattern).unwrap().sub(with, text, 0).unwrap();
        assert_eq!(sub(r"(\w+) (\w+)", r"\2 \g<1>!", "a b"), "b a!");
        assert_eq!(sub(r"(?s).*#### ", "", "x\n#### 5"), "5");
        assert_eq!(sub(r"\$", "", "$1,2$"), "1,2");
        assert_eq!(sub("x*", "-", "abxd"), "-a-b--d-");
        assert_eq!(Pattern::new("a").unwrap().sub("b", "aaa", 2).unwrap(), "bba");
    }

    #[test]
    fn costly_patterns_are_reported() {
        let pattern = Pattern::new(r"(?:a(?=a|!)|a(?!c))*d").unwrap();
        assert_eq!(pattern.findall(&("a".repeat(60) + "!d")), Err(TooCostly));
        assert!(Pattern::new("(").unwrap_err().contains("not a valid regular expression"));
    }

    proptest! {
        #[test]
        fn never_panics(pattern in r"[a-z0-9\\\[\](){}|*+?^$.,<>=!#:-]{0,12}", text in ".{0,20}") {
            if let Ok(pattern) = Pattern::new(&pattern) {
                let _ = pattern.findall(&text);
                let _ = pattern.sub(r"\1\g<2>x", &text, 0);
            }
        }
    }
}
