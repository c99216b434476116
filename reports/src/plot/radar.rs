//! Radar charts: scores by category.

use std::{f64::consts::TAU, path::Path};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::canvas::{Drawing, Drawn, FONT, PALETTE, draw_file, tick};
use crate::{ReportError, escape::plot_escape};

/// One model on a radar chart.
#[derive(Clone, Debug, PartialEq)]
pub struct RadarSeries {
    /// Name in the legend.
    pub name: String,
    /// One value a spoke; `None` leaves a gap.
    pub values: Vec<Option<f64>>,
}

/// Draws one polygon a model over a spoke a category, from the middle (`range.0`) to the rim (`range.1`), and writes it as
/// SVG or PNG, by the extension of the path; 900 × 640 pixels. Values outside the range are drawn at its ends.
///
/// # Errors
/// If there are fewer than three spokes or no finite value, the extension is unknown, or the file cannot be written.
pub fn radar_chart(
    path: &Path,
    title: &str,
    spokes: &[String],
    series: &[RadarSeries],
    range: (f64, f64),
) -> Result<(), ReportError> {
    let finite = series.iter().flat_map(|one| &one.values).flatten().any(|value| value.is_finite());
    if spokes.len() < 3 || !finite || range.0 >= range.1 {
        let what = if spokes.len() < 3 { "fewer than three categories" } else { "no finite value" };
        return Err(ReportError::Empty { path: path.to_owned(), what });
    }
    draw_file(path, (900, 640), &Radar { title, spokes, series, range })
}

struct Radar<'a> {
    title: &'a str,
    spokes: &'a [String],
    series: &'a [RadarSeries],
    range: (f64, f64),
}

/// Middle and radius in pixels.
const MIDDLE: (f64, f64) = (360.0, 345.0);
const RADIUS: f64 = 220.0;
/// Rings of the grid.
const RINGS: usize = 5;

impl Radar<'_> {
    /// Where a share of the radius lies on a spoke; the first points up, the others follow clockwise.
    fn point(&self, spoke: usize, share: f64) -> (i32, i32) {
        let angle = TAU * spoke as f64 / self.spokes.len() as f64;
        let (x, y) = (MIDDLE.0 + RADIUS * share * angle.sin(), MIDDLE.1 - RADIUS * share * angle.cos());
        (x.round() as i32, y.round() as i32)
    }

    fn share(&self, value: f64) -> f64 {
        ((value - self.range.0) / (self.range.1 - self.range.0)).clamp(0.0, 1.0)
    }
}

impl Drawing for Radar<'_> {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn {
        let text = |error: DrawingAreaErrorKind<B::ErrorType>| error.to_string();
        area.fill(&WHITE).map_err(text)?;
        let at = |h, v| Pos::new(h, v);
        let title = (FONT, 22).into_font().into_text_style(area).pos(at(HPos::Center, VPos::Top));
        area.draw(&Text::new(plot_escape(self.title), (450, 16), title)).map_err(text)?;
        let grid = BLACK.mix(0.15).stroke_width(1);
        let small = (FONT, 12).into_font().into_text_style(area);
        for ring in 1..=RINGS {
            let share = ring as f64 / RINGS as f64;
            let corners: Vec<(i32, i32)> = (0..=self.spokes.len()).map(|i| self.point(i, share)).collect();
            area.draw(&PathElement::new(corners, grid)).map_err(text)?;
            let value = self.range.0 + share * (self.range.1 - self.range.0);
            let (x, y) = self.point(0, share);
            let style = small.pos(at(HPos::Left, VPos::Bottom));
            area.draw(&Text::new(tick(value), (x + 4, y), style)).map_err(text)?;
        }
        for (i, name) in self.spokes.iter().enumerate() {
            area.draw(&PathElement::new([self.point(i, 0.0), self.point(i, 1.0)], grid)).map_err(text)?;
            let (x, y) = self.point(i, 1.08);
            let offset = f64::from(x) - MIDDLE.0;
            let horizontal = match offset {
                o if o > 8.0 => HPos::Left,
                o if o < -8.0 => HPos::Right,
                _ => HPos::Center,
            };
            let label = (FONT, 15).into_font().into_text_style(area).pos(at(horizontal, VPos::Center));
            area.draw(&Text::new(plot_escape(name), (x, y), label)).map_err(text)?;
        }
        for (i, one) in self.series.iter().enumerate() {
            let style = PALETTE[i % PALETTE.len()].stroke_width(2);
            let points: Vec<Option<(i32, i32)>> = (0..self.spokes.len())
                .map(|spoke| {
                    let value = one.values.get(spoke).copied().flatten().filter(|value| value.is_finite())?;
                    Some(self.point(spoke, self.share(value)))
                })
                .collect();
            // The polygon is closed; an edge is drawn where both of its ends are known.
            for (from, to) in points.iter().zip(points.iter().cycle().skip(1)) {
                if let (Some(from), Some(to)) = (from, to) {
                    area.draw(&PathElement::new([*from, *to], style)).map_err(text)?;
                }
            }
            for point in points.iter().flatten() {
                area.draw(&Circle::new(*point, 3, style.filled())).map_err(text)?;
            }
            let y = 110 + 24 * i as i32;
            area.draw(&PathElement::new([(690, y), (714, y)], style)).map_err(text)?;
            let label = (FONT, 15).into_font().into_text_style(area).pos(at(HPos::Left, VPos::Center));
            area.draw(&Text::new(plot_escape(&one.name), (722, y), label)).map_err(text)?;
        }
        Ok(())
    }
}
