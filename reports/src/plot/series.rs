//! What a line chart draws.

/// A named line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points by ascending x; points that are not finite interrupt the line.
    pub points: Vec<(f64, f64)>,
}
