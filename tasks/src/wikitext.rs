//! WikiText as lm-eval evaluates it: rows joined to pages, the tokenisation of the corpus undone.

use std::sync::LazyLock;

use harness_python::{PythonRegex, RegexError};
use harness_store::Row;
use serde_json::Value;

/// Joins the lines of a column to pages in a column `into`. A page begins at a line ` = Title = ` with blank lines
/// round it; lines before the first such line belong to the first page; an empty row stands for a blank line. Rows that
/// already are pages stay as they are.
pub(crate) fn join_pages(rows: Vec<Row>, column: &str, into: &str) -> Result<Vec<Row>, String> {
    if rows.first().is_some_and(|row| row.contains_key(into)) {
        return Ok(rows);
    }
    let mut lines = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        match row.get(column).and_then(Value::as_str) {
            Some("") => lines.push(" \n"),
            Some(line) => lines.push(line),
            None => return Err(format!("row {}: there is no text column {column:?}", i + 1)),
        }
    }
    let blank = |i: Option<usize>| i.and_then(|i| lines.get(i)).is_none_or(|line| line.trim().is_empty());
    let mut pages: Vec<String> = Vec::new();
    let mut begun = false;
    for (i, line) in lines.iter().enumerate() {
        let heading = is_title(line) && blank(i.checked_sub(1)) && blank(Some(i + 1));
        if pages.is_empty() || heading && begun {
            pages.push(String::new());
        }
        begun |= heading;
        if let Some(page) = pages.last_mut() {
            page.push_str(line);
        }
    }
    let row = |page: String| [(into.to_owned(), Value::from(page))].into_iter().collect();
    Ok(pages.into_iter().map(row).collect())
}

/// A heading of the first level.
fn is_title(line: &str) -> bool {
    let text = line.trim();
    let inner = text.strip_prefix("= ").and_then(|rest| rest.strip_suffix(" ="));
    inner.is_some_and(|title| !title.is_empty() && !title.starts_with('=') && !title.ends_with('='))
}

/// What is replaced before the expressions.
const BEFORE: [(&str, &str); 10] = [
    ("s '", "s'"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    (" : ", ": "),
    (" ; ", "; "),
    (" . ", ". "),
    (" ! ", "! "),
    (" ? ", "? "),
    (" , ", ", "),
];

/// What is replaced after them.
const AFTER: [(&str, &str); 8] = [
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \u{b0} ", "\u{b0}"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
];

/// White space inside of brackets and quotation marks.
static PAIRS: LazyLock<Vec<(PythonRegex, &str)>> = LazyLock::new(|| {
    [
        (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
        (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
        (r"{\s*([^}]*?)\s*}", r"{\1}"),
        (r#""\s*([^"]*?)\s*""#, r#""\1""#),
        (r"'\s*([^']*?)\s*'", r"'\1'"),
    ]
    .into_iter()
    .map(|(pattern, with)| (PythonRegex::new(pattern).expect("a constant pattern"), with))
    .collect()
});

/// Undoes the tokenisation of WikiText in the order in which lm-eval does.
pub(crate) fn detokenize(text: &str) -> Result<String, RegexError> {
    // lm-eval also replaces `/' ` before a digit and a slash, which no page of the corpus has.
    let mut text = BEFORE.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    for (pattern, with) in PAIRS.iter() {
        text = pattern.sub(with, &text, 0)?;
    }
    Ok(AFTER.iter().fold(text, |text, (from, to)| text.replace(from, to)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_begin_at_titles() {
        let lines =
            ["", " = One = \n", "", " text \n", " = = Part = = \n", "", "", " = Two = \n", "", " = not a title \n"];
        let rows = lines.iter().map(|line| json!({"text": line}).as_object().unwrap().clone()).collect();
        let pages = join_pages(rows, "text", "page").unwrap();
        let texts: Vec<&str> = pages.iter().map(|row| row["page"].as_str().unwrap()).collect();
        let first = " \n = One = \n \n text \n = = Part = = \n \n \n";
        assert_eq!(texts, [first, " = Two = \n \n = not a title \n"]);
        assert_eq!(join_pages(pages.clone(), "text", "page").unwrap(), pages);
    }

    #[test]
    fn tokens_are_joined() {
        let text = " a ( b ) , \" c \" 1 @,@ 000 . \n = = H = = \n the dogs ' tail 's";
        assert_eq!(detokenize(text).unwrap(), " a (b), \"c\" 1,000.\n== H ==\nthe dogs'tail's");
    }
}
