//! A document's fields as the definition's templates give them.

use serde_json::Value;

/// Question and answer of a document as the templates give them.
#[derive(PartialEq)]
pub(crate) struct Turn {
    pub question: String,
    pub answer: String,
}

/// One document's fields, resolved.
pub(crate) struct Resolved {
    pub question: Value,
    pub choices: Vec<String>,
    pub target: Value,
}
