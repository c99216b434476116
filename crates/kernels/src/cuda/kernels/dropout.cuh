// Dropout. Masks come from Philox4x32-10 (Salmon et al. 2011), 16 bits an element, the same as on the host: the counter is
// (block of eight columns, row), and of the four words' halves, lower ones first, each is one column's draw.
#pragma once
#include "common.cuh"
#include "elementwise.cuh"

__device__ __forceinline__ uint4 philox(uint4 c, uint32_t k0, uint32_t k1) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    uint32_t high0 = __umulhi(0xd2511f53u, c.x), low0 = 0xd2511f53u * c.x;
    uint32_t high1 = __umulhi(0xcd9e8d57u, c.z), low1 = 0xcd9e8d57u * c.z;
    c = make_uint4(high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0);
    k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
  }
  return c;
}

// y = x * mask * factor, or y += that; V columns (1 or 8) at a time.
template <typename T, int V>
__device__ void dropout(const T *x, i64 xp, T *y, i64 yp, i64 rows, i64 cols, uint64_t key, uint32_t threshold,
                        float factor, bool accumulate) {
  each(rows, cols, V, [&](i64 r, i64 c) {
    uint4 draws = philox(make_uint4((uint32_t)(c / 8), (uint32_t)r, (uint32_t)(r >> 32), 0), (uint32_t)key,
                         (uint32_t)(key >> 32));
    uint32_t words[4] = {draws.x, draws.y, draws.z, draws.w};
    const T *from = x + r * xp + c;
    T *to = y + r * yp + c;
    if constexpr (V == 8) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        Four<T> a, b;
        float v[4], old[4];
        a.load(from + 4 * half), a.get(v);
        if (accumulate) b.load(to + 4 * half), b.get(old);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          uint32_t draw = words[2 * half + j / 2] >> (j % 2 * 16) & 0xffffu;
          v[j] = draw >= threshold ? v[j] * factor : 0.f;
          if (accumulate) v[j] += old[j];
        }
        a.set(v), a.store(to + 4 * half);
      }
    } else {
      int j = (int)(c % 8);
      uint32_t draw = words[j / 2] >> (j % 2 * 16) & 0xffffu;
      float v = draw >= threshold ? to_f32(*from) * factor : 0.f;
      *to = from_f32<T>(accumulate ? v + to_f32(*to) : v);
    }
  });
}
#define DROPOUT(S, T)                                                                                                  \
  extern "C" __global__ void dropout_##S(const T *x, i64 xp, T *y, i64 yp, i64 rows, i64 cols, uint64_t key,           \
                                         i64 threshold, float factor, i64 accumulate, i64 vec) {                       \
    if (vec) dropout<T, 8>(x, xp, y, yp, rows, cols, key, (uint32_t)threshold, factor, accumulate != 0);               \
    else dropout<T, 1>(x, xp, y, yp, rows, cols, key, (uint32_t)threshold, factor, accumulate != 0);                   \
  }
DROPOUT(f32, float)
DROPOUT(bf16, bf16)
DROPOUT(f16, f16)
