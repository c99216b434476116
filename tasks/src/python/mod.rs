//! The corners of Python that task files rely on: white space, `str()`, literals.

pub(crate) mod literal;
pub(crate) mod text;
