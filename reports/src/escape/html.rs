//! Text in HTML.

/// Text that HTML shows as it is, also inside of an attribute.
pub fn escape(text: &str) -> String {
    let text = harness_core::visible(text);
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        assert_eq!(escape("<a title='x' b=\"y\">&"), "&lt;a title=&#39;x&#39; b=&quot;y&quot;&gt;&amp;");
        assert_eq!(escape("x\0\u{202e}y\n"), "x[U+0000][U+202E]y\n");
    }
}
