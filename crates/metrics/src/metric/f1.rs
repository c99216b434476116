//! `f1`: F1 over classes, of which lm-eval has the standard error except where classes are weighted.

use super::{
    classification::{Average, ClassMeasure, metric, scorer},
    definition::{Metric, StandardError},
};

pub(super) const METRIC: Metric = Metric {
    share: true,
    aggregation: "f1",
    logs_pairs: true,
    ..metric("f1", |_, options| {
        scorer(ClassMeasure::F1, options, |average| match average {
            Some(Average::Weighted) => StandardError::None,
            _ => StandardError::BOOTSTRAP,
        })
    })
};
