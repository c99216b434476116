//! AlpacaEval from outputs to the line of the leaderboard, without data from elsewhere.

use harness_core::Seed;
use harness_judges::{
    AlpacaEvalResult, Answer, AnswerForm, Asking, Item, Judgment, Order, Orders, OutputSet, Plan, PlanOptions,
    Protocol,
    files::alpaca_eval::{Annotation, AnnotationOrder, annotations, read_annotations, write_annotations},
    is_extreme_change, is_switched,
    length_control::{Calibration, GamedRow, LengthControl},
};
use serde_json::Value;

fn items(count: usize) -> Vec<Item> {
    (0..count).map(|i| Item::new(format!("Describe the colour of thing {i}."))).collect()
}

fn outputs(model: &str, items: &[Item], length: impl Fn(usize) -> usize) -> OutputSet {
    let text = |i: usize| format!("{model} {}", "é".repeat(length(i)));
    OutputSet::single_turn(model, items.iter().enumerate().map(|(i, item)| (item.id.clone(), text(i))))
}

/// A judge that prefers the longer output, the first a little, and the candidate a little.
fn judged(items: &[Item], base: &OutputSet, candidate: &OutputSet, orders: Orders) -> Vec<Judgment> {
    let protocol = Protocol::load("alpaca-eval").unwrap();
    let options = PlanOptions { orders, repeat_share: 0.0, self_pair_share: 0.0, ..PlanOptions::default() };
    let plan = Plan::pairwise(&protocol, None, items, &[(base, candidate)], &options).unwrap();
    let mut asking = Asking::new(plan);
    for ask in asking.pending() {
        let question = &asking.plan().questions[ask.index];
        let length = |set: &OutputSet| set.get(&question.item).unwrap()[0].chars().count() as f64;
        let position = if question.order == Order::CandidateFirst { 0.4 } else { -0.4 };
        let z = 0.3 + position + (length(candidate) - length(base)) / 40.0;
        let candidate_share = 1.0 / (1.0 + f64::exp(-z));
        let shares = match question.order {
            Order::BaselineFirst => [1.0 - candidate_share, candidate_share],
            Order::CandidateFirst => [candidate_share, 1.0 - candidate_share],
        };
        let AnswerForm::Labels { labels, .. } = &ask.form else { panic!("labels are asked for") };
        let logprobs = labels.iter().cloned().zip(shares.map(|p| (0.9 * p).ln())).collect();
        asking.record(ask.index, &Answer::Labels { logprobs });
    }
    asking.finish()
}

fn lengths(i: usize) -> usize {
    20 + (i * 29) % 71
}

#[test]
fn one_order_of_both_is_what_the_tool_would_have_asked() {
    let items = items(30);
    let (base, candidate) = (outputs("base", &items, |_| 50), outputs("new", &items, lengths));
    let both = judged(&items, &base, &candidate, Orders::Both);
    let one = judged(&items, &base, &candidate, Orders::AlpacaEval);
    assert_eq!((both.len(), one.len()), (60, 30));
    let make = |judgments: &[Judgment], order| annotations(&items, &base, &candidate, judgments, "j", order).unwrap();
    let (from_both, from_one) = (make(&both, AnnotationOrder::AlpacaEval), make(&one, AnnotationOrder::AlpacaEval));
    assert_eq!(from_both, from_one);
    for (annotation, judgment) in from_one.iter().zip(&one) {
        assert_eq!(is_switched(&annotation.instruction, 0), judgment.order == Order::CandidateFirst);
        assert_eq!(annotation.preference, judgment.candidate_preference().map(|p| 1.0 + p));
    }
    assert!(
        one.iter().any(|j| j.order == Order::CandidateFirst) && one.iter().any(|j| j.order == Order::BaselineFirst)
    );
    // Both orders: the pull of position is out.
    for annotation in make(&both, AnnotationOrder::Both) {
        let z: f64 =
            0.3 + (annotation.output_2.chars().count() as f64 - annotation.output_1.chars().count() as f64) / 40.0;
        let mean = [-0.4, 0.4].map(|position| 1.0 / (1.0 + f64::exp(-z - position))).iter().sum::<f64>() / 2.0;
        assert!((annotation.preference.unwrap() - 1.0 - mean).abs() < 1e-12);
    }
}

#[test]
fn annotations_are_written_as_the_tool_reads_them() {
    let items = items(3);
    let (base, candidate) = (outputs("base", &items, |_| 5), outputs("new", &items, |i| i));
    let mut judgments = judged(&items, &base, &candidate, Orders::AlpacaEval);
    judgments[1].outcome = harness_judges::Outcome::Unparsed(harness_judges::Unparsed::NoLabel);
    let made = annotations(&items, &base, &candidate, &judgments, "judge", AnnotationOrder::AlpacaEval).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("annotations.json");
    write_annotations(&path, &made).unwrap();
    assert_eq!(read_annotations(&path).unwrap(), made);
    let json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let keys: Vec<&String> = json[0].as_object().unwrap().keys().collect();
    let expected = [
        "instruction",
        "output_1",
        "generator_1",
        "dataset",
        "output_2",
        "generator_2",
        "annotator",
        "preference",
        "raw_completion",
        "time_per_example",
        "price_per_example",
    ];
    assert_eq!(keys, expected);
    assert_eq!(json[1]["preference"], Value::Null);
    std::fs::write(&path, "[{\"instruction\": \"x\", \"preference\": 1}]").unwrap();
    let error = read_annotations(&path).unwrap_err().to_string();
    assert!(error.contains("row 1") && error.contains("output_1"), "{error}");
}

