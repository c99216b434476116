//! Judging protocols: what to ask a judge, how to read its verdicts, and what they are worth.
//!
//! The crate does no asking. A [`Protocol`] (a TOML file) and the outputs of models make a [`Plan`] of [`Question`]s; an
//! [`Asking`] hands out what is to be sent and takes what came back; its [`Judgment`]s are what all results are computed
//! from.

mod alpaca_eval;
mod asking;
mod built_in;
mod error;
pub mod files;
mod item;
mod kind;
pub mod length_control;
pub mod parser;
mod placeholders;
mod plan;
mod prompt_file;
mod protocol;
mod question;
mod question_id;
pub mod results;
mod rubric;
pub mod simulation;
mod template;
mod toml_text;
mod verdict;
mod win_rate;

pub use alpaca_eval::{AlpacaEvalResult, is_extreme_change, length_rows};
pub use asking::Asking;
pub use error::{Coverage, JudgesError, Location, Result};
pub use item::{Item, OutputSet};
pub use kind::Kind;
pub use parser::{Parsed, Parser};
pub use plan::{NULL_MODEL, Orders, Plan, PlanOptions, is_switched};
pub use protocol::{LEAST_LABEL_SHARE, Layout, PromptTemplate, Protocol, Retry};
pub use question::{Answer, AnswerForm, Ask, Question};
pub use question_id::QuestionId;
pub use rubric::Rubric;
pub use template::{Template, Values};
pub use verdict::{Judgment, Order, Outcome, Purpose, Subject, Unparsed, Verdict};
pub use win_rate::WinRate;
