//! sacreBLEU's paired significance tests on corpus BLEU and chrF.
//!
//! Scores are held exactly. p-values, means and half widths come from other random streams than numpy's, so they are
//! held within Monte Carlo error; p within the tolerance that the vectors state, 4·√(p(1−p)/m) + 2/m.

use harness_core::Seed;
use harness_metrics::{
    Bleu, Chrf, Statistic,
    stats::{Bootstrap, Columns, approximate_randomization, paired_bootstrap_sacrebleu, quantile_sorted},
};
use harness_test_support::{Case, close, float, vectors};
use serde_json::Value;

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("an array").iter().map(|x| x.as_str().expect("a text")).collect()
}

/// The columns of baseline and system under a metric's per-segment statistics.
fn columns(case: &Case, statistic: Statistic, stats: impl Fn(&str, &[&str]) -> Vec<f64>) -> Columns {
    let streams: Vec<Vec<&str>> = case.input["references"].as_array().unwrap().iter().map(texts).collect();
    let column = |name: &str| -> Vec<Vec<f64>> {
        let with_references = |(i, text)| {
            let references: Vec<&str> = streams.iter().map(|stream| stream[i]).collect();
            stats(text, &references)
        };
        texts(&case.input[name]).into_iter().enumerate().map(with_references).collect()
    };
    Columns::new(statistic, &[column("baseline"), column("system")]).unwrap()
}

#[test]
fn as_sacrebleu_reports_them() {
    let Some(cases) = vectors("mt_significance") else { return };
    for case in &cases {
        let (bleu, chrf) = (Bleu::default(), Chrf::default());
        let metrics = [
            ("BLEU", columns(case, bleu.statistic(), |text, references| bleu.stats(text, references))),
            ("chrF2", columns(case, chrf.statistic(), |text, references| chrf.stats(text, references))),
        ];
        let samples = case.input["n_samples"].as_u64().unwrap() as usize;
        for (name, columns) in metrics {
            let expected = &case.expected["results"][name];
            let what = format!("{} {name}", case.id);
            for (j, value) in columns.values().into_iter().enumerate() {
                assert!(close(value, float(&expected[j]["score"]).unwrap(), 1e-9), "{what} {j}: {value}");
            }
            let wanted = float(&expected[1]["p_value"]).unwrap();
            let p = match case.input["test_type"].as_str().unwrap() {
                "ar" => approximate_randomization(&columns, 0, 1, samples, Seed(12345)).unwrap(),
                "bs" => {
                    let bootstrap = Bootstrap::run(&columns, samples, Seed(12345));
                    for j in 0..2 {
                        check_resampled(&bootstrap, j, &expected[j], &format!("{what} {j}"));
                    }
                    paired_bootstrap_sacrebleu(&bootstrap, 0, 1).unwrap()
                }
                other => panic!("{what}: unknown test {other}"),
            };
            let m = samples as f64;
            let tolerance = 4.0 * (wanted * (1.0 - wanted) / m).sqrt() + 2.0 / m;
            assert!((p - wanted).abs() <= tolerance, "{what}: found {p}, expected {wanted} ± {tolerance}");
        }
    }
}

/// Mean and half width of the resampled values, after dropping a fortieth at each end.
fn check_resampled(bootstrap: &Bootstrap, column: usize, expected: &Value, what: &str) {
    let mut values = bootstrap.distribution(|v| v[column]);
    values.sort_by(f64::total_cmp);
    let m = values.len() as f64;
    let error = bootstrap.standard_error(|v| v[column]);
    let mean = values.iter().sum::<f64>() / m;
    let wanted = float(&expected["mean"]).unwrap();
    assert!((mean - wanted).abs() <= 6.0 * error / m.sqrt(), "{what}: mean {mean}, expected {wanted}");
    let half = 0.5 * (quantile_sorted(&values, 0.975) - quantile_sorted(&values, 0.025));
    let wanted = float(&expected["ci"]).unwrap();
    // The error of a 2.5 % quantile of m normal draws is about 2.67·σ/√m; two independent runs of two ends.
    assert!((half - wanted).abs() <= 6.0 * 2.67 * error / m.sqrt(), "{what}: half width {half}, expected {wanted}");
}
