//! McNemar's test on two paired columns of right and wrong answers.

use super::distribution::{binomial_half_cdf, binomial_half_pmf, binomial_half_test, chi_squared_sf};

/// The 2×2 table of two systems' answers to the same documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct McNemar {
    /// Both right.
    pub both: u64,
    /// Only the first right.
    pub only_a: u64,
    /// Only the second right.
    pub only_b: u64,
    /// Both wrong.
    pub neither: u64,
}

impl McNemar {
    /// Counts the table; `None` where the lengths differ or a score is neither 0 nor 1.
    pub fn count(a: &[f64], b: &[f64]) -> Option<Self> {
        let mut table = Self::default();
        if a.len() != b.len() {
            return None;
        }
        for pair in a.iter().zip(b) {
            match pair {
                (1.0, 1.0) => table.both += 1,
                (1.0, 0.0) => table.only_a += 1,
                (0.0, 1.0) => table.only_b += 1,
                (0.0, 0.0) => table.neither += 1,
                _ => return None,
            }
        }
        Some(table)
    }

    /// Number of documents.
    pub fn n(&self) -> u64 {
        self.both + self.only_a + self.only_b + self.neither
    }

    /// Documents on which the two differ.
    pub fn discordant(&self) -> u64 {
        self.only_a + self.only_b
    }

    /// Two-sided exact p: `min(1, 2·P(X ≤ min(b, c)))`, X ~ Binomial(b + c, ½) (McNemar 1947); 1 for no discordant pair.
    pub fn exact(&self) -> f64 {
        binomial_half_test(self.only_a, self.discordant())
    }

    /// The mid-p version, which counts the observed table by half (Fagerland, Lydersen and Laake 2013); 1 for b = c.
    pub fn mid_p(&self) -> f64 {
        if self.only_a == self.only_b {
            return 1.0;
        }
        let smaller = self.only_a.min(self.only_b);
        let (cdf, pmf) = (binomial_half_cdf(smaller, self.discordant()), binomial_half_pmf(smaller, self.discordant()));
        2.0 * cdf - pmf
    }

    /// Statistic and p of the asymptotic test, (b−c)²/(b+c), or (|b−c|−1)²/(b+c) with `continuity`; (0, 1) for no
    /// discordant pair.
    pub fn chi_squared(&self, continuity: bool) -> (f64, f64) {
        let discordant = self.discordant() as f64;
        if discordant == 0.0 {
            return (0.0, 1.0);
        }
        let distance = self.only_a.abs_diff(self.only_b) as f64 - if continuity { 1.0 } else { 0.0 };
        let statistic = distance * distance / discordant;
        (statistic, chi_squared_sf(statistic, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_only_zeros_and_ones() {
        let table = McNemar::count(&[1.0, 1.0, 0.0, 0.0, 0.0], &[1.0, 0.0, 1.0, 1.0, 0.0]).unwrap();
        assert_eq!((table.both, table.only_a, table.only_b, table.neither, table.n()), (1, 1, 2, 1, 5));
        assert_eq!(McNemar::count(&[0.5], &[1.0]), None);
        assert_eq!(McNemar::count(&[1.0], &[]), None);
    }

    #[test]
    fn no_discordance_is_no_evidence() {
        let table = McNemar::default();
        assert_eq!((table.exact(), table.mid_p(), table.chi_squared(true)), (1.0, 1.0, (0.0, 1.0)));
    }
}
