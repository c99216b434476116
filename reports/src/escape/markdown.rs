//! Text in Markdown: names and values, and sentences that hold names in code spans.

use harness_core::visible;

/// Text that Markdown shows as it is, in one line and in one table cell: no markup, no HTML, no entity, no link.
pub fn escape(text: &str) -> String {
    escaped(text, true, |at| match at.c {
        '\\' | '|' | '*' | '`' | '[' | ']' | '<' | '#' | '~' => true,
        _ => at.is_markup(),
    })
}

/// A sentence with names in code spans ([`harness_metrics::comparison::code`]) outside of tables. The spans stay; around
/// them everything that Markdown would read as markup is escaped. Numbers, brackets and units are not markup, and stay
/// as they are.
pub fn prose(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('`') {
        let fence = run(&rest[at..]);
        let inside = &rest[at + fence..];
        match closing(inside, fence) {
            Some(end) => {
                shown.push_str(&sentence(&rest[..at], shown.is_empty()));
                shown.push_str(&rest[at..at + fence]);
                shown.push_str(&one_line(&inside[..end]));
                shown.push_str(&rest[at..at + fence]);
                rest = &inside[end + fence..];
            }
            // A fence without its other end is text; what follows may hold whole spans.
            None => {
                shown.push_str(&sentence(&rest[..at + fence], shown.is_empty()));
                rest = inside;
            }
        }
    }
    let last = sentence(rest, shown.is_empty());
    shown + &last
}

/// The length of the run of backticks that a text begins with.
fn run(text: &str) -> usize {
    text.bytes().take_while(|&byte| byte == b'`').count()
}

/// Where the run of exactly `fence` backticks begins that ends a code span.
fn closing(text: &str, fence: usize) -> Option<usize> {
    let mut at = 0;
    while let Some(next) = text[at..].find('`') {
        let length = run(&text[at + next..]);
        if length == fence {
            return Some(at + next);
        }
        at += next + length;
    }
    None
}

fn sentence(text: &str, begins: bool) -> String {
    escaped(text, begins, |at| match at.c {
        '\\' | '`' | '*' | '~' => true,
        // A tag, a comment or an address begins so; a comparison does not.
        '<' => at.after.is_some_and(|c| c.is_alphanumeric() || "/!?".contains(c)),
        // What follows makes a link of the brackets before.
        ']' => at.after.is_some_and(|c| "([:".contains(c)),
        _ => at.is_markup(),
    })
}

/// A character of a line with what stands around it.
struct At<'a> {
    /// Whether a line begins with `before`.
    begins: bool,
    before: &'a str,
    c: char,
    after: Option<char>,
    rest: &'a str,
}

impl At<'_> {
    /// Markup that is as common in ordinary names as in markup, so that what is around it decides.
    fn is_markup(&self) -> bool {
        match self.c {
            '_' => {
                let before = self.before.trim_end_matches('_').chars().next_back();
                let after = self.rest.trim_start_matches('_').chars().next();
                ![before, after].iter().all(|c| c.is_some_and(char::is_alphanumeric))
            }
            '&' => is_entity(self.rest),
            _ => self.begins && self.begins_block(),
        }
    }

    /// Whether a line that begins so is a heading, a quotation, a list or a box to tick.
    fn begins_block(&self) -> bool {
        let ends = self.after.is_none_or(char::is_whitespace);
        match (self.c, self.before.trim_start()) {
            ('#' | '>' | '[', "") => true,
            ('-' | '+', "") => ends || self.after == Some(self.c),
            ('.' | ')', number) => !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && ends,
            _ => false,
        }
    }
}

/// One line, or from its middle, in which the characters chosen have a backslash before them.
fn escaped(text: &str, begins: bool, choose: impl Fn(&At<'_>) -> bool) -> String {
    let line = one_line(text);
    let mut shown = String::with_capacity(line.len());
    for (i, c) in line.char_indices() {
        let rest = &line[i + c.len_utf8()..];
        if choose(&At { begins, before: &line[..i], c, after: rest.chars().next(), rest }) {
            shown.push('\\');
        }
        shown.push(c);
    }
    shown
}

fn one_line(text: &str) -> String {
    visible(&text.replace(['\n', '\r', '\t'], " ")).into_owned()
}

/// Whether what follows `&` makes an entity of it.
fn is_entity(rest: &str) -> bool {
    let name = rest.split_once(';').map_or("", |(name, _)| name.strip_prefix('#').unwrap_or(name));
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_markup() {
        assert_eq!(escape("a|b*`c`[d](e)<f>#\\"), "a\\|b\\*\\`c\\`\\[d\\](e)\\<f>\\#\\\\");
        assert_eq!(escape("_em_ __x__ &amp; &#27;"), "\\_em\\_ \\_\\_x\\_\\_ \\&amp; \\&\\#27;");
        assert_eq!(escape("~~gone~~"), "\\~\\~gone\\~\\~");
        assert_eq!(escape("two\r\nlines\x1b[1m\u{202e}"), "two  lines\\[U+001B\\]\\[1m\\[U+202E\\]");
        assert_eq!(
            ["- x", "+", "> x", "12. x", "3) x", "---"].map(escape),
            ["\\- x", "\\+", "\\> x", "12\\. x", "3\\) x", "\\---"]
        );
        let ordinary = "mmlu_college_biology (5-shot), 50.0 % & more: org/Model-1.5B_v2 a__b";
        for name in ["-2", "+x", "1.5B", "0.5"] {
            assert_eq!(escape(name), name);
        }
        assert_eq!(escape(ordinary), ordinary);
    }

    #[test]
    fn sentences_keep_their_numbers_and_spans() {
        let ordinary = "`r8` and `r32` differ: corrected 1.0 [0.5, 1.5] (p < 0.001), 3 > 2; see #4 | x.";
        assert_eq!(prose(ordinary), ordinary);
        let ordinary = "`r8` [0.5, 1.5] and `r4` - 1. `r2` # 3";
        assert_eq!(prose(ordinary), ordinary);
        assert_eq!(prose("`` a`b `` and `c|<d>`"), "`` a`b `` and `c|<d>`");
        assert_eq!(prose("`x\ny\x07`"), "`x y[U+0007]`");
    }

    #[test]
    fn sentences_have_no_markup_around_their_spans() {
        assert_eq!(prose("<img src=x> `m` </b>"), "\\<img src=x> `m` \\</b>");
        assert_eq!(prose("an [x](javascript:y) [r][s]"), "an [x\\](javascript:y) [r\\][s]");
        assert_eq!(prose("*em* _em_ \\ &lt;"), "\\*em\\* \\_em\\_ \\\\ \\&lt;");
        assert_eq!(prose("a ` b <i> `` c"), "a \\` b \\<i> \\`\\` c");
        assert_eq!(["# x", "[ ] x", "1. `m`"].map(prose), ["\\# x", "\\[ ] x", "1\\. `m`"]);
        // A task's name that has a backtick may open a span, but nothing gets out of one.
        assert_eq!(prose("t`t `<b>` 3"), "t`t `\\<b>\\` 3");
    }
}
