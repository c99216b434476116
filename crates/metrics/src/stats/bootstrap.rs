//! The bootstrap: percentile and BCa intervals of any function of jointly resampled columns.

use harness_core::Seed;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Columns, Interval,
    distribution::{normal_cdf, normal_quantile},
    fast_rng::FastRng,
    interval::quantile_sorted,
};

/// How an interval is read off the resampled values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootstrapInterval {
    /// Quantiles of the resampled values (Efron 1979).
    Percentile,
    /// The percentile interval reflected at the estimate (Davison and Hinkley 1997).
    Basic,
    /// Bias-corrected and accelerated (Efron 1987).
    #[default]
    Bca,
}

/// Values of k columns in B resamples of their units, with the jackknife values for BCa.
///
/// Resample i draws its units from a xoshiro256++ generator seeded by `Seed::stream("bootstrap", i)`; so the numbers
/// depend on seed and data alone, not on threads, and equal resamples are used for all columns (paired).
#[derive(Clone, Debug)]
pub struct Bootstrap {
    count: usize,
    units: usize,
    observed: Vec<f64>,
    /// Resample-major: `resamples × count`.
    resampled: Vec<f64>,
    /// Unit-major: `units × count`.
    jackknife: Vec<f64>,
}

impl Bootstrap {
    /// Draws `resamples` resamples of the units, jointly for all columns.
    pub fn run(columns: &Columns, resamples: usize, seed: Seed) -> Self {
        let count = columns.count();
        let mut resampled = vec![f64::NAN; resamples * count];
        if columns.units() > 0 && count > 0 {
            let plan = Plan::new(columns);
            resampled.par_chunks_mut(count).enumerate().for_each_init(
                || (vec![0.0; columns.width()], vec![0.0; plan.moving.len()]),
                |(sums, moved), (i, values)| {
                    let mut rng = FastRng::from_stream(&mut seed.stream("bootstrap", i as u64));
                    plan.draw(&mut rng, moved);
                    plan.spread(moved, sums);
                    columns.values_of(sums, values);
                },
            );
        }
        Self { count, units: columns.units(), observed: columns.values(), resampled, jackknife: columns.jackknife() }
    }

    /// The values of the columns themselves.
    pub fn observed(&self) -> &[f64] {
        &self.observed
    }

    /// `f` of the columns' values in each resample, in order of the resamples.
    pub fn distribution(&self, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        self.resampled.chunks_exact(self.count.max(1)).map(f).collect()
    }

    /// Standard deviation of `f` over the resamples (n − 1 in the denominator).
    pub fn standard_error(&self, f: impl Fn(&[f64]) -> f64) -> f64 {
        super::standard_error::standard_deviation(&self.distribution(f))
    }

    /// Efron's acceleration from the jackknife; NaN where the jackknife values are all equal.
    pub fn acceleration(&self, f: impl Fn(&[f64]) -> f64) -> f64 {
        let values: Vec<f64> = self.jackknife.chunks_exact(self.count.max(1)).map(f).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let (mut squares, mut cubes) = (0.0, 0.0);
        for value in values {
            let u = mean - value;
            squares += u * u;
            cubes += u * u * u;
        }
        cubes / (6.0 * squares.powf(1.5))
    }

    /// Standard error of `f` by the jackknife; for a mean it is the ordinary standard error. NaN below two units.
    pub fn jackknife_standard_error(&self, f: impl Fn(&[f64]) -> f64) -> f64 {
        let values: Vec<f64> = self.jackknife.chunks_exact(self.count.max(1)).map(f).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        if self.units < 2 { f64::NAN } else { (squares * (n - 1.0) / n).sqrt() }
    }

    /// The interval of `f` of the columns' values, e.g. `|v| v[1] - v[0]` for a paired difference.
    ///
    /// `None` where it does not exist: fewer than two units, no resamples, no variation, or a value that is not finite.
    pub fn interval(&self, f: impl Fn(&[f64]) -> f64, confidence: f64, method: BootstrapInterval) -> Option<Interval> {
        let observed = f(&self.observed);
        let mut values = self.distribution(&f);
        if self.units < 2 || !observed.is_finite() || values.is_empty() || !values.iter().all(|x| x.is_finite()) {
            return None;
        }
        values.sort_unstable_by(f64::total_cmp);
        let (first, last) = (values[0], values[values.len() - 1]);
        if last - first <= 1e-13 * first.abs().max(last.abs()) {
            return None;
        }
        let tail = (1.0 - confidence) / 2.0;
        let (p_low, p_high) = match method {
            BootstrapInterval::Percentile | BootstrapInterval::Basic => (tail, 1.0 - tail),
            BootstrapInterval::Bca => {
                let below = values.partition_point(|&x| x < observed);
                let through = values.partition_point(|&x| x <= observed);
                let bias = normal_quantile((below + through) as f64 / (2 * values.len()) as f64);
                let acceleration = self.acceleration(&f);
                let adjusted = |p: f64| {
                    let shifted = bias + normal_quantile(p);
                    normal_cdf(bias + shifted / (1.0 - acceleration * shifted))
                };
                (adjusted(tail), adjusted(1.0 - tail))
            }
        };
        let quantiles = Interval { low: quantile_sorted(&values, p_low), high: quantile_sorted(&values, p_high) };
        let interval = match method {
            BootstrapInterval::Basic => {
                Interval { low: 2.0 * observed - quantiles.high, high: 2.0 * observed - quantiles.low }
            }
            BootstrapInterval::Percentile | BootstrapInterval::Bca => quantiles,
        };
        interval.is_finite().then_some(interval)
    }
}

