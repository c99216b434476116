//! The values a prompt can show.
//!
//! The names are those of the reference tools, so that their prompt texts can be used as they are: FastChat's
//! `question`, `answer`, `answer_a`, `ref_answer_1`, …; prometheus-eval's `instruction`, `response`, `response_A`,
//! `reference_answer`, `rubric`, …; alpaca_eval's `instruction`, `output_1`, `output_2`.

use crate::{Item, Kind, Rubric, Values};

/// What a prompt of an absolute protocol can show.
pub(crate) const ABSOLUTE: &[&str] = &[
    "instruction",
    "question",
    "question_1",
    "question_2",
    "response",
    "answer",
    "answer_1",
    "answer_2",
    "reference_answer",
    "ref_answer_1",
    "ref_answer_2",
    "rubric",
    "criterion",
];

/// What a prompt of a pairwise protocol can show; A and 1 are shown first.
pub(crate) const PAIRWISE: &[&str] = &[
    "instruction",
    "question",
    "question_1",
    "question_2",
    "response_A",
    "response_B",
    "output_1",
    "output_2",
    "answer_a",
    "answer_b",
    "answer_a_1",
    "answer_a_2",
    "answer_b_1",
    "answer_b_2",
    "reference_answer",
    "ref_answer_1",
    "ref_answer_2",
    "rubric",
    "criterion",
];

/// What a prompt has to show, each by one of several names.
pub(crate) fn shown(kind: Kind, reference: bool) -> Vec<(&'static str, &'static [&'static str])> {
    let mut all: Vec<(&'static str, &'static [&'static str])> = match kind {
        Kind::Absolute => vec![("the output", &["response", "answer", "answer_2"])],
        Kind::Pairwise => vec![
            ("the output shown first", &["response_A", "output_1", "answer_a", "answer_a_2"]),
            ("the output shown second", &["response_B", "output_2", "answer_b", "answer_b_2"]),
        ],
    };
    if reference {
        all.push(("the reference", &["reference_answer", "ref_answer_1", "ref_answer_2"]));
    }
    all
}

/// The values for one question: the item up to a turn (from 1), and one output (absolute) or two (pairwise, in the
/// order shown), each turn by turn.
pub(crate) fn values(item: &Item, turn: usize, outputs: &[&[String]], rubric: Option<&Rubric>) -> Values {
    let mut values = Values::new();
    let at = |texts: &[String], n: usize| texts.get(n - 1).cloned().unwrap_or_default();
    for name in ["instruction", "question"] {
        values.insert(name, at(&item.turns, turn));
    }
    values.insert("question_1", at(&item.turns, 1));
    values.insert("question_2", at(&item.turns, 2));
    values.insert("reference_answer", at(&item.reference, turn));
    values.insert("ref_answer_1", at(&item.reference, 1));
    values.insert("ref_answer_2", at(&item.reference, 2));
    match outputs {
        [output] => {
            for name in ["response", "answer"] {
                values.insert(name, at(output, turn));
            }
            values.insert("answer_1", at(output, 1));
            values.insert("answer_2", at(output, 2));
        }
        [first, second, ..] => {
            for name in ["response_A", "output_1", "answer_a"] {
                values.insert(name, at(first, turn));
            }
            for name in ["response_B", "output_2", "answer_b"] {
                values.insert(name, at(second, turn));
            }
            values.insert("answer_a_1", at(first, 1));
            values.insert("answer_a_2", at(first, 2));
            values.insert("answer_b_1", at(second, 1));
            values.insert("answer_b_2", at(second, 2));
        }
        [] => {}
    }
    if let Some(rubric) = rubric {
        let text = if outputs.len() == 1 { rubric.absolute_text() } else { rubric.relative_text() };
        values.insert("rubric", text);
        values.insert("criterion", rubric.criterion.clone());
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_filled() {
        let item =
            Item { turns: vec!["q1".into(), "q2".into()], reference: vec!["r1".into(), "r2".into()], ..Item::new("q") };
        let rubric = Rubric::load("helpfulness").unwrap();
        let output = ["a1".to_owned(), "a2".to_owned()];
        let absolute = values(&item, 2, &[&output], Some(&rubric));
        assert!(ABSOLUTE.iter().all(|name| absolute.get(name).is_some_and(|text| !text.is_empty())));
        assert_eq!((absolute["answer"].as_str(), absolute["question"].as_str()), ("a2", "q2"));
        let pairwise = values(&item, 1, &[&output, &["b1".into(), "b2".into()]], Some(&rubric));
        assert!(PAIRWISE.iter().all(|name| pairwise.get(name).is_some_and(|text| !text.is_empty())));
        assert_eq!((pairwise["output_2"].as_str(), pairwise["answer_b_2"].as_str()), ("b1", "b2"));
    }
}
