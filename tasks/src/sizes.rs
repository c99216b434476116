//! How many documents benchmarks have, to tell when results are not over all of them.

use std::collections::{BTreeMap, BTreeSet};

/// The size of a benchmark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Number of its documents.
    pub of: usize,
    /// What it calls one of them: `document`, `instruction`, `turn`, `question`.
    pub unit: &'static str,
    /// Names of those that are not among the labels, where they can be told.
    pub missing: Vec<String>,
}

/// Documents of the evaluated split by lm-eval's name of the task, as its `n-samples` has them.
const DOCUMENTS: &str = include_str!("sizes.txt");

/// Questions of MT-Bench, each of two turns.
const MT_BENCH: std::ops::RangeInclusive<u32> = 81..=160;

/// The size of the benchmark of a name, of which documents with these labels (or only their number) were found; `None`
/// where it is not known.
pub fn of(task: &str, found: usize, labels: &[&str]) -> Option<Size> {
    let plain: String = task.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    match plain.as_str() {
        "alpaca" | "alpacaeval" | "alpacaeval2" | "alpacaeval20" => {
            Some(Size { of: 805, unit: "instruction", missing: vec![] })
        }
        "mtbench" | "mtbenchpairs" => Some(mt_bench(found, labels)),
        _ => documents().get(task).map(|&of| Size { of, unit: "document", missing: vec![] }),
    }
}

fn documents() -> BTreeMap<&'static str, usize> {
    let pairs = DOCUMENTS.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(name, size)| Some((name, size.trim().parse().ok()?))).collect()
}

/// MT-Bench by turns, `81 turn 1` and so on, for each opponent where the labels name one; by questions where no label
/// names a turn.
fn mt_bench(found: usize, labels: &[&str]) -> Size {
    let opponents: BTreeSet<&str> = labels.iter().map(|label| opponent(label)).collect();
    let have: BTreeSet<&str> = labels.iter().copied().collect();
    let by_turn = if labels.is_empty() { found > 80 } else { labels.iter().any(|label| label.contains(" turn ")) };
    let expected = |opponent: &str| -> Vec<String> {
        let turns = |question: u32| (1..=2).map(move |turn| format!("{question} turn {turn}"));
        match by_turn {
            true => MT_BENCH.flat_map(turns).map(|label| label + opponent).collect(),
            false => MT_BENCH.map(|question| format!("{question}{opponent}")).collect(),
        }
    };
    let expected: Vec<String> = match labels.is_empty() {
        true => expected(""),
        false => opponents.iter().flat_map(|opponent| expected(opponent)).collect(),
    };
    let of = expected.len();
    let missing: Vec<String> = expected.into_iter().filter(|label| !have.contains(label.as_str())).collect();
    // Other labels than MT-Bench's own tell nothing of what is missing.
    let missing = if !labels.is_empty() && missing.len() + have.len() == of { missing } else { vec![] };
    Size { of, unit: if by_turn { "turn" } else { "question" }, missing }
}

/// ` against MODEL` at the end of a label of a pair, else nothing.
fn opponent(label: &str) -> &str {
    label.find(" against ").map_or("", |at| &label[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_known_by_name() {
        let size = |task: &str| of(task, 10, &[]).map(|size| (size.of, size.unit));
        assert_eq!(size("AlpacaEval"), Some((805, "instruction")));
        assert_eq!(size("mmlu_formal_logic"), Some((126, "document")));
        assert_eq!((size("gsm8k"), size("my_task")), (Some((1_319, "document")), None));
        let subjects: usize = ["mmlu_stem", "mmlu_humanities", "mmlu_other", "mmlu_social_sciences"]
            .iter()
            .filter_map(|group| Some(size(group)?.0))
            .sum();
        assert_eq!(Some((subjects, "document")), size("mmlu"));
    }

    #[test]
    fn the_missing_turn_is_named() {
        let mut labels: Vec<String> = (81..=160).flat_map(|q| [1, 2].map(|turn| format!("{q} turn {turn}"))).collect();
        labels.retain(|label| label != "131 turn 2");
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let size = of("mt_bench", 159, &labels).unwrap();
        assert_eq!((size.of, size.unit, size.missing), (160, "turn", vec!["131 turn 2".to_owned()]));
        let questions: Vec<String> = (81..=159).map(|q| q.to_string()).collect();
        let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
        let size = of("mt_bench", 79, &questions).unwrap();
        assert_eq!((size.of, size.unit, size.missing), (80, "question", vec!["160".to_owned()]));
        assert!(of("mt_bench", 2, &["q1 turn 1", "q1 turn 2"]).unwrap().missing.is_empty(), "other labels");
        let pairs = of("mt_bench_pairs", 2, &["81 turn 1 against a", "81 turn 1 against b"]).unwrap();
        assert_eq!((pairs.of, pairs.missing.len()), (320, 318));
    }
}
