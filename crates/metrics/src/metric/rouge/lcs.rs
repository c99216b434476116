//! Longest common subsequences.

const NONE: u32 = u32::MAX;

/// Length of a longest common subsequence, 64 positions at a time (Hyyrö 2004), in memory proportional to the shorter
/// sequence.
pub(super) fn length(a: &[u32], b: &[u32]) -> usize {
    let (pattern, text) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if pattern.is_empty() {
        return 0;
    }
    // Positions of each token as linked lists: `last[token]` is its last position, `previous[position]` the one before.
    let ids = pattern.iter().max().map_or(0, |&id| id as usize + 1);
    let mut last = vec![NONE; ids];
    let mut previous = vec![NONE; pattern.len()];
    for (i, &token) in pattern.iter().enumerate() {
        previous[i] = std::mem::replace(&mut last[token as usize], i as u32);
    }
    let words = pattern.len().div_ceil(64);
    // A bit is cleared where the length of the best subsequence grows.
    let mut state = vec![u64::MAX; words];
    let mut matches = vec![0u64; words];
    for &token in text {
        let mut position = last.get(token as usize).copied().unwrap_or(NONE);
        if position == NONE {
            continue;
        }
        matches.fill(0);
        while position != NONE {
            matches[position as usize / 64] |= 1 << (position % 64);
            position = previous[position as usize];
        }
        let mut carry = false;
        for (state, &matches) in state.iter_mut().zip(&matches) {
            let matched = *state & matches;
            let (sum, first) = state.overflowing_add(matched);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            carry = first || second;
            *state = sum | (*state & !matched);
        }
    }
    (0..pattern.len()).filter(|&i| state[i / 64] >> (i % 64) & 1 == 0).count()
}

/// Matches of ROUGE-Lsum: for each target line the union of its longest common subsequences with all prediction lines,
/// each token counted at most as often as it occurs in either text.
pub(super) fn union_hits(target: &[Vec<u32>], prediction: &[Vec<u32>]) -> usize {
    if let ([target], [prediction]) = (target, prediction) {
        return length(target, prediction);
    }
    let ids = target.iter().chain(prediction).flatten().max().map_or(0, |&id| id as usize + 1);
    let count = |lines: &[Vec<u32>]| {
        let mut counts = vec![0u32; ids];
        lines.iter().flatten().for_each(|&id| counts[id as usize] += 1);
        counts
    };
    let (mut in_target, mut in_prediction) = (count(target), count(prediction));
    let mut hits = 0;
    for line in target {
        let mut union = vec![false; line.len()];
        for other in prediction {
            mark_common(line, other, &mut union);
        }
        for (&token, _) in line.iter().zip(&union).filter(|&(_, &common)| common) {
            let (a, b) = (&mut in_target[token as usize], &mut in_prediction[token as usize]);
            if *a > 0 && *b > 0 {
                hits += 1;
                *a -= 1;
                *b -= 1;
            }
        }
    }
    hits
}

/// Marks the positions of `a` in the longest common subsequence with `b` that the original's walk back finds: on
/// unequal tokens it steps in `b` only where that is strictly longer.
fn mark_common(a: &[u32], b: &[u32], marks: &mut [bool]) {
    let (mut above, mut row) = (vec![0u32; b.len() + 1], vec![0u32; b.len() + 1]);
    // One bit a cell: whether the walk steps in `b`.
    let stride = b.len().div_ceil(64);
    let mut left = vec![0u64; stride * a.len()];
    for (i, &x) in a.iter().enumerate() {
        for (j, &y) in b.iter().enumerate() {
            row[j + 1] = if x == y { above[j] + 1 } else { above[j + 1].max(row[j]) };
            if row[j] > above[j + 1] {
                left[i * stride + j / 64] |= 1 << (j % 64);
            }
        }
        std::mem::swap(&mut above, &mut row);
    }
    let (mut i, mut j) = (a.len(), b.len());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            marks[i - 1] = true;
            i -= 1;
            j -= 1;
        } else if left[(i - 1) * stride + (j - 1) / 64] >> ((j - 1) % 64) & 1 == 1 {
            j -= 1;
        } else {
            i -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook recurrence.
    fn by_table(a: &[u32], b: &[u32]) -> usize {
        let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                table[i][j] =
                    if a[i - 1] == b[j - 1] { table[i - 1][j - 1] + 1 } else { table[i - 1][j].max(table[i][j - 1]) };
            }
        }
        table[a.len()][b.len()]
    }

    proptest! {
        #[test]
        fn length_equals_the_textbook_recurrence(
            a in proptest::collection::vec(0u32..6, 0..200),
            b in proptest::collection::vec(0u32..6, 0..200),
        ) {
            prop_assert_eq!(length(&a, &b), by_table(&a, &b));
            let mut marks = vec![false; a.len()];
            mark_common(&a, &b, &mut marks);
            prop_assert_eq!(marks.iter().filter(|&&mark| mark).count(), by_table(&a, &b));
        }
    }
}
