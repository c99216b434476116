//! What must hold for any texts.

use harness_metrics::{
    Average, Bleu, Chrf, ClassMeasure, Classification, ExactMatch, ExactMatchOptions, Matthews, Rouge, RougeType,
    Statistic, Ter, confusion_stats, token_f1,
};
use proptest::prelude::*;

/// Texts over few words, so that matches are common, with some characters of other scripts.
fn text(words: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let word = prop_oneof![8 => "[abc]{1,2}", 1 => "\\PC{1,3}", 1 => Just("3.5%,".to_owned())];
    proptest::collection::vec(word, words).prop_map(|words| words.join(" "))
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec((text(0..12), text(0..12)), 1..6)
}

proptest! {
    #[test]
    fn a_text_scores_full_marks_against_itself(words in proptest::collection::vec("[a-c]{1,3}", 4..30)) {
        let text = words.join(" ");
        prop_assert!((Bleu::default().sentence_score(&text, &[&text]).score - 100.0).abs() < 1e-9);
        prop_assert!((Chrf::plus_plus().sentence_score(&text, &[&text]) - 100.0).abs() < 1e-9);
        prop_assert_eq!(Ter::default().stats(&text, &[&text])[0], 0.0);
        for score in Rouge::new([RougeType::N(1), RougeType::N(2), RougeType::L, RougeType::Lsum], true).score(&text, &text) {
            prop_assert_eq!(score.fmeasure, 1.0);
        }
    }

    #[test]
    fn rouge_is_symmetric_in_precision_and_recall(a in text(0..20), b in text(0..20)) {
        let rouge = Rouge::new([RougeType::N(1), RougeType::N(2), RougeType::N(3), RougeType::L], true);
        for (forth, back) in rouge.score(&a, &b).iter().zip(rouge.score(&b, &a)) {
            prop_assert_eq!((forth.precision, forth.recall), (back.recall, back.precision));
            prop_assert!((0.0..=1.0).contains(&forth.fmeasure));
        }
        prop_assert_eq!(token_f1(&a, &[&b]), token_f1(&b, &[&a]));
    }

    #[test]
    fn summed_document_statistics_give_the_corpus_score(pairs in pairs()) {
        let (hypotheses, references): (Vec<String>, Vec<Vec<String>>) =
            pairs.iter().cloned().map(|(hypothesis, reference)| (hypothesis, vec![reference])).unzip();
        let (bleu, chrf, ter) = (Bleu::default(), Chrf::plus_plus(), Ter::default());
        let value = |statistic: Statistic, stats: &dyn Fn(&str, &[String]) -> Vec<f64>| {
            // From the last document to the first: the order must not matter.
            let documents: Vec<_> = hypotheses.iter().zip(&references).rev().map(|(h, r)| stats(h, r)).collect();
            documents.iter().for_each(|stats| assert_eq!(stats.len(), statistic.dim()));
            statistic.value(&statistic.sum(&documents))
        };
        let found = value(bleu.statistic(), &|h, r| bleu.stats(h, r));
        prop_assert_eq!(found, bleu.corpus(&hypotheses, &references).score);
        prop_assert_eq!(value(chrf.statistic(), &|h, r| chrf.stats(h, r)), chrf.corpus(&hypotheses, &references));
        prop_assert_eq!(value(ter.statistic(), &|h, r| ter.stats(h, r)), ter.corpus(&hypotheses, &references));
        prop_assert!((0.0..=100.0 + 1e-9).contains(&found));
    }

    #[test]
    fn edits_are_at_most_the_longer_text(a in text(0..20), b in text(0..20)) {
        let longer = a.split_whitespace().count().max(b.split_whitespace().count());
        let edits = Ter::default().stats(&a, &[&b])[0];
        prop_assert!(edits <= longer as f64, "{} edits", edits);
    }

    #[test]
    fn any_text_matches_itself_exactly(a in "\\PC{0,20}", case in any::<bool>(), punctuation in any::<bool>()) {
        let options =
            ExactMatchOptions { ignore_case: case, ignore_punctuation: punctuation, ..ExactMatchOptions::default() };
        prop_assert!(ExactMatch::new(options).unwrap().matches(&a, &[&a]).unwrap());
    }

    #[test]
    fn micro_averages_are_the_accuracy(labels in proptest::collection::vec((0usize..3, 0usize..3), 1..40)) {
        let micro = Classification { classes: 3, measure: ClassMeasure::F1, average: Average::Micro };
        let sums = micro.statistic().sum(labels.iter().map(|&(gold, predicted)| confusion_stats(3, gold, Some(predicted))));
        let correct = labels.iter().filter(|(gold, predicted)| gold == predicted).count();
        prop_assert!((micro.value(&sums) - correct as f64 / labels.len() as f64).abs() < 1e-12);
        let matthews = Statistic::Matthews(Matthews { classes: 3 }).value(&sums);
        prop_assert!((-1.0 - 1e-9..=1.0 + 1e-9).contains(&matthews));
    }
}
