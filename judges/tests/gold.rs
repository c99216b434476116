//! Judges against people, and against themselves.

use harness_core::MetricKey;
use harness_core::{Digest, Seed};
use harness_judges::{
    Judgment, Order, Outcome, Purpose, QuestionId, Subject, Unparsed, Verdict,
    results::{
        Combine, FindingInputs, against_gold, findings, flip_rate, pair_results, pair_scores, placebos, rated,
        shared_base, single_scores,
    },
};
use harness_metrics::comparison::{Caveat, JudgeFinding};

/// A judgment on item `i` with the candidate's preference; `None` is unparsed.
fn judgment(candidate: &str, i: usize, order: Order, purpose: Purpose, preference: Option<f64>) -> Judgment {
    let outcome = match preference {
        Some(preference) => Outcome::Parsed(Verdict::Preference(order.for_candidate(preference))),
        None => Outcome::Unparsed(Unparsed::NoVerdict),
    };
    let baseline = if purpose == Purpose::SelfPair { candidate } else { "base" };
    Judgment {
        question: QuestionId(Digest::of(format!("{candidate} {i} {order:?} {purpose:?}"))),
        item: format!("item {i:03}"),
        subject: Subject::Pair { baseline: baseline.into(), candidate: candidate.into() },
        turn: 1,
        order,
        purpose,
        repeat: u32::from(purpose == Purpose::Repeat),
        outcome,
        rationale: String::new(),
        label_share: None,
        raw: String::new(),
        attempts: 1,
    }
}

/// People prefer the candidate on `share` of the items; the judge adds wins on some of those it lost.
fn verdicts(candidate: &str, n: usize, share: f64, excess: f64) -> Vec<(usize, f64, f64)> {
    let at = |i: usize, step: usize| ((i * step) % 100) as f64 / 100.0;
    (0..n)
        .map(|i| {
            let gold = f64::from(u8::from(at(i + candidate.len(), 37) < share));
            let judge = if gold == 0.0 && at(i, 53) < excess { 1.0 } else { gold };
            (i, judge, gold)
        })
        .collect()
}

fn both_orders(candidate: &str, i: usize, preference: f64) -> [Judgment; 2] {
    [Order::BaselineFirst, Order::CandidateFirst]
        .map(|order| judgment(candidate, i, order, Purpose::Main, Some(preference)))
}

#[test]
fn labels_on_a_part_correct_the_judge() {
    let (mut judged, mut gold) = (vec![], vec![]);
    for (candidate, share, excess) in [("fair", 0.5, 0.0), ("sister", 0.4, 0.5)] {
        for (i, judge, label) in verdicts(candidate, 300, share, excess) {
            judged.extend(both_orders(candidate, i, judge));
            if i < 100 {
                gold.push(judgment(candidate, i, Order::BaselineFirst, Purpose::Main, Some(label)));
            }
        }
    }
    let results = against_gold(&judged, &gold, (300, 0.95, Seed(3))).unwrap();
    assert_eq!(results.len(), 2);
    let (fair, sister) = (&results[0], &results[1]);
    assert_eq!(fair.agreement.unwrap().kappa, 1.0);
    assert!((fair.corrected.value - 0.5).abs() < 0.02, "{:?}", fair.corrected);
    // The judge alone sees 70 %; people prefer it on 40 %.
    assert!((sister.corrected.judge_only - 0.7).abs() < 0.03, "{:?}", sister.corrected);
    assert!(
        sister.corrected.interval.contains(0.4) && !sister.corrected.interval.contains(0.7),
        "{:?}",
        sister.corrected
    );
    assert!((sister.offset - 0.3).abs() < 0.05 && sister.offset_interval.unwrap().low > 0.1, "{sister:?}");
    let text = sister.finding("people").to_string();
    assert!(text.starts_with("On 100 of 300 items with labels of people the judge is off by +"), "{text}");
    let rated = rated(&judged, &gold);
    let finding = |model: &str| shared_base(model, "llama", &rated, [0.0, 1.0], ("", 0.95));
    let JudgeFinding::SelfPreference { excess: Some(excess), interval: Some(interval), .. } = finding("sister") else {
        panic!("gold labels give figures")
    };
    assert!((excess - 0.3).abs() < 0.05 && interval.low > 0.1, "{excess} {interval:?}");
    // The judge is too friendly to a candidate: as much too unfriendly to the baseline.
    let JudgeFinding::SelfPreference { excess: Some(against), .. } = finding("base") else { panic!("figures") };
    assert!((against + 0.15).abs() < 0.03, "{against}");
    let unknown = finding("other").to_string();
    assert!(unknown.contains("not known without gold labels or another judge"), "{unknown}");
    let agreement = vec![("people".to_owned(), sister.agreement.unwrap())];
    let inputs = FindingInputs { agreement, ..FindingInputs::default() };
    let found = findings("t", "j", &judged, &inputs, 0.95);
    let low = |caveat: &Caveat| matches!(caveat, Caveat::Judge { finding: JudgeFinding::LowAgreement { .. }, .. });
    assert_eq!(found.iter().any(low), sister.agreement.unwrap().kappa < 0.41, "{found:?}");
}

