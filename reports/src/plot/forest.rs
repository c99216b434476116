//! The forest plot: differences to the base with their intervals.

use std::path::Path;

use harness_metrics::comparison::{Comparison, Contrast, Row, Scale, Verdict};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::canvas::{Drawing, Drawn, FONT, draw_file, draw_svg, range, tick};
use crate::{ReportError, escape::plot_escape};

const ROW_HEIGHT: u32 = 26;
const WIDTH: u32 = 960;
/// Where the labels of candidates end and the plot begins.
const LABELS: i32 = 300;

/// Draws the differences of the main results (primary metrics of tasks and groups at the top), one line a task and
/// candidate, and writes them as SVG or PNG, by the extension of the path. Differences are in points, those of metrics
/// without a scale in percent of the base's value; all are turned so that better is to the right.
///
/// # Errors
/// [`ReportError::Empty`] if there is no difference to draw; otherwise if the extension is unknown or the file cannot be
/// written.
pub fn forest_plot(path: &Path, comparison: &Comparison) -> Result<(), ReportError> {
    let empty = || ReportError::Empty { path: path.to_owned(), what: "no difference to the base" };
    let (size, forest) = Forest::of(comparison).ok_or_else(empty)?;
    draw_file(path, size, &forest)
}

/// The same plot as the text of an SVG file; `None` if there is no difference to draw.
///
/// # Errors
/// If it cannot be drawn.
pub(crate) fn forest_svg(comparison: &Comparison) -> Result<Option<String>, ReportError> {
    let failed = |reason| ReportError::Plot { path: "report.html".into(), reason };
    Forest::of(comparison).map(|(size, forest)| draw_svg(size, &forest).map_err(failed)).transpose()
}

/// One difference, better to the right.
struct Line {
    /// The task, on the first of its lines.
    task: Option<String>,
    model: String,
    low: f64,
    middle: f64,
    high: f64,
    verdict: Verdict,
}

impl Line {
    fn new(row: &Row, contrast: &Contrast) -> Option<Self> {
        let factor = match row.scale {
            Scale::Fraction => 100.0,
            Scale::Points => 1.0,
            Scale::Raw => 100.0 / row.cells.first()?.value.filter(|value| *value != 0.0)?.abs(),
        };
        let sign = if row.higher_is_better { 1.0 } else { -1.0 };
        let middle = contrast.difference? * factor * sign;
        let (mut low, mut high) =
            contrast.interval.map_or((middle, middle), |i| (i.low * factor * sign, i.high * factor * sign));
        if low > high {
            std::mem::swap(&mut low, &mut high);
        }
        let first = row.with_base().find(|c| c.difference.is_some())?.model == contrast.model;
        let task = first.then(|| format!("{} ({})", row.label, row.key.metric));
        Some(Self { task, model: contrast.model.clone(), low, middle, high, verdict: contrast.verdict })
    }

    fn color(&self) -> RGBColor {
        match self.verdict {
            Verdict::Better => RGBColor(0, 114, 178),
            Verdict::Worse => RGBColor(213, 94, 0),
            Verdict::Undecided | Verdict::Equivalent => RGBColor(120, 120, 120),
        }
    }
}

struct Forest<'a> {
    base: &'a str,
    confidence: f64,
    lines: Vec<Line>,
    x: std::ops::Range<f64>,
}

impl<'a> Forest<'a> {
    /// The drawing with its width and height in pixels; `None` if there is no difference to draw.
    fn of(comparison: &'a Comparison) -> Option<((u32, u32), Self)> {
        let main = comparison.rows.iter().filter(|row| row.primary && row.depth == 0);
        let lines: Vec<Line> = main.flat_map(|row| row.with_base().filter_map(|c| Line::new(row, c))).collect();
        let ends = lines.iter().flat_map(|line| [line.low, line.high, line.middle]).chain([0.0]);
        let x = range(ends).filter(|_| !lines.is_empty())?;
        let tasks = lines.iter().filter(|line| line.task.is_some()).count() as u32;
        let height = 130 + ROW_HEIGHT * (lines.len() as u32 + tasks);
        let base = comparison.base().unwrap_or_default();
        Some(((WIDTH, height), Self { base, confidence: comparison.settings.confidence, lines, x }))
    }
}

