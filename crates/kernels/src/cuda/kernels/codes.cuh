// Matrices in codes: what the codes of every format stand for, eight neighbouring elements of a row at a time.
//
// An element is rounded as on the host: every product and difference of its formula once, to f32.
#pragma once
#include "common.cuh"

// Formats below 64 are ggml's, by their numbers in GGUF files.
constexpr int NF4 = 64, NIBBLE = 65, E2M1 = 66, UNSIGNED = 67, SIGNED = 68, E4M3 = 69;
constexpr int F32_SCALES = 0, BF16_SCALES = 1, F16_SCALES = 2;

struct Codes {
  const uint8_t *codes;
  const void *scales;
  // NF4: the 8-bit codes of nested scales. Others, but for ggml's: a zero for every scale.
  const uint8_t *more;
  // NF4: the values of those codes (f32). Others: the group of every column (32 bits).
  const void *map;
  int format;
  // Elements of a row; bytes of a row of codes (not of NF4, whose rows follow one another without a gap).
  i64 cols, stride;
  // Logarithms of the rows and columns that share a scale; NF4: of the codes that share a nested scale, and of a block.
  int rows_shift, cols_shift;
  // Scales of a row.
  i64 groups;
  int scale_type, zero;
  // NF4: added to nested scales. Others: what products with scales are divided by.
  float number;
};

__constant__ float nf4_values[16] = {-1.0f,
                                     -0.6961928009986877f,
                                     -0.5250730514526367f,
                                     -0.39491748809814453f,
                                     -0.28444138169288635f,
                                     -0.18477343022823334f,
                                     -0.09105003625154495f,
                                     0.0f,
                                     0.07958029955625534f,
                                     0.16093020141124725f,
                                     0.24611230194568634f,
                                     0.33791524171829224f,
                                     0.44070982933044434f,
                                     0.5626170039176941f,
                                     0.7229568362236023f,
                                     1.0f};
