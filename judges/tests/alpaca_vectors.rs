//! AlpacaEval against alpaca_eval's own numbers.

use harness_judges::{
    WinRate, is_switched,
    length_control::{
        Calibration, Folds, LengthControl, LengthControlOptions, LengthControlled, LengthRow, win_rate_of_weights,
    },
    parser::{label_preference, lmsys_parser, ranking_parser, regex_parser},
};
use harness_test_support::{Case, beside, close, float, skipped, vectors, vectors_dir};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|x| float(x).expect("a number")).collect()
}

fn check_win_rate(id: &str, rate: &WinRate, expected: &Value) {
    for (name, found) in [
        ("win_rate", rate.win_rate),
        ("standard_error", rate.standard_error),
        ("discrete_win_rate", rate.discrete_win_rate),
        ("n_wins", rate.n_wins as f64),
        ("n_wins_base", rate.n_wins_base as f64),
        ("n_draws", rate.n_draws as f64),
        ("n_total", rate.n_total as f64),
    ] {
        let expected = float(&expected[name]).expect(name);
        assert!(close(found, expected, 1e-9), "{id} {name}: {found} for {expected}");
    }
}

#[test]
fn win_rates() {
    for case in vectors("alpaca_winrate").unwrap_or_default() {
        check_win_rate(&case.id, &WinRate::of_annotations(numbers(&case.input["preference"])), &case.expected);
    }
}

#[test]
fn weighted_preferences() {
    for case in vectors("alpaca_logprob_parse").unwrap_or_default() {
        let pairs = case.input["top_logprobs"].as_array().expect("pairs");
        let logprobs: Vec<(String, f64)> =
            pairs.iter().map(|p| (p[0].as_str().expect("a token").into(), p[1].as_f64().expect("a number"))).collect();
        let labels =
            [&case.input["denominator"][0], &case.input["denominator"][1]].map(|l| l.as_str().expect("a label"));
        let numerator = case.input["numerator"].as_str().expect("a label");
        let binarize = case.input["is_binarize"].as_bool().expect("a flag");
        let found = label_preference(&logprobs, numerator, labels, binarize).unwrap_or(f64::NAN);
        let expected = float(&case.expected["parsed"]).expect("a preference");
        assert!(close(found, expected, 1e-12), "{}: {found} for {expected}", case.id);
        if let Some(stored) = case.expected["stored_in_repo"].as_f64() {
            let switched = case.input["is_switched"].as_bool().expect("a flag");
            let preference = if switched { 3.0 - found } else { found };
            assert!((preference - stored).abs() < 1e-9, "{}: {preference} for {stored}", case.id);
        }
    }
}

#[test]
fn other_parsers() {
    for case in vectors("alpaca_other_parsers").unwrap_or_default() {
        let text = case.input["completion"].as_str().expect("a text");
        let one = |found: Option<u8>| vec![found.map_or(f64::NAN, f64::from)];
        let found: Vec<f64> = match case.group.as_str() {
            "ranking_parser" => one(ranking_parser(text)),
            "lmsys_parser" => one(lmsys_parser(text)),
            "regex_parser" => {
                let patterns: Vec<(u8, &str)> = case.input["outputs_to_match"]
                    .as_object()
                    .expect("patterns")
                    .iter()
                    .map(|(key, pattern)| (key.parse().expect("a key"), pattern.as_str().expect("a pattern")))
                    .collect();
                regex_parser(text, &patterns).expect("patterns").into_iter().map(f64::from).collect()
            }
            other => panic!("unknown group {other}"),
        };
        let expected = numbers(&case.expected);
        let same = found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| close(*a, *b, 0.0));
        assert!(same, "{}: {found:?} for {expected:?}", case.id);
    }
}

#[test]
fn order_switches() {
    for case in vectors("alpaca_switch_seed").unwrap_or_default() {
        if case.group != "switch" {
            continue;
        }
        let instruction = case.input["instruction"].as_str().expect("a text");
        let seed = case.input["seed"].as_i64().expect("a seed");
        // Cases with another prefix test CPython's generator, which core's tests do.
        if case.input["prefix"] == "is_switched_outputs" {
            assert_eq!(Value::Bool(is_switched(instruction, seed)), case.expected["is_switched"], "{}", case.id);
        }
    }
}

#[test]
fn order_switches_of_the_official_instructions() {
    let (Some(cases), Some(folder)) = (vectors("alpaca_switch_seed"), beside("HARNESS_DATA_DIR", "data")) else {
        return;
    };
    let official: Vec<&Case> = cases.iter().filter(|case| case.group == "switch_official").collect();
    let file = folder.join("alpaca_eval/alpaca_eval_gpt4_baseline.jsonl.zst");
    if official.is_empty() || !file.is_file() {
        return skipped(format_args!("no case of the official instructions, or no {}", file.display()));
    }
    let items = harness_judges::files::alpaca_eval::read_outputs(&file).expect("the instructions");
    let bits: String =
        items.items.iter().map(|item| if is_switched(item.instruction(), 0) { '1' } else { '0' }).collect();
    for case in official {
        assert_eq!(Value::String(bits.clone()), case.expected["bits"], "{}", case.id);
    }
}

