//! LaTeX with booktabs.

mod table;

use harness_metrics::comparison::{Comparison, Ranked, Row, Verdict};

use self::table::{Align, Cell, Table};
use crate::{
    Meta,
    document::{all_pairs, bold, contrast, description, letters, metric, sections, side_by_side, top},
    escape::latex_escape as escape,
    number::{Spread, Style, documents, needed, p_value},
    words,
};

/// The preamble that [`latex_fragment`] needs.
const PREAMBLE: &str = "\\documentclass[a4paper]{article}
\\usepackage[utf8]{inputenc}
\\usepackage[T1]{fontenc}
\\usepackage[margin=2cm,landscape]{geometry}
\\usepackage{booktabs,longtable}
";

/// The tables alone, to be included in a paper that loads `booktabs` and `longtable`, in UTF-8 and T1 encoding.
///
/// Numbers are aligned to the right, with how far they may be off in a column of its own. A value is bold only
/// where it is the best of its row and was found better than the base.
pub fn latex_fragment(comparison: &Comparison) -> String {
    let base = comparison.base().unwrap_or_default();
    // The methods stand below the first table only.
    let mut notes = words::methods(comparison).iter().map(|line| escape(line)).collect::<Vec<_>>().join(" ");
    let mut text = String::new();
    for section in sections(comparison) {
        let candidates = !comparison.candidates().is_empty();
        let title = escape(&section.title);
        if side_by_side(comparison) {
            let caption = format!("{title}: values.");
            text.push_str(&values(comparison, &section.rows).render(&caption, &std::mem::take(&mut notes)));
            if candidates {
                let caption = format!("{title}: differences to {}.", escape(base));
                let caption =
                    if all_pairs(comparison) { format!("{title}: differences of all pairs.") } else { caption };
                let table = differences(&section.rows, all_pairs(comparison));
                text.push_str(&table.render(&caption, &std::mem::take(&mut notes)));
            }
        } else {
            let caption = format!("{title}: values and differences to {}.", escape(base));
            text.push_str(&lines(&section.rows).render(&caption, &std::mem::take(&mut notes)));
        }
        if all_pairs(comparison) {
            let caption = format!("{title}: ranking, best first; models that share a letter are not told apart.");
            text.push_str(&ranking(&section.rows).render(&caption, ""));
        }
    }
    text
}

/// A document that compiles alone with pdflatex: the tables, the caveats with advice, and the manifest.
pub fn latex_document(comparison: &Comparison, meta: &Meta) -> String {
    let base = comparison.base().unwrap_or_default();
    let title = match meta.title.as_str() {
        "" => format!("{} against {base}", comparison.candidates().join(", ")),
        title => title.to_owned(),
    };
    let mut text = String::from(PREAMBLE);
    text.push_str(&format!("\\begin{{document}}\n\\section*{{{}}}\n", escape(&title)));
    let summary = words::summary(comparison);
    text.push_str(&itemize(
        summary.iter().map(|(model, sentence)| format!("\\textbf{{{}}} {}", escape(model), escape(sentence))),
    ));
    text.push_str(&latex_fragment(comparison));
    if !comparison.caveats.is_empty() {
        text.push_str("\\subsection*{Caveats}\n");
        text.push_str(&itemize(
            comparison
                .caveats
                .iter()
                .map(|caveat| format!("{} \\emph{{{}}}", escape(&caveat.to_string()), escape(caveat.advice()))),
        ));
    }
    if !meta.manifest.is_empty() {
        text.push_str("\\subsection*{Manifest}\n");
        text.push_str(&itemize(
            meta.manifest.iter().map(|(name, value)| format!("{}: {}", escape(name), breakable(value))),
        ));
    }
    text.push_str("\\end{document}\n");
    text
}

fn itemize(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| format!("\\item {item}\n")).collect();
    if items.is_empty() {
        return String::new();
    }
    format!("\\begin{{itemize}}\n{}\\end{{itemize}}\n", items.concat())
}

/// Escaped text in which long words (hashes, paths) may break anywhere after 16 characters.
fn breakable(text: &str) -> String {
    let pieces: Vec<char> = text.chars().collect();
    pieces.chunks(16).map(|piece| escape(&piece.iter().collect::<String>())).collect::<Vec<_>>().join("\\allowbreak{}")
}

fn task(row: &Row, top: usize) -> String {
    format!("{}{}", "\\quad ".repeat(row.depth.saturating_sub(top)), escape(&row.label))
}

fn metric_name(row: &Row) -> String {
    arrow(&metric(row, "UP", "DOWN"))
}

/// Escaped text with an arrow in place of a final UP or DOWN.
fn arrow(text: &str) -> String {
    match text.rsplit_once(' ') {
        Some((name, "UP")) => format!("{} $\\uparrow$", escape(name)),
        Some((name, "DOWN")) => format!("{} $\\downarrow$", escape(name)),
        _ => escape(text),
    }
}

