// What puts rows together otherwise than products: experts' outputs, the parts of latent attention, short convolutions.
#pragma once
#include "elementwise.cuh"

// y[r] = Σ weights[r, i] · x[places[r, i]], added in order of i.
template <typename T>
__device__ void combine(const T *x, i64 xp, const uint32_t *places, const float *weights, i64 each_row, T *y, i64 yp,
                        i64 rows, i64 cols) {
  each(rows, cols, 1, [&](i64 r, i64 c) {
    float sum = 0.f;
    for (i64 i = r * each_row; i < (r + 1) * each_row; i++) sum += weights[i] * to_f32(x[(i64)places[i] * xp + c]);
    y[r * yp + c] = from_f32<T>(sum);
  });
}

// Queries, keys and values of heads of `nope + rope` elements, side by side, from q (nope, rope), what all heads share
// (rope) and kv (nope, value): the rotated part comes first, values end in zeros.
template <typename T>
__device__ void latent_heads(const T *q, i64 qp, const T *shared, i64 sp, const T *kv, i64 kp, T *y, i64 yp, i64 rows,
                             i64 heads, i64 nope, i64 rope, i64 value) {
  i64 head = nope + rope;
  each(rows, heads * head, 1, [&](i64 r, i64 c) {
    i64 h = c / head, i = c % head, own = i - rope;
    const T *pq = q + r * qp + h * head, *pk = kv + r * kp + h * (nope + value);
    T *to = y + r * yp + c;
    to[0] = i < rope ? pq[nope + i] : pq[own];
    to[heads * head] = i < rope ? shared[r * sp + i] : pk[own];
    to[2 * heads * head] = i < value ? pk[nope + i] : from_f32<T>(0.f);
  });
}

// values[slots[r]] = x[r, first third] · x[r, last third], the input of a short convolution.
template <typename T>
__device__ void convolution_input(const T *x, i64 xp, const uint32_t *slots, T *values, i64 rows, i64 width) {
  each(rows, width, 1, [&](i64 r, i64 c) {
    values[(i64)slots[r] * width + c] = from_f32<T>(to_f32(x[r * xp + c]) * to_f32(x[r * xp + 2 * width + c]));
  });
}
// y[r] = (bias + Σ taps[c, i] · values[places[r, i]]) · x[r, second third]; a place of 2³² − 1 is none.
template <typename T>
__device__ void convolution(const T *values, const uint32_t *places, const float *taps, i64 count, const float *bias,
                            const T *x, i64 xp, T *y, i64 yp, i64 rows, i64 width) {
  each(rows, width, 1, [&](i64 r, i64 c) {
    float sum = bias ? bias[c] : 0.f;
    for (i64 i = 0; i < count; i++) {
      uint32_t place = places[r * count + i];
      if (place != 0xffffffffu) sum += taps[c * count + i] * to_f32(values[(i64)place * width + c]);
    }
    y[r * yp + c] = from_f32<T>(sum * to_f32(x[r * xp + width + c]));
  });
}
#define MIXING(S, T)                                                                                                   \
  extern "C" __global__ void combine_##S(const T *x, i64 xp, const uint32_t *places, const float *weights, i64 n,      \
                                         T *y, i64 yp, i64 rows, i64 cols) {                                           \
    combine<T>(x, xp, places, weights, n, y, yp, rows, cols);                                                          \
  }                                                                                                                    \
  extern "C" __global__ void latent_heads_##S(const T *q, i64 qp, const T *s, i64 sp, const T *kv, i64 kp, T *y,       \
                                              i64 yp, i64 rows, i64 heads, i64 nope, i64 rope, i64 value) {            \
    latent_heads<T>(q, qp, s, sp, kv, kp, y, yp, rows, heads, nope, rope, value);                                      \
  }                                                                                                                    \
  extern "C" __global__ void convolution_input_##S(const T *x, i64 xp, const uint32_t *slots, T *values, i64 rows,     \
                                                   i64 width) {                                                        \
    convolution_input<T>(x, xp, slots, values, rows, width);                                                           \
  }                                                                                                                    \
  extern "C" __global__ void convolution_##S(const T *values, const uint32_t *places, const float *taps, i64 count,    \
                                             const float *bias, const T *x, i64 xp, T *y, i64 yp, i64 rows,            \
                                             i64 width) {                                                              \
    convolution<T>(values, places, taps, count, bias, x, xp, y, yp, rows, width);                                      \
  }
MIXING(f32, float)
MIXING(bf16, bf16)
MIXING(f16, f16)
