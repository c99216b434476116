// Element-wise kernels. A matrix is a pointer with a row pitch; `vec` says that pitch, width and address allow four
// elements at once.
#pragma once
#include "common.cuh"

template <typename A, typename B> __device__ void cast(const A *x, B *y, i64 n) {
  for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x)
    y[i] = from_f32<B>(to_f32(x[i]));
}
#define CAST(A, B, X, Y)                                                                                               \
  extern "C" __global__ void cast_##A##_##B(const X *x, Y *y, i64 n) { cast(x, y, n); }
CAST(f32, bf16, float, bf16)
CAST(f32, f16, float, f16)
CAST(bf16, f32, bf16, float)
CAST(f16, f32, f16, float)
CAST(bf16, f16, bf16, f16)
CAST(f16, bf16, f16, bf16)

template <typename T> __device__ void add(const T *x, T *y, i64 n) {
  i64 groups = n / 4;
  i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x, stride = (i64)gridDim.x * blockDim.x;
  for (i64 g = i; g < groups; g += stride) {
    Four<T> a, b;
    float u[4], v[4];
    a.load(x + g * 4), b.load(y + g * 4);
    a.get(u), b.get(v);
    for (int j = 0; j < 4; j++) v[j] += u[j];
    b.set(v), b.store(y + g * 4);
  }
  for (i64 g = groups * 4 + i; g < n; g += stride) y[g] = from_f32<T>(to_f32(y[g]) + to_f32(x[g]));
}
extern "C" __global__ void add_f32(const float *x, float *y, i64 n) { add(x, y, n); }
extern "C" __global__ void add_bf16(const bf16 *x, bf16 *y, i64 n) { add(x, y, n); }
extern "C" __global__ void add_f16(const f16 *x, f16 *y, i64 n) { add(x, y, n); }

template <typename T> __device__ void add_bias(const float *bias, T *y, i64 rows, i64 cols, i64 pitch) {
  each(rows, cols, 1, [&](i64 r, i64 c) { y[r * pitch + c] = from_f32<T>(to_f32(y[r * pitch + c]) + bias[c]); });
}
extern "C" __global__ void add_bias_f32(const float *b, float *y, i64 r, i64 c, i64 p) { add_bias(b, y, r, c, p); }
extern "C" __global__ void add_bias_bf16(const float *b, bf16 *y, i64 r, i64 c, i64 p) { add_bias(b, y, r, c, p); }
extern "C" __global__ void add_bias_f16(const float *b, f16 *y, i64 r, i64 c, i64 p) { add_bias(b, y, r, c, p); }

// out[c] += sum over rows of f(r, c): 32 columns a block, rows in eight interleaved lanes whose sums are added in order.
template <typename F> __device__ void column_sum(float *out, i64 rows, i64 cols, F f) {
  __shared__ float part[8][33];
  i64 c = blockIdx.x * 32 + threadIdx.x;
  float sum = 0.f;
  if (c < cols)
    for (i64 r = threadIdx.y; r < rows; r += 8) sum += f(r, c);
  part[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && c < cols) {
    float total = 0.f;
    for (int i = 0; i < 8; i++) total += part[i][threadIdx.x];
    out[c] += total;
  }
}
#define BIAS_BACKWARD(S, T)                                                                                            \
  extern "C" __global__ void bias_backward_##S(const T *dy, float *db, i64 rows, i64 cols, i64 pitch) {                \
    column_sum(db, rows, cols, [&](i64 r, i64 c) { return to_f32(dy[r * pitch + c]); });                               \
  }
BIAS_BACKWARD(f32, float)
BIAS_BACKWARD(bf16, bf16)
BIAS_BACKWARD(f16, f16)

// y[i] = x[rows[i]]
template <typename A, typename B>
__device__ void gather(const A *x, i64 xp, const uint32_t *rows, B *y, i64 yp, i64 n, i64 cols) {
  each(n, cols, 1, [&](i64 r, i64 c) { y[r * yp + c] = from_f32<B>(to_f32(x[(i64)rows[r] * xp + c])); });
}
template <typename T>
__device__ void gather4(const T *x, i64 xp, const uint32_t *rows, T *y, i64 yp, i64 n, i64 cols) {
  each(n, cols, 4, [&](i64 r, i64 c) {
    Four<T> v;
    v.load(x + (i64)rows[r] * xp + c), v.store(y + r * yp + c);
  });
}
#define GATHER(N, A, B)                                                                                                \
  extern "C" __global__ void N(const A *x, i64 xp, const uint32_t *rows, B *y, i64 yp, i64 n, i64 cols, i64 vec) {     \
    gather<A, B>(x, xp, rows, y, yp, n, cols);                                                                         \
  }
