// Blocks as ggml stores them (ggml-common.h, ggml-quants.c of llama.cpp): an element is `code * scale - minimum`.
#pragma once

// ggml's numbers.
constexpr int Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q8_1 = 9, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13,
              Q6_K = 14, Q8_K = 15, IQ4_NL = 20, IQ4_XS = 23;

// Elements and bytes of a block.
template <int F> constexpr int ELEMENTS = F >= Q2_K && F != IQ4_NL ? 256 : 32;
template <int F>
constexpr int BYTES = F == Q4_0 || F == IQ4_NL ? 18
                      : F == Q4_1              ? 20
                      : F == Q5_0              ? 22
                      : F == Q5_1              ? 24
                      : F == Q8_0              ? 34
                      : F == Q8_1              ? 36
                      : F == Q2_K              ? 84
                      : F == Q3_K              ? 110
                      : F == Q4_K              ? 144
                      : F == Q5_K              ? 176
                      : F == Q6_K              ? 210
                      : F == Q8_K              ? 292
                                               : 136;

// Eight bytes at an address of which no more than the block's size and the place in it tell how even it is.
template <int F> __device__ __forceinline__ uint2 eight_bytes(const uint8_t *p) {
  if constexpr (BYTES<F> % 8 == 0) return *reinterpret_cast<const uint2 *>(p);
  if constexpr (BYTES<F> % 4 == 0) {
    const uint32_t *q = reinterpret_cast<const uint32_t *>(p);
    return make_uint2(q[0], q[1]);
  }
  const uint16_t *q = reinterpret_cast<const uint16_t *>(p);
  return make_uint2(q[0] | q[1] << 16, q[2] | q[3] << 16);
}
__device__ __forceinline__ uint2 shifted(uint2 w, int by, uint32_t mask) {
  return make_uint2(w.x >> by & mask, w.y >> by & mask);
}
__device__ __forceinline__ uint2 both(uint2 a, uint2 b, int by) { return make_uint2(a.x | b.x << by, a.y | b.y << by); }
// The bits of a byte, one in each of eight bytes.
__device__ __forceinline__ uint2 spread(uint32_t bits) {
  return make_uint2(((bits & 15) * 0x00204081) & 0x01010101, ((bits >> 4) * 0x00204081) & 0x01010101);
}
__device__ __forceinline__ float half_at(const uint8_t *p) { return __half2float(*reinterpret_cast<const f16 *>(p)); }

// Scale and minimum of group `g` of a block of Q4_K or Q5_K, six bits each, in 12 bytes behind their common factors.
__device__ __forceinline__ void six_bits(const uint8_t *block, int g, float &scale, float &minimum) {
  uint4 head = *reinterpret_cast<const uint4 *>(block);
  int by = 8 * (g & 3);
  uint32_t a = head.y >> by, b = head.z >> by, c = head.w >> by;
  uint32_t factor = g < 4 ? a & 63 : (c & 15) | (a >> 2 & 0x30), low = g < 4 ? b & 63 : (c >> 4 & 15) | (b >> 2 & 0x30);
  float2 common = unpack(head.x, f16());
  scale = __fmul_rn(common.x, byte_of(factor, 0, 0)), minimum = __fmul_rn(common.y, byte_of(low, 0, 0));
}

