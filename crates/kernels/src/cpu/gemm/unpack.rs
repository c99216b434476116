//! ggml's most common blocks to panels of codes, several rows at a time: every row of a panel is a lane, so that words of
//! codes are moved and never bytes. The result is that of decoding row by row.

use super::{
    KC,
    codes::{CodePanel, GROUPS, TOP},
    kernel::NR,
    lanes::Lanes,
};
use crate::{
    cpu::isa::{Isa, isa},
    gguf::{BlockType, has_minima},
};

/// Whether [`unpack`] knows a type, on this processor.
pub(super) fn can_unpack(kind: BlockType) -> bool {
    use BlockType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    matches!(kind, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q4K | Q5K | Q6K) && isa() != Isa::Portable
}

/// The first `steps` steps of 32 rows to a panel. `rows` begins with the first block of the first row; the rows are `stride`
/// bytes apart.
pub(super) fn unpack(kind: BlockType, rows: &[u8], stride: usize, steps: usize, panel: &mut CodePanel) {
    let blocks = steps.div_ceil(kind.elements());
    assert!(blocks * kind.elements() <= KC && can_unpack(kind), "blocks of a panel");
    assert!(rows.len() >= (NR - 1) * stride + blocks * kind.bytes(), "32 rows of blocks");
    (panel.has_minima, panel.tiny) = (has_minima(kind), false);
    // SAFETY: the processor has the instructions; all rows have so many blocks, and the panel has room for them.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        avx2(kind, rows.as_ptr(), stride, blocks, panel);
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        all::<std::arch::aarch64::float32x4_t>(kind, rows.as_ptr(), stride, blocks, panel);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(kind: BlockType, rows: *const u8, stride: usize, blocks: usize, panel: &mut CodePanel) {
    // SAFETY: as the caller promises.
    unsafe { all::<std::arch::x86_64::__m256>(kind, rows, stride, blocks, panel) }
}

/// All lanes of a panel.
///
/// # Safety
/// The processor must have the instruction set, all rows so many blocks, and the panel room for them.
#[inline(always)]
unsafe fn all<L: Lanes>(kind: BlockType, rows: *const u8, stride: usize, blocks: usize, panel: &mut CodePanel) {
    for lane in (0..NR).step_by(L::WIDTH) {
        for block in 0..blocks {
            // SAFETY: as the caller promises.
            unsafe {
                let groups = kind.elements() / 16;
                let to = Place {
                    words: panel.words.as_mut_ptr().add(block * groups * 4 * NR + lane),
                    factors: panel.factors.as_mut_ptr().add(block * groups * NR + lane),
                };
                let from = Blocks { first: rows.add(lane * stride + block * kind.bytes()), stride };
                match kind {
                    BlockType::Q4_0 => q4_0::<L>(from, to),
                    BlockType::Q4_1 => q4_1::<L>(from, to),
                    BlockType::Q5_0 => q5_0::<L>(from, to),
                    BlockType::Q5_1 => q5_1::<L>(from, to),
                    BlockType::Q8_0 => q8_0::<L>(from, to),
                    BlockType::Q4K => k_with_minima::<L, false>(from, to),
                    BlockType::Q5K => k_with_minima::<L, true>(from, to),
                    BlockType::Q6K => q6_k::<L>(from, to),
                    _ => {}
                }
            }
        }
    }
}

/// A block of each lane.
#[derive(Clone, Copy)]
struct Blocks {
    first: *const u8,
    stride: usize,
}

/// Where the steps of blocks go, in the columns of their lanes.
#[derive(Clone, Copy)]
struct Place {
    words: *mut u32,
    factors: *mut f32,
}

/// Low halves of bytes.
const LOW: u32 = 0x0f0f_0f0f;

// SAFETY of all that follow: the blocks and the place are whole, as `all` makes them.

impl Blocks {
    /// Sixteen bytes of every block.
    #[inline(always)]
    unsafe fn gather<L: Lanes>(self, at: usize) -> [L::Words; 4] {
        unsafe { L::gather(self.first.add(at), self.stride) }
    }

    #[inline(always)]
    unsafe fn half<L: Lanes>(self, at: usize) -> L {
        // SAFETY: as the caller promises.
        unsafe { L::halves(self.first.add(at), self.stride) }
    }

    #[inline(always)]
    unsafe fn word<L: Lanes>(self, at: usize) -> L::Words {
        unsafe { L::words(self.first.add(at), self.stride) }
    }
}

impl Place {
    /// The word of four steps.
    #[inline(always)]
    unsafe fn word<L: Lanes>(self, at: usize, word: L::Words) {
        // SAFETY: as the caller promises.
        unsafe { L::store_words(word, self.words.add(at * NR)) }
    }

    /// A scale of groups, which has been divided by 2^24.
    #[inline(always)]
    unsafe fn scale<L: Lanes>(self, groups: std::ops::Range<usize>, scale: L) {
        for group in groups {
            unsafe { scale.store(self.factors.add(group * NR)) }
        }
    }

    #[inline(always)]
    unsafe fn minimum<L: Lanes>(self, groups: std::ops::Range<usize>, minimum: L) {
        for group in groups {
            // SAFETY: as the caller promises.
            unsafe { minimum.store(self.factors.add((GROUPS + group) * NR)) }
        }
    }

    /// Scales of small blocks.
    #[inline(always)]
    unsafe fn small<L: Lanes>(self, scale: L) {
        unsafe { self.scale(0..2, scale.times(L::splat(TOP))) }
    }

    /// As [`Self::small`], of a scale and what is added to all elements.
    #[inline(always)]
    unsafe fn small_pair<L: Lanes>(self, words: L::Words) {
        // SAFETY: as the caller promises.
        unsafe {
            let [scale, added] = L::pairs(words);
            self.small(scale);
            self.minimum(0..2, added.times(L::splat(-1.0)));
        }
    }
}

/// Low and high halves of the bytes of a word.
#[inline(always)]
unsafe fn nibbles<L: Lanes>(word: L::Words) -> [L::Words; 2] {
    // SAFETY: as the caller promises.
    unsafe {
        let low = L::splat_word(LOW);
        [L::and(word, low), L::and(L::shifted_right::<4>(word), low)]
    }
}

#[inline(always)]
unsafe fn q4_0<L: Lanes>(from: Blocks, to: Place) {
    // SAFETY: as the caller promises.
    unsafe {
        to.small(from.half::<L>(0));
        let zero = L::splat_word(0x0808_0808);
        for (at, &word) in from.gather::<L>(2).iter().enumerate() {
            let [low, high] = nibbles::<L>(word);
            to.word::<L>(at, L::less_bytes(low, zero));
            to.word::<L>(at + 4, L::less_bytes(high, zero));
        }
    }
}

#[inline(always)]
unsafe fn q4_1<L: Lanes>(from: Blocks, to: Place) {
    // SAFETY: as the caller promises.
    unsafe {
        to.small_pair::<L>(from.word::<L>(0));
        for (at, &word) in from.gather::<L>(4).iter().enumerate() {
            let [low, high] = nibbles::<L>(word);
            to.word::<L>(at, low);
            to.word::<L>(at + 4, high);
        }
    }
}

/// The fifth bits of four steps, the lowest bits of a word, as bit 4 of their bytes.
#[inline(always)]
unsafe fn fifths<L: Lanes>(bits: L::Words) -> L::Words {
    // SAFETY: as the caller promises.
    unsafe {
        // Copies of the four bits 7 apart: bit 4 + 8·i of the sum is bit i.
        let at = L::splat_word(0x1010_1010);
        let near = L::or(L::shifted_left::<4>(bits), L::shifted_left::<11>(bits));
        let far = L::or(L::shifted_left::<18>(bits), L::shifted_left::<25>(bits));
        L::and(L::or(near, far), at)
    }
}

/// The codes of Q5_0 and Q5_1: nibbles from `at`, fifth bits in a word.
#[inline(always)]
unsafe fn fives<L: Lanes>(from: Blocks, at: usize, bits: L::Words, zero: u32, to: Place) {
    // SAFETY: as the caller promises.
    unsafe {
        let (few, zero) = (L::splat_word(15), L::splat_word(zero));
        let mut bits = [bits, L::shifted_right::<16>(bits)];
        for (at, &word) in from.gather::<L>(at).iter().enumerate() {
            let both = nibbles::<L>(word);
            for half in 0..2 {
                let fifth = fifths::<L>(L::and(bits[half], few));
                to.word::<L>(4 * half + at, L::less_bytes(L::or(both[half], fifth), zero));
                bits[half] = L::shifted_right::<4>(bits[half]);
            }
        }
    }
}

#[inline(always)]
unsafe fn q5_0<L: Lanes>(from: Blocks, to: Place) {
    // SAFETY: as the caller promises.
    unsafe {
        to.small(from.half::<L>(0));
        fives::<L>(from, 6, from.word::<L>(2), 0x1010_1010, to);
    }
}

#[inline(always)]
unsafe fn q5_1<L: Lanes>(from: Blocks, to: Place) {
    // SAFETY: as the caller promises.
    unsafe {
        to.small_pair::<L>(from.word::<L>(0));
        fives::<L>(from, 8, from.word::<L>(4), 0, to);
    }
}

#[inline(always)]
unsafe fn q8_0<L: Lanes>(from: Blocks, to: Place) {
    // SAFETY: as the caller promises.
    unsafe {
        to.small(from.half::<L>(0));
        for part in 0..2 {
            for (at, &word) in from.gather::<L>(2 + 16 * part).iter().enumerate() {
                to.word::<L>(4 * part + at, word);
            }
        }
    }
}

/// Q4_K and Q5_K: eight groups of 32 steps with scales and minima of six bits.
#[inline(always)]
unsafe fn k_with_minima<L: Lanes, const FIVE: bool>(from: Blocks, to: Place) {
    // SAFETY: as the caller promises.
    unsafe {
        let [pair, scales, minima, both] = from.gather::<L>(0);
        let [scale, minimum] = L::pairs(pair);
        // Of the later four groups the low bits are in a word of their own, the high ones above those of the first four.
        let (six, high) = (L::splat_word(0x3f3f_3f3f), L::splat_word(0x3030_3030));
        let [low_scales, low_minima] = nibbles::<L>(both);
        let scales = [L::and(scales, six), L::or(low_scales, L::and(L::shifted_right::<2>(scales), high))];
        let minima = [L::and(minima, six), L::or(low_minima, L::and(L::shifted_right::<2>(minima), high))];
        let (scale, minimum) = (scale.times(L::splat(TOP * TOP)), minimum.times(L::splat(TOP)));
        for half in 0..2 {
            macro_rules! group {
                ($byte:literal) => {
                    let at = 8 * half + 2 * $byte;
                    to.scale(at..at + 2, scale.times(L::byte::<$byte>(scales[half])));
                    to.minimum(at..at + 2, minimum.times(L::byte::<$byte>(minima[half])));
                };
            }
            group!(0);
            group!(1);
            group!(2);
            group!(3);
        }
        let quants = if FIVE { 48 } else { 16 };
        for part in 0..2 {
            // Sixteen steps of every group, four at a time; fifth bits of group g are bits g.
            let mut fifths = if FIVE { from.gather::<L>(16 + 16 * part) } else { [L::splat_word(0); 4] };
            for pair in 0..4 {
                let words = from.gather::<L>(quants + 32 * pair + 16 * part);
                for (at, (&word, fifth)) in words.iter().zip(&mut fifths).enumerate() {
                    let [mut low, mut high] = nibbles::<L>(word);
                    if FIVE {
                        let bit = L::splat_word(0x1010_1010);
                        low = L::or(low, L::and(L::shifted_left::<4>(*fifth), bit));
                        high = L::or(high, L::and(L::shifted_left::<3>(*fifth), bit));
                        *fifth = L::shifted_right::<2>(*fifth);
                    }
                    to.word::<L>(16 * pair + 4 * part + at, low);
                    to.word::<L>(16 * pair + 8 + 4 * part + at, high);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn q6_k<L: Lanes>(from: Blocks, to: Place) {
    // SAFETY: as the caller promises.
    unsafe {
        let scale = from.half::<L>(208).times(L::splat(TOP * TOP));
        for (four, &scales) in from.gather::<L>(192).iter().enumerate() {
            macro_rules! group {
                ($byte:literal) => {
                    to.scale(4 * four + $byte..4 * four + $byte + 1, scale.times(L::byte::<$byte>(scales)));
                };
            }
            group!(0);
            group!(1);
            group!(2);
            group!(3);
        }
        let (high_bits, zero) = (L::splat_word(0x3030_3030), L::splat_word(0x2020_2020));
        for part in 0..2 {
            for half in 0..2 {
                let first = from.gather::<L>(64 * part + 16 * half);
                let second = from.gather::<L>(64 * part + 32 + 16 * half);
                let high = from.gather::<L>(128 + 32 * part + 16 * half);
                for at in 0..4 {
                    let ([a, c], [b, d], h) = (nibbles::<L>(first[at]), nibbles::<L>(second[at]), high[at]);
                    let runs = [
                        (a, L::shifted_left::<4>(h)),
                        (b, L::shifted_left::<2>(h)),
                        (c, h),
                        (d, L::shifted_right::<2>(h)),
                    ];
                    for (run, &(low, high)) in runs.iter().enumerate() {
                        let code = L::or(low, L::and(high, high_bits));
                        to.word::<L>(32 * part + 8 * run + 4 * half + at, L::less_bytes(code, zero));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use harness_core::Seed;

    use super::*;
    use crate::{cpu::gemm::codes::Lanes as ByRow, gguf::decode};

    #[test]
    fn panels_are_those_of_decoding_row_by_row() {
        use BlockType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        let mut rng = Seed(1).stream("unpack test", 0);
        for kind in [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K] {
            if !can_unpack(kind) {
                continue;
            }
            // Rows of more than a panel; small blocks also fill a part of one.
            let whole = KC / kind.elements();
            for blocks in [whole, whole.div_ceil(2)] {
                let stride = (whole + 1) * kind.bytes();
                let mut rows: Vec<u8> = (0..NR * stride).map(|_| rng.below(256) as u8).collect();
                for block in rows.chunks_exact_mut(kind.bytes()) {
                    // Scales are numbers: what is not has no bits of its own.
                    let last = kind.bytes() - 1;
                    for at in [1, 3, last] {
                        block[at] &= 0xbf;
                    }
                }
                let (mut lanes, mut expected, mut found) =
                    (ByRow::default(), CodePanel::default(), CodePanel::default());
                for (row, (codes, factors)) in lanes.codes.iter_mut().zip(&mut lanes.factors).enumerate() {
                    decode(kind, &rows[row * stride..][..blocks * kind.bytes()], codes, factors);
                }
                expected.fill(&lanes, has_minima(kind));
                unpack(kind, &rows, stride, blocks * kind.elements(), &mut found);
                let steps = blocks * kind.elements();
                assert_eq!(found.words[..steps / 4 * NR], expected.words[..steps / 4 * NR], "{kind:?}");
                assert_eq!(found.has_minima, expected.has_minima, "{kind:?}");
                for first in [0, GROUPS * NR] {
                    let factors = first..first + steps / 16 * NR;
                    if first == 0 || found.has_minima {
                        let bits = |panel: &CodePanel| {
                            panel.factors[factors.clone()].iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                        };
                        assert_eq!(bits(&found), bits(&expected), "{kind:?}");
                    }
                }
            }
        }
    }
}
