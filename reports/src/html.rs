//! HTML: one file that needs nothing else, with the plot of differences inside.

use harness_metrics::comparison::Comparison;

use crate::{
    Meta, ReportError,
    escape::html_escape as escape,
    page::{Block, Page, Span, Spans, Table},
    plot::forest_svg,
};

/// Follows the reader's choice of light or dark; tables scroll on narrow screens.
const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .25rem .75rem; text-align: left; white-space: nowrap; border-bottom: 1px solid #8884; }
thead th { border-bottom: 2px solid #8888; }
.right { text-align: right; }
figure { margin: 1rem 0; }
figure svg { max-width: 100%; height: auto; background: #fff; }
.advice { display: block; opacity: .75; font-style: italic; }
";

/// The comparison as a page of HTML: what [`markdown`](crate::markdown()) says, and the forest plot.
///
/// # Errors
/// If the plot cannot be drawn.
pub fn html(comparison: &Comparison, meta: &Meta) -> Result<String, ReportError> {
    let page = Page::new(comparison, meta);
    let title = escape(&page.title);
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    let mut plot = forest_svg(comparison)?;
    for block in &page.blocks {
        // The plot stands before the first table's heading, below the summary.
        if matches!(block, Block::Heading(_))
            && let Some(svg) = plot.take()
        {
            text.push_str(&format!("<figure>\n{}\n</figure>\n", svg.trim_end()));
        }
        match block {
            Block::Heading(span) => text.push_str(&format!("<h2>{}</h2>\n", inline(std::slice::from_ref(span)))),
            Block::Paragraph(spans) => text.push_str(&format!("<p>{}</p>\n", inline(spans))),
            Block::List(items) => {
                text.push_str("<ul>\n");
                for item in items {
                    let advice = item.advice.as_ref();
                    let advice = advice.map(|advice| format!(" <span class=\"advice\">{}</span>", escape(advice)));
                    text.push_str(&format!("<li>{}{}</li>\n", inline(&item.text), advice.unwrap_or_default()));
                }
                text.push_str("</ul>\n");
            }
            Block::Table(table) => text.push_str(&render(table)),
        }
    }
    text.push_str("</body>\n</html>\n");
    Ok(text)
}

fn render(table: &Table) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = (&Spans, bool)>| {
        let cell = |(spans, right): (&Spans, bool)| {
            let class = if right { " class=\"right\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", inline(spans))
        };
        format!("<tr>{}</tr>\n", cells.map(cell).collect::<String>())
    };
    let mut text = String::from("<div class=\"wide\"><table>\n<thead>\n");
    text.push_str(&cells("th", &mut table.columns.iter().map(|(name, right)| (name, *right))));
    text.push_str("</thead>\n<tbody>\n");
    for row in &table.rows {
        text.push_str(&cells("td", &mut row.iter().zip(&table.columns).map(|(cell, (_, right))| (cell, *right))));
    }
    text + "</tbody>\n</table></div>\n"
}

fn inline(spans: &[Span]) -> String {
    spans
        .iter()
        .map(|span| match span {
            Span::Text(text) | Span::Plain(text) | Span::Sentence(text) => escape(text),
            Span::Strong(text) => format!("<strong>{}</strong>", escape(text)),
        })
        .collect()
}