__constant__ float iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
__constant__ float e2m1_values[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// The values of 4-bit codes in shared memory, where the lanes of a warp read different ones at once.
__device__ __forceinline__ void fill_table(int format, float *table) {
  if (threadIdx.x < 16)
    table[threadIdx.x] = format == NF4    ? nf4_values[threadIdx.x]
                         : format == E2M1 ? e2m1_values[threadIdx.x]
                                          : iq4_values[threadIdx.x];
  __syncthreads();
}

// Byte `i` of a word as a float, less `zero`: the byte is the low end of the mantissa of 2^23.
__device__ __forceinline__ float byte_of(uint32_t word, int i, float zero) {
  return __uint_as_float(__byte_perm(word, 0x4b000000, 0x7540 | i)) - (8388608.f + zero);
}
__device__ __forceinline__ void bytes_of(uint2 codes, float zero, float (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = byte_of(i < 4 ? codes.x : codes.y, i % 4, zero);
}
// Bytes that hold a code in each half: one code a byte, the low halves first, or the high halves.
__device__ __forceinline__ uint2 halves(uint32_t w, bool low_first) {
  uint32_t low = w & 0x0f0f0f0f, high = w >> 4 & 0x0f0f0f0f;
  return low_first ? make_uint2(__byte_perm(low, high, 0x5140), __byte_perm(low, high, 0x7362))
                   : make_uint2(__byte_perm(low, high, 0x1504), __byte_perm(low, high, 0x3726));
}
__device__ __forceinline__ void looked_up(uint2 codes, const float *table, float (&x)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = table[(i < 4 ? codes.x : codes.y) >> 8 * (i % 4) & 15];
}

#include "codes_ggml.cuh"

__device__ __forceinline__ void nf4_eight(const Codes &c, i64 row, int col, const float *table, float (&x)[8]) {
  i64 at = row * c.cols + col, block = at >> c.cols_shift;
  const float *scales = static_cast<const float *>(c.scales);
  float scale = scales[c.more ? block >> c.rows_shift : block];
  if (c.more) scale = __fadd_rn(__fmul_rn(scale, static_cast<const float *>(c.map)[c.more[block]]), c.number);
  looked_up(halves(*reinterpret_cast<const uint32_t *>(c.codes + at / 2), false), table, x);
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] *= scale;
}

__device__ __forceinline__ float scale_at(const Codes &c, i64 at) {
  switch (c.scale_type) {
  case F32_SCALES: return static_cast<const float *>(c.scales)[at];
  case BF16_SCALES: return to_f32(static_cast<const bf16 *>(c.scales)[at]);
  case F16_SCALES: return to_f32(static_cast<const f16 *>(c.scales)[at]);
  default: {
    // An exponent, 127 more; 2^-127 is subnormal.
    uint32_t exponent = static_cast<const uint8_t *>(c.scales)[at];
    return __uint_as_float(exponent ? exponent << 23 : 1u << 22);
  }
  }
}

// An 8-bit float with four bits of exponent and three of mantissa: both in the place of an f32's, whose bias is 120 more.
__device__ __forceinline__ float e4m3(uint32_t code) {
  uint32_t magnitude = code & 0x7f;
  float x = magnitude == 0x7f ? CUDART_NAN_F : __uint_as_float(magnitude << 20) * __uint_as_float((127 + 120) << 23);
  return code & 0x80 ? -x : x;
}

template <int F>
__device__ __forceinline__ void plain_eight(const Codes &c, i64 row, int col, const float *table, float (&x)[8]) {
  constexpr bool four_bits = F == NIBBLE || F == E2M1;
  const uint8_t *codes = c.codes + row * c.stride + (four_bits ? col / 2 : col);
  uint2 w = four_bits ? halves(*reinterpret_cast<const uint32_t *>(codes), true)
                      : *reinterpret_cast<const uint2 *>(codes);
  // Signed bytes with their top bits turned are 128 more.
  if (F == SIGNED) w.x ^= 0x80808080, w.y ^= 0x80808080;
  constexpr int more = F == SIGNED ? 128 : 0;
  i64 base = (row >> c.rows_shift) * c.groups, first = base + (col >> c.cols_shift);
  const uint32_t *order = static_cast<const uint32_t *>(c.map);
  float scale = order ? 0 : scale_at(c, first);
  if (F == E2M1) {
    looked_up(w, table, x);
  } else if (F == E4M3) {
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = e4m3((i < 4 ? w.x : w.y) >> 8 * (i % 4) & 255);
  } else {
    auto zero_at = [&](i64 at) {
      return more + (!c.more ? c.zero : F == SIGNED ? (int)static_cast<int8_t>(c.more[at]) : (int)c.more[at]);
    };
    if (order) {
#pragma unroll
      for (int i = 0; i < 8; i++) x[i] = byte_of(i < 4 ? w.x : w.y, i % 4, zero_at(base + order[col + i]));
    } else {
      bytes_of(w, zero_at(first), x);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] *= order ? scale_at(c, base + order[col + i]) : scale;
  if (c.number != 1.f) {
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = __fdiv_rn(x[i], c.number);
  }
}

// Elements `col..col + 8` of a row, from a column that is a multiple of eight. NF4 may end within them.
template <int F>
__device__ __forceinline__ void eight(const Codes &c, i64 row, int col, const float *table, float (&x)[8]) {
  if constexpr (F < NF4)
    ggml_eight<F>(c.codes + row * c.stride, col, table, x);
  else if constexpr (F == NF4)
    nf4_eight(c, row, col, table, x);
  else
    plain_eight<F>(c, row, col, table, x);
}

template <int F> struct Format {
  static constexpr int value = F;
};
// Calls `f` with the format of `c` as a type, so that it is known where the elements are read.
template <typename Fn> __device__ __forceinline__ void with_format(const Codes &c, Fn f) {
  switch (c.format) {
#define FORMAT(F)                                                                                                      \
  case F: f(Format<F>()); break;
    FORMAT(Q4_0) FORMAT(Q4_1) FORMAT(Q5_0) FORMAT(Q5_1) FORMAT(Q8_0) FORMAT(Q8_1) FORMAT(Q2_K) FORMAT(Q3_K)
    FORMAT(Q4_K) FORMAT(Q5_K) FORMAT(Q6_K) FORMAT(Q8_K) FORMAT(IQ4_NL) FORMAT(IQ4_XS) FORMAT(NF4) FORMAT(NIBBLE)
    FORMAT(E2M1) FORMAT(UNSIGNED) FORMAT(SIGNED) FORMAT(E4M3)
#undef FORMAT
  }
}
