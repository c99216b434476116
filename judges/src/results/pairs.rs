//! The pairs that were compared.

use crate::{Judgment, Purpose, Subject};

/// 0, ½ or 1.
pub(super) fn winner(preference: f64) -> f64 {
    if preference < 0.5 {
        0.0
    } else if preference > 0.5 {
        1.0
    } else {
        0.5
    }
}

/// The pairs among judgments of a purpose, in order of first appearance.
pub(super) fn pairs(judgments: &[Judgment], purpose: Purpose) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = vec![];
    for judgment in judgments.iter().filter(|judgment| judgment.purpose == purpose) {
        if let Subject::Pair { baseline, candidate } = &judgment.subject
            && !found.iter().any(|(b, c)| b == baseline && c == candidate)
        {
            found.push((baseline.clone(), candidate.clone()));
        }
    }
    found
}
