//! Which samples share a row.

use super::Sample;

/// Number of tokens of every sample.
pub fn lengths(samples: &[Sample]) -> Vec<usize> {
    samples.iter().map(|sample| sample.tokens.len()).collect()
}

/// Every sample a row of its own, but for empty ones; samples are given by their lengths.
pub fn one_a_row(lengths: &[usize]) -> Vec<Vec<usize>> {
    (0..lengths.len()).filter(|&i| lengths[i] > 0).map(|i| vec![i]).collect()
}

/// Best-fit decreasing: the longest samples first, each into the fullest row where it still fits, so that rows have at
/// most `max_length` tokens (a longer sample, which truncation rules out, would have a row of its own). Samples stay
/// whole; ties are broken by their order.
pub fn pack(lengths: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] > 0).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lengths[i]), i));
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // Rows by the room they have left, and by number, so that the best fit is the first at or above a length.
    let mut room = std::collections::BTreeSet::new();
    for sample in order {
        let length = lengths[sample];
        let fit = room.range((length, 0)..).next().copied();
        let (left, row) = match fit {
            Some(entry) => {
                room.remove(&entry);
                entry
            }
            None => {
                rows.push(Vec::new());
                (max_length.max(length), rows.len() - 1)
            }
        };
        rows[row].push(sample);
        room.insert((left - length, row));
    }
    rows
}
