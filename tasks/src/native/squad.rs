//! Exact match and F1 of short answers as SQuAD 2, CoQA and DROP define them.

use std::collections::{BTreeMap, BTreeSet};

use harness_metrics::normalize_answer;
use harness_store::Row;
use serde_json::Value;

use super::{
    Answers, fields,
    results::{NativeScore, NativeScores, generated},
};
use harness_python::{float_repr, is_space, trim as strip};

/// CoQA: each accepted answer in turn is left out, and the prediction compared with the best of the others.
pub(super) fn coqa(row: &Row, answers: &Answers<'_>) -> Result<NativeScores, String> {
    let prediction = normalize_answer(fields::first_line(generated(answers)?));
    let gold = fields::coqa_target(row)?;
    let gold: Vec<String> =
        gold.as_array().into_iter().flatten().filter_map(Value::as_str).map(normalize_answer).collect();
    let exact = |gold: &str| f64::from(u8::from(gold == prediction));
    let best = |of: &dyn Fn(&str) -> f64, left_out: Option<usize>| {
        let others = gold.iter().enumerate().filter(|(i, _)| Some(*i) != left_out);
        others.map(|(_, answer)| of(answer)).fold(0.0, f64::max)
    };
    let score = |of: &dyn Fn(&str) -> f64| {
        let sum: f64 = match gold.len() {
            0 | 1 => best(of, None),
            n => (0..n).map(|i| best(of, Some(i))).sum(),
        };
        sum / gold.len().max(1) as f64
    };
    let overlap = |gold: &str| token_f1(gold, &prediction);
    Ok(vec![NativeScore::mean("em", score(&exact)), NativeScore::mean("f1", score(&overlap))])
}

/// SQuAD 2: exact match and F1 with the best reference in per cent, of all questions, of those with an answer and of those
/// without. A reference of nothing but articles and punctuation does not count, and no reference is the empty one.
pub(super) fn squad2(row: &Row, answers: &Answers<'_>) -> Result<NativeScores, String> {
    let prediction = normalize_answer(generated(answers)?);
    let given = row.get("answers").map_or(&Value::Null, |answers| &answers["text"]);
    let given = given.as_array().ok_or("the column answers must hold a list text")?;
    let mut golds: Vec<String> = given.iter().filter_map(Value::as_str).map(normalize_answer).collect();
    golds.retain(|gold| !gold.is_empty());
    if golds.is_empty() {
        golds.push(String::new());
    }
    let exact = golds.contains(&prediction);
    let exact = 100.0 * f64::from(u8::from(exact));
    let f1 = 100.0 * golds.iter().map(|gold| token_f1(gold, &prediction)).fold(0.0, f64::max);
    let part = |metric: &'static str, value: f64, counts: bool| {
        if counts { NativeScore::mean(metric, value) } else { NativeScore::new(metric, vec![0.0, 0.0]) }
    };
    let answerable = !given.is_empty();
    Ok(vec![
        NativeScore::mean("exact", exact),
        NativeScore::mean("f1", f1),
        part("HasAns_exact", exact, answerable),
        part("HasAns_f1", f1, answerable),
        part("NoAns_exact", exact, !answerable),
        part("NoAns_f1", f1, !answerable),
    ])
}

/// SQuAD's F1 of normalised texts, rounded as its script rounds.
fn token_f1(gold: &str, prediction: &str) -> f64 {
    let (gold, prediction): (Vec<&str>, Vec<&str>) = (gold.split(' ').collect(), prediction.split(' ').collect());
    let (gold, prediction) = (words(gold), words(prediction));
    if gold.is_empty() || prediction.is_empty() {
        return f64::from(u8::from(gold == prediction));
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    gold.iter().for_each(|word| *counts.entry(word).or_default() += 1);
    let mut common = 0;
    for word in &prediction {
        if let Some(count) = counts.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = f64::from(common) / prediction.len() as f64;
    let recall = f64::from(common) / gold.len() as f64;
    2.0 * precision * recall / (precision + recall)
}

fn words(all: Vec<&str>) -> Vec<&str> {
    all.into_iter().filter(|word| !word.is_empty()).collect()
}

/// DROP: bags of words of the spans, numbers compared as numbers, spans aligned one to one.
pub(super) fn drop(row: &Row, answers: &Answers<'_>) -> Result<NativeScores, String> {
    let predicted = Bags::of(&[generated(answers)?]);
    let golds = row.get("answers").and_then(Value::as_array).ok_or("the column answers must be a list")?;
    let (mut exact, mut f1) = (0.0f64, 0.0f64);
    for gold in golds {
        let spans: Vec<&str> = gold.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if spans.first().is_some_and(|first| !strip(first).is_empty()) {
            let gold = Bags::of(&spans);
            exact = exact.max(f64::from(u8::from(predicted.equals(&gold))));
            f1 = f1.max(predicted.f1(&gold));
        }
    }
    Ok(vec![NativeScore::mean("em", exact), NativeScore::mean("f1", f1)])
}

/// Normalised spans and their words.
struct Bags {
    spans: Vec<String>,
    words: Vec<BTreeSet<String>>,
}

impl Bags {
    fn of(spans: &[&str]) -> Self {
        let spans: Vec<String> = spans.iter().map(|span| normalized(span)).collect();
        let words =
            spans.iter().map(|span| span.split(is_space).filter(|w| !w.is_empty()).map(str::to_owned).collect());
        Self { words: words.collect(), spans }
    }

    fn equals(&self, other: &Self) -> bool {
        let set = |bags: &Self| bags.spans.iter().cloned().collect::<BTreeSet<_>>();
        self.spans.len() == other.spans.len() && set(self) == set(other)
    }

    /// Mean over the longer side of the best one-to-one alignment, to two decimals (halves to the even digit). There is one prediction, so the best
    /// alignment is its best partner.
    fn f1(&self, gold: &Self) -> f64 {
        let Some(predicted) = self.words.first() else { return 0.0 };
        let score =
            |gold: &BTreeSet<String>| if numbers_agree(gold, predicted) { bag_f1(predicted, gold) } else { 0.0 };
        let best = gold.words.iter().map(score).fold(0.0, f64::max);
        let mean = best / gold.words.len().max(self.words.len()) as f64;
        (mean * 100.0).round_ties_even() / 100.0
    }
}

fn bag_f1(predicted: &BTreeSet<String>, gold: &BTreeSet<String>) -> f64 {
    let common = gold.intersection(predicted).count() as f64;
    let precision = if predicted.is_empty() { 1.0 } else { common / predicted.len() as f64 };
    let recall = if gold.is_empty() { 1.0 } else { common / gold.len() as f64 };
    if precision == 0.0 && recall == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) }
}

