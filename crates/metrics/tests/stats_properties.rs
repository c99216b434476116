//! Invariants of intervals, tests and corrections.

use harness_core::Seed;
use harness_metrics::stats::{
    Bootstrap, BootstrapInterval, Columns, Correction, McNemar, ProportionInterval, permutation_test,
    proportion_interval,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn corrections_never_lower_p_and_keep_its_order(p in prop::collection::vec(0.0..=1.0f64, 0..20)) {
        let corrections = [
            Correction::None, Correction::Bonferroni, Correction::Sidak, Correction::Holm, Correction::HolmSidak,
            Correction::Hochberg, Correction::BenjaminiHochberg, Correction::BenjaminiYekutieli,
        ];
        for correction in corrections {
            let adjusted = correction.adjust(&p);
            for i in 0..p.len() {
                prop_assert!(adjusted[i] >= p[i] - 1e-15 && adjusted[i] <= 1.0, "{correction:?}");
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j], "{correction:?}");
                }
            }
        }
    }

    #[test]
    fn intervals_of_a_mean_lie_within_the_data(scores in prop::collection::vec(-5.0..5.0f64, 2..40), seed: u64) {
        let bootstrap = Bootstrap::run(&Columns::of_means(&[&scores]).unwrap(), 200, Seed(seed));
        let (low, high) = scores.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
        for method in [BootstrapInterval::Percentile, BootstrapInterval::Bca] {
            if let Some(interval) = bootstrap.interval(|v| v[0], 0.9, method) {
                prop_assert!(interval.low <= interval.high);
                prop_assert!(interval.low >= low - 1e-9 && interval.high <= high + 1e-9);
            }
        }
    }

    #[test]
    fn tests_do_not_depend_on_which_system_comes_first(
        pairs in prop::collection::vec((0..3u8, 0..3u8), 1..60), seed: u64,
    ) {
        let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().map(|&(a, b)| (f64::from(a), f64::from(b))).unzip();
        let columns = Columns::of_means(&[&a, &b]).unwrap();
        let one = permutation_test(&columns, 0, 1, 200, Seed(seed)).unwrap();
        let other = permutation_test(&columns, 1, 0, 200, Seed(seed)).unwrap();
        prop_assert!(one.p > 0.0 && one.p <= 1.0);
        prop_assert_eq!((one.p, one.difference), (other.p, -other.difference));
        let right = |scores: &[f64]| scores.iter().map(|&x| f64::from(u8::from(x > 0.5))).collect::<Vec<f64>>();
        let forth = McNemar::count(&right(&a), &right(&b)).unwrap();
        let back = McNemar::count(&right(&b), &right(&a)).unwrap();
        prop_assert_eq!((forth.exact(), forth.mid_p()), (back.exact(), back.mid_p()));
    }

    #[test]
    fn proportion_intervals_hold_the_proportion(n in 1..400u64, share in 0.0..=1.0f64, confidence in 0.5..0.999f64) {
        let k = (share * n as f64).round() as u64;
        for method in [
            ProportionInterval::Wilson, ProportionInterval::ClopperPearson, ProportionInterval::AgrestiCoull,
            ProportionInterval::Normal,
        ] {
            let interval = proportion_interval(k, n, confidence, method).unwrap();
            prop_assert!(interval.low >= 0.0 && interval.high <= 1.0);
            prop_assert!(interval.low <= k as f64 / n as f64 + 1e-12 && interval.high >= k as f64 / n as f64 - 1e-12);
        }
    }
}