fn result(annotations: &[Annotation], calibration: Option<&Calibration>, seed: u64) -> AlpacaEvalResult {
    AlpacaEvalResult::of_annotations(annotations, calibration, (400, 0.95, Seed(seed))).unwrap().unwrap()
}

#[test]
fn length_control_finds_the_rate_at_equal_lengths() {
    let items = items(200);
    let base = outputs("base", &items, |_| 40);
    let candidate = outputs("longer", &items, |i| 40 + lengths(i));
    let judgments = judged(&items, &base, &candidate, Orders::Both);
    let made = annotations(&items, &base, &candidate, &judgments, "j", AnnotationOrder::Both).unwrap();
    let found = result(&made, None, 1);
    assert_eq!((found.rates.n_total, found.unparsed, found.model.as_str()), (200, 0, "longer"));
    assert_eq!(found.avg_length, 7 + (0..200).map(|i| 40 + lengths(i)).sum::<usize>() / 200);
    let controlled = found.length_controlled_win_rate().unwrap();
    // At equal lengths the judge is at 0.3 log-odds: 57 %. All outputs are longer, so this is extrapolated by a tanh that
    // the judge does not have; the raw rate is far off.
    assert!(found.rates.win_rate > 80.0 && controlled.win_rate < found.rates.win_rate - 15.0, "{found:?}");
    assert!(controlled.coefficients[0] < 0.0, "longer candidates win: {controlled:?}");
    let interval = controlled.interval.unwrap();
    assert!(interval.contains(controlled.win_rate) && interval.half_width() > 0.1, "{controlled:?}");
    assert!(found.is_extreme_change);
}

#[test]
fn intervals_depend_on_data_and_seed_alone() {
    let items = items(60);
    let (base, candidate) = (outputs("base", &items, |_| 50), outputs("new", &items, lengths));
    let judgments = judged(&items, &base, &candidate, Orders::Both);
    let made = annotations(&items, &base, &candidate, &judgments, "j", AnnotationOrder::Both).unwrap();
    let gamed: Vec<GamedRow> = (0..120)
        .map(|i| GamedRow {
            preference: if i < 60 { 0.6 } else { 0.3 },
            index: i % 60,
            std_delta_len: if i < 60 { -1.0 } else { 1.0 },
            instruction_difficulty: ((i % 60) as f64 / 20.0 - 1.5).sin(),
            model: if i < 60 { "verbose" } else { "concise" }.into(),
        })
        .collect();
    let difficulty = gamed[..60].iter().map(|row| row.instruction_difficulty).collect();
    let calibration = Calibration { difficulty, gamed };
    let first = result(&made, Some(&calibration), 7);
    assert_eq!(first.length_controlled.len(), 3);
    assert_eq!(first.length_controlled[0].variant, LengthControl::V1);
    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(single.install(|| result(&made, Some(&calibration), 7)), first);
    assert_ne!(result(&made, Some(&calibration), 8).length_controlled[0].interval, first.length_controlled[0].interval);
    // Difficulties alone are enough for the variant without gamed baselines.
    let alone = Calibration { gamed: vec![], ..calibration.clone() };
    let variants: Vec<LengthControl> =
        result(&made, Some(&alone), 7).length_controlled.iter().map(|fit| fit.variant).collect();
    assert_eq!(variants, [LengthControl::NoReg, LengthControl::Minimal]);
    let short = Calibration { difficulty: vec![0.0; 10], gamed: vec![] };
    let error = AlpacaEvalResult::of_annotations(&made, Some(&short), (10, 0.95, Seed(1))).unwrap_err().to_string();
    assert!(error.contains("no difficulty is known for instruction 10"), "{error}");
}

#[test]
fn the_baseline_against_itself_is_even() {
    let items = items(20);
    let base = outputs("base", &items, lengths);
    let judgments = judged(&items, &base, &base, Orders::AlpacaEval);
    let made = annotations(&items, &base, &base, &judgments, "j", AnnotationOrder::AlpacaEval).unwrap();
    let found = result(&made, None, 1);
    assert_eq!((found.rates.win_rate, found.rates.n_draws), (50.0, 20));
    assert_eq!(found.length_controlled[0].win_rate, 50.0);
    assert_eq!(
        (is_extreme_change(50.0, 61.0), is_extreme_change(50.0, 63.0), is_extreme_change(20.0, 9.0)),
        (false, true, true)
    );
}
