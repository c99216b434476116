//! Jinja templates with budgets.
//!
//! A template comes with a model, a task or a recipe, which others wrote. minijinja bounds the instructions that it
//! executes; here the bytes that it holds and writes, the length of its expressions and its time are bounded too, for
//! every template of the workspace in the same way. Each instruction that makes a value is followed by one that weighs
//! it, filters that multiply their input are asked first how much they would make, and all output is counted.

mod budget;
mod compile;
mod filters;
mod template;
mod weight;

pub use budget::describe;
pub use filters::{add_multiplying_filter, environment};
pub use template::{Formatter, Jinja, Methods, Template};