fn calibration() -> Option<Calibration> {
    let path = vectors_dir()?.join("alpaca_gamed_surrogate.csv");
    if !path.is_file() {
        skipped(format_args!("no {}", path.display()));
        return None;
    }
    Some(Calibration::read(Some(&path), None).expect("the calibration table"))
}

fn folds(n: usize) -> Folds {
    let path = vectors_dir().expect("vectors").join(format!("groupkfold_{n}.txt"));
    Folds::from_digits(&std::fs::read_to_string(path).expect("folds")).expect("digits")
}

fn rows(case: &Case) -> Vec<LengthRow> {
    let [preference, first, second] = ["preference", "len_1", "len_2"].map(|key| numbers(&case.input[key]));
    preference
        .iter()
        .enumerate()
        .map(|(index, preference)| LengthRow {
            preference: if *preference == 0.0 { 0.5 } else { preference - 1.0 },
            baseline_length: first[index],
            candidate_length: second[index],
            index,
        })
        .collect()
}

#[test]
fn length_controlled_win_rates() {
    let (Some(cases), Some(calibration)) = (vectors("alpaca_lc_models"), calibration()) else { return };
    for case in &cases {
        check_win_rate(&case.id, &WinRate::of_annotations(numbers(&case.input["preference"])), &case.expected["raw"]);
        let rows = rows(case);
        for variant in [LengthControl::V1, LengthControl::NoReg, LengthControl::Minimal] {
            let expected = &case.expected[variant.name()];
            if expected["chosen_C"].is_null() {
                // The baseline itself.
                let fit = LengthControlled::fit(&rows, variant, Some(&calibration), &LengthControlOptions::default());
                assert_eq!(fit.map(|fit| (fit.win_rate, fit.lc_standard_error)).ok(), Some((50.0, 0.0)), "{}", case.id);
                assert_eq!(expected["length_controlled_winrate"], 50.0, "{}", case.id);
                continue;
            }
            let converged = &expected["converged_at_chosen_C"];
            let n = if variant == LengthControl::V1 { rows.len() + calibration.gamed.len() } else { rows.len() };
            // At the C that the reference run chose: the same optimum.
            let chosen = expected["chosen_C"].as_f64();
            let at = |c: Option<f64>, folds: Folds| {
                LengthControlled::fit(&rows, variant, Some(&calibration), &LengthControlOptions { c, folds })
                    .expect("a fit")
            };
            let fit = at(chosen, Folds::Stable);
            assert_eq!(fit.doubt, None, "{} {}: a model of the leaderboard", case.id, variant.name());
            let target = float(&converged["length_controlled_winrate"]).expect("a rate");
            assert!(
                (fit.win_rate - target).abs() < 1e-4,
                "{} {}: {} for {target}",
                case.id,
                variant.name(),
                fit.win_rate
            );
            let error = float(&converged["lc_standard_error"]).expect("an error");
            assert!((fit.lc_standard_error - error).abs() < 1e-4, "{} {}", case.id, variant.name());
            let terms: Vec<f64> = match variant {
                LengthControl::Minimal => vec![fit.coefficients[0], fit.coefficients[2]],
                _ => fit.coefficients.to_vec(),
            };
            for (found, expected) in terms.iter().zip(numbers(&converged["coef"])) {
                assert!((found - expected).abs() < 1e-5, "{} {}: {terms:?}", case.id, variant.name());
            }
            // With the folds of the reference run.
            let path = vectors_dir().expect("vectors").join(format!("groupkfold_{n}.txt"));
            if path.exists() {
                let own = at(None, folds(n));
                let (own, chosen) = (own.c.expect("a C"), chosen.expect("a C"));
                assert!((own / chosen - 1.0).abs() < 1e-9, "{} {}: C {own} for {chosen}", case.id, variant.name());
            }
        }
    }
}

#[test]
fn win_rates_from_published_weights() {
    let (Some(cases), Some(calibration)) = (vectors("alpaca_lc_from_weights"), calibration()) else { return };
    for case in cases {
        let weights: [f64; 3] = numbers(&case.input["weights"]).try_into().expect("three weights");
        let found = win_rate_of_weights(weights, [0.0; 3], &calibration.difficulty);
        let expected = float(&case.expected["surrogate_length_controlled_winrate"]).expect("a rate");
        assert!((found - expected).abs() < 1e-9, "{}: {found} for {expected}", case.id);
    }
}
