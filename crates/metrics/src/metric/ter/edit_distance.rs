//! Levenshtein distance within Tercom's beam, and the alignment that goes with it.

/// Half the width of the band around the pseudo-diagonal that is computed.
const BEAM_WIDTH: usize = 25;
const INFINITE: u32 = u32::MAX / 2;

/// One step of rewriting the hypothesis into the reference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Keep,
    Substitute,
    /// A word of the reference that the hypothesis lacks.
    Insert,
    /// A word of the hypothesis that the reference lacks.
    Delete,
}

/// Costs of one row of the matrix, each with the operation that reaches it.
type Row = Vec<(u32, Option<Op>)>;

/// Edit distances of many hypotheses of one length to one reference; rows of a common prefix are kept from one call to
/// the next.
pub(super) struct EditDistance<'a> {
    reference: &'a [u32],
    rows: Vec<Row>,
    hypothesis: Vec<u32>,
}

impl<'a> EditDistance<'a> {
    pub(super) fn new(reference: &'a [u32]) -> Self {
        let first = (0..=reference.len()).map(|i| (i as u32, Some(Op::Insert))).collect();
        Self { reference, rows: vec![first], hypothesis: Vec::new() }
    }

    /// The number of edits; every call must have a hypothesis of the same length.
    pub(super) fn distance(&mut self, hypothesis: &[u32]) -> u32 {
        let common = self.hypothesis.iter().zip(hypothesis).take_while(|(a, b)| a == b).count();
        self.rows.truncate(common + 1);
        self.hypothesis.clear();
        self.hypothesis.extend_from_slice(hypothesis);
        let (n, m) = (hypothesis.len(), self.reference.len());
        let ratio = if n == 0 { 1.0 } else { m as f64 / n as f64 };
        // For lengths that differ much, the band is widened so that neighbouring rows overlap.
        let beam = if (BEAM_WIDTH as f64) < ratio / 2.0 {
            (ratio / 2.0 + BEAM_WIDTH as f64).ceil() as usize
        } else {
            BEAM_WIDTH
        };
        for i in common + 1..=n {
            let diagonal = (i as f64 * ratio).floor() as usize;
            let low = diagonal.saturating_sub(beam);
            let high = if i == n { m + 1 } else { (m + 1).min(diagonal + beam) };
            let mut row: Row = vec![(INFINITE, None); m + 1];
            let above = &self.rows[i - 1];
            for j in low..high {
                if j == 0 {
                    row[0] = (above[0].0 + 1, Some(Op::Delete));
                    continue;
                }
                let (cost, op) =
                    if hypothesis[i - 1] == self.reference[j - 1] { (0, Op::Keep) } else { (1, Op::Substitute) };
                // Of equal costs the first is kept.
                for (cost, op) in
                    [(above[j - 1].0 + cost, op), (above[j].0 + 1, Op::Delete), (row[j - 1].0 + 1, Op::Insert)]
                {
                    if cost < row[j].0 {
                        row[j] = (cost, Some(op));
                    }
                }
            }
            self.rows.push(row);
        }
        self.rows[n][m].0
    }

    /// The operations from the first word to the last of the hypothesis last measured.
    fn trace(&self) -> Vec<Op> {
        let (mut i, mut j) = (self.hypothesis.len(), self.reference.len());
        let mut ops = Vec::with_capacity(i + j);
        while i > 0 || j > 0 {
            // Outside of the band nothing was computed; the way out of it is deletion, then insertion.
            let op = self.rows[i][j].1.unwrap_or(if i > 0 { Op::Delete } else { Op::Insert });
            i -= usize::from(op != Op::Insert);
            j -= usize::from(op != Op::Delete);
            ops.push(op);
        }
        ops.reverse();
        ops
    }

    /// The alignment of the hypothesis last measured.
    pub(super) fn alignment(&self) -> Alignment {
        let mut alignment = Alignment::default();
        for op in self.trace() {
            let error = op != Op::Keep;
            if op != Op::Insert {
                alignment.hypothesis_errors.push(error);
            }
            if op != Op::Delete {
                alignment.after.push(alignment.hypothesis_errors.len());
                alignment.reference_errors.push(error);
            }
        }
        alignment
    }
}

/// Which words of two texts correspond.
#[derive(Default)]
pub(super) struct Alignment {
    /// For each word of the reference, the number of words of the hypothesis up to and with the one aligned to it.
    pub(super) after: Vec<usize>,
    /// Whether each word of the reference takes part in an edit.
    pub(super) reference_errors: Vec<bool>,
    /// Whether each word of the hypothesis takes part in an edit.
    pub(super) hypothesis_errors: Vec<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_and_alignment_by_hand() {
        let mut distance = EditDistance::new(&[1, 2, 3]);
        assert_eq!(distance.distance(&[1, 3]), 1);
        let alignment = distance.alignment();
        assert_eq!(alignment.after, [1, 1, 2]);
        assert_eq!(alignment.reference_errors, [false, true, false]);
        assert_eq!(distance.distance(&[1, 4]), 2);
        assert_eq!(EditDistance::new(&[]).distance(&[1, 2]), 2);
        assert_eq!(EditDistance::new(&[1, 2]).distance(&[]), 2);
    }
}
