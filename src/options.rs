//! The command line resolved: from what was typed to what the evaluation takes. Everything that can be wrong with an
//! argument by itself is said here.

mod evaluation;
mod judging;
mod training;

pub(crate) use evaluation::{at_least_one, evaluation, limits, prompts, remote};
pub(crate) use judging::judging;
pub(crate) use training::{changes, changes_of};
