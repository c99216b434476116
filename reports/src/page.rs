//! A report as headings, lists and tables, before any markup: what Markdown and HTML have in common.

use harness_metrics::comparison::{Cell, Comparison, Row, Verdict};

use crate::{
    Meta,
    document::{all_pairs, bold, contrast, description, label, letters, metric, sections, side_by_side, top},
    number::{Spread, Style, documents, needed, p_value},
    words,
};

/// A piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// Text from anywhere: markup escapes it.
    Text(String),
    /// The same in bold.
    Strong(String),
    /// A sentence with names in code spans.
    Sentence(String),
    /// Numbers and words of this crate, which hold nothing that a format would read as markup.
    Plain(String),
}

/// The content of a table cell or a list item.
pub(crate) type Spans = Vec<Span>;

/// One entry of a list.
pub(crate) struct Item {
    /// What it says.
    pub(crate) text: Spans,
    /// What to do about it, on a line of its own.
    pub(crate) advice: Option<String>,
}

/// A table; every row has a cell for every column.
pub(crate) struct Table {
    /// Header and whether the column is aligned to the right.
    pub(crate) columns: Vec<(Spans, bool)>,
    /// Cells, row by row.
    pub(crate) rows: Vec<Vec<Spans>>,
}

/// A part of a page.
pub(crate) enum Block {
    /// A heading of the second level.
    Heading(Span),
    /// A line of text.
    Paragraph(Spans),
    /// A list.
    List(Vec<Item>),
    /// A table.
    Table(Table),
}

/// A whole report.
pub(crate) struct Page {
    /// Its title.
    pub(crate) title: String,
    /// What follows.
    pub(crate) blocks: Vec<Block>,
}

impl Page {
    /// The report of a comparison: summary, tables by family, caveats, methods, manifest.
    ///
    /// Up to four models stand side by side, with the differences in a second table; more have one line a task and model.
    pub(crate) fn new(comparison: &Comparison, meta: &Meta) -> Self {
        let base = comparison.base().unwrap_or_default();
        let title = match meta.title.as_str() {
            "" if comparison.candidates().is_empty() => base.to_owned(),
            "" => format!("{} against {base}", comparison.candidates().join(", ")),
            title => title.to_owned(),
        };
        let mut blocks = vec![];
        let summary: Vec<Item> = words::summary(comparison)
            .into_iter()
            .map(|(model, sentence)| Item {
                text: vec![Span::Strong(model), plain(" "), Span::Text(sentence)],
                advice: None,
            })
            .collect();
        if !summary.is_empty() {
            blocks.push(Block::List(summary));
        }
        for section in sections(comparison) {
            blocks.push(Block::Heading(Span::Text(section.title)));
            if side_by_side(comparison) {
                blocks.push(Block::Table(values(comparison, &section.rows)));
                if !comparison.candidates().is_empty() {
                    blocks.push(Block::Paragraph(if all_pairs(comparison) {
                        vec![plain("Differences of all pairs:")]
                    } else {
                        vec![plain("Differences to "), Span::Text(base.to_owned()), plain(":")]
                    }));
                    blocks.push(Block::Table(differences(&section.rows, all_pairs(comparison))));
                }
            } else {
                blocks.push(Block::Table(lines(&section.rows)));
            }
            if all_pairs(comparison) {
                let what = "Ranking, best first; models that share a letter are not told apart:";
                blocks.push(Block::Paragraph(vec![plain(what)]));
                blocks.push(Block::Table(ranking(&section.rows)));
            }
        }
        if !comparison.caveats.is_empty() {
            blocks.push(Block::Heading(plain("Caveats")));
            let caveat = |caveat: &harness_metrics::comparison::Caveat| Item {
                text: vec![Span::Sentence(caveat.to_string())],
                advice: Some(caveat.advice().to_string()),
            };
            blocks.push(Block::List(comparison.caveats.iter().map(caveat).collect()));
        }
        blocks.push(Block::Heading(plain("Methods")));
        let methods = words::methods(comparison).into_iter();
        blocks.push(Block::List(methods.map(|line| Item { text: vec![Span::Text(line)], advice: None }).collect()));
        if !meta.manifest.is_empty() {
            blocks.push(Block::Heading(plain("Manifest")));
            let mut table = Table::new(&[("Name", false), ("Value", false)]);
            for (name, value) in &meta.manifest {
                table.rows.push(vec![text(name), text(value)]);
            }
            blocks.push(Block::Table(table));
        }
        Self { title, blocks }
    }
}

