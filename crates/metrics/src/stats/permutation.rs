//! Tests that resample the pairing of two columns: permutation (randomisation) and paired bootstrap.

use harness_core::Seed;
use rayon::prelude::*;

use super::{Bootstrap, Columns, fast_rng::FastRng};

/// Most differing units whose 2^m swaps are all tried.
pub const EXACT_LIMIT: usize = 16;

/// Outcome of a paired permutation test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PermutationTest {
    /// Value of the second column less that of the first.
    pub difference: f64,
    /// Two-sided p: share of swaps with a difference at least as large in size.
    pub p: f64,
    /// Whether all swaps were tried; otherwise p is (b+1)/(m+1) over m random ones (Phipson and Smyth 2010).
    pub exact: bool,
}

/// The paired permutation test (Fisher 1935; Noreen 1989) of columns `a` and `b`: under the hypothesis of no
/// difference the two vectors of a unit may be swapped. For a mean these are sign flips of the differences; for corpus
/// statistics the swapped sums are evaluated. Units with equal vectors have no effect; where at most [`EXACT_LIMIT`]
/// differ, all swaps are tried, else `resamples` random ones from streams `permutation/i`.
///
/// Ties with the observed difference count as at least as large, within a relative 1e-12.
/// `None` where a column does not exist or there are no units.
pub fn permutation_test(
    columns: &Columns,
    a: usize,
    b: usize,
    resamples: usize,
    seed: Seed,
) -> Option<PermutationTest> {
    let swaps = Swaps::new(columns, a, b)?;
    let threshold = swaps.observed.abs() - 1e-12 * swaps.scale;
    let outcome = |p, exact| PermutationTest { difference: swaps.observed, p, exact };
    if swaps.moving == 0 {
        return Some(outcome(1.0, true));
    }
    let at_least = |difference: f64| difference.abs() >= threshold || difference.is_nan();
    if swaps.moving <= EXACT_LIMIT {
        // A swap set and its complement differ in sign only, so the last unit stays.
        let total = 1u64 << (swaps.moving - 1);
        let extreme =
            (0..total).into_par_iter().filter(|&set| at_least(swaps.difference(|unit| set >> unit & 1 == 1))).count();
        return Some(outcome(extreme as f64 / total as f64, true));
    }
    let extreme = (0..resamples).into_par_iter().filter(|&i| at_least(swaps.random(seed, i))).count();
    Some(outcome((extreme + 1) as f64 / (resamples + 1) as f64, false))
}

/// The approximate randomisation test as sacreBLEU defines it: p = (#{|Δ_swapped| > |Δ|} + 1)/(m + 1), with a strict
/// comparison and `resamples` random swaps (Riezler and Maxwell 2005). Streams are this project's, not numpy's, so p
/// agrees with sacreBLEU's within Monte Carlo error. `None` where a column does not exist or there are no units.
pub fn approximate_randomization(columns: &Columns, a: usize, b: usize, resamples: usize, seed: Seed) -> Option<f64> {
    let swaps = Swaps::new(columns, a, b)?;
    let extreme = (0..resamples)
        .into_par_iter()
        .filter(|&i| swaps.random(seed, i).abs() > swaps.observed.abs() + 1e-12 * swaps.scale)
        .count();
    Some((extreme + 1) as f64 / (resamples + 1) as f64)
}

/// Two-sided p of the paired bootstrap test that columns `a` and `b` have equal values: the resampled differences,
/// moved to mean zero, are compared with the observed one; p = (#{|Δ_i − mean Δ| ≥ |Δ|} + 1)/(B + 1). `None` where the
/// observed difference is not finite.
pub fn paired_bootstrap_test(bootstrap: &Bootstrap, a: usize, b: usize) -> Option<f64> {
    let observed = bootstrap.observed();
    let difference = observed.get(b)? - observed.get(a)?;
    if !difference.is_finite() {
        return None;
    }
    let deltas = bootstrap.distribution(|values| values[b] - values[a]);
    let mean = deltas.iter().sum::<f64>() / deltas.len() as f64;
    let slack = 1e-12 * difference.abs();
    let extreme = deltas.iter().filter(|&&delta| (delta - mean).abs() >= difference.abs() - slack).count();
    Some((extreme + 1) as f64 / (deltas.len() + 1) as f64)
}

