//! `acc_all`: the share of questions of which every answer was judged rightly; known from lm-eval's results alone.

use super::definition::{Metric, Scored};

pub(super) const METRIC: Metric =
    Metric { aggregation: "acc_all", ..Metric::new("acc_all", &[], |_, _| Scored::by(|_| None)) };
