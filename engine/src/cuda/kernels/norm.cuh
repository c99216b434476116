// RMS norm over the heads of rows (one head = the whole row), forward and backward.
//
// blockDim.x threads (32, or 256 with blockDim.y = 1) share one head of one row.
#pragma once
#include "elementwise.cuh"

template <typename T, bool ADD>
__device__ void rmsnorm(const T *x, i64 xp, T *sum, i64 sp, i64 rows, i64 heads, i64 width, const float *w, float eps,
                        T *y, i64 yp, float *rstd) {
  __shared__ float scratch[32];
  i64 item = blockIdx.x * (i64)blockDim.y + threadIdx.y;
  bool live = item < rows * heads;
  i64 r = live ? item / heads : 0, h = live ? item % heads : 0;
  const T *from = x + r * xp + h * width;
  T *kept = ADD ? sum + r * sp + h * width : nullptr;
  float square = 0.f;
  if (live)
    for (i64 c = threadIdx.x; c < width; c += blockDim.x) {
      float v = to_f32(from[c]);
      if (ADD) {
        // The sum is rounded before it is normed: the backward sees what was normed.
        T rounded = from_f32<T>(v + to_f32(kept[c]));
        kept[c] = rounded;
        v = to_f32(rounded);
      }
      square += v * v;
    }
  square = group_sum(square, blockDim.x, scratch);
  if (!live) return;
  float scale = rsqrtf(square / (float)width + eps);
  const T *normed = ADD ? kept : from;
  for (i64 c = threadIdx.x; c < width; c += blockDim.x)
    y[r * yp + h * width + c] = from_f32<T>(to_f32(normed[c]) * scale * w[c]);
  if (rstd && threadIdx.x == 0) rstd[item] = scale;
}

// d: dy in, dx out (+ add where given).
template <typename T>
__device__ void rmsnorm_backward(T *d, i64 dp, i64 rows, i64 heads, i64 width, const T *x, i64 xp, const float *w,
                                 const float *rstd, const T *add, i64 ap) {
  __shared__ float scratch[32];
  i64 item = blockIdx.x * (i64)blockDim.y + threadIdx.y;
  bool live = item < rows * heads;
  i64 r = live ? item / heads : 0, h = live ? item % heads : 0;
  T *pd = d + r * dp + h * width;
  const T *px = x + r * xp + h * width;
  float scale = live ? rstd[item] : 0.f, dot = 0.f;
  if (live)
    for (i64 c = threadIdx.x; c < width; c += blockDim.x) dot += to_f32(pd[c]) * w[c] * to_f32(px[c]) * scale;
  dot = group_sum(dot, blockDim.x, scratch) / (float)width;
  if (!live) return;
  for (i64 c = threadIdx.x; c < width; c += blockDim.x) {
    float v = scale * (to_f32(pd[c]) * w[c] - to_f32(px[c]) * scale * dot);
    if (add) v += to_f32(add[r * ap + h * width + c]);
    pd[c] = from_f32<T>(v);
  }
}

// dw[c] += sum over rows and heads of dy * x * rstd; before dy is overwritten.
template <typename T>
__device__ void rmsnorm_weight(const T *d, i64 dp, i64 rows, i64 heads, i64 width, const T *x, i64 xp,
                               const float *rstd, float *dw) {
  column_sum(dw, rows * heads, width, [&](i64 item, i64 c) {
    i64 r = item / heads, at = item % heads * width + c;
    return to_f32(d[r * dp + at]) * to_f32(x[r * xp + at]) * rstd[item];
  });
}

#define NORM(S, T)                                                                                                     \
  extern "C" __global__ void rmsnorm_##S(const T *x, i64 xp, i64 rows, i64 heads, i64 width, const float *w,           \
                                         float eps, T *y, i64 yp, float *rstd) {                                       \
    rmsnorm<T, false>(x, xp, nullptr, 0, rows, heads, width, w, eps, y, yp, rstd);                                     \
  }                                                                                                                    \
  extern "C" __global__ void add_rmsnorm_##S(const T *x, i64 xp, T *sum, i64 sp, i64 rows, i64 width, const float *w,  \
                                             float eps, T *y, i64 yp, float *rstd) {                                   \
    rmsnorm<T, true>(x, xp, sum, sp, rows, 1, width, w, eps, y, yp, rstd);                                             \
  }                                                                                                                    \
  extern "C" __global__ void rmsnorm_backward_##S(T *d, i64 dp, i64 rows, i64 heads, i64 width, const T *x, i64 xp,    \
                                                  const float *w, const float *rstd, const T *add, i64 ap) {           \
    rmsnorm_backward<T>(d, dp, rows, heads, width, x, xp, w, rstd, add, ap);                                           \
  }                                                                                                                    \
  extern "C" __global__ void rmsnorm_weight_##S(const T *d, i64 dp, i64 rows, i64 heads, i64 width, const T *x,        \
                                                i64 xp, const float *rstd, float *dw) {                                \
    rmsnorm_weight<T>(d, dp, rows, heads, width, x, xp, rstd, dw);                                                     \
  }
NORM(f32, float)
NORM(bf16, bf16)
