//! `acc_mutual_info`: whether the choice whose log-likelihood the question raises most is right.

use super::{
    answer::Reads,
    choices::argmax,
    definition::{Metric, Scored},
};

pub(super) const METRIC: Metric = Metric {
    unconditional: true,
    ..Metric::new("acc_mutual_info", &[Reads::Choices], |_, _| {
        Scored::by(|answer| {
            let choices = answer.choices()?;
            let Some(unconditional) = choices.unconditional else { return Some(f64::NAN) };
            let pairs = choices.loglikelihoods.iter().zip(unconditional);
            let gain: Vec<f64> = pairs.map(|(with, without)| with - without).collect();
            Some(choices.right(argmax(&gain)))
        })
    })
};