/// sacreBLEU's version of the paired bootstrap test: p = (#{|Δ_i| − mean|Δ| > |Δ|} + 1)/(B + 1), where the sizes, not
/// the differences, are centred (Koehn 2004 as sacreBLEU implements it).
pub fn paired_bootstrap_sacrebleu(bootstrap: &Bootstrap, a: usize, b: usize) -> Option<f64> {
    let observed = bootstrap.observed();
    let difference = (observed.get(b)? - observed.get(a)?).abs();
    if !difference.is_finite() {
        return None;
    }
    let sizes = bootstrap.distribution(|values| (values[b] - values[a]).abs());
    let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
    let extreme = sizes.iter().filter(|&&size| size - mean > difference).count();
    Some((extreme + 1) as f64 / (sizes.len() + 1) as f64)
}

/// Units whose swaps one random word decides.
const BLOCK: usize = 64;
/// Units added up side by side.
const LANES: usize = 8;

/// For each pattern of 8 swaps, all ones where a unit is swapped.
static MASKS: [[u64; LANES]; 256] = masks();

const fn masks() -> [[u64; LANES]; 256] {
    let mut masks = [[0; LANES]; 256];
    let mut pattern = 0;
    while pattern < 256 {
        let mut lane = 0;
        while lane < LANES {
            masks[pattern][lane] = 0u64.wrapping_sub(((pattern >> lane) & 1) as u64);
            lane += 1;
        }
        pattern += 1;
    }
    masks
}

/// Sums of the two columns and what swapping a unit moves from one to the other.
struct Swaps<'a> {
    columns: &'a Columns,
    moving: usize,
    sums: [Vec<f64>; 2],
    /// By statistic that differs anywhere: its place, and b − a of the units that differ, filled with zeros to whole blocks.
    shifts: Vec<(usize, Vec<f64>)>,
    observed: f64,
    scale: f64,
}

impl<'a> Swaps<'a> {
    fn new(columns: &'a Columns, a: usize, b: usize) -> Option<Self> {
        let dim = columns.statistic().dim();
        if a >= columns.count() || b >= columns.count() || columns.units() == 0 {
            return None;
        }
        let all = columns.sums();
        let sums = [all[a * dim..(a + 1) * dim].to_vec(), all[b * dim..(b + 1) * dim].to_vec()];
        let differs = |&unit: &usize| columns.vector(unit, a) != columns.vector(unit, b);
        let units: Vec<usize> = (0..columns.units()).filter(differs).collect();
        let shift = |entry: usize| {
            let of_unit = |&unit: &usize| columns.vector(unit, b)[entry] - columns.vector(unit, a)[entry];
            let mut shifts: Vec<f64> = units.iter().map(of_unit).collect();
            shifts.resize(units.len().next_multiple_of(BLOCK), 0.0);
            (entry, shifts)
        };
        let shifts = (0..dim).map(shift).filter(|(_, shifts)| shifts.iter().any(|&x| x != 0.0)).collect();
        let values = [&sums[0], &sums[1]].map(|sums| columns.statistic().value(sums));
        let scale = values[0].abs().max(values[1].abs());
        Some(Self { columns, moving: units.len(), sums, shifts, observed: values[1] - values[0], scale })
    }

    /// The difference after swapping the chosen units.
    fn difference(&self, swapped: impl Fn(usize) -> bool) -> f64 {
        let mut moved = vec![0.0; self.sums[0].len()];
        for (entry, shifts) in &self.shifts {
            moved[*entry] = (0..self.moving).filter(|&unit| swapped(unit)).map(|unit| shifts[unit]).sum();
        }
        self.after(&moved)
    }

