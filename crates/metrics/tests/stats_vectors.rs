//! Statistics against reference vectors (scipy, statsmodels, scikit-learn).

use harness_metrics::stats::{
    Agreement, ClusterCorrection, Correction, KappaWeights, McNemar, PairedDesign, PairedDifference,
    ProportionInterval, bernoulli_standard_error, clustered_standard_error, correlation, distribution as dist,
    fleiss_kappa, mean, mean_standard_error, proportion_interval, randolph_kappa, sign_test, unpaired_standard_error,
    wilcoxon_signed_rank,
};
use harness_test_support::{close, float, vectors};
use serde_json::Value;

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|x| float(x).expect("a number")).collect()
}

fn counts(value: &Value) -> Vec<usize> {
    value.as_array().expect("an array").iter().map(|x| x.as_u64().expect("a count") as usize).collect()
}

fn number(value: &Value, name: &str) -> f64 {
    float(&value[name]).unwrap_or_else(|| panic!("no number {name}"))
}

/// Asserts agreement to a relative tolerance.
fn relative(found: f64, expected: f64, tolerance: f64, what: &str) {
    let agree = found == expected
        || (found.is_nan() && expected.is_nan())
        || (found - expected).abs() <= tolerance * expected.abs();
    assert!(agree, "{what}: found {found:e}, expected {expected:e}");
}

/// Asserts agreement to a tolerance, absolute below 1 and relative above.
fn near(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(close(found, expected, tolerance), "{what}: found {found}, expected {expected}");
}

#[test]
fn distributions() {
    let Some(cases) = vectors("distributions") else { return };
    for case in &cases {
        let (input, id) = (&case.input, &case.id);
        for (name, expected) in case.expected.as_object().unwrap() {
            let table = |f: &dyn Fn(f64) -> f64| {
                for (parameter, expected) in expected.as_object().unwrap() {
                    let expected = float(expected).unwrap();
                    relative(f(parameter.parse().unwrap()), expected, 1e-10, &format!("{id} {name} {parameter}"));
                }
            };
            let one = |found: f64| relative(found, float(expected).unwrap(), 1e-10, &format!("{id} {name}"));
            let (p, x) = (float(&input["p"]), float(&input["x"]));
            let (k, n) = (input["k"].as_u64(), input["n"].as_u64());
            match name.as_str() {
                "norm_ppf" => one(dist::normal_quantile(p.unwrap())),
                "norm_cdf" => one(dist::normal_cdf(x.unwrap())),
                "norm_sf" => one(dist::normal_sf(x.unwrap())),
                "t_ppf" => table(&|df| dist::student_t_quantile(p.unwrap(), df)),
                "t_sf" => table(&|df| dist::student_t_sf(x.unwrap(), df)),
                "chi2_sf" => table(&|df| dist::chi_squared_sf(x.unwrap().abs(), df)),
                "binom_cdf_half" => one(dist::binomial_half_cdf(k.unwrap(), n.unwrap())),
                "binomtest_two_sided_half" => one(dist::binomial_half_test(k.unwrap(), n.unwrap())),
                "beta_ppf" => table(&|q| {
                    let (k, n) = (k.unwrap() as f64, n.unwrap() as f64);
                    dist::beta_quantile(q, k + 0.5, n - k + 0.5)
                }),
                other => panic!("{id}: unknown expectation {other}"),
            }
        }
    }
}

#[test]
fn clustered_errors() {
    let Some(cases) = vectors("clustered_se") else { return };
    for case in &cases {
        let (values, clusters) = (floats(&case.input["y"]), counts(&case.input["cluster"]));
        let check =
            |name: &str, found| near(found, number(&case.expected, name), 1e-10, &format!("{} {name}", case.id));
        check("mean", mean(&values));
        check("se_clt", mean_standard_error(&values));
        check("se_cluster_cr0", clustered_standard_error(&values, &clusters, ClusterCorrection::Cr0));
        check("se_cluster_statsmodels_cr1", clustered_standard_error(&values, &clusters, ClusterCorrection::Cr1));
        if values.iter().all(|&x| x == 0.0 || x == 1.0) {
            let n = values.len() as f64;
            let bernoulli = bernoulli_standard_error(mean(&values), values.len()) * (n / (n - 1.0)).sqrt();
            check("se_clt", bernoulli);
        }
    }
}

