//! `precision`: the share of predictions of a class that are right.

use super::{
    classification::{ClassMeasure, metric, scorer},
    definition::{Metric, StandardError},
};

pub(super) const METRIC: Metric =
    metric("precision", |_, options| scorer(ClassMeasure::Precision, options, |_| StandardError::None));
