//! Krippendorff's alpha: agreement of any number of raters, with gaps.

/// How far two ratings are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlphaLevel {
    /// Equal or not.
    Nominal,
    /// By how many ratings lie between them.
    Ordinal,
    /// (a − b)².
    Interval,
}

/// Krippendorff's alpha (Krippendorff 2011): 1 − observed over expected disagreement, from the coincidences of all pairs
/// of ratings of a unit. `units[u]` has the ratings of unit u, one a rater, `None` where a rater gave none; units with
/// fewer than two ratings do not count. NaN where it is undefined: no pair of ratings, or only one value is used.
pub fn krippendorff_alpha<U: AsRef<[Option<f64>]>>(units: &[U], level: AlphaLevel) -> f64 {
    let rated: Vec<Vec<f64>> = units
        .iter()
        .map(|unit| unit.as_ref().iter().flatten().copied().collect::<Vec<f64>>())
        .filter(|ratings| ratings.len() >= 2)
        .collect();
    let mut values: Vec<f64> = rated.iter().flatten().copied().collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let position = |x: f64| values.partition_point(|v| v.total_cmp(&x).is_lt());
    let k = values.len();
    let mut coincidences = vec![0.0; k * k];
    for ratings in &rated {
        let weight = 1.0 / (ratings.len() - 1) as f64;
        for (i, &a) in ratings.iter().enumerate() {
            for (j, &b) in ratings.iter().enumerate() {
                if i != j {
                    coincidences[position(a) * k + position(b)] += weight;
                }
            }
        }
    }
    let totals: Vec<f64> = (0..k).map(|c| coincidences[c * k..(c + 1) * k].iter().sum()).collect();
    let n: f64 = totals.iter().sum();
    let distance = |a: usize, b: usize| -> f64 {
        let (low, high) = (a.min(b), a.max(b));
        match level {
            _ if low == high => 0.0,
            AlphaLevel::Nominal => 1.0,
            AlphaLevel::Interval => (values[high] - values[low]).powi(2),
            AlphaLevel::Ordinal => {
                let between: f64 = totals[low..=high].iter().sum();
                (between - (totals[low] + totals[high]) / 2.0).powi(2)
            }
        }
    };
    let (mut observed, mut expected) = (0.0, 0.0);
    for a in 0..k {
        for b in 0..k {
            let apart = distance(a, b);
            observed += coincidences[a * k + b] * apart;
            expected += totals[a] * totals[b] * apart;
        }
    }
    if expected == 0.0 { f64::NAN } else { 1.0 - (n - 1.0) * observed / expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The four observers and twelve units of Krippendorff's "Computing Krippendorff's Alpha-Reliability" (2011).
    fn example() -> Vec<Vec<Option<f64>>> {
        let observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."];
        let rating = |row: &str, unit: usize| char::from(row.as_bytes()[unit]).to_digit(10).map(f64::from);
        (0..12).map(|unit| observers.iter().map(|row| rating(row, unit)).collect()).collect()
    }

    #[test]
    fn agrees_with_the_published_example() {
        let alpha = |level| (krippendorff_alpha(&example(), level) * 1000.0).round() / 1000.0;
        assert_eq!(alpha(AlphaLevel::Nominal), 0.743);
        assert_eq!(alpha(AlphaLevel::Ordinal), 0.815);
        assert_eq!(alpha(AlphaLevel::Interval), 0.849);
    }

    #[test]
    fn perfect_chance_and_undefined() {
        let perfect = [[Some(1.0), Some(1.0)], [Some(2.0), Some(2.0)]];
        assert_eq!(krippendorff_alpha(&perfect, AlphaLevel::Interval), 1.0);
        assert!(krippendorff_alpha(&[[Some(1.0), Some(1.0)]], AlphaLevel::Nominal).is_nan());
        assert!(krippendorff_alpha(&[[Some(1.0), None]], AlphaLevel::Nominal).is_nan());
        let opposite = [[Some(0.0), Some(1.0)], [Some(1.0), Some(0.0)]];
        assert!(krippendorff_alpha(&opposite, AlphaLevel::Nominal) < 0.0);
    }
}
