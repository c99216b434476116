//! The nearest valid names to a misspelt one.

/// The candidate with the smallest edit distance (letter case ignored) to `wanted`, if that is at most half of the
/// longer name; the first of equals.
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = letters(wanted);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let name = letters(candidate);
            let distance = edits(&wanted, &name);
            (distance * 2 <= wanted.len().max(name.len())).then_some((distance, candidate))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Up to three candidates that differ in at most a third of the letters of `wanted`, or contain it; nearest first.
pub fn nearest_few<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let name = letters(wanted);
    let lower: String = name.iter().collect();
    let allowed = (name.len() / 3).max(1);
    let mut scored: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = letters(candidate);
            let distance = edits(&name, &other);
            if distance <= allowed {
                Some((distance, candidate))
            } else if name.len() > 2 && other.iter().collect::<String>().contains(&lower) {
                Some((allowed + other.len() - name.len(), candidate))
            } else {
                None
            }
        })
        .collect();
    scored.sort();
    scored.dedup();
    scored.into_iter().take(3).map(|(_, candidate)| candidate.to_owned()).collect()
}

fn letters(text: &str) -> Vec<char> {
    text.to_lowercase().chars().collect()
}

/// Optimal string alignment distance: insertions, deletions, substitutions, and swaps of neighbours.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substitution = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_one_misspelt_name() {
        assert_eq!(nearest("tets", ["train", "test", "validation"]), Some("test"));
        assert_eq!(nearest("Validaton", ["train", "test", "validation"]), Some("validation"));
        assert_eq!(nearest("xyz", ["train", "test"]), None);
        assert_eq!(nearest("a", []), None);
    }

    #[test]
    fn finds_typos_and_parts() {
        let names = ["arc_easy", "arc_challenge", "mmlu", "mmlu_anatomy", "gsm8k"];
        assert_eq!(nearest_few("arc_esay", names), ["arc_easy"]);
        assert_eq!(nearest_few("anatomy", names), ["mmlu_anatomy"]);
        assert_eq!(nearest_few("GSM8K", names), ["gsm8k"]);
        assert!(nearest_few("hellaswag", names).is_empty());
    }
}
