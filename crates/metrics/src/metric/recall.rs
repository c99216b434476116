//! `recall`: the share of a class that is predicted.

use super::{
    classification::{ClassMeasure, metric, scorer},
    definition::{Metric, StandardError},
};

pub(super) const METRIC: Metric =
    metric("recall", |_, options| scorer(ClassMeasure::Recall, options, |_| StandardError::None));
