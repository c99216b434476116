//! Groups of items that a set of pairwise tests does not tell apart.

use std::collections::BTreeSet;

/// The compact letter display (Piepho 2004): groups of positions, so that two items share a group exactly where
/// `decided(i, j)` is false, and no group lies within another. Items are numbered in the order in which they are to be
/// shown, and groups come in the order of their first items.
pub fn compatible_groups(count: usize, decided: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<BTreeSet<usize>> = vec![(0..count).collect()];
    for i in 0..count {
        for j in i + 1..count {
            if !decided(i, j) {
                continue;
            }
            let (both, mut kept): (Vec<_>, Vec<_>) =
                groups.into_iter().partition(|group| group.contains(&i) && group.contains(&j));
            for group in both {
                for left_out in [i, j] {
                    let mut part = group.clone();
                    part.remove(&left_out);
                    // A part that lies within another group says nothing new.
                    if !kept.iter().any(|other| part.is_subset(other)) {
                        kept.retain(|other| !other.is_subset(&part));
                        kept.push(part);
                    }
                }
            }
            groups = kept;
        }
    }
    let mut groups: Vec<Vec<usize>> = groups
        .into_iter()
        .map(|group| group.into_iter().collect())
        .filter(|group: &Vec<usize>| !group.is_empty())
        .collect();
    groups.sort();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_groups() {
        // 0 is decided against 3 only; 1 and 2 are compatible with all.
        assert_eq!(compatible_groups(4, |i, j| (i, j) == (0, 3)), [vec![0, 1, 2], vec![1, 2, 3]]);
        assert_eq!(compatible_groups(3, |_, _| false), [vec![0, 1, 2]]);
        assert_eq!(compatible_groups(3, |_, _| true), [vec![0], vec![1], vec![2]]);
        assert!(compatible_groups(0, |_, _| true).is_empty());
    }

    #[test]
    fn sharing_a_group_means_not_decided() {
        // All 2^10 outcomes of the ten pairs of five items.
        let pairs: Vec<(usize, usize)> = (0..5).flat_map(|i| (i + 1..5).map(move |j| (i, j))).collect();
        for outcome in 0..1u32 << pairs.len() {
            let decided = |i: usize, j: usize| {
                let at = pairs.iter().position(|&pair| pair == (i.min(j), i.max(j))).unwrap();
                outcome >> at & 1 == 1
            };
            let groups = compatible_groups(5, decided);
            for &(i, j) in &pairs {
                let share = groups.iter().any(|group| group.contains(&i) && group.contains(&j));
                assert_eq!(share, !decided(i, j), "{outcome:b} {i} {j} {groups:?}");
            }
            assert!((0..5).all(|i| groups.iter().any(|group| group.contains(&i))));
        }
    }
}