#[test]
fn an_unsteady_judge_is_found_out_and_its_noise_is_in_the_interval() {
    let mut judged = vec![];
    for i in 0..100 {
        let first = f64::from(u8::from(i % 2 == 0));
        judged.extend(both_orders("new", i, first));
        // Every fourth of the repeated verdicts flips.
        if i < 40 {
            let again = if i % 4 == 0 { 1.0 - first } else { first };
            judged.push(judgment("new", i, Order::BaselineFirst, Purpose::Repeat, Some(again)));
        }
    }
    let flips = flip_rate(&judged, 0.95).unwrap();
    assert_eq!((flips.asked, flips.flipped, flips.rate, flips.variance), (40, 10, 0.25, 0.125));
    let result = &pair_results(&judged, Combine::Average, 0.95)[0];
    assert_eq!((result.win_rate.value, result.win_rate.n), (0.5, 100));
    let judge_error = (0.125f64 / 200.0).sqrt();
    assert!((result.judge_standard_error.unwrap() - judge_error).abs() < 1e-12);
    assert!(result.win_rate.standard_error > judge_error, "the whole includes the part");
    let found = findings("t", "j", &judged, &FindingInputs::default(), 0.95);
    assert!(
        matches!(&found[..], [Caveat::Judge { finding: JudgeFinding::UnsteadyJudge { asked: 40, .. }, .. }]),
        "{found:?}"
    );
}

#[test]
fn a_failed_placebo_and_an_exploitable_judge_are_found_out() {
    let mut judged: Vec<Judgment> = (0..40)
        .map(|i| judgment("new", i, Order::BaselineFirst, Purpose::SelfPair, Some(f64::from(u8::from(i % 10 != 0)))))
        .collect();
    for i in 0..40 {
        let wins = Some(f64::from(u8::from(i % 3 == 0)));
        judged.push(judgment("null answer", i, Order::BaselineFirst, Purpose::NullAnswer, wins));
    }
    assert!(!placebos(&judged, 0.95)[0].passed);
    let found = findings("t", "j", &judged, &FindingInputs::default(), 0.95);
    let [Caveat::Judge { finding: placebo, .. }, Caveat::Judge { finding: null, .. }] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(placebo.to_string().starts_with("`new` against itself comes out at 90.0 %"), "{placebo}");
    assert!(null.to_string().contains("wins 35.0 %"), "{null}");
    assert!(!null.advice().is_empty());
}

