//! Registers of one instruction set, as far as products of few rows need them: kernels are written once over this trait.

use half::{bf16, f16};

/// A register of f32.
///
/// All functions are unsafe because the processor must have the instruction set, and pointers must be valid for as many
/// elements as there are lanes; [`Self::gather`] and [`Self::halves`] read one row a lane.
pub(super) trait Lanes: Copy {
    /// Lanes of a register.
    const WIDTH: usize;
    /// A register of words of four bytes, one a lane.
    type Words: Copy;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first `count` elements, fewer than there are lanes; zeros beyond.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// As many elements to memory.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    unsafe fn times(self, other: Self) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn less(self, other: Self) -> Self;
    /// `self + x · y`, rounded once.
    unsafe fn plus_product(self, x: Self, y: Self) -> Self;

    unsafe fn load_words(from: *const u32) -> Self::Words;
    unsafe fn store_words(words: Self::Words, to: *mut u32);
    unsafe fn splat_word(x: u32) -> Self::Words;
    unsafe fn and(x: Self::Words, y: Self::Words) -> Self::Words;
    unsafe fn or(x: Self::Words, y: Self::Words) -> Self::Words;
    unsafe fn shifted_left<const BITS: i32>(x: Self::Words) -> Self::Words;
    unsafe fn shifted_right<const BITS: i32>(x: Self::Words) -> Self::Words;
    /// Byte by byte.
    unsafe fn less_bytes(x: Self::Words, y: Self::Words) -> Self::Words;
    /// The byte `AT` of every word, which is signed, times 2^24.
    unsafe fn byte<const AT: i32>(words: Self::Words) -> Self;

    /// Four words of each row, row by row in the lanes: word `i` of the rows is `[i]`.
    unsafe fn gather(rows: *const u8, stride: usize) -> [Self::Words; 4];
    /// A number in half precision of each row.
    unsafe fn halves(rows: *const u8, stride: usize) -> Self;
    /// A word of each row.
    unsafe fn words(rows: *const u8, stride: usize) -> Self::Words;
    /// The numbers in half precision in the low halves of words, and those in the high halves.
    unsafe fn pairs(words: Self::Words) -> [Self; 2];
}

