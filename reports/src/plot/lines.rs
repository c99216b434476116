//! Line charts: training curves.

use std::path::Path;

use plotters::{coord::Shift, prelude::*};

use super::{
    canvas::{Drawing, Drawn, FONT, PALETTE, draw_file, range, tick},
    legend,
    series::Series,
};
use crate::{ReportError, escape::plot_escape};

/// Draws lines against a common axis and writes them as SVG or PNG, by the extension of the path; 900 × 540 pixels.
///
/// # Errors
/// If no point is finite, the extension is unknown, or the file cannot be written.
pub fn line_chart(
    path: &Path,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[Series],
) -> Result<(), ReportError> {
    let finite = || {
        let points = series.iter().flat_map(|line| line.points.iter());
        points.filter(|(x, y)| x.is_finite() && y.is_finite())
    };
    let empty = || ReportError::Empty { path: path.to_owned(), what: "no finite point" };
    let x = range(finite().map(|point| point.0)).ok_or_else(empty)?;
    let mut y = range(finite().map(|point| point.1)).ok_or_else(empty)?;
    let place = if series.len() > 1 { legend::place(series, &x, &mut y) } else { SeriesLabelPosition::UpperRight };
    draw_file(path, (900, 540), &LineChart { title, x_label, y_label, series, x, y, place })
}

struct LineChart<'a> {
    title: &'a str,
    x_label: &'a str,
    y_label: &'a str,
    series: &'a [Series],
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
    place: SeriesLabelPosition,
}

/// Most points of a line that each get a dot.
const DOTS: usize = 12;
/// Most labels on the axis of updates or ranks.
const LABELS: usize = 10;

impl Drawing for LineChart<'_> {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn {
        let text = |error: DrawingAreaErrorKind<B::ErrorType>| error.to_string();
        // Updates and ranks are counted: there is nothing between two of them.
        let whole = self.series.iter().flat_map(|line| &line.points).all(|(x, _)| x.fract() == 0.0 || !x.is_finite());
        // So few labels that none lies between two whole numbers.
        let span = (self.x.end.floor() - self.x.start.ceil()).max(0.0) as usize;
        let labels = if whole { LABELS.min(span + 1) } else { LABELS };
        area.fill(&WHITE).map_err(text)?;
        let mut chart = ChartBuilder::on(area)
            .caption(plot_escape(self.title), (FONT, 22))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(76)
            .build_cartesian_2d(self.x.clone(), self.y.clone())
            .map_err(text)?;
        chart
            .configure_mesh()
            .x_desc(self.x_label)
            .x_labels(labels)
            .y_desc(self.y_label)
            .x_label_formatter(&|x| if whole && (x - x.round()).abs() > 1e-9 { String::new() } else { tick(*x) })
            .y_label_formatter(&|y| tick(*y))
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 16))
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.12))
            .draw()
            .map_err(text)?;
        for (i, line) in self.series.iter().enumerate() {
            let style = PALETTE[i % PALETTE.len()].stroke_width(2);
            let pieces = line.points.split(|(x, y)| !x.is_finite() || !y.is_finite()).filter(|piece| !piece.is_empty());
            for (j, piece) in pieces.enumerate() {
                // A single point has no line; a dot shows it, and where a line was measured.
                if piece.len() == 1 || line.points.len() <= DOTS {
                    let dots = piece.iter().map(|&point| Circle::new(point, 3, style.filled()));
                    chart.draw_series(dots).map_err(text)?;
                }
                // Colours come again; their second lines are dashed.
                let points = piece.iter().copied();
                let drawn = match i / PALETTE.len() % 2 {
                    0 => chart.draw_series(LineSeries::new(points, style)),
                    _ => chart.draw_series(DashedLineSeries::new(points, 6, 4, style)),
                };
                let drawn = drawn.map_err(text)?;
                if j == 0 {
                    drawn
                        .label(legend::shown(&line.name))
                        .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
                }
            }
        }
        if self.series.len() > 1 {
            chart
                .configure_series_labels()
                .position(self.place.clone())
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .label_font((FONT, 14))
                .legend_area_size(30)
                .margin(8)
                .draw()
                .map_err(text)?;
        }
        Ok(())
    }
}
