//! Bootstrap intervals against scipy's, within Monte Carlo error.

use harness_core::Seed;
use harness_metrics::{
    Statistic,
    stats::{Bootstrap, BootstrapInterval, Columns},
};
use harness_test_support::{Case, close, float, vectors};

fn floats(case: &Case, name: &str) -> Vec<f64> {
    case.input[name].as_array().expect("an array").iter().map(|x| float(x).expect("a number")).collect()
}

/// The columns of a case and the function of their values it asks for.
fn columns(case: &Case) -> (Columns, fn(&[f64]) -> f64) {
    match case.input["statistic"].as_str().unwrap() {
        "mean" => (Columns::of_means(&[&floats(case, "x")]).unwrap(), |v| v[0]),
        "paired mean difference a-b" => {
            (Columns::of_means(&[&floats(case, "a"), &floats(case, "b")]).unwrap(), |v| v[0] - v[1])
        }
        // The ratio of two sums is the mean of stats [a, b].
        "ratio of sums a/b (paired resampling)" => {
            let pairs = floats(case, "a").into_iter().zip(floats(case, "b")).map(|(a, b)| [a, b]).collect();
            (Columns::new(Statistic::Mean, &[pairs]).unwrap(), |v| v[0])
        }
        other => panic!("{}: unknown statistic {other}", case.id),
    }
}

#[test]
fn intervals_agree_with_scipy() {
    let Some(cases) = vectors("bootstrap_ci") else { return };
    for case in &cases {
        let (columns, statistic) = columns(case);
        let confidence = float(&case.input["confidence"]).unwrap();
        // More than the 40,000 that the tolerance asks for: a quantile of binary scores jumps by a whole document.
        let bootstrap = Bootstrap::run(&columns, 160_000, Seed(1));
        let observed = statistic(bootstrap.observed());
        assert!(close(observed, float(&case.expected["point_estimate"]).unwrap(), 1e-12), "{}", case.id);
        let acceleration = float(&case.expected["bca_acceleration"]).unwrap();
        assert!(close(bootstrap.acceleration(statistic), acceleration, 1e-9), "{}", case.id);
        let methods = [
            ("percentile", BootstrapInterval::Percentile),
            ("basic", BootstrapInterval::Basic),
            ("BCa", BootstrapInterval::Bca),
        ];
        for (name, method) in methods {
            let expected = &case.expected[name];
            let (low, high) = (float(&expected["low"]).unwrap(), float(&expected["high"]).unwrap());
            let check = |end: &str, found: f64| {
                // The tolerance that the vectors state: six times the Monte Carlo error of one run.
                let noise = float(&expected["mc_sd_of_one_run"][end]).unwrap().max(0.004 * (high - low));
                let wanted = float(&expected[end]).unwrap();
                assert!((found - wanted).abs() <= 6.0 * noise + 1e-9, "{} {name} {end}: {found} {wanted}", case.id);
            };
            let interval = bootstrap.interval(statistic, confidence, method).unwrap();
            check("low", interval.low);
            check("high", interval.high);
            check("standard_error", bootstrap.standard_error(statistic));
        }
    }
}

#[test]
fn nominal_coverage_is_kept() {
    // 95 % intervals of the mean of 40 draws from a skewed distribution with mean 1.
    let covered = (0..400)
        .filter(|&trial| {
            let mut rng = Seed(trial).stream("coverage", 0);
            let draws: Vec<f64> = (0..40).map(|_| -(1.0 - rng.uniform()).ln()).collect();
            let bootstrap = Bootstrap::run(&Columns::of_means(&[&draws]).unwrap(), 1_000, Seed(trial));
            bootstrap.interval(|v| v[0], 0.95, BootstrapInterval::Bca).unwrap().contains(1.0)
        })
        .count();
    // Three binomial standard deviations below 0.93, the usual coverage of BCa here, and below 1.
    assert!((356..=395).contains(&covered), "{covered} of 400");
}
