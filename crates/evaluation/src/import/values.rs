//! What the cells of a column mean: numbers, percentages, labels, or a judge's text with a verdict in it.

use harness_judges::parser::{Marked, marked};
use harness_metrics::{Metric, stats::Range};
use serde_json::Value;

use crate::EvaluationError;

/// Names of shares that are no metrics of tasks here: a value beyond 1 is a percentage, or no value of theirs.
const SHARES: [&str; 8] = ["accuracy", "correct", "em", "mc1", "mc2", "pass@1", "win", "win_rate"];

/// How the cells of a column become scores.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Values {
    /// Numbers, true and false, or a verdict inside a text.
    Numbers,
    /// Percentages, of which 100 is 1.
    Percent,
    /// Numbers, or verdicts inside a text, from the first to the second.
    Within(f64, f64),
    /// A number for each of these labels, which may stand inside a text.
    Labels(Vec<(String, f64)>),
}

/// What a cell holds.
pub(super) enum Cell {
    /// A score.
    Score(f64),
    /// Nothing.
    Empty,
    /// A judge's text from which no verdict can be read, and why.
    Unread(String),
}

impl Values {
    /// `percent`, `1..10` or `LABEL=NUMBER`; `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        if text == "percent" {
            return Some(Self::Percent);
        }
        if let Some((low, high)) = text.split_once("..") {
            let (low, high) = (number(low)?, number(high)?);
            return (low < high).then_some(Self::Within(low, high));
        }
        Some(Self::Labels(vec![label(text)?]))
    }

    /// The scale of the scores, as the call or the metric's name says.
    pub(super) fn range(&self, metric: &str) -> Option<Range> {
        match self {
            Self::Within(low, high) => Some(Range::between(*low, *high)),
            Self::Percent => Some(Range::between(0.0, 1.0)),
            Self::Labels(labels) if labels.iter().all(|(_, value)| (0.0..=1.0).contains(value)) => {
                Some(Range::between(0.0, 1.0))
            }
            Self::Numbers if SHARES.contains(&metric) || Metric::of(metric).is_some_and(|metric| metric.share) => {
                Some(Range::between(0.0, 1.0))
            }
            Self::Labels(_) | Self::Numbers => None,
        }
    }

    /// Whether the model always stands first, where labels name positions: with `A=1,B=0` it is always A.
    pub(super) fn position(&self) -> Option<bool> {
        let Self::Labels(labels) = self else { return None };
        let of = |names: [&str; 2]| {
            let plain = |label: &str| label.trim_matches(['[', ']']).to_lowercase();
            labels.iter().find(|(label, _)| names.contains(&plain(label).as_str())).map(|(_, value)| *value)
        };
        let (a, b) = (of(["a", "first"])?, of(["b", "second"])?);
        (a != b).then_some(a > b)
    }

    /// Reads a cell. A text without a verdict is unread only in a column of such texts, where others have one.
    ///
    /// # Errors
    /// If the cell is neither a number, a label nor such a text, with what was found and expected.
    pub(super) fn read(&self, value: Option<&Value>, texts: bool) -> Result<Cell, String> {
        let Some(cell) = value.and_then(text) else { return Ok(Cell::Empty) };
        let plain = match self {
            Self::Labels(labels) => find(labels, &cell),
            Self::Percent => number(cell.trim().trim_end_matches('%')).map(|value| value / 100.0),
            Self::Numbers | Self::Within(..) => plain(&cell),
        };
        if let Some(value) = plain {
            return Ok(Cell::Score(value));
        }
        let verdict = |found: &str| match self {
            Self::Labels(labels) => find(labels, found).or_else(|| find(labels, &format!("[[{found}]]"))),
            Self::Percent => None,
            Self::Numbers | Self::Within(..) => number(found),
        };
        match marked(&cell) {
            Marked::One(found) => match (verdict(&found), self) {
                (Some(value), Self::Within(low, high)) if !(*low..=*high).contains(&value) => {
                    Ok(Cell::Unread(format!("the verdict {found} is outside the scale from {low} to {high}")))
                }
                (Some(value), _) => Ok(Cell::Score(value)),
                (None, _) => Err(format!("found the verdict {found:?}, expected {}", self.expected())),
            },
            Marked::Several(found) => Ok(Cell::Unread(format!("contradicting verdicts: {}", found.join(", ")))),
            Marked::None if texts => Ok(Cell::Unread("no verdict in the text".to_owned())),
            Marked::None => {
                // NaN and infinity are numbers, only none that can be added up.
                let unmapped = *self == Self::Numbers && cell.trim().parse::<f64>().is_err();
                let hint = if unmapped { "; other values can be mapped: --map win=COLUMN:A=1,B=0,tie=0.5" } else { "" };
                Err(format!("found {}, expected {}{hint}", shown(value, &cell), self.expected()))
            }
        }
    }

    fn expected(&self) -> String {
        match self {
            Self::Numbers => "a finite number, true or false".into(),
            Self::Percent => "a percentage".into(),
            Self::Within(low, high) => format!("a number from {low} to {high}"),
            Self::Labels(labels) => {
                let labels: Vec<String> = labels.iter().map(|(label, _)| format!("{label:?}")).collect();
                format!("one of {}", labels.join(", "))
            }
        }
    }
}

