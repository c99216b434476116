//! Agreement between raters beyond chance.

/// How disagreements count, by the distance of the categories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KappaWeights {
    /// All alike (Cohen 1960).
    Unweighted,
    /// By |i − j|.
    Linear,
    /// By (i − j)² (Cohen 1968).
    Quadratic,
}

impl KappaWeights {
    fn disagreement(self, i: usize, j: usize) -> f64 {
        let distance = i.abs_diff(j) as f64;
        match self {
            Self::Unweighted => f64::from(u8::from(i != j)),
            Self::Linear => distance,
            Self::Quadratic => distance * distance,
        }
    }
}

/// The table of two raters' categories: `counts[i][j]` items that the first put in i and the second in j.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    counts: Vec<Vec<u64>>,
    n: u64,
}

impl Agreement {
    /// Counts the categories of two raters, each below `categories`; `None` for unequal lengths or a category out of
    /// range.
    pub fn count(a: &[usize], b: &[usize], categories: usize) -> Option<Self> {
        if a.len() != b.len() || a.iter().chain(b).any(|&category| category >= categories) {
            return None;
        }
        let mut counts = vec![vec![0; categories]; categories];
        for (&i, &j) in a.iter().zip(b) {
            counts[i][j] += 1;
        }
        Some(Self { counts, n: a.len() as u64 })
    }

    /// Share of items on which the raters agree; NaN for no items.
    pub fn observed(&self) -> f64 {
        (0..self.counts.len()).map(|i| self.counts[i][i]).sum::<u64>() as f64 / self.n as f64
    }

    /// Cohen's kappa: 1 − Σ w·observed / Σ w·expected. NaN where it is undefined, because no disagreement is
    /// expected (both raters use one and the same category).
    pub fn kappa(&self, weights: KappaWeights) -> f64 {
        let (rows, columns) = self.margins();
        let (mut observed, mut expected) = (0.0, 0.0);
        for (i, counts) in self.counts.iter().enumerate() {
            for (j, &count) in counts.iter().enumerate() {
                let weight = weights.disagreement(i, j);
                observed += weight * count as f64 / self.n as f64;
                expected += weight * rows[i] * columns[j];
            }
        }
        if expected == 0.0 { f64::NAN } else { 1.0 - observed / expected }
    }

    /// Standard error of the unweighted kappa, for intervals (Fleiss, Cohen and Everitt 1969).
    pub fn kappa_standard_error(&self) -> f64 {
        let (rows, columns) = self.margins();
        let n = self.n as f64;
        let chance: f64 = rows.iter().zip(&columns).map(|(r, c)| r * c).sum();
        let kappa = self.kappa(KappaWeights::Unweighted);
        let (mut diagonal, mut rest) = (0.0, 0.0);
        for (i, counts) in self.counts.iter().enumerate() {
            for (j, &count) in counts.iter().enumerate() {
                let share = count as f64 / n;
                if i == j {
                    diagonal += share * (1.0 - (rows[i] + columns[i]) * (1.0 - kappa)).powi(2);
                } else {
                    rest += share * (columns[i] + rows[j]).powi(2);
                }
            }
        }
        let constant = (kappa - chance * (1.0 - kappa)).powi(2);
        let variance = (diagonal + (1.0 - kappa).powi(2) * rest - constant) / n;
        variance.max(0.0).sqrt() / (1.0 - chance)
    }

    /// Standard error of the unweighted kappa under the hypothesis that the raters are independent, for tests.
    pub fn kappa_null_standard_error(&self) -> f64 {
        let (rows, columns) = self.margins();
        let chance: f64 = rows.iter().zip(&columns).map(|(r, c)| r * c).sum();
        let cubes: f64 = rows.iter().zip(&columns).map(|(r, c)| r * c * (r + c)).sum();
        ((chance + chance * chance - cubes) / self.n as f64).max(0.0).sqrt() / (1.0 - chance)
    }

    /// Shares of the categories, by rater.
    fn margins(&self) -> (Vec<f64>, Vec<f64>) {
        let n = self.n as f64;
        let rows = self.counts.iter().map(|counts| counts.iter().sum::<u64>() as f64 / n).collect();
        let columns = (0..self.counts.len())
            .map(|j| self.counts.iter().map(|counts| counts[j]).sum::<u64>() as f64 / n)
            .collect();
        (rows, columns)
    }
}

/// Fleiss' kappa for any number of raters (Fleiss 1971): `counts[item][category]` raters, the same number for every
/// item. `None` if the rows differ in length or total, or there are fewer than two raters; NaN where it is undefined.
pub fn fleiss_kappa(counts: &[Vec<u64>]) -> Option<f64> {
    let (agreement, shares) = rater_agreement(counts)?;
    let chance: f64 = shares.iter().map(|share| share * share).sum();
    Some((agreement - chance) / (1.0 - chance))
}

/// Randolph's free-marginal kappa (Randolph 2005): chance agreement is one over the number of categories. `None` as
/// for [`fleiss_kappa`].
pub fn randolph_kappa(counts: &[Vec<u64>]) -> Option<f64> {
    let (agreement, shares) = rater_agreement(counts)?;
    let chance = 1.0 / shares.len() as f64;
    Some((agreement - chance) / (1.0 - chance))
}

/// Mean share of agreeing pairs of raters, and the share of each category.
fn rater_agreement(counts: &[Vec<u64>]) -> Option<(f64, Vec<f64>)> {
    let first = counts.first()?;
    let raters: u64 = first.iter().sum();
    if raters < 2 || counts.iter().any(|row| row.len() != first.len() || row.iter().sum::<u64>() != raters) {
        return None;
    }
    let items = counts.len() as f64;
    let pairs = (raters * (raters - 1)) as f64;
    let agreeing: f64 = counts.iter().flatten().map(|&c| (c * c.saturating_sub(1)) as f64 / pairs).sum();
    let shares = (0..first.len())
        .map(|j| counts.iter().map(|row| row[j]).sum::<u64>() as f64 / (items * raters as f64))
        .collect();
    Some((agreeing / items, shares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_category_only_is_undefined() {
        let agreement = Agreement::count(&[1, 1], &[1, 1], 2).unwrap();
        assert!(agreement.kappa(KappaWeights::Unweighted).is_nan());
        assert_eq!(agreement.observed(), 1.0);
    }

    #[test]
    fn bad_input_is_none() {
        assert_eq!(Agreement::count(&[0], &[0, 1], 2), None);
        assert_eq!(Agreement::count(&[2], &[0], 2), None);
        assert_eq!(fleiss_kappa(&[vec![1, 1], vec![2, 1]]), None);
        assert_eq!(fleiss_kappa(&[vec![1, 0]]), None);
        assert_eq!(fleiss_kappa(&[]), None);
    }
}
