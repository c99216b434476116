//! Distribution functions and quantiles, accurate in the tails.
//!
//! The special functions are statrs's, except `erfc` (its error of 1e-10 is too large; libm's is below 1e-15);
//! quantiles are refined by Newton steps on the distribution function, so that
//! a quantile and its probability agree to about 1e-14, and upper tails are computed directly, never as `1 − cdf`.

use std::f64::consts::{PI, SQRT_2};

use libm::erfc;
use statrs::function::{
    beta::{checked_beta_reg, inv_beta_reg, ln_beta},
    erf::erfc_inv,
    gamma::checked_gamma_ur,
};

/// P(Z ≤ x) for a standard normal Z.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc(-x / SQRT_2)
}

/// P(Z > x) for a standard normal Z.
pub fn normal_sf(x: f64) -> f64 {
    0.5 * erfc(x / SQRT_2)
}

/// The standard normal quantile: x with P(Z ≤ x) = `p`; infinite at 0 and 1, NaN outside.
pub fn normal_quantile(p: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    if p == 0.0 || p == 1.0 {
        return if p == 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    // Work in the lower half, where probabilities keep their relative precision.
    let (tail, sign) = if p <= 0.5 { (p, 1.0) } else { (1.0 - p, -1.0) };
    let mut x = -SQRT_2 * erfc_inv(2.0 * tail);
    for _ in 0..3 {
        let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
        if density <= 0.0 || !x.is_finite() {
            break;
        }
        x -= (normal_cdf(x) - tail) / density;
    }
    sign * x
}

/// The two-sided normal critical value, e.g. 1.96 for a confidence of 0.95.
pub fn normal_critical(confidence: f64) -> f64 {
    -normal_quantile((1.0 - confidence) / 2.0)
}

/// P(T > x) for Student's t with `df` degrees of freedom; NaN unless `df` > 0.
pub fn student_t_sf(x: f64, df: f64) -> f64 {
    if df.is_nan() || df <= 0.0 || x.is_nan() {
        return f64::NAN;
    }
    if x.is_infinite() {
        return if x > 0.0 { 0.0 } else { 1.0 };
    }
    // P(|T| > |x|) = I(df/(df+x²); df/2, ½); below 1 its complement is the precise one.
    let square = x * x;
    let tail = if square < 1.0 {
        0.5 - 0.5 * regularised_beta(0.5, df / 2.0, square / (df + square))
    } else {
        0.5 * regularised_beta(df / 2.0, 0.5, df / (df + square))
    };
    if x >= 0.0 { tail } else { 1.0 - tail }
}

/// P(T ≤ x) for Student's t with `df` degrees of freedom.
pub fn student_t_cdf(x: f64, df: f64) -> f64 {
    student_t_sf(-x, df)
}

/// The quantile of Student's t with `df` degrees of freedom.
pub fn student_t_quantile(p: f64, df: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) || df.is_nan() || df <= 0.0 {
        return f64::NAN;
    }
    if p == 0.5 {
        return 0.0;
    }
    if p == 0.0 || p == 1.0 {
        return if p == 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    let (tail, sign) = if p < 0.5 { (p, -1.0) } else { (1.0 - p, 1.0) };
    // In log x the tail is smooth and monotone: bracket, then safeguarded Newton on log tail.
    let (mut low, mut high) = (-60.0_f64, 1.0_f64);
    while student_t_sf(high.exp(), df) > tail && high < 700.0 {
        low = high;
        high *= 2.0;
    }
    let mut u = normal_quantile(1.0 - tail).max(1e-3).ln().clamp(low, high);
    for _ in 0..200 {
        let x = u.exp();
        let sf = student_t_sf(x, df);
        if sf > tail {
            low = u;
        } else {
            high = u;
        }
        let log_density = -ln_beta(0.5, df / 2.0) - 0.5 * df.ln() - 0.5 * (df + 1.0) * (x * x / df).ln_1p();
        let step = (sf.ln() - tail.ln()) * sf / (log_density.exp() * x);
        let next = u + step;
        let next = if next > low && next < high { next } else { 0.5 * (low + high) };
        if (next - u).abs() <= 1e-16 * u.abs().max(1.0) {
            u = next;
            break;
        }
        u = next;
    }
    sign * u.exp()
}

/// P(X > x) for a chi-squared X with `df` degrees of freedom; 1 for x ≤ 0.
pub fn chi_squared_sf(x: f64, df: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    if df == 1.0 {
        return erfc((x / 2.0).sqrt());
    }
    checked_gamma_ur(df / 2.0, x / 2.0).unwrap_or(f64::NAN)
}

/// P(X ≤ x) for a Beta(a, b) X: the regularised incomplete beta function; NaN for parameters ≤ 0.
pub fn regularised_beta(a: f64, b: f64, x: f64) -> f64 {
    checked_beta_reg(a, b, x.clamp(0.0, 1.0)).unwrap_or(f64::NAN)
}

/// The quantile of Beta(a, b).
pub fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    if !(0.0..=1.0).contains(&p) || a.is_nan() || b.is_nan() || a <= 0.0 || b <= 0.0 {
        return f64::NAN;
    }
    if p == 0.0 || p == 1.0 {
        return p;
    }
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    let mut x = inv_beta_reg(a, b, p);
    if !(x > 0.0 && x < 1.0) {
        x = a / (a + b);
    }
    for _ in 0..200 {
        let cdf = regularised_beta(a, b, x);
        if cdf < p {
            low = x;
        } else {
            high = x;
        }
        let density = ((a - 1.0) * x.ln() + (b - 1.0) * (-x).ln_1p() - ln_beta(a, b)).exp();
        let next = x - (cdf - p) / density;
        let next = if next > low && next < high { next } else { 0.5 * (low + high) };
        if (next - x).abs() <= 1e-16 * x {
            return next;
        }
        x = next;
    }
    x
}