fn plain(text: impl Into<String>) -> Span {
    Span::Plain(text.into())
}

fn text(text: impl Into<String>) -> Spans {
    vec![Span::Text(text.into())]
}

fn number(text: impl Into<String>) -> Spans {
    vec![plain(text)]
}

impl Table {
    fn new(columns: &[(&str, bool)]) -> Self {
        Self { columns: columns.iter().map(|&(name, right)| (number(name), right)).collect(), rows: vec![] }
    }
}

/// A model's value and how far it may be off.
fn value(row: &Row, cell: &Cell, style: Style) -> Spans {
    let shown = style.value(cell.value);
    let mut spans = vec![if bold(row) == Some(&cell.model) { Span::Strong(shown) } else { plain(shown) }];
    spans.extend(style.spread(row, cell).map(|spread| match spread {
        Spread::HalfWidth(half) => plain(format!(" ± {half}")),
        Spread::Ends(ends) => plain(format!(" {ends}")),
    }));
    spans
}

/// Models side by side: value ± half width, and the verdict where there is one.
fn values(comparison: &Comparison, rows: &[&Row]) -> Table {
    let mut table = Table::new(&[("Task", false), ("Metric", false), ("n", true)]);
    table.columns.extend(comparison.models.iter().map(|model| (text(model), true)));
    let top = top(rows);
    for row in rows {
        let style = Style::of(row);
        let mut line = vec![text(label(row, top, "· ")), text(metric(row, "↑", "↓")), number(documents(row.n))];
        for cell in &row.cells {
            let mut spans = value(row, cell, style);
            let verdict = contrast(row, &cell.model).map(|contrast| contrast.verdict);
            if let Some(verdict @ (Verdict::Better | Verdict::Worse | Verdict::Equivalent)) = verdict {
                spans.push(plain(format!(" {verdict}")));
            }
            line.push(spans);
        }
        table.rows.push(line);
    }
    table
}

/// One line a task and candidate.
fn differences(rows: &[&Row], against: bool) -> Table {
    let mut columns = vec![("Task", false), ("Candidate", false)];
    columns.extend(against.then_some(("Against", false)));
    columns.extend([
        ("Difference", true),
        ("Interval", true),
        ("p", true),
        ("Corrected p", true),
        ("Detectable", true),
        ("Verdict", false),
        ("To decide", true),
    ]);
    let mut table = Table::new(&columns);
    let top = top(rows);
    for row in rows {
        let style = Style::of(row);
        for (i, contrast) in row.contrasts.iter().enumerate() {
            let mut line = vec![if i == 0 { text(label(row, top, "· ")) } else { vec![] }, text(&contrast.model)];
            line.extend(against.then(|| text(&contrast.against)));
            let open = contrast.verdict == Verdict::Undecided;
            line.extend([
                number(style.difference(contrast.difference)),
                number(style.signed_interval(contrast.interval)),
                number(p_value(contrast.p)),
                number(p_value(contrast.p_corrected)),
                number(style.size(contrast.detectable)),
                number(words::verdict(contrast)),
                if open { number(needed(contrast.needed)) } else { vec![] },
            ]);
            table.rows.push(line);
        }
    }
    table
}

/// The models of each row from the best to the worst, with the letters of their groups.
fn ranking(rows: &[&Row]) -> Table {
    let mut table = Table::new(&[("Task", false), ("Ranking", false)]);
    let top = top(rows);
    for row in rows {
        let mut order = vec![];
        for (i, ranked) in row.ranking.iter().enumerate() {
            let before = if i == 0 { String::new() } else { ", ".to_owned() };
            order.push(plain(format!("{before}{}. ", i + 1)));
            order.push(Span::Text(ranked.model.clone()));
            order.push(plain(format!(" ({})", letters(&ranked.groups))));
        }
        table.rows.push(vec![text(label(row, top, "· ")), order]);
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
        let mut facts = [label(row, top, "· ")].into_iter().chain(description(row, "↑", "↓"));
        for cell in &row.cells {
            let mut line = vec![facts.next().map(text).unwrap_or_default(), text(&cell.model), value(row, cell, style)];
            match contrast(row, &cell.model) {
                Some(contrast) => line.extend([
                    number(style.difference(contrast.difference)),
                    number(style.signed_interval(contrast.interval)),
                    number(p_value(contrast.p_corrected)),
                    number(words::verdict(contrast)),
                ]),
                None => line.extend([vec![], vec![], vec![], number("base")]),
            }
            table.rows.push(line);
        }
    }
    table
}