// Elements `col..col + 8` of a row of blocks.
template <int F>
__device__ __forceinline__ void ggml_eight(const uint8_t *row, int col, const float *table, float (&x)[8]) {
  const uint8_t *b = row + col / ELEMENTS<F> * BYTES<F>;
  int o = col % ELEMENTS<F>;
  float scale, minimum = 0;
  bool minima = true;
  // Of 32 elements in 16 bytes the first half is in the low halves of them.
  int nibble = o % 16, half = o % 32 / 16 * 4;
  if constexpr (F == Q4_0 || F == IQ4_NL) {
    minima = false;
    scale = half_at(b);
    uint2 w = shifted(eight_bytes<F>(b + 2 + nibble), half, 0x0f0f0f0f);
    F == Q4_0 ? bytes_of(w, 8, x) : looked_up(w, table, x);
  } else if constexpr (F == Q4_1) {
    scale = half_at(b), minimum = -half_at(b + 2);
    bytes_of(shifted(eight_bytes<F>(b + 4 + nibble), half, 0x0f0f0f0f), 0, x);
  } else if constexpr (F == Q5_0 || F == Q5_1) {
    constexpr int at = F == Q5_0 ? 2 : 4;
    minima = F == Q5_1;
    scale = half_at(b);
    if (minima) minimum = -half_at(b + 2);
    uint2 w = shifted(eight_bytes<F>(b + at + 4 + nibble), half, 0x0f0f0f0f);
    bytes_of(both(w, spread(b[at + o / 8]), 4), F == Q5_0 ? 16 : 0, x);
  } else if constexpr (F == Q8_0 || F == Q8_1 || F == Q8_K) {
    minima = false;
    scale = F == Q8_K ? *reinterpret_cast<const float *>(b) : half_at(b);
    uint2 w = eight_bytes<F>(b + (F == Q8_0 ? 2 : 4) + o);
    bytes_of(make_uint2(w.x ^ 0x80808080, w.y ^ 0x80808080), 128, x);
  } else if constexpr (F == Q2_K) {
    int run = o / 32, packed = b[o / 16];
    scale = __fmul_rn(half_at(b + 80), packed & 15), minimum = __fmul_rn(half_at(b + 82), packed >> 4);
    bytes_of(shifted(eight_bytes<F>(b + 16 + run / 4 * 32 + o % 32), run % 4 * 2, 0x03030303), 0, x);
  } else if constexpr (F == Q3_K) {
    minima = false;
    int run = o / 32, g = o / 16;
    const uint8_t *packed = b + 96;
    int low = g < 8 ? packed[g] & 15 : packed[g - 8] >> 4, high = packed[8 + g % 4] >> g / 4 * 2 & 3;
    scale = __fmul_rn(half_at(b + 108), (low | high << 4) - 32);
    uint2 w = shifted(eight_bytes<F>(b + 32 + run / 4 * 32 + o % 32), run % 4 * 2, 0x03030303);
    bytes_of(both(w, shifted(eight_bytes<F>(b + o % 32), run, 0x01010101), 2), 4, x);
  } else if constexpr (F == Q4_K || F == Q5_K) {
    int g = o / 32;
    six_bits(b, g, scale, minimum);
    uint2 w = shifted(eight_bytes<F>(b + (F == Q4_K ? 16 : 48) + o / 64 * 32 + o % 32), g % 2 * 4, 0x0f0f0f0f);
    if constexpr (F == Q5_K) w = both(w, shifted(eight_bytes<F>(b + 16 + o % 32), g, 0x01010101), 4);
    bytes_of(w, 0, x);
  } else if constexpr (F == Q6_K) {
    minima = false;
    int quarter = o % 128 / 32;
    scale = __fmul_rn(half_at(b + 208), static_cast<int8_t>(b[192 + o / 16]));
    uint2 low = eight_bytes<F>(b + o / 128 * 64 + quarter % 2 * 32 + o % 32);
    uint2 high = eight_bytes<F>(b + 128 + o / 128 * 32 + o % 32);
    bytes_of(both(shifted(low, quarter / 2 * 4, 0x0f0f0f0f), shifted(high, 2 * quarter, 0x03030303), 4), 32, x);
  } else {
    minima = false;
    int g = o / 32;
    uint32_t high = *reinterpret_cast<const uint16_t *>(b + 2);
    scale = __fmul_rn(half_at(b), (int)((b[4 + g / 2] >> g % 2 * 4 & 15) | (high >> 2 * g & 3) << 4) - 32);
    looked_up(shifted(eight_bytes<F>(b + 8 + g * 16 + nibble), half, 0x0f0f0f0f), table, x);
  }
#pragma unroll
  for (int i = 0; i < 8; i++) {
    x[i] = __fmul_rn(x[i], scale);
    if (minima) x[i] = __fsub_rn(x[i], minimum);
  }
}
