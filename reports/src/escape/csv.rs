//! Text in a cell of CSV.

/// The content of a text cell, before CSV's own quotes: what a spreadsheet would run as a formula begins with an
/// apostrophe, which makes it text there.
///
/// These are cells that begin with `=`, `+`, `-` or `@` (or their full-width forms), a tab or a line break, as OWASP's
/// "CSV Injection" lists them. Cells of numbers do not pass through here: a negative number stays one.
pub fn escape(text: &str) -> String {
    let runs = ['=', '+', '-', '@', '＝', '＋', '－', '＠', '\t', '\n', '\r'];
    let shown = harness_core::visible(text);
    if text.starts_with(runs) { format!("'{shown}") } else { shown.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_text() {
        for text in ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\n=1", "＝1"] {
            assert_eq!(escape(text), format!("'{text}"));
        }
        assert_eq!(escape("\r=1"), "'[U+000D]=1");
        assert_eq!(escape("a\x1b[2Jb"), "a[U+001B][2Jb");
        for text in ["", "r8", "a=b", "1-2", "acc,none", "'=1", "é-1"] {
            assert_eq!(escape(text), text);
        }
    }
}
