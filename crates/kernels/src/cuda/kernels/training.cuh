// What training needs beside the kernels of evaluation: the backward of mixtures, latent attention, soft limits and short
// convolutions.
#pragma once
#include "elementwise.cuh"
#include "reduce.cuh"

// y[r] = Σ a[r] · b[r]; a warp a row.
template <typename T>
__device__ void row_dots(const T *a, i64 ap, const T *b, i64 bp, float *y, i64 rows, i64 cols) {
  i64 r = (i64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (r >= rows) return;
  float sum = 0.f;
  for (i64 c = threadIdx.x % 32; c < cols; c += 32) sum += to_f32(a[r * ap + c]) * to_f32(b[r * bp + c]);
  for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
  if (threadIdx.x % 32 == 0) y[r] = sum;
}

// y[c] = Σ a[r, c] · b[r, c], added in order of the rows; a thread a column.
template <typename T>
__device__ void column_dots(const T *a, i64 ap, const T *b, i64 bp, float *y, i64 rows, i64 cols) {
  i64 c = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= cols) return;
  float sum = 0.f;
  for (i64 r = 0; r < rows; r++) sum += to_f32(a[r * ap + c]) * to_f32(b[r * bp + c]);
  y[c] = sum;
}

// y[places[r]] += x[r]; places are distinct.
template <typename T>
__device__ void add_rows(const T *x, i64 xp, const uint32_t *places, T *y, i64 yp, i64 rows, i64 cols) {
  each(rows, cols, 1, [&](i64 r, i64 c) {
    T *to = y + (i64)places[r] * yp + c;
    *to = from_f32<T>(to_f32(*to) + to_f32(x[r * xp + c]));
  });
}

// Runs of columns, a run a head, added to others: y[r, yf + h · ys + i] += x[r, xf + h · xs + i]. Where heads share a run of
// y (ys = 0), they are added in their order.
template <typename T>
__device__ void add_heads(const T *x, i64 xp, i64 xf, i64 xs, T *y, i64 yp, i64 yf, i64 ys, i64 rows, i64 heads,
                          i64 width) {
  i64 apart = ys ? heads : 1, together = ys ? 1 : heads;
  each(rows, apart * width, 1, [&](i64 r, i64 c) {
    i64 h = c / width, i = c % width;
    T *to = y + r * yp + yf + h * ys + i;
    float sum = to_f32(*to);
    for (i64 k = 0; k < together; k++) sum += to_f32(x[r * xp + xf + (h + k) * xs + i]);
    *to = from_f32<T>(sum);
  });
}

// d *= 1 - (y / cap)², where y = cap · tanh(x / cap).
template <typename T>
__device__ void soft_limit_backward(const T *y, i64 yp, T *d, i64 dp, i64 rows, i64 cols, float cap) {
  each(rows, cols, 1, [&](i64 r, i64 c) {
    float t = to_f32(y[r * yp + c]) / cap;
    d[r * dp + c] = from_f32<T>(to_f32(d[r * dp + c]) * (1.f - t * t));
  });
}