/// Whether the gold answer has no number, or shares one with the prediction.
fn numbers_agree(gold: &BTreeSet<String>, predicted: &BTreeSet<String>) -> bool {
    let mut numbers = gold.iter().filter(|word| number(word).is_some()).peekable();
    numbers.peek().is_none() || numbers.any(|word| predicted.contains(word))
}

/// Python's `float(text)`.
fn number(text: &str) -> Option<f64> {
    let text = strip(text).replace('_', "");
    let plain = text.trim_start_matches(['+', '-']);
    let named = ["inf", "infinity", "nan"].contains(&plain.to_ascii_lowercase().as_str());
    (named || plain.starts_with(|c: char| c.is_ascii_digit() || c == '.')).then(|| text.parse().ok()).flatten()
}

fn normalized(answer: &str) -> String {
    let tokens = answer.split([' ', '-']).map(|token| {
        let lower = token.to_lowercase();
        let bare = if number(&lower).is_some() {
            lower
        } else {
            lower.chars().filter(|c| !c.is_ascii_punctuation()).collect()
        };
        let fixed = number(&bare).map_or(bare, float_repr);
        let kept: Vec<&str> =
            fixed.split(is_space).filter(|word| !word.is_empty() && !["a", "an", "the"].contains(word)).collect();
        kept.join(" ")
    });
    tokens.filter(|token| !strip(token).is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scores(of: fn(&Row, &Answers<'_>) -> Result<NativeScores, String>, row: Value, answer: &str) -> (f64, f64) {
        let scores = of(row.as_object().unwrap(), &Answers::Text(answer)).unwrap();
        (scores[0].stats[0], scores[1].stats[0])
    }

    #[test]
    fn drop_compares_numbers_as_numbers() {
        let row = json!({"answers": [["12"], ["twelve yards"]]});
        assert_eq!(scores(drop, row.clone(), "12.0"), (1.0, 1.0));
        assert_eq!(scores(drop, row.clone(), "13"), (0.0, 0.0));
        assert_eq!(scores(drop, row, "the twelve"), (0.0, 0.67));
        assert_eq!(scores(drop, json!({"answers": [["red", "blue"]]}), "red"), (0.0, 0.5));
        assert_eq!(scores(drop, json!({"answers": [["3,000 men"]]}), "3000 men"), (1.0, 1.0));
        assert_eq!(scores(drop, json!({"answers": [["$5.50", "x"]]}), "5.5"), (0.0, 0.0));
        assert_eq!(scores(drop, json!({"answers": [["1 2 3 4 5 6 7 8"]]}), "1"), (0.0, 0.22));
    }

    #[test]
    fn squad2_tells_questions_with_an_answer_from_those_without() {
        let score = |texts: Value, answer: &str| -> Vec<Vec<f64>> {
            let row = json!({"answers": {"text": texts, "answer_start": []}});
            let scores = squad2(row.as_object().unwrap(), &Answers::Text(answer)).unwrap();
            scores.into_iter().map(|score| score.stats).collect()
        };
        let found = score(json!(["the Normans", "Norman people"]), " Normans");
        assert_eq!(found[..4], [[100.0, 1.0], [100.0, 1.0], [100.0, 1.0], [100.0, 1.0]]);
        assert_eq!(found[4..], [[0.0, 0.0], [0.0, 0.0]]);
        let found = score(json!(["the Norman people"]), "Norman kings");
        assert_eq!(found[..2], [[0.0, 1.0], [50.0, 1.0]]);
        let found = score(json!([]), "");
        assert_eq!((&found[0], &found[2], &found[4]), (&vec![100.0, 1.0], &vec![0.0, 0.0], &vec![100.0, 1.0]));
        assert_eq!(score(json!([]), "unanswerable")[4], [0.0, 1.0]);
    }

    #[test]
    fn coqa_leaves_each_answer_out() {
        let row = json!({"story": "S", "questions": {"input_text": ["q"]}, "answers": {"input_text": ["white"]},
            "additional_answers": {"0": {"input_text": ["a white cat"]}, "1": {"input_text": ["White"]}}});
        assert_eq!(scores(coqa, row, " white\nmore"), (0.5, (2.0 / 3.0 + 1.0) / 2.0));
    }
}
