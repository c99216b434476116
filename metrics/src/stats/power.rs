//! Power and the smallest difference that can be shown, for paired accuracy (Connor 1987; Card et al. 2020).

use super::distribution::{normal_cdf, normal_quantile};

/// The design of a paired comparison of two accuracies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDesign {
    /// Share of documents on which the two systems disagree.
    pub disagreement: f64,
    /// Two-sided level of the test.
    pub alpha: f64,
}

impl PairedDesign {
    /// Documents needed to show a difference `delta` with the given power by the Wald test; fractional.
    pub fn documents_needed(&self, delta: f64, power: f64) -> f64 {
        let z = self.critical() + normal_quantile(power);
        z * z * (self.disagreement - delta * delta) / (delta * delta)
    }

    /// The same for McNemar's test (Connor 1987).
    pub fn documents_needed_mcnemar(&self, delta: f64, power: f64) -> f64 {
        let root = self.critical() * self.disagreement.sqrt()
            + normal_quantile(power) * (self.disagreement - delta * delta).sqrt();
        root * root / (delta * delta)
    }

    /// The smallest difference of accuracies that n documents show with the given power (Wald):
    /// δ² = (z_{α/2}+z_β)²(p_disc − δ²)/n solved for δ.
    pub fn minimum_detectable(&self, n: usize, power: f64) -> f64 {
        let z = self.critical() + normal_quantile(power);
        let n = n as f64;
        z * (self.disagreement / n).sqrt() / (1.0 + z * z / n).sqrt()
    }

    /// The probability that n documents show a true difference `delta` (Wald; the far tail is ignored).
    pub fn power(&self, delta: f64, n: usize) -> f64 {
        let error = ((self.disagreement - delta * delta) / n as f64).sqrt();
        normal_cdf(delta.abs() / error - self.critical())
    }

    fn critical(&self) -> f64 {
        -normal_quantile(self.alpha / 2.0)
    }
}

/// The smallest true difference that an estimate with this standard error shows with the given power at a two-sided
/// level: (z_{α/2} + z_β)·SE.
pub fn minimum_detectable_difference(standard_error: f64, alpha: f64, power: f64) -> f64 {
    (normal_quantile(power) - normal_quantile(alpha / 2.0)) * standard_error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_at_the_minimum_is_the_power_asked_for() {
        let design = PairedDesign { disagreement: 0.2, alpha: 0.05 };
        let delta = design.minimum_detectable(500, 0.8);
        assert!((design.power(delta, 500) - 0.8).abs() < 1e-12);
        assert!((design.documents_needed(delta, 0.8) - 500.0).abs() < 1e-9);
    }
}
