//! Where the legend of a chart hides least.

use std::ops::Range;

use plotters::prelude::SeriesLabelPosition as Position;

use super::series::Series;
use crate::escape::plot_escape;

/// Width and height of what lies between the axes of a line chart, in pixels, roughly.
const PLOT: (f64, f64) = (790.0, 430.0);
/// Samples of a line between two of its points.
const SAMPLES: usize = 24;

/// Places in the order in which they are preferred, with the left and upper edge as a part of what the legend leaves free.
const PLACES: [(Position, f64, f64); 8] = [
    (Position::UpperRight, 1.0, 0.0),
    (Position::UpperLeft, 0.0, 0.0),
    (Position::LowerRight, 1.0, 1.0),
    (Position::LowerLeft, 0.0, 1.0),
    (Position::UpperMiddle, 0.5, 0.0),
    (Position::LowerMiddle, 0.5, 1.0),
    (Position::MiddleRight, 1.0, 0.5),
    (Position::MiddleLeft, 0.0, 0.5),
];

/// A place at which the legend covers no line; where there is none, the upper right corner, after `y` has been widened upwards
/// so that the lines lie below the legend.
pub(super) fn place(series: &[Series], x: &Range<f64>, y: &mut Range<f64>) -> Position {
    let (width, height) = size(series);
    let covered = |left: f64, top: f64| {
        let (left, top) = (left * (1.0 - width), top * (1.0 - height));
        let inside = |&(px, py): &(f64, f64)| {
            let (across, down) = ((px - x.start) / (x.end - x.start), (y.end - py) / (y.end - y.start));
            (left..left + width).contains(&across) && (top..top + height).contains(&down)
        };
        series.iter().flat_map(|line| samples(&line.points)).any(|point| inside(&point))
    };
    if let Some((position, _, _)) = PLACES.into_iter().find(|&(_, left, top)| !covered(left, top)) {
        return position;
    }
    let height = height.min(0.6);
    y.end += (y.end - y.start) * height / (1.0 - height);
    Position::UpperRight
}

/// Most characters of a name: more would hide the lines' colours.
const NAME: usize = 64;

/// A name as the legend shows it: a long one without its middle.
pub(super) fn shown(name: &str) -> String {
    let name = plot_escape(name);
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= NAME {
        return name;
    }
    let (head, tail) = (&characters[..NAME / 2], &characters[characters.len() - (NAME / 2 - 1)..]);
    head.iter().chain(['…'].iter()).chain(tail).collect()
}

/// The legend's width and height as parts of the plot's.
fn size(series: &[Series]) -> (f64, f64) {
    let longest = series.iter().map(|line| line.name.chars().count().min(NAME)).max().unwrap_or(0);
    let (width, height) = (60.0 + 8.5 * longest as f64, 26.0 + 19.0 * series.len() as f64);
    ((width / PLOT.0).min(1.0), (height / PLOT.1).min(1.0))
}

/// Points along a line.
fn samples(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let between = points.windows(2).flat_map(|pair| {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
        (0..SAMPLES).map(move |i| {
            let part = i as f64 / SAMPLES as f64;
            (x0 + part * (x1 - x0), y0 + part * (y1 - y0))
        })
    });
    between.chain(points.last().copied()).filter(|(x, y)| x.is_finite() && y.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(f64, f64)]) -> Series {
        Series { name: "a run".to_owned(), points: points.to_vec() }
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(shown("r8"), "r8");
        let long = shown(&format!("{}-8", "a".repeat(100)));
        assert_eq!((long.chars().count(), long.ends_with("a-8"), long.contains("a…a")), (64, true, true));
    }

    #[test]
    fn the_legend_avoids_the_lines() {
        let placed = |points: &[(f64, f64)]| {
            let mut y = 0.0..1.0;
            let position = place(&[line(points)], &(0.0..1.0), &mut y);
            (position, y.end)
        };
        assert!(matches!(placed(&[(0.0, 1.0), (1.0, 0.0)]), (Position::UpperRight, 1.0)), "falling");
        assert!(matches!(placed(&[(0.0, 0.0), (1.0, 1.0)]), (Position::UpperLeft, 1.0)), "rising");
        assert!(matches!(placed(&[(0.0, 0.9), (1.0, 0.95)]), (Position::LowerRight, 1.0)), "high");
        let everywhere: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i) / 400.0, f64::from(i % 2))).collect();
        let (position, top) = placed(&everywhere);
        assert!(matches!(position, Position::UpperRight) && top > 1.05, "{top}");
    }
}
