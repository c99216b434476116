//! Numbers as reports print them.

use harness_metrics::{
    comparison::{Cell, Row, Scale, thousands},
    stats::Interval,
};

/// What stands behind a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Half the width of the interval.
    HalfWidth(String),
    /// `[low, high]`.
    Ends(String),
}

/// The unit and precision of one row: all of its numbers are printed alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    factor: f64,
    decimals: usize,
}

impl Style {
    /// Percentages and points with one decimal; raw values with three to five significant digits.
    pub(crate) fn of(row: &Row) -> Self {
        match row.scale {
            Scale::Fraction => Self { factor: 100.0, decimals: 1 },
            Scale::Points => Self { factor: 1.0, decimals: 1 },
            Scale::Raw => {
                let largest = row.cells.iter().filter_map(|cell| cell.value).fold(0.0, |a: f64, b| a.max(b.abs()));
                let decimals = match largest {
                    x if x >= 1000.0 => 0,
                    x if x >= 100.0 => 1,
                    x if x >= 10.0 => 2,
                    _ => 3,
                };
                Self { factor: 1.0, decimals }
            }
        }
    }

    /// A value; an en dash where there is none.
    pub(crate) fn value(self, value: Option<f64>) -> String {
        value.map_or_else(|| "–".into(), |value| self.number(value))
    }

    /// How far a value may be off: half the width of its interval, or the ends where value ± half the width would leave
    /// the metric's range.
    pub(crate) fn spread(self, row: &Row, cell: &Cell) -> Option<Spread> {
        let (value, interval) = (cell.value?, cell.interval?);
        let half = interval.half_width();
        Some(if row.range.contains(value - half) && row.range.contains(value + half) {
            Spread::HalfWidth(self.number(half))
        } else {
            Spread::Ends(format!("[{}, {}]", self.number(interval.low), self.number(interval.high)))
        })
    }

    /// A difference with its sign.
    pub(crate) fn difference(self, value: Option<f64>) -> String {
        value.map_or_else(|| "–".into(), |value| self.signed(value))
    }

    /// `[low, high]` with signs.
    pub(crate) fn signed_interval(self, interval: Option<Interval>) -> String {
        interval.map_or_else(|| "–".into(), |i| format!("[{}, {}]", self.signed(i.low), self.signed(i.high)))
    }

    /// A small number without its sign, with two digits more than values have; an en dash where there is none.
    pub(crate) fn precise(self, value: f64) -> String {
        Self { decimals: self.decimals + 2, ..self }.number(value.abs())
    }

    /// A size without a sign; an en dash where there is none.
    pub(crate) fn size(self, value: Option<f64>) -> String {
        value.map_or_else(|| "–".into(), |value| self.number(value.abs()))
    }

    fn number(self, value: f64) -> String {
        let text = format!("{:.*}", self.decimals, value * self.factor);
        // No minus before a rounded zero.
        if text.starts_with('-') && text.chars().all(|c| matches!(c, '-' | '0' | '.')) {
            text[1..].into()
        } else {
            text
        }
    }

    fn signed(self, value: f64) -> String {
        let text = self.number(value);
        let zero = text.chars().all(|c| matches!(c, '0' | '.'));
        if text.starts_with('-') || zero { text } else { format!("+{text}") }
    }
}

/// A p-value: three decimals, or `<0.001`; an en dash where there is none.
pub(crate) fn p_value(p: Option<f64>) -> String {
    match p {
        None => "–".into(),
        Some(p) if p < 0.001 => "<0.001".into(),
        Some(p) => format!("{p:.3}"),
    }
}

/// About how many documents, to two significant digits; an en dash where there is no number.
pub(crate) fn needed(n: Option<u64>) -> String {
    let Some(n) = n else { return "–".into() };
    let unit = 10u64.saturating_pow(n.max(1).ilog10().saturating_sub(1));
    count(usize::try_from(n.div_ceil(unit).saturating_mul(unit)).unwrap_or(usize::MAX))
}

/// A number of documents, which means without documents need not tell.
pub(crate) fn documents(n: Option<usize>) -> String {
    n.map_or_else(|| "unknown".into(), count)
}

/// A count with thousands separators.
pub(crate) fn count(n: usize) -> String {
    thousands(n as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_zeros() {
        let style = Style { factor: 100.0, decimals: 1 };
        assert_eq!(style.difference(Some(0.0123)), "+1.2");
        assert_eq!(style.difference(Some(-0.0001)), "0.0");
        assert_eq!(style.difference(None), "–");
        assert_eq!(style.signed_interval(Some(Interval { low: -0.02, high: 0.03 })), "[-2.0, +3.0]");
        assert_eq!((p_value(Some(0.0001)), p_value(Some(0.0416))), ("<0.001".into(), "0.042".into()));
        assert_eq!((needed(Some(14_042)), needed(Some(7)), needed(None)), ("15,000".into(), "7".into(), "–".into()));
        assert_eq!((style.size(Some(-0.0123)), style.precise(0.00004)), ("1.2".into(), "0.004".into()));
        assert_eq!((count(14042), count(999)), ("14,042".into(), "999".into()));
    }
}
