//! What holds for every input.

use harness_judges::{
    Answer, Item, Orders, OutputSet, Plan, PlanOptions, Protocol, Template, Verdict, WinRate,
    parser::{fastchat_pair, fastchat_pair_rating, fastchat_rating, prometheus_eval_script, prometheus_package},
    results::{Bounded, prediction_powered},
};
use proptest::prelude::*;

/// Texts made of what parsers look for.
fn answer() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "[RESULT]",
        "[[",
        "]]",
        "[",
        "]",
        "A",
        "B",
        "C",
        "5",
        "10",
        "0",
        " ",
        "\n",
        "Score:",
        "Feedback:",
        ".",
        "é",
        "٣",
        "<html>",
        "I'm sorry",
        ",",
        "/5",
    ]);
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_breaks_a_parser_and_strict_verdicts_are_on_the_scale(text in answer()) {
        for name in Protocol::names() {
            let protocol = Protocol::load(name).unwrap();
            let read = protocol.read(&Answer::text(&text));
            match read.outcome.verdict() {
                Some(Verdict::Score(score)) => {
                    let [low, high] = protocol.scale.unwrap();
                    prop_assert!((low..=high).contains(&score), "{name}: {score} from {text:?}");
                }
                Some(Verdict::Preference(preference)) => prop_assert!([0.0, 0.5, 1.0].contains(&preference)),
                None => {}
            }
            protocol.compat().read(&Answer::text(&text));
        }
        let _ = (fastchat_rating(&text), fastchat_pair(&text), fastchat_pair_rating(&text));
        for kind in [harness_judges::Kind::Absolute, harness_judges::Kind::Pairwise] {
            let _ = (prometheus_package(kind, &text), prometheus_eval_script(kind, &text));
        }
    }

    #[test]
    fn text_of_any_kind_can_be_a_template(text in ".{0,80}") {
        let template = Template::new(text.clone());
        prop_assert_eq!(template.source(), &text);
        if template.placeholders().next().is_none() && !text.contains("{{") {
            prop_assert_eq!(template.render(&Default::default()), text);
        }
    }

    #[test]
    fn both_orders_mirror_each_other(a in "[a-z]{1,8}", b in "[a-z]{1,8}") {
        let items = [Item::new("Say a word.")];
        let set = |model: &str, text: &str| OutputSet::single_turn(model, [(items[0].id.clone(), text.to_owned())]);
        let (first, second) = (set("one", &a), set("two", &b));
        let options = PlanOptions { orders: Orders::Both, repeat_share: 0.0, self_pair_share: 0.0, ..PlanOptions::default() };
        let protocol = Protocol::load("mt-bench-pair").unwrap();
        let plan = Plan::pairwise(&protocol, None, &items, &[(&first, &second)], &options).unwrap();
        let back = Plan::pairwise(&protocol, None, &items, &[(&second, &first)], &options).unwrap();
        prop_assert_eq!(&plan.questions[0].messages, &back.questions[1].messages);
        prop_assert_eq!(&plan.questions[1].messages, &back.questions[0].messages);
    }

    #[test]
    fn swapping_the_models_mirrors_the_win_rate(values in prop::collection::vec(0.0f64..=1.0, 2..40)) {
        let there = WinRate::of_preferences(values.iter().copied());
        let back = WinRate::of_preferences(values.iter().map(|x| 1.0 - x));
        prop_assert!((there.win_rate + back.win_rate - 100.0).abs() < 1e-9);
        prop_assert_eq!(there.n_wins, back.n_wins_base);
    }

    #[test]
    fn the_bounds_hold_whatever_the_missing_verdicts_were(
        values in prop::collection::vec((0.0f64..=1.0, prop::bool::ANY), 3..40)
    ) {
        let gaps: Vec<[Option<f64>; 1]> = values.iter().map(|(x, known)| [known.then_some(*x)]).collect();
        if let Some(found) = Bounded::of_items(&gaps, [0.0, 1.0], 0.95) {
            let truth = values.iter().map(|(x, _)| x).sum::<f64>() / values.len() as f64;
            prop_assert!(found.worst <= truth + 1e-12 && truth <= found.best + 1e-12, "{found:?}");
            if let Some(interval) = found.interval.filter(|_| found.unparsed > 0) {
                prop_assert!(interval.low <= found.worst && found.best <= interval.high, "{found:?}");
            }
        }
    }

    #[test]
    fn a_judge_that_is_always_right_needs_no_correction(gold in prop::collection::vec(0.0f64..=1.0, 4..60)) {
        let (labelled, rest) = gold.split_at(gold.len() / 2);
        let pairs: Vec<(f64, f64)> = labelled.iter().map(|x| (*x, *x)).collect();
        let found = prediction_powered(&pairs, rest, 0.95).unwrap();
        prop_assert!(found.rectifier.abs() < 1e-12 && found.interval.contains(found.value));
    }
}
