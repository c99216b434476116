//! The nearest valid name to a wrong one.

/// Up to three candidates that differ in few letters from `name`, or contain it, nearest first.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let name = name.to_lowercase();
    let mut scored: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let distance = edits(&name, &lower);
            let allowed = (name.chars().count() / 3).max(1);
            if distance <= allowed {
                Some((distance, candidate))
            } else if name.len() > 2 && lower.contains(&name) {
                Some((allowed + lower.len() - name.len(), candidate))
            } else {
                None
            }
        })
        .collect();
    scored.sort();
    scored.dedup();
    scored.into_iter().take(3).map(|(_, candidate)| candidate.to_owned()).collect()
}

/// Optimal string alignment distance: insertions, deletions, substitutions, and swaps of neighbours.
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substitution = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typos_and_parts() {
        let names = ["arc_easy", "arc_challenge", "mmlu", "mmlu_anatomy", "gsm8k"];
        assert_eq!(nearest("arc_esay", names), ["arc_easy"]);
        assert_eq!(nearest("anatomy", names), ["mmlu_anatomy"]);
        assert_eq!(nearest("GSM8K", names), ["gsm8k"]);
        assert!(nearest("hellaswag", names).is_empty());
    }
}
