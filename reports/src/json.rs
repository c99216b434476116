//! JSON: the comparison itself.

use harness_metrics::comparison::Comparison;
use serde::{Deserialize, Serialize};

use crate::{Meta, ReportError};

/// What `report.json` holds; the schema's version is the comparison's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The comparison.
    pub comparison: Comparison,
    /// Title and manifest.
    pub meta: Meta,
}

/// The comparison and its meta data as indented JSON, in which hidden characters are escapes; [`Report`] reads it back.
///
/// # Errors
/// If it cannot be serialised.
pub fn json(comparison: &Comparison, meta: &Meta) -> Result<String, ReportError> {
    let report = Report { comparison: comparison.clone(), meta: meta.clone() };
    let text = serde_json::to_string_pretty(&report).map_err(|error| ReportError::Serialise(error.to_string()))?;
    Ok(harness_core::visible_json(&text).into_owned() + "\n")
}
