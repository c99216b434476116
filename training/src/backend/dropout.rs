//! Masks of dropout, drawn by counting: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

/// Finaliser of SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) fn mix64(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Columns that one call of the generator draws for: 16 bits each of its four words of 32, lower halves first.
pub(crate) const BLOCK: usize = 8;

/// What the generator multiplies with, and what is added to its key after every round.
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// Names one dropout mask: element `(row, column)` of a mask is a pure function of the key, so that a replay of the
/// forward pass and the backward pass see the same mask, on any device and any number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutKey {
    /// Hash of seed, update, micro-batch, layer and module.
    pub key: u64,
    /// Probability that an element is dropped, in `[0, 1)`; the nearest multiple of 2⁻¹⁶ is taken.
    pub probability: f32,
}

impl DropoutKey {
    /// Whether the element is kept.
    pub fn keeps(&self, row: usize, column: usize) -> bool {
        let draws = Draws::new(self.key, row).blocks::<1>((column / BLOCK) as u32);
        draws[0][column % BLOCK] >= self.threshold() as u16
    }

    /// Elements whose 16-bit draw is below this are dropped.
    pub(crate) fn threshold(&self) -> u32 {
        ((f64::from(self.probability) * 65_536.0).round() as u32).min(65_535)
    }

    /// What kept elements are multiplied with, so that the expectation is the element.
    pub fn factor(&self) -> f32 {
        (65_536.0 / f64::from(65_536 - self.threshold())) as f32
    }
}

/// The draws of one row of a mask.
#[derive(Clone, Copy)]
pub(crate) struct Draws {
    key: [u32; 2],
    row: [u32; 2],
}

impl Draws {
    pub(crate) fn new(key: u64, row: usize) -> Self {
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        Self { key: halves(key), row: halves(row as u64) }
    }

    /// The draws of `N` blocks of columns from block `first` on. Arrays over the blocks, so that the compiler vectorises.
    #[inline(always)]
    pub(crate) fn blocks<const N: usize>(&self, first: u32) -> [[u16; BLOCK]; N] {
        let mut counters = [[0u32; N], [self.row[0]; N], [self.row[1]; N], [0; N]];
        for (i, block) in counters[0].iter_mut().enumerate() {
            *block = first.wrapping_add(i as u32);
        }
        let words = philox(counters, self.key);
        let mut draws = [[0; BLOCK]; N];
        for (i, draws) in draws.iter_mut().enumerate() {
            for (pair, word) in draws.chunks_exact_mut(2).zip(&words) {
                (pair[0], pair[1]) = (word[i] as u16, (word[i] >> 16) as u16);
            }
        }
        draws
    }
}

/// Ten rounds over `N` counters, word by word.
#[inline(always)]
fn philox<const N: usize>([mut a, mut b, mut c, mut d]: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..10 {
        for i in 0..N {
            let (x, y) = (u64::from(MULTIPLIERS[0]) * u64::from(a[i]), u64::from(MULTIPLIERS[1]) * u64::from(c[i]));
            (a[i], c[i]) = ((y >> 32) as u32 ^ b[i] ^ key[0], (x >> 32) as u32 ^ d[i] ^ key[1]);
            (b[i], d[i]) = (y as u32, x as u32);
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_its_authors_known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter.map(|word| [word]), key).map(|word| word[0]), expected);
        }
    }

    #[test]
    fn draws_are_those_of_single_elements_and_uniform() {
        let mask = DropoutKey { key: 0x0123_4567_89ab_cdef, probability: 0.05 };
        assert_eq!((mask.threshold(), mask.factor()), (3277, (65_536.0f64 / 62_259.0) as f32));
        let mut counts = [0f64; 256];
        for row in 0..64 {
            let blocks = Draws::new(mask.key, row).blocks::<128>(0);
            for (column, &draw) in blocks.iter().flatten().enumerate() {
                counts[usize::from(draw >> 8)] += 1.0;
                if column % 37 == 0 {
                    assert_eq!(mask.keeps(row, column), draw >= 3277, "{row}, {column}");
                }
            }
        }
        // Pearson's statistic over 256 cells: 255 expected, standard deviation 22.6; five of them allowed.
        let expected = 64.0 * 1024.0 / 256.0;
        let statistic: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
        assert!((statistic - 255.0).abs() < 113.0, "{statistic}");
    }

    #[test]
    fn a_rate_near_one_still_keeps_something() {
        let mask = DropoutKey { key: 1, probability: 0.999_999_9 };
        assert_eq!((mask.threshold(), mask.factor()), (65_535, 65_536.0));
    }
}