#[test]
fn paired_tests() {
    let Some(cases) = vectors("paired_tests") else { return };
    for case in &cases {
        let (a, b) = (floats(&case.input["a"]), floats(&case.input["b"]));
        let difference = PairedDifference::new(&a, &b).unwrap();
        let interval = difference.interval_normal(0.95);
        for (name, expected) in case.expected.as_object().unwrap() {
            let what = format!("{} {name}", case.id);
            let check = |found: f64| near(found, float(expected).unwrap(), 1e-9, &what);
            match name.as_str() {
                "mean_diff" => check(difference.mean),
                "se_paired" => check(difference.standard_error),
                "se_unpaired" => check(unpaired_standard_error(&a, &b)),
                "corr" => check(correlation(&a, &b)),
                "z" | "t" => check(difference.t()),
                "p_z" => check(difference.p_normal()),
                "p_t" => check(difference.p_student()),
                "ci95_z" => {
                    let ends = floats(expected);
                    near(interval.low, ends[0], 1e-9, &what);
                    near(interval.high, ends[1], 1e-9, &what);
                }
                "wilcoxon_stat" => check(wilcoxon_signed_rank(&a, &b).unwrap().0),
                "wilcoxon_p_approx" => check(wilcoxon_signed_rank(&a, &b).unwrap().1),
                "sign_test_p" => check(sign_test(&a, &b).unwrap()),
                tost => {
                    let margin: f64 = tost.strip_prefix("tost_p_delta_").unwrap().parse().unwrap();
                    check(difference.equivalence_p(margin));
                }
            }
        }
    }
}

#[test]
fn mcnemar() {
    let Some(cases) = vectors("mcnemar") else { return };
    for case in &cases {
        let count = |name: &str| case.input[name].as_u64().unwrap();
        let table = McNemar {
            both: count("both_correct"),
            only_a: count("only_a_correct"),
            only_b: count("only_b_correct"),
            neither: count("both_wrong"),
        };
        for (name, expected) in case.expected.as_object().unwrap() {
            let found = match name.as_str() {
                "exact_statistic" => table.only_a.min(table.only_b) as f64,
                "exact_p" => table.exact(),
                "mid_p" => table.mid_p(),
                "chi2_statistic" => table.chi_squared(false).0,
                "chi2_p" => table.chi_squared(false).1,
                "chi2_cc_statistic" => table.chi_squared(true).0,
                "chi2_cc_p" => table.chi_squared(true).1,
                other => panic!("{}: unknown expectation {other}", case.id),
            };
            relative(found, float(expected).unwrap(), 1e-10, &format!("{} {name}", case.id));
        }
    }
}

#[test]
fn multiple_testing() {
    let Some(cases) = vectors("multiple_testing") else { return };
    for case in &cases {
        let raw = floats(&case.input["p_values"]);
        let alpha = number(&case.input, "alpha");
        for (name, expected) in case.expected.as_object().unwrap() {
            let correction = match name.as_str() {
                "bonferroni" => Correction::Bonferroni,
                "sidak" => Correction::Sidak,
                "holm" => Correction::Holm,
                "holm-sidak" => Correction::HolmSidak,
                "simes-hochberg" => Correction::Hochberg,
                "fdr_bh" => Correction::BenjaminiHochberg,
                "fdr_by" => Correction::BenjaminiYekutieli,
                other => panic!("{}: unknown method {other}", case.id),
            };
            let adjusted = correction.adjust(&raw);
            for (i, expected) in floats(&expected["p_adjusted"]).into_iter().enumerate() {
                near(adjusted[i], expected, 1e-12, &format!("{} {name} {i}", case.id));
            }
            let rejected: Vec<bool> = adjusted.iter().map(|&p| p <= alpha).collect();
            assert_eq!(Value::from(rejected), expected["reject"], "{} {name}", case.id);
        }
    }
}