/// P(X = k) for X ~ Binomial(n, ½).
///
/// The product of ratios is carried with its own binary exponent, so the relative error is about k·1e-16 for any n.
pub fn binomial_half_pmf(k: u64, n: u64) -> f64 {
    if k > n {
        return 0.0;
    }
    let mut mantissa = 1.0_f64;
    let mut exponent = -(n as i64);
    for i in 1..=k.min(n - k) {
        mantissa *= (n - i + 1) as f64 / i as f64;
        if mantissa > 1e200 {
            mantissa *= 0.5_f64.powi(512);
            exponent += 512;
        }
    }
    while exponent < -512 {
        mantissa *= 0.5_f64.powi(512);
        exponent += 512;
    }
    mantissa * 2.0_f64.powi(exponent as i32)
}

/// P(X ≤ k) for X ~ Binomial(n, ½).
pub fn binomial_half_cdf(k: u64, n: u64) -> f64 {
    if k >= n {
        return 1.0;
    }
    if 2 * k >= n {
        return 1.0 - binomial_half_cdf(n - k - 1, n);
    }
    // Σ_{i≤k} C(n,i) = C(n,k)·(1 + k/(n−k+1)·(1 + (k−1)/(n−k+2)·(…))), with falling terms.
    let mut term = 1.0;
    let mut sum = 1.0;
    for i in (1..=k).rev() {
        term *= i as f64 / (n - i + 1) as f64;
        sum += term;
        if term < 1e-18 {
            break;
        }
    }
    binomial_half_pmf(k, n) * sum
}

/// Two-sided exact binomial test of k successes in n against ½ (the sign test); 1 for n = 0.
pub fn binomial_half_test(k: u64, n: u64) -> f64 {
    (2.0 * binomial_half_cdf(k.min(n.saturating_sub(k)), n)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_invert_distribution_functions() {
        for p in [1e-12, 1e-6, 0.01, 0.3, 0.5, 0.7, 0.999] {
            assert!((normal_cdf(normal_quantile(p)) / p - 1.0).abs() < 1e-12);
            for df in [1.0, 2.0, 7.5, 400.0] {
                let back = student_t_cdf(student_t_quantile(p, df), df);
                assert!((back / p - 1.0).abs() < 1e-10, "{p} {df} {back}");
            }
            for (a, b) in [(0.5, 0.5), (3.0, 90.0), (400.5, 2.5)] {
                let back = regularised_beta(a, b, beta_quantile(p, a, b));
                assert!((back / p - 1.0).abs() < 1e-9, "{p} {a} {b} {back}");
            }
        }
    }

    #[test]
    fn the_ends_and_nonsense_do_not_panic() {
        assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
        assert_eq!(student_t_quantile(1.0, 3.0), f64::INFINITY);
        assert!(normal_quantile(f64::NAN).is_nan() && normal_quantile(2.0).is_nan());
        assert!(student_t_sf(1.0, 0.0).is_nan() && beta_quantile(0.5, 0.0, 1.0).is_nan());
        assert_eq!(chi_squared_sf(-1.0, 3.0), 1.0);
    }

    #[test]
    fn half_binomial_sums_to_one_and_survives_large_n() {
        let total: f64 = (0..=301).map(|k| binomial_half_pmf(k, 301)).sum();
        assert!((total - 1.0).abs() < 1e-13);
        assert!((binomial_half_cdf(150, 301) - 0.5).abs() < 1e-13);
        // Φ(−10) ≈ 7.6e-24 for 10 standard deviations below the mean of a million tosses.
        let p = binomial_half_cdf(495_000, 1_000_000);
        assert!(p > 7e-24 && p < 8.2e-24, "{p}");
        assert_eq!(binomial_half_test(0, 0), 1.0);
    }
}