    /// The difference after the i-th random swap. Units are added up in 8 lanes, so that the sum is the same on every
    /// machine and no branch depends on a random bit.
    fn random(&self, seed: Seed, i: usize) -> f64 {
        let mut rng = FastRng::from_stream(&mut seed.stream("permutation", i as u64));
        let mut lanes = vec![[0.0; LANES]; self.shifts.len()];
        for start in (0..self.moving).step_by(BLOCK) {
            let bits = rng.next_u64().to_le_bytes();
            for ((_, shifts), lanes) in self.shifts.iter().zip(&mut lanes) {
                for (group, pattern) in shifts[start..start + BLOCK].chunks_exact(LANES).zip(bits) {
                    for ((lane, x), mask) in lanes.iter_mut().zip(group).zip(&MASKS[usize::from(pattern)]) {
                        *lane += f64::from_bits(x.to_bits() & mask);
                    }
                }
            }
        }
        let mut moved = vec![0.0; self.sums[0].len()];
        for ((entry, _), lanes) in self.shifts.iter().zip(&lanes) {
            moved[*entry] = lanes.iter().sum();
        }
        self.after(&moved)
    }

    fn after(&self, moved: &[f64]) -> f64 {
        let a: Vec<f64> = self.sums[0].iter().zip(moved).map(|(sum, x)| sum + x).collect();
        let b: Vec<f64> = self.sums[1].iter().zip(moved).map(|(sum, x)| sum - x).collect();
        self.columns.statistic().value(&b) - self.columns.statistic().value(&a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Statistic, stats::distribution::binomial_half_test};

    #[test]
    fn exact_sign_flips_of_binary_scores_are_the_sign_test() {
        let a: Vec<f64> = (0..12).map(|i| f64::from(u8::from(i < 3))).collect();
        let b: Vec<f64> = (0..12).map(|i| f64::from(u8::from(i >= 3))).collect();
        let test = permutation_test(&Columns::of_means(&[&a, &b]).unwrap(), 0, 1, 0, Seed(0)).unwrap();
        assert!(test.exact);
        assert!((test.p - binomial_half_test(3, 12)).abs() < 1e-15, "{}", test.p);
    }

    #[test]
    fn monte_carlo_comes_near_the_exact_value() {
        let mut rng = Seed(5).stream("scores", 0);
        let a: Vec<f64> = (0..EXACT_LIMIT + 4).map(|_| rng.normal()).collect();
        let b: Vec<f64> = a.iter().map(|x| x + 0.4 + rng.normal()).collect();
        let columns = Columns::of_means(&[&a, &b]).unwrap();
        let sampled = permutation_test(&columns, 0, 1, 40_000, Seed(1)).unwrap();
        assert!(!sampled.exact);
        // All 2^20 swaps by hand.
        let d: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
        let total: f64 = d.iter().sum();
        let extreme = (0..1u32 << d.len())
            .filter(|set| {
                let moved: f64 = d.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, d)| d).sum();
                (total - 2.0 * moved).abs() >= total.abs() - 1e-9
            })
            .count();
        let exact = extreme as f64 / f64::from(1u32 << d.len());
        assert!((sampled.p - exact).abs() < 0.01, "{} {exact}", sampled.p);
    }

    #[test]
    fn equal_columns_and_empty_ones() {
        let columns = Columns::of_means(&[&[0.5, 0.7], &[0.5, 0.7]]).unwrap();
        assert_eq!(permutation_test(&columns, 0, 1, 10, Seed(0)).unwrap().p, 1.0);
        assert_eq!(permutation_test(&columns, 0, 2, 10, Seed(0)), None);
        let empty = Columns::of_means(&[&[], &[]]).unwrap();
        assert_eq!(permutation_test(&empty, 0, 1, 10, Seed(0)), None);
    }

    #[test]
    fn corpus_statistics_swap_whole_documents() {
        let a: Vec<[f64; 2]> = (0..40).map(|i| [-1.0 - f64::from(i % 5), 2.0 + f64::from(i % 3)]).collect();
        let b: Vec<[f64; 2]> = a.iter().map(|v| [v[0] * 2.0, v[1]]).collect();
        let columns = Columns::new(Statistic::Perplexity, &[a, b]).unwrap();
        let test = permutation_test(&columns, 0, 1, 2_000, Seed(3)).unwrap();
        assert!(test.difference > 0.0 && test.p < 0.01, "{test:?}");
    }
}