GATHER(gather_f32_bf16, float, bf16)
GATHER(gather_bf16_f32, bf16, float)
GATHER(gather_f32_f16, float, f16)
GATHER(gather_f16_f32, f16, float)
GATHER(gather_bf16_f16, bf16, f16)
GATHER(gather_f16_bf16, f16, bf16)
#define GATHER_SAME(N, T)                                                                                              \
  extern "C" __global__ void N(const T *x, i64 xp, const uint32_t *rows, T *y, i64 yp, i64 n, i64 cols, i64 vec) {     \
    if (vec) gather4<T>(x, xp, rows, y, yp, n, cols);                                                                  \
    else gather<T, T>(x, xp, rows, y, yp, n, cols);                                                                    \
  }
GATHER_SAME(gather_f32_f32, float)
GATHER_SAME(gather_bf16_bf16, bf16)
GATHER_SAME(gather_f16_f16, f16)

// y[rows[i]] = x[i]; rows are distinct.
template <typename T>
__device__ void spread(const T *x, i64 xp, const uint32_t *rows, T *y, i64 yp, i64 n, i64 cols, i64 vec) {
  if (vec)
    each(n, cols, 4, [&](i64 r, i64 c) {
      Four<T> v;
      v.load(x + r * xp + c), v.store(y + (i64)rows[r] * yp + c);
    });
  else
    each(n, cols, 1, [&](i64 r, i64 c) { y[(i64)rows[r] * yp + c] = x[r * xp + c]; });
}
#define SPREAD(N, T)                                                                                                   \
  extern "C" __global__ void N(const T *x, i64 xp, const uint32_t *rows, T *y, i64 yp, i64 n, i64 cols, i64 vec) {     \
    spread<T>(x, xp, rows, y, yp, n, cols, vec);                                                                       \
  }
SPREAD(spread_f32, float)
SPREAD(spread_bf16, bf16)
SPREAD(spread_f16, f16)

// table[ids[g]] += sum of dy[order[i]] for i in starts[g]..starts[g + 1], added in order.
template <typename T>
__device__ void embed_backward(const T *dy, i64 dp, const uint32_t *ids, const uint32_t *starts, const uint32_t *order,
                               float *table, i64 cols) {
  i64 group = blockIdx.x;
  uint32_t from = starts[group], to = starts[group + 1];
  for (i64 c = threadIdx.x; c < cols; c += blockDim.x) {
    float sum = 0.f;
    for (uint32_t i = from; i < to; i++) sum += to_f32(dy[(i64)order[i] * dp + c]);
    table[(i64)ids[group] * cols + c] += sum;
  }
}
#define EMBED_BACKWARD(N, T)                                                                                           \
  extern "C" __global__ void N(const T *dy, i64 dp, const uint32_t *ids, const uint32_t *starts,                       \
                               const uint32_t *order, float *table, i64 cols) {                                       \
    embed_backward<T>(dy, dp, ids, starts, order, table, cols);                                                        \
  }
EMBED_BACKWARD(embed_backward_f32, float)
EMBED_BACKWARD(embed_backward_bf16, bf16)
EMBED_BACKWARD(embed_backward_f16, f16)

// Rotates the first 2 half elements of every head of `width` by the angles of its row's position: element i against i + half,
// or with `pairs` 2 i against 2 i + 1; table: half cosines, half sines.
template <typename T>
__device__ void rope(T *x, i64 pitch, i64 rows, i64 heads, i64 width, i64 half, i64 pairs, const uint32_t *positions,
                     const float *table, float sign) {
  i64 step = pairs ? 2 : 1, far = pairs ? 1 : half;
  each(rows, heads * half, 1, [&](i64 r, i64 c) {
    i64 head = c / half, i = c % half;
    const float *angles = table + (i64)positions[r] * 2 * half;
    float cs = angles[i], sn = sign * angles[half + i];
    T *p = x + r * pitch + head * width + i * step;
    float a = to_f32(p[0]), b = to_f32(p[far]);
    p[0] = from_f32<T>(a * cs - b * sn);
    p[far] = from_f32<T>(b * cs + a * sn);
  });
}
#define ROPE(N, T)                                                                                                     \
  extern "C" __global__ void N(T *x, i64 pitch, i64 rows, i64 heads, i64 width, i64 half, i64 pairs,                   \
                               const uint32_t *positions, const float *table, float sign) {                           \
    rope<T>(x, pitch, rows, heads, width, half, pairs, positions, table, sign);                                        \
  }
