//! Text as LaTeX shows it.

/// Escapes every character that LaTeX treats specially, so that the text is shown as it is.
///
/// Latin letters with accents are kept (T1 encoding has them); other characters outside ASCII that pdflatex cannot set
/// are written as their code point, `[U+4E2D]`.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\textbackslash{}"),
            '{' | '}' | '$' | '&' | '#' | '%' | '_' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '<' => escaped.push_str("\\textless{}"),
            '>' => escaped.push_str("\\textgreater{}"),
            '|' => escaped.push_str("\\textbar{}"),
            '"' => escaped.push_str("\\textquotedbl{}"),
            '`' => escaped.push_str("\\textasciigrave{}"),
            // Braces keep ligatures (--, '', ,,) apart.
            '-' | '\'' | ',' if escaped.ends_with(c) => {
                escaped.push_str("{}");
                escaped.push(c);
            }
            '\n' | '\r' | '\t' => escaped.push(' '),
            ' '..='~' => escaped.push(c),
            '±' => escaped.push_str("$\\pm$"),
            '×' => escaped.push_str("$\\times$"),
            '·' => escaped.push_str("$\\cdot$"),
            '≤' => escaped.push_str("$\\leq$"),
            '≥' => escaped.push_str("$\\geq$"),
            'Δ' => escaped.push_str("$\\Delta$"),
            '−' => escaped.push_str("$-$"),
            '–' => escaped.push_str("\\textendash{}"),
            '—' => escaped.push_str("\\textemdash{}"),
            '…' => escaped.push_str("\\ldots{}"),
            '‘' => escaped.push_str("\\textquoteleft{}"),
            '’' => escaped.push_str("\\textquoteright{}"),
            '“' => escaped.push_str("\\textquotedblleft{}"),
            '”' => escaped.push_str("\\textquotedblright{}"),
            '\u{a0}' => escaped.push('~'),
            'À'..='Ö'
            | 'Ø'..='ö'
            | 'ø'..='ÿ'
            | 'Š'
            | 'š'
            | 'Ž'
            | 'ž'
            | 'Č'
            | 'č'
            | 'Ć'
            | 'ć'
            | 'Ł'
            | 'ł'
            | 'Ń'
            | 'ń'
            | 'Ś'
            | 'ś'
            | 'Ź'
            | 'ź'
            | 'Ż'
            | 'ż'
            | 'Ę'
            | 'ę'
            | 'Ą'
            | 'ą'
            | 'Ő'
            | 'ő'
            | 'Ű'
            | 'ű'
            | 'Ř'
            | 'ř'
            | 'Ě'
            | 'ě' => {
                escaped.push(c);
            }
            other => escaped.push_str(&format!("[U+{:04X}]", u32::from(other))),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specials_are_escaped() {
        assert_eq!(escape("a_b & 5% #1 $x$ {y}"), "a\\_b \\& 5\\% \\#1 \\$x\\$ \\{y\\}");
        assert_eq!(escape("~^\\"), "\\textasciitilde{}\\textasciicircum{}\\textbackslash{}");
        assert_eq!(escape("é ± 模"), "é $\\pm$ [U+6A21]");
        assert_eq!(escape("--resume"), "-{}-resume");
    }
}