#[test]
fn power() {
    let Some(cases) = vectors("power_mde") else { return };
    for case in &cases {
        let input = |name: &str| number(&case.input, name);
        let design = PairedDesign { disagreement: input("p_disagree"), alpha: input("alpha") };
        let (delta, power) = (input("acc_b") - input("acc_a"), input("power"));
        for (name, expected) in case.expected.as_object().unwrap() {
            let n = || name.split('_').find_map(|part| part.parse::<usize>().ok()).expect("a number of documents");
            let found = match name.as_str() {
                "n_required_wald" => design.documents_needed(delta, power),
                "n_required_mcnemar_connor" => design.documents_needed_mcnemar(delta, power),
                name if name.starts_with("mde_at_n_") => design.minimum_detectable(n(), power),
                name if name.starts_with("power_at_n_") => design.power(delta, n()),
                other => panic!("{}: unknown expectation {other}", case.id),
            };
            near(found, float(expected).unwrap(), 1e-9, &format!("{} {name}", case.id));
        }
    }
}

#[test]
fn kappa() {
    let Some(cases) = vectors("kappa") else { return };
    for case in &cases {
        if case.group == "fleiss" {
            let rows = case.input["counts_subject_by_category"].as_array().unwrap();
            let rows: Vec<Vec<u64>> = rows.iter().map(|row| counts(row).iter().map(|&c| c as u64).collect()).collect();
            near(fleiss_kappa(&rows).unwrap(), number(&case.expected, "fleiss"), 1e-10, &case.id);
            near(randolph_kappa(&rows).unwrap(), number(&case.expected, "randolph"), 1e-10, &case.id);
            continue;
        }
        let labels = counts(&case.input["labels"]);
        let of = |name: &str| -> Vec<usize> {
            let position = |rating| labels.iter().position(|&label| label == rating).expect("a known label");
            counts(&case.input[name]).into_iter().map(position).collect()
        };
        let agreement = Agreement::count(&of("rater_a"), &of("rater_b"), labels.len()).unwrap();
        let error = agreement.kappa_standard_error();
        let kappa = agreement.kappa(KappaWeights::Unweighted);
        for (name, expected) in case.expected.as_object().unwrap() {
            let what = format!("{} {name}", case.id);
            let check = |found: f64| near(found, float(expected).unwrap_or(f64::NAN), 1e-10, &what);
            match name.as_str() {
                "unweighted" => check(kappa),
                "linear" => check(agreement.kappa(KappaWeights::Linear)),
                "quadratic" => check(agreement.kappa(KappaWeights::Quadratic)),
                "observed_agreement" => check(agreement.observed()),
                "sm_var_kappa" => check(error * error),
                "sm_std_kappa" => check(error),
                "sm_std_kappa0" => check(agreement.kappa_null_standard_error()),
                "sm_ci95" => {
                    let half = dist::normal_critical(0.95) * error;
                    let ends = floats(expected);
                    near(kappa - half, ends[0], 1e-10, &what);
                    near(kappa + half, ends[1], 1e-10, &what);
                }
                other => panic!("{}: unknown expectation {other}", case.id),
            }
        }
    }
}

#[test]
fn proportions() {
    let Some(cases) = vectors("proportion_ci") else { return };
    for case in &cases {
        let count = |name: &str| case.input[name].as_u64().unwrap();
        let confidence = 1.0 - number(&case.input, "alpha");
        for (name, expected) in case.expected.as_object().unwrap() {
            let method = match name.as_str() {
                "wilson" => ProportionInterval::Wilson,
                "normal" => ProportionInterval::Normal,
                "agresti_coull" => ProportionInterval::AgrestiCoull,
                "beta" => ProportionInterval::ClopperPearson,
                "jeffreys" => ProportionInterval::Jeffreys,
                other => panic!("{}: unknown method {other}", case.id),
            };
            let interval = proportion_interval(count("successes"), count("n"), confidence, method).unwrap();
            let ends = floats(expected);
            near(interval.low, ends[0], 1e-9, &format!("{} {name} low", case.id));
            near(interval.high, ends[1], 1e-9, &format!("{} {name} high", case.id));
        }
    }
}
