//! `acc_bytes`: whether the choice that is likeliest per byte of UTF-8 is right.

use super::{
    answer::Reads,
    definition::{Metric, Scored},
};

pub(super) const METRIC: Metric = Metric::new("acc_bytes", &[Reads::Choices], |_, _| {
    Scored::by(|answer| {
        let choices = answer.choices()?;
        Some(choices.right(choices.predicted_per(str::len)))
    })
});
