//! Plots as SVG and PNG, with an embedded font (DejaVu Sans), so that they look alike on every machine.

mod canvas;
mod forest;
mod legend;
mod lines;
mod radar;
mod series;

pub use forest::forest_plot;
pub(crate) use forest::forest_svg;
pub use lines::line_chart;
pub use radar::{RadarSeries, radar_chart};
pub use series::Series;
