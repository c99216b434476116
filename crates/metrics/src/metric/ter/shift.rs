//! Tercom's greedy search for block shifts.

use std::cmp::Reverse;

use super::edit_distance::{Alignment, EditDistance};

/// Longest block that is shifted, in words.
const MAX_SHIFT_SIZE: usize = 10;
/// Farthest distance of a shift, in words.
const MAX_SHIFT_DISTANCE: usize = 50;
/// Shifts tried for one pair of texts before the search ends.
const MAX_SHIFT_CANDIDATES: usize = 1000;

/// Edits left after a shift, length of the block, its start, and its target; the smallest is best.
type Rank = (u32, Reverse<usize>, usize, usize);

/// Fewest edits found that turn the hypothesis into the reference, where moving a block of words is one edit.
pub(super) fn edits(hypothesis: &[u32], reference: &[u32]) -> usize {
    if reference.is_empty() {
        return hypothesis.len();
    }
    let mut distance = EditDistance::new(reference);
    let mut words = hypothesis.to_vec();
    let (mut shifts, mut candidates) = (0, 0);
    loop {
        let before = distance.distance(&words);
        let best = best_shift(&words, reference, &mut distance, &mut candidates);
        // sacreBLEU drops the shift found last when the limit is reached.
        match best {
            Some((after, shifted)) if candidates < MAX_SHIFT_CANDIDATES && after < before => words = shifted,
            _ => return shifts + distance.distance(&words) as usize,
        }
        shifts += 1;
    }
}

/// The best shift of `words`, which were measured last, with the edits left after it: the one with the smallest [`Rank`],
/// so that of equal ones the longest block is moved, then the first, to the first target.
fn best_shift(
    words: &[u32],
    reference: &[u32],
    distance: &mut EditDistance<'_>,
    candidates: &mut usize,
) -> Option<(u32, Vec<u32>)> {
    let alignment = distance.alignment();
    let mut best: Option<(Rank, Vec<u32>)> = None;
    for (start, target, length) in common_blocks(words, reference) {
        if !worth_moving(&alignment, start, target, length) {
            continue;
        }
        let mut previous = None;
        for offset in 0..=length {
            // Position 0 stands for the place before the aligned word, the others for the places after the words that follow.
            let place = match (target + offset).checked_sub(1) {
                None => 0,
                Some(word) => match alignment.after.get(word) {
                    Some(&place) => place,
                    None => break,
                },
            };
            if previous.replace(place) == Some(place) {
                continue;
            }
            let shifted = shift(words, start, length, place);
            let rank = (distance.distance(&shifted), Reverse(length), start, place);
            *candidates += 1;
            if best.as_ref().is_none_or(|(highest, _)| rank < *highest) {
                best = Some((rank, shifted));
            }
        }
        if *candidates >= MAX_SHIFT_CANDIDATES {
            break;
        }
    }
    best.map(|((after, ..), shifted)| (after, shifted))
}

/// A block is moved only if it is wrong where it stands, its target is wrong too, and the target lies outside of it.
fn worth_moving(alignment: &Alignment, start: usize, target: usize, length: usize) -> bool {
    // `after` counts words, so that the aligned word itself is one before.
    let inside = (start + 1..start + length + 1).contains(&alignment.after[target]);
    alignment.hypothesis_errors[start..start + length].contains(&true)
        && alignment.reference_errors[target..target + length].contains(&true)
        && !inside
}

/// All `(start in words, start in reference, length)` of equal blocks near to each other.
fn common_blocks<'a>(words: &'a [u32], reference: &'a [u32]) -> impl Iterator<Item = (usize, usize, usize)> + 'a {
    (0..words.len()).flat_map(move |start| {
        let near = start.saturating_sub(MAX_SHIFT_DISTANCE)..reference.len().min(start + MAX_SHIFT_DISTANCE + 1);
        near.flat_map(move |target| {
            let equal = words[start..].iter().zip(&reference[target..]).take_while(|(a, b)| a == b).count();
            (1..=equal.min(MAX_SHIFT_SIZE)).map(move |length| (start, target, length))
        })
    })
}

/// `words` with the block moved to before position `place`; inside the block the words behind it close up first.
fn shift(words: &[u32], start: usize, length: usize, place: usize) -> Vec<u32> {
    let end = start + length;
    let block = &words[start..end];
    let parts: [&[u32]; 4] = if place < start {
        [&words[..place], block, &words[place..start], &words[end..]]
    } else if place > end {
        [&words[..start], &words[end..place], block, &words[place..]]
    } else {
        let close = (length + place).min(words.len());
        [&words[..start], &words[end..close], block, &words[close..]]
    };
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_move_left_right_and_within() {
        assert_eq!(shift(&[1, 2, 3, 4, 5], 3, 2, 0), [4, 5, 1, 2, 3]);
        assert_eq!(shift(&[1, 2, 3, 4, 5], 0, 2, 4), [3, 4, 1, 2, 5]);
        assert_eq!(shift(&[1, 2, 3, 4, 5], 1, 2, 2), [1, 4, 2, 3, 5]);
    }

    #[test]
    fn two_shifts_are_two_edits() {
        assert_eq!(edits(&[4, 1, 2, 3], &[1, 2, 3, 4]), 1);
        assert_eq!(edits(&[5, 6, 1, 2, 3, 4, 9, 8], &[1, 2, 3, 4, 8, 9, 5, 6]), 2);
        assert_eq!(edits(&[1, 2], &[]), 2);
        assert_eq!(edits(&[], &[1, 2]), 2);
    }
}