/// A cell as text; `None` where it is empty.
pub(super) fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (!text.trim().is_empty()).then_some(text)
}

/// Whether a cell is a judge's text with a verdict in it.
pub(super) fn is_judged_text(value: &Value) -> bool {
    value.as_str().is_some_and(|cell| plain(cell).is_none() && marked(cell) != Marked::None)
}

/// A `FIELD=COLUMN` argument with what its column's values mean.
pub(super) struct Mapped {
    /// The field.
    pub field: String,
    /// The column.
    pub column: String,
    /// What its cells mean.
    pub values: Values,
}

/// Reads `--map` arguments: `FIELD=COLUMN`, `FIELD=COLUMN:percent`, `FIELD=COLUMN:1..10` and
/// `FIELD=COLUMN:LABEL=NUMBER,LABEL=NUMBER`, several after each other with commas.
///
/// # Errors
/// If an argument is none of these, or a label is given twice.
pub(super) fn parse(arguments: &[String]) -> Result<Vec<Mapped>, EvaluationError> {
    let mut fields: Vec<Mapped> = vec![];
    for argument in arguments {
        let mut open = false;
        for piece in argument.split(',') {
            // After labels, LABEL=NUMBER is a further label.
            if let (true, Some(last), Some((name, value))) = (open, fields.last_mut(), label(piece))
                && let Values::Labels(labels) = &mut last.values
            {
                if labels.iter().any(|(known, _)| *known == name) {
                    return Err(EvaluationError::usage(format!("--map {argument}: the label {name:?} is given twice")));
                }
                labels.push((name, value));
                continue;
            }
            let pair = piece.split_once('=').filter(|(field, column)| !field.is_empty() && !column.is_empty());
            let Some((field, rest)) = pair else {
                return Err(EvaluationError::usage(format!(
                    "--map {piece}: expected FIELD=COLUMN, e.g. id=question_id"
                )));
            };
            // A colon can belong to the column's name.
            let parsed = rest.match_indices(':').rev().find_map(|(at, _)| {
                let values = Values::parse(&rest[at + 1..])?;
                (at > 0).then(|| (&rest[..at], values))
            });
            let (column, values) = parsed.unwrap_or((rest, Values::Numbers));
            open = matches!(values, Values::Labels(_));
            fields.push(Mapped { field: field.to_owned(), column: column.to_owned(), values });
        }
    }
    Ok(fields)
}

/// `LABEL=NUMBER`.
fn label(text: &str) -> Option<(String, f64)> {
    let (label, value) = text.rsplit_once('=')?;
    let value = number(value)?;
    (!label.trim().is_empty()).then(|| (label.trim().to_owned(), value))
}

/// The number of a label: as it is written, else in whatever case, else as the same number.
fn find(labels: &[(String, f64)], cell: &str) -> Option<f64> {
    let cell = cell.trim();
    let by = |same: &dyn Fn(&str) -> bool| labels.iter().find(|(label, _)| same(label)).map(|(_, value)| *value);
    by(&|label| label == cell)
        .or_else(|| by(&|label| label.to_lowercase() == cell.to_lowercase()))
        .or_else(|| by(&|label| number(label).is_some_and(|value| number(cell) == Some(value))))
}

