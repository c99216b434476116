//! The corners of Python that task files rely on: white space, `str()`, literals, JSON.

pub(crate) mod json;
pub(crate) mod literal;
pub(crate) mod text;
