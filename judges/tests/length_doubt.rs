//! A length-controlled win rate that the data do not bear out says so.

use harness_core::Seed;
use harness_judges::length_control::{Doubt, LengthControl, LengthControlOptions, LengthControlled, LengthRow};

fn rows(n: usize, preference: impl Fn(usize) -> f64) -> Vec<LengthRow> {
    let row = |index: usize| LengthRow {
        preference: preference(index),
        baseline_length: 100.0 + ((index * 17) % 41) as f64,
        candidate_length: 100.0 + ((index * 29) % 37) as f64,
        index,
    };
    (0..n).map(row).collect()
}

fn fit(rows: &[LengthRow]) -> LengthControlled {
    let fit = LengthControlled::fit(rows, LengthControl::Minimal, None, &LengthControlOptions::default()).unwrap();
    fit.with_interval(rows, None, 100, 0.95, Seed(1)).unwrap()
}

#[test]
fn a_rate_that_the_penalty_made_is_no_rate() {
    // Twelve losses by a hair: what a weak judge's label probabilities look like. Forty of them are enough for a rate.
    let few = fit(&rows(12, |i| 0.48 + (i % 3) as f64 / 200.0));
    assert_eq!((few.doubt, few.interval), (Some(Doubt::TooFew { n: 12 }), None));
    let enough = fit(&rows(40, |i| 0.488 + (i % 3) as f64 / 200.0));
    assert!(enough.doubt.is_none() && (enough.win_rate - 49.3).abs() < 0.1, "{enough:?}");
    // What four folds say is wrong about the fifth: held-out data are best predicted by nothing at all.
    let even = fit(&rows(40, |i| [0.9, 0.1, 0.9, 0.1, 0.45][i % 5]));
    let Some(Doubt::TermGone { unpenalised }) = even.doubt else { panic!("{even:?}") };
    assert!(even.win_rate == 50.0 && (unpenalised - 49.0).abs() < 2.0 && even.interval.is_none(), "{even:?}");
    for (preference, candidate) in [(0.0, false), (1.0, true)] {
        let side = fit(&rows(60, |_| preference));
        assert_eq!((side.doubt, side.interval), (Some(Doubt::OneSided { candidate }), None));
        assert!(side.doubt.unwrap().to_string().contains(if candidate {
            "the candidate was"
        } else {
            "the baseline was"
        }));
    }
}

#[test]
fn a_rate_that_follows_from_the_data_has_its_interval() {
    let found = fit(&rows(200, |i| f64::from(u8::from(i % 10 < 7))));
    assert_eq!(found.doubt, None);
    assert!((found.win_rate - 70.0).abs() < 2.0 && found.interval.unwrap().half_width() > 4.0, "{found:?}");
    let even = fit(&rows(40, |_| 0.5));
    assert_eq!((even.win_rate, even.doubt), (50.0, None));
}
