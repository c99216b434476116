//! `acc`: whether the likeliest choice is right, or a continuation is what the model would say.

use super::{
    answer::{Answer, Reads},
    definition::{Metric, Scored},
};

pub(super) const METRIC: Metric = Metric {
    share: true,
    tells_documents: true,
    ..Metric::new("acc", &[Reads::Choices, Reads::Continuation], |reads, _| match reads {
        Reads::Continuation => Scored::whole(|answer| match answer {
            Answer::Continuation { is_greedy, .. } => Some(f64::from(u8::from(*is_greedy))),
            _ => None,
        }),
        _ => Scored::by(|answer| {
            let choices = answer.choices()?;
            Some(choices.right(choices.predicted()))
        }),
    })
};
