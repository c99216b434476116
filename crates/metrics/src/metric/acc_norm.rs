//! `acc_norm`: whether the choice that is likeliest per code point is right.

use super::{
    answer::Reads,
    definition::{Metric, Scored},
};

pub(super) const METRIC: Metric = Metric {
    share: true,
    tells_documents: true,
    ..Metric::new("acc_norm", &[Reads::Choices], |_, _| {
        Scored::by(|answer| {
            let choices = answer.choices()?;
            Some(choices.right(choices.predicted_per(|text| text.chars().count())))
        })
    })
};
