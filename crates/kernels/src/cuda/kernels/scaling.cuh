// Factors and limits: of all elements, of rows, of columns.
#pragma once
#include "norm.cuh"

enum Change { TIMES, CLIP, SOFT_LIMIT };

// y = f(y)
template <typename T, int V> __device__ void change(T *y, i64 yp, i64 rows, i64 cols, i64 kind, float a) {
  each(rows, cols, V, [&](i64 r, i64 c) {
    float v[4];
    get<T, V>(y + r * yp + c, v);
    for (int j = 0; j < V; j++)
      v[j] = kind == TIMES ? v[j] * a : kind == CLIP ? fminf(fmaxf(v[j], -a), a) : a * tanhf(v[j] / a);
    put<T, V>(y + r * yp + c, v);
  });
}
// d = 0 where a limit held x, which is what came out of it.
template <typename T, int V>
__device__ void clip_backward(const T *x, i64 xp, T *d, i64 dp, i64 rows, i64 cols, float limit) {
  each(rows, cols, V, [&](i64 r, i64 c) {
    float v[4], g[4];
    get<T, V>(x + r * xp + c, v), get<T, V>(d + r * dp + c, g);
    for (int j = 0; j < V; j++) g[j] = fabsf(v[j]) < limit ? g[j] : 0.f;
    put<T, V>(d + r * dp + c, g);
  });
}
// y += a x
template <typename T, int V>
__device__ void add_scaled(const T *x, i64 xp, T *y, i64 yp, i64 rows, i64 cols, float a) {
  each(rows, cols, V, [&](i64 r, i64 c) {
    float v[4], u[4];
    get<T, V>(x + r * xp + c, v), get<T, V>(y + r * yp + c, u);
    for (int j = 0; j < V; j++) u[j] += a * v[j];
    put<T, V>(y + r * yp + c, u);
  });
}
// Rows times a factor, or columns; or rows times the sigmoid of one.
enum By { ROW, COLUMN, ROW_SIGMOID };
template <typename T> __device__ void scale_by(const float *factors, T *y, i64 yp, i64 rows, i64 cols, i64 by) {
  each(rows, cols, 1, [&](i64 r, i64 c) {
    float f = factors[by == COLUMN ? c : r];
    if (by == ROW_SIGMOID) f = sigmoid(f);
    y[r * yp + c] = from_f32<T>(to_f32(y[r * yp + c]) * f);
  });
}
#define SCALING(S, T)                                                                                                  \
  extern "C" __global__ void change_##S(T *y, i64 yp, i64 rows, i64 cols, i64 kind, float a, i64 vec) {                \
    if (vec) change<T, 4>(y, yp, rows, cols, kind, a);                                                                 \
    else change<T, 1>(y, yp, rows, cols, kind, a);                                                                     \
  }                                                                                                                    \
  extern "C" __global__ void clip_backward_##S(const T *x, i64 xp, T *d, i64 dp, i64 rows, i64 cols, float limit,      \
                                               i64 vec) {                                                              \
    if (vec) clip_backward<T, 4>(x, xp, d, dp, rows, cols, limit);                                                     \
    else clip_backward<T, 1>(x, xp, d, dp, rows, cols, limit);                                                         \
  }                                                                                                                    \
  extern "C" __global__ void add_scaled_##S(const T *x, i64 xp, T *y, i64 yp, i64 rows, i64 cols, float a, i64 vec) {  \
    if (vec) add_scaled<T, 4>(x, xp, y, yp, rows, cols, a);                                                            \
    else add_scaled<T, 1>(x, xp, y, yp, rows, cols, a);                                                                \
  }                                                                                                                    \
  extern "C" __global__ void scale_by_##S(const float *f, T *y, i64 yp, i64 rows, i64 cols, i64 by) {                  \
    scale_by<T>(f, y, yp, rows, cols, by);                                                                             \
  }
SCALING(f32, float)
SCALING(bf16, bf16)
SCALING(f16, f16)