/// A finite number.
fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|value| value.is_finite())
}

/// A number as text (`85%` is 0.85), true or false.
fn plain(cell: &str) -> Option<f64> {
    let cell = cell.trim();
    match cell.to_lowercase().as_str() {
        "true" | "yes" | "correct" => return Some(1.0),
        "false" | "no" | "incorrect" => return Some(0.0),
        _ => {}
    }
    match cell.strip_suffix('%') {
        Some(digits) => number(digits).map(|value| value / 100.0),
        None => number(cell),
    }
}

/// A cell in a message: texts between quotation marks and not whole.
fn shown(value: Option<&Value>, cell: &str) -> String {
    const SHOWN: usize = 60;
    let mut short: String = cell.chars().take(SHOWN).collect();
    if short.len() < cell.len() {
        short.push('…');
    }
    if value.is_some_and(Value::is_string) { format!("{short:?}") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(argument: &str) -> Vec<(String, String, Values)> {
        let parsed = parse(&[argument.to_owned()]).unwrap_or_else(|e| panic!("{}", e.message()));
        parsed.into_iter().map(|mapped| (mapped.field, mapped.column, mapped.values)).collect()
    }

    #[test]
    fn columns_with_values() {
        let labels = |pairs: &[(&str, f64)]| Values::Labels(pairs.iter().map(|(l, v)| ((*l).to_owned(), *v)).collect());
        let own = |field: &str, column: &str, values| (field.to_owned(), column.to_owned(), values);
        assert_eq!(
            map("id=q,win=preference:A=1,B=0,tie=0.5,cluster=c"),
            vec![
                own("id", "q", Values::Numbers),
                own("win", "preference", labels(&[("A", 1.0), ("B", 0.0), ("tie", 0.5)])),
                own("cluster", "c", Values::Numbers)
            ]
        );
        assert_eq!(map("score=mark: total:1..10"), vec![own("score", "mark: total", Values::Within(1.0, 10.0))]);
        assert_eq!(
            map("acc=a:percent,x=b: c"),
            vec![own("acc", "a", Values::Percent), own("x", "b: c", Values::Numbers)]
        );
    }

    #[test]
    fn cells_become_scores_or_errors() {
        let labels = Values::Labels(vec![("A".into(), 1.0), ("[[B]]".into(), 0.0), ("Tie".into(), 0.5)]);
        let read = |values: &Values, cell: Value| match values.read(Some(&cell), false) {
            Ok(Cell::Score(value)) => format!("{value}"),
            Ok(Cell::Empty) => "empty".into(),
            Ok(Cell::Unread(why)) => format!("unread: {why}"),
            Err(message) => message,
        };
        assert_eq!(read(&labels, Value::from("a ")), "1");
        assert_eq!(read(&labels, Value::from("tie")), "0.5");
        assert_eq!(read(&labels, Value::from("The second is better: [[B]]")), "0");
        assert_eq!(read(&labels, Value::from("C")), "found \"C\", expected one of \"A\", \"[[B]]\", \"Tie\"");
        assert!(read(&labels, Value::from("[[A]] [[B]]")).starts_with("unread: contradicting"));
        let numbered = Values::Labels(vec![("1".into(), 0.0), ("2".into(), 1.0), ("true".into(), 1.0)]);
        assert_eq!((read(&numbered, Value::from(2.0)), read(&numbered, Value::from(true))), ("1".into(), "1".into()));
        assert_eq!(read(&Values::Within(1.0, 5.0), Value::from("Good. [RESULT] 4")), "4");
        assert!(read(&Values::Within(1.0, 5.0), Value::from("[RESULT] 9")).contains("outside the scale from 1 to 5"));
        assert_eq!(read(&Values::Percent, Value::from("85.5 %")), "0.855");
        assert_eq!(read(&Values::Numbers, Value::Null), "empty");
        assert!(read(&Values::Numbers, Value::from("nan")).contains("finite"));
    }
}