#[test]
fn unparsed_verdicts_are_in_tables_and_caveats() {
    let items: Vec<_> = (0..10)
        .map(|i| harness_judges::Item { id: format!("item {i:03}"), ..harness_judges::Item::new("x") })
        .collect();
    let mut judged = vec![];
    for i in 0..10 {
        judged.push(judgment("new", i, Order::BaselineFirst, Purpose::Main, (i > 1).then_some(1.0)));
        judged.push(judgment("new", i, Order::CandidateFirst, Purpose::Main, (i > 0).then_some(1.0)));
    }
    let key = MetricKey::new("win_rate", "j");
    let scores = pair_scores("set", &items, &judged, "base", Some("new"), Combine::Average, &key);
    assert_eq!(scores.iter().filter(|score| !score.parsed).count(), 1, "item 1 has one verdict, item 0 none");
    assert_eq!((scores[0].stats[0], scores[1].stats[0]), (0.5, 1.0));
    let own = pair_scores("set", &items, &judged, "base", None, Combine::Average, &key);
    assert!(own.iter().zip(&scores).all(|(a, b)| a.doc == b.doc && a.stats == [0.5, 1.0] && a.parsed));
    let pairs = pair_results(&judged, Combine::Average, 0.95);
    assert_eq!((pairs[0].win_rate.unparsed, pairs[0].win_rate.worst, pairs[0].win_rate.best), (3, 0.85, 1.0));
    let inputs = FindingInputs { pairs: &pairs, ..FindingInputs::default() };
    let found = findings("t", "j", &judged, &inputs, 0.95);
    assert!(found.iter().any(|caveat| caveat.to_string().contains("3 of 20 verdicts could not be read")), "{found:?}");
    let strict = pair_results(&judged, Combine::InconsistentIsTie, 0.95);
    assert_eq!(strict[0].win_rate.unparsed, 2, "an item with one order unread may or may not be a tie");
    assert!(single_scores("set", &items, &judged, "new", [1.0, 5.0], &key).iter().all(|score| !score.parsed));
}

#[test]
fn scores_are_corrected_too_and_half_labelled_questions_do_not_count() {
    let score = |i: usize, turn: usize, value: f64| Judgment {
        subject: Subject::Single { model: "new".into() },
        turn,
        outcome: Outcome::Parsed(Verdict::Score(value)),
        ..judgment("new", i, Order::BaselineFirst, Purpose::Main, Some(0.5))
    };
    let gold_value = |i: usize| 3.0 + ((i * 7) % 5) as f64;
    let (mut judged, mut gold) = (vec![], vec![]);
    for i in 0..80 {
        for turn in [1, 2] {
            judged.push(score(i, turn, gold_value(i) + 1.5 + (i % 2) as f64 * 0.5));
            if i < 30 && (turn == 1 || i != 7) {
                gold.push(score(i, turn, gold_value(i)));
            }
        }
    }
    let results = against_gold(&judged, &gold, (200, 0.95, Seed(1))).unwrap();
    let found = &results[0];
    assert_eq!((results.len(), found.baseline.as_deref(), found.model.as_str()), (1, None, "new"));
    assert_eq!((found.corrected.labelled, found.corrected.unlabelled), (29, 51), "question 7 has one turn of two");
    assert!((found.offset - 1.75).abs() < 0.05 && (found.corrected.value - 5.0).abs() < 0.1, "{found:?}");
    assert_eq!(found.agreement.unwrap().n, 59);
    let text = found.finding("people").to_string();
    assert!(text.contains("is off by +1.7") && !text.contains("points") && !text.contains('%'), "{text}");
}

#[test]
fn labels_that_all_say_the_same_have_an_interval_of_some_width() {
    let judged: Vec<Judgment> = (0..60).flat_map(|i| both_orders("new", i, 0.6 + (i % 3) as f64 / 10.0)).collect();
    let gold: Vec<Judgment> =
        (0..15).map(|i| judgment("new", i, Order::BaselineFirst, Purpose::Main, Some(0.0))).collect();
    let found = &against_gold(&judged, &gold, (100, 0.95, Seed(1))).unwrap()[0];
    let interval = found.corrected.interval;
    assert!(found.corrected.value == 0.0 && interval.low == 0.0 && interval.high > 0.15, "{interval:?}");
    assert!(found.normal_standard_error(0.95) > 0.07);
}
