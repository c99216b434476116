// RMS norm over the heads of rows (one head = the whole row), forward and backward.
//
// blockDim.x threads (32, or 256 with blockDim.y = 1) share one head of one row.
#pragma once
#include "elementwise.cuh"

// V neighbouring elements.
template <typename T, int V> __device__ __forceinline__ void get(const T *p, float (&x)[4]) {
  if constexpr (V == 4) {
    Four<T> v;
    v.load(p), v.get(x);
  } else {
    x[0] = to_f32(*p);
  }
}
template <typename T, int V> __device__ __forceinline__ void put(T *p, const float (&x)[4]) {
  if constexpr (V == 4) {
    Four<T> v;
    v.set(x), v.store(p);
  } else {
    *p = from_f32<T>(x[0]);
  }
}

template <typename T, bool ADD, int V>
__device__ void rmsnorm(const T *x, i64 xp, T *sum, i64 sp, i64 rows, i64 heads, i64 width, const float *w, float eps,
                        T *y, i64 yp, float *rstd) {
  __shared__ float scratch[32];
  i64 item = blockIdx.x * (i64)blockDim.y + threadIdx.y;
  bool live = item < rows * heads;
  i64 r = live ? item / heads : 0, h = live ? item % heads : 0;
  const T *from = x + r * xp + h * width;
  T *kept = ADD ? sum + r * sp + h * width : nullptr;
  float square = 0.f, v[4], u[4];
  if (live)
    for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
      get<T, V>(from + c, v);
      if constexpr (ADD) {
        get<T, V>(kept + c, u);
        // The sum is rounded before it is normed: the backward sees what was normed.
        for (int j = 0; j < V; j++) v[j] = to_f32(from_f32<T>(v[j] + u[j]));
        put<T, V>(kept + c, v);
      }
      for (int j = 0; j < V; j++) square += v[j] * v[j];
    }
  square = group_sum(square, blockDim.x, scratch);
  if (!live) return;
  float scale = rsqrtf(square / (float)width + eps);
  const T *normed = ADD ? kept : from;
  for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
    get<T, V>(normed + c, v), get<float, V>(w + c, u);
    for (int j = 0; j < V; j++) v[j] *= scale * u[j];
    put<T, V>(y + r * yp + h * width + c, v);
  }
  if (rstd && threadIdx.x == 0) rstd[item] = scale;
}

// d: dy in, dx out (+ add where given).
template <typename T, int V>
__device__ void rmsnorm_backward(T *d, i64 dp, i64 rows, i64 heads, i64 width, const T *x, i64 xp, const float *w,
                                 const float *rstd, const T *add, i64 ap) {
  __shared__ float scratch[32];
  i64 item = blockIdx.x * (i64)blockDim.y + threadIdx.y;
  bool live = item < rows * heads;
  i64 r = live ? item / heads : 0, h = live ? item % heads : 0;
  T *pd = d + r * dp + h * width;
  const T *px = x + r * xp + h * width;
  float scale = live ? rstd[item] : 0.f, dot = 0.f, g[4], v[4], u[4];
  if (live)
    for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
      get<T, V>(pd + c, g), get<T, V>(px + c, v), get<float, V>(w + c, u);
      for (int j = 0; j < V; j++) dot += g[j] * u[j] * v[j] * scale;
    }
  dot = group_sum(dot, blockDim.x, scratch) / (float)width;
  if (!live) return;
  for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
    get<T, V>(pd + c, g), get<T, V>(px + c, v), get<float, V>(w + c, u);
    for (int j = 0; j < V; j++) g[j] = scale * (g[j] * u[j] - v[j] * scale * dot);
    if (add) {
      get<T, V>(add + r * ap + h * width + c, u);
      for (int j = 0; j < V; j++) g[j] += u[j];
    }
    put<T, V>(pd + c, g);
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
                                         float eps, T *y, i64 yp, float *rstd, i64 vec) {                              \
    if (vec) rmsnorm<T, false, 4>(x, xp, nullptr, 0, rows, heads, width, w, eps, y, yp, rstd);                         \
    else rmsnorm<T, false, 1>(x, xp, nullptr, 0, rows, heads, width, w, eps, y, yp, rstd);                             \
  }                                                                                                                    \
  extern "C" __global__ void add_rmsnorm_##S(const T *x, i64 xp, T *sum, i64 sp, i64 rows, i64 width, const float *w,  \
                                             float eps, T *y, i64 yp, float *rstd, i64 vec) {                          \
    if (vec) rmsnorm<T, true, 4>(x, xp, sum, sp, rows, 1, width, w, eps, y, yp, rstd);                                 \
    else rmsnorm<T, true, 1>(x, xp, sum, sp, rows, 1, width, w, eps, y, yp, rstd);                                     \
  }                                                                                                                    \
  extern "C" __global__ void rmsnorm_backward_##S(T *d, i64 dp, i64 rows, i64 heads, i64 width, const T *x, i64 xp,    \
                                                  const float *w, const float *rstd, const T *add, i64 ap, i64 vec) {  \
    if (vec) rmsnorm_backward<T, 4>(d, dp, rows, heads, width, x, xp, w, rstd, add, ap);                               \
    else rmsnorm_backward<T, 1>(d, dp, rows, heads, width, x, xp, w, rstd, add, ap);                                   \
  }                                                                                                                    \
  extern "C" __global__ void rmsnorm_weight_##S(const T *d, i64 dp, i64 rows, i64 heads, i64 width, const T *x,        \
                                                i64 xp, const float *rstd, float *dw) {                                \
    rmsnorm_weight<T>(d, dp, rows, heads, width, x, xp, rstd, dw);                                                     \
  }
NORM(f32, float)
NORM(bf16, bf16)
NORM(f16, f16)
