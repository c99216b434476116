//! Text in a plot.

/// Text as a plot shows it, in one line. Markup is escaped by what draws the plot.
pub(crate) fn escape(text: &str) -> String {
    harness_core::visible(&text.replace(['\n', '\t'], " ")).into_owned()
}
