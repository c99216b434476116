//! The nearest valid choice to a misspelt name.

/// The candidate with the smallest edit distance (Levenshtein, letter case ignored) to `wanted`, if that is at most
/// half of the longer name; the first of equals.
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = wanted.to_lowercase().chars().collect();
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().collect();
            let distance = edit_distance(&wanted, &letters);
            (distance * 2 <= wanted.len().max(letters.len())).then_some((distance, candidate))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_misspelt_names_only() {
        assert_eq!(nearest("tets", ["train", "test", "validation"]), Some("test"));
        assert_eq!(nearest("Validaton", ["train", "test", "validation"]), Some("validation"));
        assert_eq!(nearest("xyz", ["train", "test"]), None);
        assert_eq!(nearest("a", []), None);
    }
}
