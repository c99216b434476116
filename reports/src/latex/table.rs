//! A booktabs table.

/// More body rows than this go into a `longtable`, which breaks over pages.
const ONE_PAGE: usize = 30;

/// Alignment of a column.
#[derive(Clone, Copy)]
pub(super) enum Align {
    Left,
    Right,
}

/// One cell, already escaped.
pub(super) struct Cell {
    pub(super) text: String,
}

impl Cell {
    pub(super) fn new(text: String) -> Self {
        Self { text }
    }
}

/// Columns, header and body.
#[derive(Default)]
pub(super) struct Table {
    columns: String,
    headers: Vec<String>,
    width: usize,
    /// `None` is a rule.
    body: Vec<Option<Vec<Cell>>>,
    pub(super) note: Option<String>,
}

impl Table {
    /// Adds a column.
    pub(super) fn column(&mut self, header: &str, align: Align) {
        self.columns.push(match align {
            Align::Left => 'l',
            Align::Right => 'r',
        });
        self.headers.push(header.to_owned());
        self.width += 1;
    }

    /// Adds a value and its half width under one header.
    pub(super) fn pair(&mut self, header: &str) {
        self.columns.push_str("r@{\\,}l");
        self.headers.push(format!("\\multicolumn{{2}}{{c}}{{{header}}}"));
        self.width += 2;
    }

    /// Adds a row; it must have a cell for every column.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.width, "a cell for every column");
        self.body.push(Some(cells));
    }

    /// Adds a rule between rows.
    pub(super) fn rule(&mut self) {
        self.body.push(None);
    }

    /// The environment with caption and notes.
    pub(super) fn render(&self, caption: &str, notes: &str) -> String {
        let header = format!("{} \\\\\n", self.headers.join(" & "));
        let mut body = String::new();
        for row in &self.body {
            match row {
                None => body.push_str("\\addlinespace\n"),
                Some(cells) => {
                    let cells: Vec<&str> = cells.iter().map(|cell| cell.text.as_str()).collect();
                    body.push_str(&cells.join(" & "));
                    body.push_str(" \\\\\n");
                }
            }
        }
        let note = self.note.as_deref().unwrap_or_default();
        let notes = match format!("{note} {notes}").trim() {
            "" => String::new(),
            notes => format!("\\par\\smallskip{{\\footnotesize\\raggedright {notes}\\par}}\n"),
        };
        let columns = &self.columns;
        if self.body.len() > ONE_PAGE {
            return format!(
                "\\begin{{longtable}}{{{columns}}}\n\\caption{{{caption}}} \\\\\n\\toprule\n{header}\\midrule\n\\endfirsthead\n\
                 \\toprule\n{header}\\midrule\n\\endhead\n\\bottomrule\n\\endfoot\n{body}\\end{{longtable}}\n{notes}\n"
            );
        }
        format!(
            "\\begin{{table}}[htbp]\n\\centering\n\\caption{{{caption}}}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{header}\
             \\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n{notes}\\end{{table}}\n\n"
        )
    }
}
