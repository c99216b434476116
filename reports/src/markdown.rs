//! Markdown, padded so that it reads well in a terminal.

use harness_metrics::comparison::{Comparison, Row, Verdict};

use crate::{
    Meta,
    document::{bold, contrast, description, label, metric, sections, side_by_side, top},
    number::{Style, count, p_value},
    words,
};

/// The comparison as a Markdown document.
///
/// Up to four models stand side by side, with the differences in a second table; more have one line a task and model.
pub fn markdown(comparison: &Comparison, meta: &Meta) -> String {
    let base = comparison.base().unwrap_or_default();
    let title = match meta.title.as_str() {
        "" if comparison.candidates().is_empty() => base.to_owned(),
        "" => format!("{} against {base}", comparison.candidates().join(", ")),
        title => title.to_owned(),
    };
    let mut text = format!("# {}\n", escape(&title));
    let summary = words::summary(comparison);
    if !summary.is_empty() {
        text.push('\n');
        for (model, sentence) in summary {
            text.push_str(&format!("- **{}** {}\n", escape(&model), escape(&sentence)));
        }
    }
    for section in sections(comparison) {
        text.push_str(&format!("\n## {}\n\n", escape(&section.title)));
        if side_by_side(comparison) {
            text.push_str(&values(comparison, &section.rows).render());
            if !comparison.candidates().is_empty() {
                text.push_str(&format!("\nDifferences to {}:\n\n", escape(base)));
                text.push_str(&differences(&section.rows).render());
            }
        } else {
            text.push_str(&lines(&section.rows).render());
        }
    }
    if !comparison.caveats.is_empty() {
        text.push_str("\n## Caveats\n\n");
        for caveat in &comparison.caveats {
            text.push_str(&format!("- {caveat}\n  *{}*\n", caveat.advice()));
        }
    }
    text.push_str("\n## Methods\n\n");
    for line in words::methods(comparison) {
        text.push_str(&format!("- {}\n", escape(&line)));
    }
    if !meta.manifest.is_empty() {
        text.push_str("\n## Manifest\n\n");
        let mut table = Table::new(&[("Name", false), ("Value", false)]);
        for (name, value) in &meta.manifest {
            table.row(vec![escape(name), escape(value)]);
        }
        text.push_str(&table.render());
    }
    text
}

/// Models side by side: value ± half width, and the verdict where there is one.
fn values(comparison: &Comparison, rows: &[&Row]) -> Table {
    let mut headers = vec![("Task".to_owned(), false), ("Metric".to_owned(), false), ("n".to_owned(), true)];
    headers.extend(comparison.models.iter().map(|model| (escape(model), true)));
    let mut table = Table { headers, rows: Vec::new() };
    let top = top(rows);
    for row in rows {
        let style = Style::of(row);
        let mut line = vec![escape(&label(row, top, "· ")), escape(&metric(row, "↑", "↓")), count(row.n)];
        for cell in &row.cells {
            let mut text = style.value(cell.value);
            if bold(row) == Some(&cell.model) {
                text = format!("**{text}**");
            }
            if let Some(half) = style.half_width(cell.interval) {
                text.push_str(&format!(" ± {half}"));
            }
            let verdict = contrast(row, &cell.model).map(|contrast| contrast.verdict);
            if let Some(verdict @ (Verdict::Better | Verdict::Worse)) = verdict {
                text.push_str(&format!(" {verdict}"));
            }
            line.push(text);
        }
        table.row(line);
    }
    table
}

/// One line a task and candidate.
fn differences(rows: &[&Row]) -> Table {
    let mut table = Table::new(&[
        ("Task", false),
        ("Candidate", false),
        ("Difference", true),
        ("Interval", true),
        ("p", true),
        ("Corrected p", true),
        ("Verdict", false),
    ]);
    let top = top(rows);
    for row in rows {
        let style = Style::of(row);
        for (i, contrast) in row.contrasts.iter().enumerate() {
            let task = if i == 0 { escape(&label(row, top, "· ")) } else { String::new() };
            table.row(vec![
                task,
                escape(&contrast.model),
                style.difference(contrast.difference),
                style.signed_interval(contrast.interval),
                p_value(contrast.p),
                p_value(contrast.p_corrected),
                words::verdict(contrast),
            ]);
        }
    }
    table
}

/// One line a task and model, base first.
fn lines(rows: &[&Row]) -> Table {
    let mut table = Table::new(&[
        ("Task", false),
        ("Model", false),
        ("Value", true),
        ("Difference", true),
        ("Interval", true),
        ("Corrected p", true),
        ("Verdict", false),
    ]);
    let top = top(rows);
    for row in rows {
        let style = Style::of(row);
        let facts: Vec<String> =
            [label(row, top, "· ")].into_iter().chain(description(row, "↑", "↓")).map(|text| escape(&text)).collect();
        for (i, cell) in row.cells.iter().enumerate() {
            let task = facts.get(i).cloned().unwrap_or_default();
            let mut value = style.value(cell.value);
            if bold(row) == Some(&cell.model) {
                value = format!("**{value}**");
            }
            if let Some(half) = style.half_width(cell.interval) {
                value.push_str(&format!(" ± {half}"));
            }
            let mut line = vec![task, escape(&cell.model), value];
            match contrast(row, &cell.model) {
                Some(contrast) => line.extend([
                    style.difference(contrast.difference),
                    style.signed_interval(contrast.interval),
                    p_value(contrast.p_corrected),
                    words::verdict(contrast),
                ]),
                None => line.extend([String::new(), String::new(), String::new(), "base".into()]),
            }
            table.row(line);
        }
    }
    table
}

/// A table whose columns are padded to equal width.
struct Table {
    /// Header and whether the column is aligned to the right.
    headers: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(headers: &[(&str, bool)]) -> Self {
        Self { headers: headers.iter().map(|&(name, right)| (name.to_owned(), right)).collect(), rows: Vec::new() }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn render(&self) -> String {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = (0..self.headers.len())
            .map(|j| {
                self.rows.iter().map(|row| width(&row[j])).chain([width(&self.headers[j].0), 3]).max().unwrap_or(3)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::from("|");
            for ((cell, &(_, right)), &wide) in cells.zip(&self.headers).zip(&widths) {
                let space = " ".repeat(wide - width(cell));
                text.push_str(&if right { format!(" {space}{cell} |") } else { format!(" {cell}{space} |") });
            }
            text + "\n"
        };
        let mut text = line(&mut self.headers.iter().map(|(name, _)| name.as_str()));
        text.push('|');
        for (&(_, right), &wide) in self.headers.iter().zip(&widths) {
            text.push_str(&if right {
                format!(" {}: |", "-".repeat(wide - 1))
            } else {
                format!(" {} |", "-".repeat(wide))
            });
        }
        text.push('\n');
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        text
    }
}

/// Text that Markdown shows as it is, in one table cell.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '|' | '*' | '`' | '[' | ']' | '<' | '#' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '\n' | '\r' | '\t' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