ROPE(rope_f32, float)
ROPE(rope_bf16, bf16)
ROPE(rope_f16, f16)

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// y = silu(gate) * up; gate_up: [rows, 2 * inner]
template <typename T, int V> __device__ void swiglu(const T *gu, i64 gp, T *y, i64 yp, i64 rows, i64 inner) {
  each(rows, inner, V, [&](i64 r, i64 c) {
    if constexpr (V == 4) {
      Four<T> a, b;
      float e[4], g[4];
      a.load(gu + r * gp + c), b.load(gu + r * gp + inner + c);
      a.get(e), b.get(g);
      for (int j = 0; j < 4; j++) e[j] = e[j] * sigmoid(e[j]) * g[j];
      a.set(e), a.store(y + r * yp + c);
    } else {
      float e = to_f32(gu[r * gp + c]), g = to_f32(gu[r * gp + inner + c]);
      y[r * yp + c] = from_f32<T>(e * sigmoid(e) * g);
    }
  });
}
template <typename T, int V> __device__ void swiglu_backward(const T *dy, i64 dp, T *gu, i64 gp, i64 rows, i64 inner) {
  each(rows, inner, V, [&](i64 r, i64 c) {
    float e[4], g[4], d[4];
    T *pe = gu + r * gp + c, *pg = pe + inner;
    Four<T> a, b, q;
    if constexpr (V == 4) {
      a.load(pe), b.load(pg), q.load(dy + r * dp + c);
      a.get(e), b.get(g), q.get(d);
    } else {
      e[0] = to_f32(*pe), g[0] = to_f32(*pg), d[0] = to_f32(dy[r * dp + c]);
    }
    for (int j = 0; j < V; j++) {
      float s = sigmoid(e[j]), de = d[j] * g[j] * s * (1.f + e[j] * (1.f - s));
      g[j] = d[j] * e[j] * s;
      e[j] = de;
    }
    if constexpr (V == 4) {
      a.set(e), a.store(pe), b.set(g), b.store(pg);
    } else {
      *pe = from_f32<T>(e[0]), *pg = from_f32<T>(g[0]);
    }
  });
}
#define SWIGLU(S, T)                                                                                                   \
  extern "C" __global__ void swiglu_##S(const T *gu, i64 gp, T *y, i64 yp, i64 rows, i64 inner, i64 vec) {             \
    if (vec) swiglu<T, 4>(gu, gp, y, yp, rows, inner);                                                                 \
    else swiglu<T, 1>(gu, gp, y, yp, rows, inner);                                                                     \
  }                                                                                                                    \
  extern "C" __global__ void swiglu_backward_##S(const T *dy, i64 dp, T *gu, i64 gp, i64 rows, i64 inner, i64 vec) {   \
    if (vec) swiglu_backward<T, 4>(dy, dp, gu, gp, rows, inner);                                                       \
    else swiglu_backward<T, 1>(dy, dp, gu, gp, rows, inner);                                                           \
  }
SWIGLU(f32, float)
SWIGLU(bf16, bf16)
SWIGLU(f16, f16)

// Keys and values of new rows into their slots: columns q_dim.. and q_dim + kv_dim.. of the merged projections.
template <typename T>
__device__ void store_kv(const T *qkv, i64 pitch, i64 q_dim, i64 kv_dim, const uint32_t *slots, T *keys, T *values,
                         i64 rows) {
  each(rows, kv_dim, 1, [&](i64 r, i64 c) {
    i64 to = (i64)slots[r] * kv_dim + c;
    keys[to] = qkv[r * pitch + q_dim + c];
    values[to] = qkv[r * pitch + q_dim + kv_dim + c];
  });
}
#define STORE_KV(S, T)                                                                                                 \
  extern "C" __global__ void store_kv_##S(const T *x, i64 p, i64 q, i64 kv, const uint32_t *s, T *k, T *v, i64 n) {    \
    store_kv(x, p, q, kv, s, k, v, n);                                                                                 \
  }
STORE_KV(f32, float)
STORE_KV(bf16, bf16)
STORE_KV(f16, f16)
