//! Text from anywhere as each format shows it: one function a format and context.
//!
//! All of them show hidden characters as their code point ([`harness_core::visible`]).

mod csv;
mod html;
mod latex;
mod markdown;
mod plot;

pub(crate) use self::plot::escape as plot_escape;
pub use self::{
    csv::escape as csv_escape,
    html::escape as html_escape,
    latex::escape as latex_escape,
    markdown::{escape as markdown_escape, prose as markdown_prose},
};