impl Drawing for Forest<'_> {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn {
        let text = |error: DrawingAreaErrorKind<B::ErrorType>| error.to_string();
        area.fill(&WHITE).map_err(text)?;
        let (width, height) = area.dim_in_pixel();
        let (left, right, top, bottom) = (LABELS, width as i32 - 130, 56, height as i32 - 60);
        let at = |value: f64| {
            let share = (value - self.x.start) / (self.x.end - self.x.start);
            left + (share * f64::from(right - left)).round() as i32
        };
        let style = |size: i32, color: &RGBColor, h, v| (FONT, size).into_font().color(color).pos(Pos::new(h, v));
        let grey = RGBColor(120, 120, 120);
        let title = plot_escape(&format!("Difference to {}", self.base));
        area.draw_text(&title, &style(22, &BLACK, HPos::Left, VPos::Top), (16, 14)).map_err(text)?;
        for value in ticks(&self.x) {
            let x = at(value);
            area.draw(&PathElement::new([(x, top), (x, bottom)], BLACK.mix(0.1))).map_err(text)?;
            area.draw_text(&tick(value), &style(14, &BLACK, HPos::Center, VPos::Top), (x, bottom + 6)).map_err(text)?;
        }
        area.draw(&PathElement::new([(at(0.0), top), (at(0.0), bottom)], BLACK.stroke_width(2))).map_err(text)?;
        let axis = format!(
            "points, or % of the base's value; {:.0} % intervals; better to the right",
            self.confidence * 100.0
        );
        let below = ((left + right) / 2, bottom + 30);
        area.draw_text(&axis, &style(14, &grey, HPos::Center, VPos::Top), below).map_err(text)?;
        let mut y = top + ROW_HEIGHT as i32 / 2;
        for line in &self.lines {
            if let Some(task) = &line.task {
                let task = shortened(task, 40);
                area.draw_text(&task, &style(15, &BLACK, HPos::Left, VPos::Center), (16, y)).map_err(text)?;
                y += ROW_HEIGHT as i32;
            }
            let color = line.color();
            let model = shortened(&line.model, 32);
            area.draw_text(&model, &style(14, &grey, HPos::Right, VPos::Center), (left - 14, y)).map_err(text)?;
            let (low, middle, high) = (at(line.low), at(line.middle), at(line.high));
            area.draw(&PathElement::new([(low, y), (high, y)], color.stroke_width(2))).map_err(text)?;
            for end in [low, high] {
                area.draw(&PathElement::new([(end, y - 4), (end, y + 4)], color.stroke_width(2))).map_err(text)?;
            }
            area.draw(&Circle::new((middle, y), 5, color.filled())).map_err(text)?;
            let verdict = line.verdict.to_string();
            area.draw_text(&verdict, &style(14, &color, HPos::Left, VPos::Center), (right + 16, y)).map_err(text)?;
            y += ROW_HEIGHT as i32;
        }
        Ok(())
    }
}

/// About six round numbers in a range.
fn ticks(range: &std::ops::Range<f64>) -> Vec<f64> {
    let width = range.end - range.start;
    let raw = width / 6.0;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= raw).unwrap_or(10.0 * power);
    let first = (range.start / step).ceil() as i64;
    let last = (range.end / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// The beginning of a text that is too long for its place.
fn shortened(text: &str, most: usize) -> String {
    let text = plot_escape(text);
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(&(-11.0..24.0)), [-10.0, 0.0, 10.0, 20.0]);
        assert!((4..=8).contains(&ticks(&(-0.003..0.0021)).len()));
    }
}
