//! The table of runs.

use harness_reports::{csv_escape, latex_escape, markdown_escape};

use super::run_record::RunRecord;

/// Rows of runs under a head; cells without a value are a dash.
pub(in crate::commands) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One row a run. `Skipped` are updates that overflow or a spike prevented; columns that no run has a value for are left out. Speed-ups are against the run `baseline`, or of each
    /// run against the same training on the fewest ranks; where no training ran twice, against the first run.
    pub(super) fn new(runs: &[RunRecord], baseline: Option<usize>) -> Self {
        type Column<'a> = (&'static str, Box<dyn Fn(&RunRecord) -> Option<String> + 'a>);
        let fixed = |digits: usize| move |value: f64| format!("{value:.digits$}");
        let scaled = |run: &RunRecord| run.single(runs).is_some_and(|single| single.name != run.name);
        let baseline = if runs.iter().any(scaled) { baseline } else { baseline.or(Some(0)) };
        let reference = move |run: &RunRecord| {
            let reference = baseline.map_or_else(|| run.single(runs), |at| runs.get(at));
            reference.map_or(0.0, |run| run.summary.tokens_per_second)
        };
        let several = runs.iter().any(|run| run.summary.world_size > 1);
        let counted = |count: u64| (count > 0).then(|| count.to_string());
        let columns: Vec<Column<'_>> = vec![
            ("Run", Box::new(|run| Some(run.name.clone()))),
            ("Base", Box::new(|run| run.base.clone())),
            ("Weights", Box::new(|run| run.weights.clone())),
            ("Ranks", Box::new(move |run| several.then(|| run.summary.world_size.max(1).to_string()))),
            ("Sharding", Box::new(|run| run.sharding.clone())),
            ("Trained parameters", Box::new(|run| Some(run.summary.trainable_parameters.to_string()))),
            ("Updates", Box::new(|run| Some(run.summary.steps.to_string()))),
            ("Skipped", Box::new(move |run| counted(run.summary.skipped))),
            ("Spikes", Box::new(move |run| counted(run.summary.spikes))),
            ("Loss", Box::new(move |run| run.loss().map(fixed(4)))),
            ("Eval loss", Box::new(move |run| run.eval_loss().map(fixed(4)))),
            ("Perplexity", Box::new(move |run| run.eval_loss().map(f64::exp).map(fixed(3)))),
            ("BLEU", Box::new(move |run| run.task_metric("bleu").map(fixed(2)))),
            ("ROUGE-L", Box::new(move |run| run.task_metric("rougel").map(fixed(4)))),
            ("Accuracy", Box::new(move |run| run.task_metric("/acc").map(fixed(4)))),
            ("Precision", Box::new(move |run| run.task_metric("/precision").map(fixed(4)))),
            ("Recall", Box::new(move |run| run.task_metric("/recall").map(fixed(4)))),
            ("F1", Box::new(move |run| run.task_metric("/f1").map(fixed(4)))),
            ("Epoch, s", Box::new(move |run| Some(fixed(1)(run.summary.epoch_seconds)))),
            ("Total, s", Box::new(move |run| Some(fixed(1)(run.summary.seconds)))),
            ("Samples/s", Box::new(move |run| Some(fixed(2)(run.summary.samples_per_second)))),
            ("Tokens/s", Box::new(move |run| Some(fixed(0)(run.summary.tokens_per_second)))),
            (
                "Peak memory, MiB",
                Box::new(move |run| Some(fixed(1)(run.summary.memory_bytes as f64 / f64::from(1 << 20)))),
            ),
            (
                "Speed-up",
                Box::new(move |run| {
                    let reference = reference(run);
                    (reference > 0.0).then(|| fixed(2)(run.summary.tokens_per_second / reference))
                }),
            ),
        ];
        let columns: Vec<Column<'_>> =
            columns.into_iter().filter(|(_, value)| runs.iter().any(|run| value(run).is_some())).collect();
        let cell = |run: &RunRecord, value: &dyn Fn(&RunRecord) -> Option<String>| value(run).unwrap_or("–".to_owned());
        let rows = runs.iter().map(|run| columns.iter().map(|(_, value)| cell(run, value)).collect()).collect();
        Self { head: columns.iter().map(|(name, _)| (*name).to_owned()).collect(), rows }
    }

    /// A table of these cells.
    pub(in crate::commands) fn of<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> Self {
        Self { head: head.map(str::to_owned).to_vec(), rows: rows.into_iter().map(Vec::from).collect() }
    }

    /// As a Markdown table, padded.
    pub(in crate::commands) fn markdown(&self) -> String {
        let escaped = |row: &Vec<String>| row.iter().map(|cell| markdown_escape(cell)).collect::<Vec<String>>();
        let (head, rows) = (escaped(&self.head), self.rows.iter().map(escaped).collect::<Vec<_>>());
        let widths: Vec<usize> = (0..head.len())
            .map(|i| rows.iter().chain([&head]).map(|row| row[i].chars().count()).max().unwrap_or(3).max(3))
            .collect();
        let line = |row: &Vec<String>| {
            let cells =
                row.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| {
                    if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                });
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        let rule = widths
            .iter()
            .enumerate()
            .map(|(i, &width)| if i == 0 { "-".repeat(width) } else { format!("{}:", "-".repeat(width - 1)) });
        let rule = format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
        line(&head) + &rule + &rows.iter().map(line).collect::<String>()
    }

    /// As CSV.
    pub(super) fn csv(&self) -> String {
        // A run's name is text even if it looks like a number.
        let quoted = |(i, cell): (usize, &String)| {
            let cell = if i > 0 && cell.parse::<f64>().is_ok() { cell.clone() } else { csv_escape(cell) };
            if cell.contains([',', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
        };
        let line = |row: &Vec<String>| row.iter().enumerate().map(quoted).collect::<Vec<_>>().join(",") + "\n";
        [&self.head].into_iter().chain(&self.rows).map(line).collect()
    }

    /// As a LaTeX tabular with booktabs' rules.
    pub(super) fn latex(&self) -> String {
        let line = |row: &Vec<String>| {
            let cells = row.iter().map(|cell| if cell == "–" { "--".to_owned() } else { latex_escape(cell) });
            format!("{} \\\\\n", cells.collect::<Vec<_>>().join(" & "))
        };
        let rows: String = self.rows.iter().map(line).collect();
        format!(
            "\\begin{{tabular}}{{l{}}}\n\\toprule\n{}\\midrule\n{rows}\\bottomrule\n\\end{{tabular}}\n",
            "r".repeat(self.head.len().saturating_sub(1)),
            line(&self.head)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn names_are_text_in_every_format() {
        let table = Table::of(
            ["Run", "Loss"],
            vec![["=r|8\u{1b}", "-0.5"].map(str::to_owned), ["-2", "+inf"].map(str::to_owned)],
        );
        assert_eq!(table.csv(), "Run,Loss\n'=r|8[U+001B],-0.5\n'-2,+inf\n");
        assert!(table.markdown().contains("| =r\\|8\\[U+001B\\] |"), "{}", table.markdown());
        assert!(table.latex().contains("=r\\textbar{}8[U+001B] & -0.5"), "{}", table.latex());
    }
}