// A gated short convolution within documents, whose first rows are `firsts`: u = a · c, y = b · (bias + Σ taps · u), where x
// has the columns of a, b and c.
template <typename T> __device__ float convolved(const T *x, i64 xp, const float *taps, i64 count, i64 width, i64 t, i64 first, i64 c) {
  float sum = 0.f;
  for (i64 back = count - 1; back >= 0; back--)
    if (t - back >= first) {
      const T *seen = x + (t - back) * xp + c;
      sum += taps[c * count + count - 1 - back] * (to_f32(seen[0]) * to_f32(seen[2 * width]));
    }
  return sum;
}
template <typename T>
__device__ void document_convolution(const T *x, i64 xp, const float *taps, i64 count, const float *bias,
                                     const uint32_t *firsts, T *y, i64 yp, i64 rows, i64 width) {
  each(rows, width, 1, [&](i64 t, i64 c) {
    float sum = (bias ? bias[c] : 0.f) + convolved(x, xp, taps, count, width, t, firsts[t], c);
    y[t * yp + c] = from_f32<T>(to_f32(x[t * xp + width + c]) * sum);
  });
}
// With s the sum before its gate: db = dy · s, du[t] = Σ taps[k] · (dy · b)[t + k], da = du · c, dc = du · a.
template <typename T>
__device__ void document_convolution_backward(const T *dy, i64 dyp, const T *x, i64 xp, const float *taps, i64 count,
                                              const float *bias, const uint32_t *firsts, T *d, i64 dp, i64 rows,
                                              i64 width) {
  each(rows, width, 1, [&](i64 t, i64 c) {
    float sum = (bias ? bias[c] : 0.f) + convolved(x, xp, taps, count, width, t, firsts[t], c), du = 0.f;
    for (i64 ahead = 0; ahead < count && t + ahead < rows && firsts[t + ahead] == firsts[t]; ahead++)
      du += taps[c * count + count - 1 - ahead] * to_f32(dy[(t + ahead) * dyp + c]) *
            to_f32(x[(t + ahead) * xp + width + c]);
    const T *own = x + t * xp + c;
    T *to = d + t * dp + c;
    to[0] = from_f32<T>(du * to_f32(own[2 * width]));
    to[width] = from_f32<T>(to_f32(dy[t * dyp + c]) * sum);
    to[2 * width] = from_f32<T>(du * to_f32(own[0]));
  });
}
#define TRAINING(S, T)                                                                                                 \
  extern "C" __global__ void row_dots_##S(const T *a, i64 ap, const T *b, i64 bp, float *y, i64 rows, i64 cols) {      \
    row_dots<T>(a, ap, b, bp, y, rows, cols);                                                                          \
  }                                                                                                                    \
  extern "C" __global__ void column_dots_##S(const T *a, i64 ap, const T *b, i64 bp, float *y, i64 rows, i64 cols) {   \
    column_dots<T>(a, ap, b, bp, y, rows, cols);                                                                       \
  }                                                                                                                    \
  extern "C" __global__ void add_rows_##S(const T *x, i64 xp, const uint32_t *places, T *y, i64 yp, i64 rows,          \
                                          i64 cols) {                                                                  \
    add_rows<T>(x, xp, places, y, yp, rows, cols);                                                                     \
  }                                                                                                                    \
  extern "C" __global__ void add_heads_##S(const T *x, i64 xp, i64 xf, i64 xs, T *y, i64 yp, i64 yf, i64 ys, i64 rows, \
                                           i64 heads, i64 width) {                                                     \
    add_heads<T>(x, xp, xf, xs, y, yp, yf, ys, rows, heads, width);                                                    \
  }                                                                                                                    \
  extern "C" __global__ void soft_limit_backward_##S(const T *y, i64 yp, T *d, i64 dp, i64 rows, i64 cols,             \
                                                     float cap) {                                                      \
    soft_limit_backward<T>(y, yp, d, dp, rows, cols, cap);                                                             \
  }                                                                                                                    \
  extern "C" __global__ void document_convolution_##S(const T *x, i64 xp, const float *taps, i64 count,                \
                                                      const float *bias, const uint32_t *firsts, T *y, i64 yp,         \
                                                      i64 rows, i64 width) {                                           \
    document_convolution<T>(x, xp, taps, count, bias, firsts, y, yp, rows, width);                                     \
  }                                                                                                                    \
  extern "C" __global__ void document_convolution_backward_##S(                                                        \
      const T *dy, i64 dyp, const T *x, i64 xp, const float *taps, i64 count, const float *bias,                       \
      const uint32_t *firsts, T *d, i64 dp, i64 rows, i64 width) {                                                     \
    document_convolution_backward<T>(dy, dyp, x, xp, taps, count, bias, firsts, d, dp, rows, width);                   \
  }
TRAINING(f32, float)
TRAINING(bf16, bf16)
TRAINING(f16, f16)