/// A value and how far it may be off, in two columns.
fn value_cells(row: &Row, model: &str, style: Style) -> [Cell; 2] {
    let cell = row.cells.iter().find(|cell| cell.model == model);
    let value = number(&style.value(cell.and_then(|cell| cell.value)));
    let spread = cell.and_then(|cell| style.spread(row, cell)).map(|spread| match spread {
        Spread::HalfWidth(half) => format!("$\\pm$ {half}"),
        Spread::Ends(ends) => format!("${ends}$"),
    });
    let value = if bold(row) == Some(model) { format!("\\textbf{{{value}}}") } else { value };
    [Cell::new(value), Cell::new(spread.unwrap_or_default())]
}

fn values(comparison: &Comparison, rows: &[&Row]) -> Table {
    let mut table = Table::default();
    table.column("Task", Align::Left);
    table.column("Metric", Align::Left);
    table.column("$n$", Align::Right);
    for model in &comparison.models {
        table.pair(&escape(model));
    }
    let top = top(rows);
    for row in rows {
        let style = Style::of(row);
        let mut line = vec![Cell::new(task(row, top)), Cell::new(metric_name(row)), Cell::new(documents(row.n))];
        for cell in &row.cells {
            let [value, mut half] = value_cells(row, &cell.model, style);
            half.text.push_str(match contrast(row, &cell.model).map(|contrast| contrast.verdict) {
                Some(Verdict::Better) => "$^{+}$",
                Some(Verdict::Worse) => "$^{-}$",
                Some(Verdict::Equivalent) => "$^{\\dagger}$",
                _ => "",
            });
            line.extend([value, half]);
        }
        table.row(line);
    }
    table.note = Some(
        "Bold: the best value of a row, if it was found better than the base. $^{+}$ better, $^{-}$ worse than the \
         base, $^{\\dagger}$ equivalent to it within the margin; no mark: undecided."
            .into(),
    );
    table
}

fn differences(rows: &[&Row], against: bool) -> Table {
    let mut table = Table::default();
    table.column("Task", Align::Left);
    table.column("Candidate", Align::Left);
    if against {
        table.column("Against", Align::Left);
    }
    for name in ["Difference", "Interval", "$p$", "Corrected $p$", "Detectable"] {
        table.column(name, Align::Right);
    }
    table.column("Verdict", Align::Left);
    table.column("To decide", Align::Right);
    let top = top(rows);
    for row in rows {
        let style = Style::of(row);
        for (i, contrast) in row.contrasts.iter().enumerate() {
            let mut line = vec![
                Cell::new(if i == 0 { task(row, top) } else { String::new() }),
                Cell::new(escape(&contrast.model)),
            ];
            line.extend(against.then(|| Cell::new(escape(&contrast.against))));
            let open = contrast.verdict == Verdict::Undecided;
            line.extend([
                Cell::new(number(&style.difference(contrast.difference))),
                Cell::new(number(&style.signed_interval(contrast.interval))),
                Cell::new(number(&p_value(contrast.p))),
                Cell::new(number(&p_value(contrast.p_corrected))),
                Cell::new(escape(&style.size(contrast.detectable))),
                Cell::new(words::verdict(contrast)),
                Cell::new(if open { escape(&needed(contrast.needed)) } else { String::new() }),
            ]);
            table.row(line);
        }
    }
    table
}

fn ranking(rows: &[&Row]) -> Table {
    let mut table = Table::default();
    table.column("Task", Align::Left);
    table.column("Ranking", Align::Left);
    let top = top(rows);
    for row in rows {
        let placed = |ranked: &Ranked| format!("{}$^{{{}}}$", escape(&ranked.model), letters(&ranked.groups));
        let order: Vec<String> = row.ranking.iter().map(placed).collect();
        table.row(vec![Cell::new(task(row, top)), Cell::new(order.join(", "))]);
    }
    table
}

fn lines(rows: &[&Row]) -> Table {
    let mut table = Table::default();
    table.column("Task", Align::Left);
    table.column("Model", Align::Left);
    table.pair("Value");
    for name in ["Difference", "Interval", "Corrected $p$"] {
        table.column(name, Align::Right);
    }
    table.column("Verdict", Align::Left);
    let top = top(rows);
    for (r, row) in rows.iter().enumerate() {
        let style = Style::of(row);
        if r > 0 {
            table.rule();
        }
        let described = description(row, "UP", "DOWN").into_iter().map(|text| arrow(&text));
        let facts: Vec<String> = [task(row, top)].into_iter().chain(described).collect();
        for (i, cell) in row.cells.iter().enumerate() {
            let first = facts.get(i).cloned().unwrap_or_default();
            let mut line = vec![Cell::new(first), Cell::new(escape(&cell.model))];
            line.extend(value_cells(row, &cell.model, style));
            match contrast(row, &cell.model) {
                Some(contrast) => line.extend([
                    Cell::new(number(&style.difference(contrast.difference))),
                    Cell::new(number(&style.signed_interval(contrast.interval))),
                    Cell::new(number(&p_value(contrast.p_corrected))),
                    Cell::new(words::verdict(contrast)),
                ]),
                None => line.extend(["", "", "", "base"].map(|text| Cell::new(text.to_owned()))),
            }
            table.row(line);
        }
    }
    table
}

/// A printed number with proper signs.
fn number(text: &str) -> String {
    if text.contains(['-', '+', '<', '[']) { format!("${text}$") } else { escape(text) }
}
