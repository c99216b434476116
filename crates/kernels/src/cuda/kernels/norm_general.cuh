// Norms that are not plain RMS norms: layer norms, norms with a bias or without a weight, and those whose heads have weights
// of their own. The backward computes the statistics again, and gives the gradient of the input alone.
#pragma once
#include "norm.cuh"

// Mean (0 unless `layer`) and reciprocal deviation of one head, for all of its threads.
template <typename T, int V>
__device__ float2 statistics(const T *x, i64 width, bool layer, bool live, float eps, float *scratch) {
  float v[4], mean = 0.f, square = 0.f;
  if (layer) {
    if (live)
      for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
        get<T, V>(x + c, v);
        for (int j = 0; j < V; j++) mean += v[j];
      }
    mean = group_sum(mean, blockDim.x, scratch) / (float)width;
  }
  if (live)
    for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
      get<T, V>(x + c, v);
      for (int j = 0; j < V; j++) square += (v[j] - mean) * (v[j] - mean);
    }
  square = group_sum(square, blockDim.x, scratch);
  return make_float2(mean, rsqrtf(square / (float)width + eps));
}

// `w` and `b` may be null; with `own` they have an element for every column of a row, else for every column of a head.
template <typename T, int V>
__device__ void norm(const T *x, i64 xp, i64 rows, i64 heads, i64 width, i64 layer, const float *w, const float *b,
                     i64 own, float eps, T *y, i64 yp) {
  __shared__ float scratch[32];
  i64 item = blockIdx.x * (i64)blockDim.y + threadIdx.y;
  bool live = item < rows * heads;
  i64 r = live ? item / heads : 0, h = live ? item % heads : 0, at = own ? h * width : 0;
  const T *from = x + r * xp + h * width;
  float2 s = statistics<T, V>(from, width, layer, live, eps, scratch);
  if (!live) return;
  float v[4], u[4];
  for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
    get<T, V>(from + c, v);
    for (int j = 0; j < V; j++) v[j] = (v[j] - s.x) * s.y;
    if (w) {
      get<float, V>(w + at + c, u);
      for (int j = 0; j < V; j++) v[j] *= u[j];
    }
    if (b) {
      get<float, V>(b + at + c, u);
      for (int j = 0; j < V; j++) v[j] += u[j];
    }
    put<T, V>(y + r * yp + h * width + c, v);
  }
}

// d: dy in, dx out (+ add where given).
template <typename T, int V>
__device__ void norm_backward(T *d, i64 dp, i64 rows, i64 heads, i64 width, i64 layer, const T *x, i64 xp,
                              const float *w, i64 own, float eps, const T *add, i64 ap) {
  __shared__ float scratch[32];
  i64 item = blockIdx.x * (i64)blockDim.y + threadIdx.y;
  bool live = item < rows * heads;
  i64 r = live ? item / heads : 0, h = live ? item % heads : 0, at = own ? h * width : 0;
  T *pd = d + r * dp + h * width;
  const T *px = x + r * xp + h * width;
  float2 s = statistics<T, V>(px, width, layer, live, eps, scratch);
  float sum = 0.f, dot = 0.f, g[4], v[4], u[4] = {1.f, 1.f, 1.f, 1.f};
  if (live)
    for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
      get<T, V>(pd + c, g), get<T, V>(px + c, v);
      if (w) get<float, V>(w + at + c, u);
      for (int j = 0; j < V; j++) sum += g[j] * u[j], dot += g[j] * u[j] * (v[j] - s.x) * s.y;
    }
  if (layer) sum = group_sum(sum, blockDim.x, scratch) / (float)width;
  else sum = 0.f;
  dot = group_sum(dot, blockDim.x, scratch) / (float)width;
  if (!live) return;
  for (int c = threadIdx.x * V; c < width; c += blockDim.x * V) {
    get<T, V>(pd + c, g), get<T, V>(px + c, v);
    if (w) get<float, V>(w + at + c, u);
    for (int j = 0; j < V; j++) g[j] = s.y * (g[j] * u[j] - sum - (v[j] - s.x) * s.y * dot);
    if (add) {
      get<T, V>(add + r * ap + h * width + c, v);
      for (int j = 0; j < V; j++) g[j] += v[j];
    }
    put<T, V>(pd + c, g);
  }
}

// norms[r] = root of the sum of squares of a row, a block each.
__device__ void row_norms(const float *x, i64 pitch, i64 cols, float *norms) {
  __shared__ double scratch[32];
  double sum = 0.0;
  for (i64 c = threadIdx.x; c < cols; c += blockDim.x) sum += (double)x[blockIdx.x * pitch + c] * x[blockIdx.x * pitch + c];
  sum = group_sum(sum, blockDim.x, scratch);
  if (threadIdx.x == 0) norms[blockIdx.x] = (float)sqrt(sum);
}
extern "C" __global__ void row_norms_f32(const float *x, i64 p, i64 cols, float *norms) { row_norms(x, p, cols, norms); }

#define NORM_GENERAL(S, T)                                                                                             \
  extern "C" __global__ void norm_##S(const T *x, i64 xp, i64 rows, i64 heads, i64 width, i64 layer, const float *w,   \
                                      const float *b, i64 own, float eps, T *y, i64 yp, i64 vec) {                     \
    if (vec) norm<T, 4>(x, xp, rows, heads, width, layer, w, b, own, eps, y, yp);                                      \
    else norm<T, 1>(x, xp, rows, heads, width, layer, w, b, own, eps, y, yp);                                          \
  }                                                                                                                    \
  extern "C" __global__ void norm_backward_##S(T *d, i64 dp, i64 rows, i64 heads, i64 width, i64 layer, const T *x,    \
                                               i64 xp, const float *w, i64 own, float eps, const T *add, i64 ap,       \
                                               i64 vec) {                                                              \
    if (vec) norm_backward<T, 4>(d, dp, rows, heads, width, layer, x, xp, w, own, eps, add, ap);                       \
    else norm_backward<T, 1>(d, dp, rows, heads, width, layer, x, xp, w, own, eps, add, ap);                           \
  }
NORM_GENERAL(f32, float)
NORM_GENERAL(bf16, bf16)
NORM_GENERAL(f16, f16)
