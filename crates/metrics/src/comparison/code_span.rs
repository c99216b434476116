//! Names within sentences.

use std::fmt;

/// A name as a code span of Markdown: `` `r8` ``. Inside, everything stands for itself, so that no name can be read as
/// markup; a name that has backticks itself gets a fence longer than any run of them, and spaces where it begins or ends
/// with one.
pub fn code(name: &str) -> impl fmt::Display {
    let longest = name.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let space = if name.starts_with('`') || name.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{name}{space}{fence}")
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn fences_are_longer_than_what_they_hold() {
        let shown = |name: &str| code(name).to_string();
        assert_eq!(shown("r8"), "`r8`");
        assert_eq!(shown("a`b"), "``a`b``");
        assert_eq!(shown("a``b`c"), "```a``b`c```");
        assert_eq!(shown("`x"), "`` `x ``");
    }
}
