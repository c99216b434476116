//! The corners of Python that task files rely on: white space, `str()`, literals, regular expressions.

pub(crate) mod literal;
pub(crate) mod regex;
pub(crate) mod text;