/// AVX2 with FMA and F16C.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Lanes, bf16, f16};

    /// All bits of the first lanes.
    #[inline(always)]
    unsafe fn first(count: usize) -> __m256i {
        // SAFETY: as the trait says.
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
        }
    }

    // SAFETY of all: as the trait says.
    impl Lanes for __m256 {
        const WIDTH: usize = 8;
        type Words = __m256i;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { _mm256_set1_ps(x) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as the trait says.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Self {
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Self {
            // SAFETY: as the trait says.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self) }
        }

        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            // SAFETY: as the trait says.
            unsafe { _mm256_maskload_ps(from, first(count)) }
        }

        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            unsafe { _mm256_maskstore_ps(to, first(count), self) }
        }

        #[inline(always)]
        unsafe fn times(self, other: Self) -> Self {
            // SAFETY: as the trait says.
            unsafe { _mm256_mul_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn less(self, other: Self) -> Self {
            // SAFETY: as the trait says.
            unsafe { _mm256_sub_ps(self, other) }
        }

        #[inline(always)]
        unsafe fn plus_product(self, x: Self, y: Self) -> Self {
            unsafe { _mm256_fmadd_ps(x, y, self) }
        }

        #[inline(always)]
        unsafe fn load_words(from: *const u32) -> __m256i {
            // SAFETY: as the trait says.
            unsafe { _mm256_loadu_si256(from.cast()) }
        }

        #[inline(always)]
        unsafe fn store_words(words: __m256i, to: *mut u32) {
            unsafe { _mm256_storeu_si256(to.cast(), words) }
        }

        #[inline(always)]
        unsafe fn splat_word(x: u32) -> __m256i {
            // SAFETY: as the trait says.
            unsafe { _mm256_set1_epi32(x.cast_signed()) }
        }

        #[inline(always)]
        unsafe fn and(x: __m256i, y: __m256i) -> __m256i {
            unsafe { _mm256_and_si256(x, y) }
        }

        #[inline(always)]
        unsafe fn or(x: __m256i, y: __m256i) -> __m256i {
            // SAFETY: as the trait says.
            unsafe { _mm256_or_si256(x, y) }
        }

        #[inline(always)]
        unsafe fn shifted_left<const BITS: i32>(x: __m256i) -> __m256i {
            unsafe { _mm256_slli_epi32::<BITS>(x) }
        }

        #[inline(always)]
        unsafe fn shifted_right<const BITS: i32>(x: __m256i) -> __m256i {
            // SAFETY: as the trait says.
            unsafe { _mm256_srli_epi32::<BITS>(x) }
        }

        #[inline(always)]
        unsafe fn less_bytes(x: __m256i, y: __m256i) -> __m256i {
            unsafe { _mm256_sub_epi8(x, y) }
        }

        #[inline(always)]
        unsafe fn byte<const AT: i32>(words: __m256i) -> Self {
            // SAFETY: as the trait says.
            unsafe {
                // A mask of the top byte is one operation, as is moving the lowest byte there; the others are shuffled.
                let top = match AT {
                    0 => _mm256_slli_epi32::<24>(words),
                    3 => _mm256_and_si256(words, _mm256_set1_epi32(0xff00_0000_u32.cast_signed())),
                    _ => {
                        let lane = |word: i32| ((4 * word + AT) << 24) | 0x0080_8080;
                        let order =
                            _mm256_setr_epi32(lane(0), lane(1), lane(2), lane(3), lane(0), lane(1), lane(2), lane(3));
                        _mm256_shuffle_epi8(words, order)
                    }
                };
                _mm256_cvtepi32_ps(top)
            }
        }

        #[inline(always)]
        unsafe fn gather(rows: *const u8, stride: usize) -> [__m256i; 4] {
            // SAFETY: as the trait says.
            unsafe {
                macro_rules! both {
                    ($row:literal) => {
                        _mm256_inserti128_si256::<1>(
                            _mm256_castsi128_si256(_mm_loadu_si128(rows.add($row * stride).cast())),
                            _mm_loadu_si128(rows.add(($row + 4) * stride).cast()),
                        )
                    };
                }
                let (r0, r1, r2, r3) = (both!(0), both!(1), both!(2), both!(3));
                let (a, b) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpacklo_epi32(r2, r3));
                let (c, d) = (_mm256_unpackhi_epi32(r0, r1), _mm256_unpackhi_epi32(r2, r3));
                [
                    _mm256_unpacklo_epi64(a, b),
                    _mm256_unpackhi_epi64(a, b),
                    _mm256_unpacklo_epi64(c, d),
                    _mm256_unpackhi_epi64(c, d),
                ]
            }
        }

        #[inline(always)]
        unsafe fn halves(rows: *const u8, stride: usize) -> Self {
            // SAFETY: as the trait says.
            unsafe {
                macro_rules! one {
                    ($row:literal) => {
                        i32::from(rows.add($row * stride).cast::<i16>().read_unaligned())
                    };
                }
                let mut halves = _mm_cvtsi32_si128(one!(0));
                halves = _mm_insert_epi16::<1>(halves, one!(1));
                halves = _mm_insert_epi16::<2>(halves, one!(2));
                halves = _mm_insert_epi16::<3>(halves, one!(3));
                halves = _mm_insert_epi16::<4>(halves, one!(4));
                halves = _mm_insert_epi16::<5>(halves, one!(5));
                halves = _mm_insert_epi16::<6>(halves, one!(6));
                halves = _mm_insert_epi16::<7>(halves, one!(7));
                _mm256_cvtph_ps(halves)
            }
        }

        #[inline(always)]
        unsafe fn words(rows: *const u8, stride: usize) -> __m256i {
            // SAFETY: as the trait says.
            unsafe {
                macro_rules! one {
                    ($row:literal) => {
                        rows.add($row * stride).cast::<i32>().read_unaligned()
                    };
                }
                _mm256_setr_epi32(one!(0), one!(1), one!(2), one!(3), one!(4), one!(5), one!(6), one!(7))
            }
        }

        #[inline(always)]
        unsafe fn pairs(words: __m256i) -> [Self; 2] {
            // SAFETY: as the trait says.
            unsafe {
                let low = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
                let packed = _mm256_packus_epi32(low, _mm256_srli_epi32::<16>(words));
                let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
                let (low, high) = (_mm256_castsi256_si128(ordered), _mm256_extracti128_si256::<1>(ordered));
                [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
            }
        }
    }
}

/// NEON, which every 64-bit Arm processor has.
#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::{Lanes, bf16, f16};

    /// The numbers in half precision in the low halves of words, bit by bit: subnormal ones and infinities included.
    #[inline(always)]
    unsafe fn widened(halves: uint32x4_t) -> float32x4_t {
        // SAFETY: as the trait says.
        unsafe {
            let magnitude = vshlq_n_u32::<13>(vandq_u32(halves, vdupq_n_u32(0x7fff)));
            let sign = vshlq_n_u32::<16>(vandq_u32(halves, vdupq_n_u32(0x8000)));
            let exponent = vandq_u32(magnitude, vdupq_n_u32(0x7c00 << 13));
            let bias = vdupq_n_u32(112 << 23);
            let infinite = vandq_u32(vceqq_u32(exponent, vdupq_n_u32(0x7c00 << 13)), bias);
            let normal = vaddq_u32(vaddq_u32(magnitude, bias), infinite);
            let least = vdupq_n_u32(113 << 23);
            let raised = vreinterpretq_f32_u32(vaddq_u32(magnitude, least));
            let subnormal = vreinterpretq_u32_f32(vsubq_f32(raised, vreinterpretq_f32_u32(least)));
            let chosen = vbslq_u32(vceqq_u32(exponent, vdupq_n_u32(0)), subnormal, normal);
            vreinterpretq_f32_u32(vorrq_u32(chosen, sign))
        }
    }

    // SAFETY of all: as the trait says.
    impl Lanes for float32x4_t {
        const WIDTH: usize = 4;
        type Words = uint32x4_t;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            unsafe { vdupq_n_f32(x) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as the trait says.
            unsafe { vld1q_f32(from) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Self {
            unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Self {
            // SAFETY: as the trait says.
            unsafe { widened(vmovl_u16(vld1_u16(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { vst1q_f32(to, self) }
        }

        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            let mut whole = [0f32; 4];
            // SAFETY: as the trait says.
            unsafe {
                std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), count);
                vld1q_f32(whole.as_ptr())
            }
        }

        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            let mut whole = [0f32; 4];
            // SAFETY: as the trait says.
            unsafe {
                vst1q_f32(whole.as_mut_ptr(), self);
                std::ptr::copy_nonoverlapping(whole.as_ptr(), to, count);
            }
        }

        #[inline(always)]
        unsafe fn times(self, other: Self) -> Self {
            // SAFETY: as the trait says.
            unsafe { vmulq_f32(self, other) }
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            unsafe { vaddq_f32(self, other) }
        }

        #[inline(always)]
        unsafe fn less(self, other: Self) -> Self {
            // SAFETY: as the trait says.
            unsafe { vsubq_f32(self, other) }
        }

        #[inline(always)]
        unsafe fn plus_product(self, x: Self, y: Self) -> Self {
            unsafe { vfmaq_f32(self, x, y) }
        }

        #[inline(always)]
        unsafe fn load_words(from: *const u32) -> uint32x4_t {
            // SAFETY: as the trait says.
            unsafe { vld1q_u32(from) }
        }

        #[inline(always)]
        unsafe fn store_words(words: uint32x4_t, to: *mut u32) {
            unsafe { vst1q_u32(to, words) }
        }

        #[inline(always)]
        unsafe fn splat_word(x: u32) -> uint32x4_t {
            // SAFETY: as the trait says.
            unsafe { vdupq_n_u32(x) }
        }

        #[inline(always)]
        unsafe fn and(x: uint32x4_t, y: uint32x4_t) -> uint32x4_t {
            unsafe { vandq_u32(x, y) }
        }

        #[inline(always)]
        unsafe fn or(x: uint32x4_t, y: uint32x4_t) -> uint32x4_t {
            // SAFETY: as the trait says.
            unsafe { vorrq_u32(x, y) }
        }

        #[inline(always)]
        unsafe fn shifted_left<const BITS: i32>(x: uint32x4_t) -> uint32x4_t {
            unsafe { vshlq_u32(x, vdupq_n_s32(BITS)) }
        }

        #[inline(always)]
        unsafe fn shifted_right<const BITS: i32>(x: uint32x4_t) -> uint32x4_t {
            // SAFETY: as the trait says.
            unsafe { vshlq_u32(x, vdupq_n_s32(-BITS)) }
        }

        #[inline(always)]
        unsafe fn less_bytes(x: uint32x4_t, y: uint32x4_t) -> uint32x4_t {
            unsafe { vreinterpretq_u32_u8(vsubq_u8(vreinterpretq_u8_u32(x), vreinterpretq_u8_u32(y))) }
        }

        #[inline(always)]
        unsafe fn byte<const AT: i32>(words: uint32x4_t) -> Self {
            // SAFETY: as the trait says.
            unsafe {
                let top = vandq_u32(vshlq_u32(words, vdupq_n_s32(24 - 8 * AT)), vdupq_n_u32(0xff00_0000));
                vcvtq_f32_s32(vreinterpretq_s32_u32(top))
            }
        }

        #[inline(always)]
        unsafe fn gather(rows: *const u8, stride: usize) -> [uint32x4_t; 4] {
            // SAFETY: as the trait says.
            unsafe {
                let r0 = vreinterpretq_u32_u8(vld1q_u8(rows));
                let r1 = vreinterpretq_u32_u8(vld1q_u8(rows.add(stride)));
                let r2 = vreinterpretq_u32_u8(vld1q_u8(rows.add(2 * stride)));
                let r3 = vreinterpretq_u32_u8(vld1q_u8(rows.add(3 * stride)));
                let (a, b) = (vreinterpretq_u64_u32(vtrn1q_u32(r0, r1)), vreinterpretq_u64_u32(vtrn2q_u32(r0, r1)));
                let (c, d) = (vreinterpretq_u64_u32(vtrn1q_u32(r2, r3)), vreinterpretq_u64_u32(vtrn2q_u32(r2, r3)));
                [
                    vreinterpretq_u32_u64(vtrn1q_u64(a, c)),
                    vreinterpretq_u32_u64(vtrn1q_u64(b, d)),
                    vreinterpretq_u32_u64(vtrn2q_u64(a, c)),
                    vreinterpretq_u32_u64(vtrn2q_u64(b, d)),
                ]
            }
        }

        #[inline(always)]
        unsafe fn halves(rows: *const u8, stride: usize) -> Self {
            // SAFETY: as the trait says.
            unsafe {
                let one = |row: usize| u32::from(rows.add(row * stride).cast::<u16>().read_unaligned());
                widened(vld1q_u32([one(0), one(1), one(2), one(3)].as_ptr()))
            }
        }

        #[inline(always)]
        unsafe fn words(rows: *const u8, stride: usize) -> uint32x4_t {
            // SAFETY: as the trait says.
            unsafe {
                let one = |row: usize| rows.add(row * stride).cast::<u32>().read_unaligned();
                vld1q_u32([one(0), one(1), one(2), one(3)].as_ptr())
            }
        }

        #[inline(always)]
        unsafe fn pairs(words: uint32x4_t) -> [Self; 2] {
            // SAFETY: as the trait says.
            unsafe { [widened(vandq_u32(words, vdupq_n_u32(0xffff))), widened(vshrq_n_u32::<16>(words))] }
        }
    }
}