/// The entries of a row that vary over units, packed for the inner loop; the others' sums are the same in every resample.
struct Plan {
    units: u32,
    /// Positions, in a row, of the entries that vary.
    moving: Vec<usize>,
    /// Unit-major: `units × moving`.
    packed: Vec<f64>,
    /// Sums of all entries if every unit were drawn once.
    fixed: Vec<f64>,
}

impl Plan {
    fn new(columns: &Columns) -> Self {
        let width = columns.width();
        let moving: Vec<usize> =
            (0..width).filter(|&j| (1..columns.units()).any(|i| columns.row(i)[j] != columns.row(0)[j])).collect();
        let mut packed = Vec::with_capacity(columns.units() * moving.len());
        for i in 0..columns.units() {
            packed.extend(moving.iter().map(|&j| columns.row(i)[j]));
        }
        let units = u32::try_from(columns.units()).expect("fewer than 2^32 documents");
        Self { units, moving, packed, fixed: columns.sums() }
    }

    /// Draws as many units as there are, with replacement, and adds up their moving entries.
    fn draw(&self, rng: &mut FastRng, sums: &mut [f64]) {
        match self.moving.len() {
            0 => {}
            1 => self.draw_fixed::<1>(rng, sums),
            2 => self.draw_fixed::<2>(rng, sums),
            3 => self.draw_fixed::<3>(rng, sums),
            4 => self.draw_fixed::<4>(rng, sums),
            6 => self.draw_fixed::<6>(rng, sums),
            8 => self.draw_fixed::<8>(rng, sums),
            width => {
                sums.fill(0.0);
                for _ in 0..self.units {
                    let unit = rng.below(self.units) as usize;
                    for (sum, x) in sums.iter_mut().zip(&self.packed[unit * width..(unit + 1) * width]) {
                        *sum += x;
                    }
                }
            }
        }
    }

    fn draw_fixed<const WIDTH: usize>(&self, rng: &mut FastRng, sums: &mut [f64]) {
        let (rows, _) = self.packed.as_chunks::<WIDTH>();
        let mut total = [0.0; WIDTH];
        for _ in 0..self.units {
            let row = &rows[rng.below(self.units) as usize];
            for (sum, x) in total.iter_mut().zip(row) {
                *sum += x;
            }
        }
        sums.copy_from_slice(&total);
    }

    /// Writes the sums of all entries, given those of the moving ones.
    fn spread(&self, moved: &[f64], sums: &mut [f64]) {
        sums.copy_from_slice(&self.fixed);
        for (&at, &sum) in self.moving.iter().zip(moved) {
            sums[at] = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Statistic;

    fn scores(n: usize, seed: u64) -> Vec<f64> {
        let mut rng = Seed(seed).stream("scores", 0);
        (0..n).map(|_| rng.normal()).collect()
    }

    #[test]
    fn thread_count_does_not_matter() {
        let (a, b) = (scores(300, 1), scores(300, 2));
        let columns = Columns::of_means(&[&a, &b]).unwrap();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Bootstrap::run(&columns, 500, Seed(7)).resampled)
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn degenerate_data_has_no_interval() {
        let interval = |data: &[f64]| {
            let columns = Columns::of_means(&[data]).unwrap();
            Bootstrap::run(&columns, 200, Seed(1)).interval(|v| v[0], 0.95, BootstrapInterval::Bca)
        };
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[1.0]), None);
        assert_eq!(interval(&[0.1, 0.1, 0.1]), None);
        assert!(interval(&[0.0, 1.0]).is_some());
    }

    #[test]
    fn wide_and_narrow_rows_agree() {
        // Five columns take the general path, one the specialised one; equal resamples give equal values.
        let a = scores(50, 3);
        let narrow = Bootstrap::run(&Columns::of_means(&[&a]).unwrap(), 100, Seed(4));
        let wide = Bootstrap::run(&Columns::of_means(&[&a, &a, &a, &a, &a]).unwrap(), 100, Seed(4));
        assert_eq!(narrow.distribution(|v| v[0]), wide.distribution(|v| v[4]));
    }

    #[test]
    fn corpus_statistics_resample_their_sums() {
        let vectors: Vec<[f64; 2]> = scores(80, 5).iter().map(|x| [-x.abs() - 0.1, 1.0 + x.abs().floor()]).collect();
        let columns = Columns::new(Statistic::Perplexity, &[vectors]).unwrap();
        let bootstrap = Bootstrap::run(&columns, 2_000, Seed(4));
        let interval = bootstrap.interval(|v| v[0], 0.95, BootstrapInterval::Bca).unwrap();
        assert!(interval.contains(bootstrap.observed()[0]) && interval.low > 1.0);
    }

    #[test]
    fn jackknife_error_of_a_mean_is_the_ordinary_one() {
        let a = scores(40, 9);
        let bootstrap = Bootstrap::run(&Columns::of_means(&[&a]).unwrap(), 1, Seed(0));
        let expected = super::super::standard_error::mean_standard_error(&a);
        assert!((bootstrap.jackknife_standard_error(|v| v[0]) - expected).abs() < 1e-13);
    }
}
