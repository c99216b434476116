//! Markdown, padded so that it reads well in a terminal.

use harness_metrics::comparison::Comparison;

use crate::{
    Meta,
    escape::{markdown_escape as escape, markdown_prose as prose},
    page::{Block, Page, Span, Table},
};

/// The comparison as a Markdown document.
///
/// Up to four models stand side by side, with the differences in a second table; more have one line a task and model.
pub fn markdown(comparison: &Comparison, meta: &Meta) -> String {
    let page = Page::new(comparison, meta);
    let mut text = format!("# {}\n", escape(&page.title));
    for block in &page.blocks {
        text.push('\n');
        match block {
            Block::Heading(title) => text.push_str(&format!("## {}\n", inline(std::slice::from_ref(title)))),
            Block::Paragraph(spans) => text.push_str(&format!("{}\n", inline(spans))),
            Block::List(items) => {
                for item in items {
                    text.push_str(&format!("- {}\n", inline(&item.text)));
                    if let Some(advice) = &item.advice {
                        text.push_str(&format!("  *{}*\n", prose(advice)));
                    }
                }
            }
            Block::Table(table) => text.push_str(&render(table)),
        }
    }
    text
}

fn inline(spans: &[Span]) -> String {
    spans
        .iter()
        .map(|span| match span {
            Span::Text(text) => escape(text),
            Span::Strong(text) => format!("**{}**", escape(text)),
            Span::Sentence(text) => prose(text),
            Span::Plain(text) => text.clone(),
        })
        .collect()
}

/// A table whose columns are padded to equal width.
fn render(table: &Table) -> String {
    let width = |text: &str| text.chars().count();
    let headers: Vec<String> = table.columns.iter().map(|(name, _)| inline(name)).collect();
    let rows: Vec<Vec<String>> = table.rows.iter().map(|row| row.iter().map(|cell| inline(cell)).collect()).collect();
    let right = |j: usize| table.columns[j].1;
    let widths: Vec<usize> = (0..headers.len())
        .map(|j| rows.iter().map(|row| width(&row[j])).chain([width(&headers[j]), 3]).max().unwrap_or(3))
        .collect();
    let line = |cells: &[String]| {
        let mut text = String::from("|");
        for (j, cell) in cells.iter().enumerate() {
            let space = " ".repeat(widths[j] - width(cell));
            text.push_str(&if right(j) { format!(" {space}{cell} |") } else { format!(" {cell}{space} |") });
        }
        text + "\n"
    };
    let mut text = line(&headers);
    text.push('|');
    for (j, &wide) in widths.iter().enumerate() {
        text.push_str(&if right(j) {
            format!(" {}: |", "-".repeat(wide - 1))
        } else {
            format!(" {} |", "-".repeat(wide))
        });
    }
    text.push('\n');
    for row in &rows {
        text.push_str(&line(row));
    }
    text
}
