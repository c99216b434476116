// The same attention without tensor cores, in f32 arithmetic: for f32 storage, and for head widths that have no
// tensor-core kernel. Blocks of 256 threads work on B x B scores; a thread holds rows ty + 16 i and columns tx + 16 j.
//
// DP is the head width rounded up to 64, 128 or 256; columns from the real width on are zeros in shared memory.
#pragma once
#include "attention_common.cuh"

namespace simt {
constexpr int THREADS = 256;
// Rows and columns of a block's scores, by what fits into shared memory.
template <int DP> constexpr int SIDE = DP > 128 ? 32 : 64;

// The part of a tile that this block works on; false if there is none.
template <int B> __device__ __forceinline__ bool part(const Tile *tiles, Tile &tile) {
  constexpr int PARTS = 64 / B;
  tile = tiles[blockIdx.x / PARTS];
  int from = blockIdx.x % PARTS * B;
  tile.row += from, tile.position += from, tile.rows = min(B, tile.rows - from);
  return tile.rows > 0;
}

template <typename T, int DP, int B = SIDE<DP>>
__device__ __forceinline__ void load_rows(float *to, const T *from, i64 pitch, int valid, int dim) {
  for (int i = threadIdx.x; i < B * DP; i += THREADS) {
    int r = i / DP, c = i % DP;
    to[r * (DP + 4) + c] = r < valid && c < dim ? to_f32(from[(i64)r * pitch + c]) : 0.f;
  }
}
__device__ __forceinline__ float dot4(float4 a, float4 b, float c) {
  return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, c))));
}
// s[i][j] = a[ty + 16 i] · b[tx + 16 j]; R = B / 16.
template <int DP, int R> __device__ __forceinline__ void product_nt(float (&s)[R][R], const float *a, const float *b) {
  int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
  for (int i = 0; i < R; i++)
    for (int j = 0; j < R; j++) s[i][j] = 0.f;
  for (int d = 0; d < DP; d += 4) {
    float4 fa[R], fb[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
      fa[i] = *reinterpret_cast<const float4 *>(a + (ty + 16 * i) * (DP + 4) + d);
      fb[i] = *reinterpret_cast<const float4 *>(b + (tx + 16 * i) * (DP + 4) + d);
    }
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
      for (int j = 0; j < R; j++) s[i][j] = dot4(fa[i], fb[j], s[i][j]);
  }
}
// acc[i][j] (rows ty + 16 i, four columns from 4 tx + 64 j) += p[B, B] b[B, DP]
template <int DP, int R>
__device__ __forceinline__ void product_nn(float4 (&acc)[R][DP / 64], const float *p, const float *b) {
  constexpr int B = 16 * R, SP = B + 4;
  int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
  for (int k = 0; k < B; k += 4) {
    float w[R][4];
#pragma unroll
    for (int i = 0; i < R; i++) {
      float4 v = *reinterpret_cast<const float4 *>(p + (ty + 16 * i) * SP + k);
      w[i][0] = v.x, w[i][1] = v.y, w[i][2] = v.z, w[i][3] = v.w;
    }
#pragma unroll
    for (int kk = 0; kk < 4; kk++)
#pragma unroll
      for (int j = 0; j < DP / 64; j++) {
        float4 v = *reinterpret_cast<const float4 *>(b + (k + kk) * (DP + 4) + tx * 4 + 64 * j);
#pragma unroll
        for (int i = 0; i < R; i++) {
          acc[i][j].x = fmaf(w[i][kk], v.x, acc[i][j].x), acc[i][j].y = fmaf(w[i][kk], v.y, acc[i][j].y);
          acc[i][j].z = fmaf(w[i][kk], v.z, acc[i][j].z), acc[i][j].w = fmaf(w[i][kk], v.w, acc[i][j].w);
        }
      }
  }
}
// p[row][column] of this thread's scores.
template <int R> __device__ __forceinline__ void put(float *p, const float (&s)[R][R]) {
  int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
#pragma unroll
  for (int i = 0; i < R; i++)
#pragma unroll
    for (int j = 0; j < R; j++) p[(ty + 16 * i) * (16 * R + 4) + tx + 16 * j] = s[i][j];
}
template <typename T, int DP, int R>
__device__ __forceinline__ void store_rows(const float4 (&acc)[R][DP / 64], T *to, i64 pitch, int valid, int dim) {
  int tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
#pragma unroll
  for (int i = 0; i < R; i++)
#pragma unroll
    for (int j = 0; j < DP / 64; j++) {
      float x[4] = {acc[i][j].x, acc[i][j].y, acc[i][j].z, acc[i][j].w};
      for (int e = 0; e < 4; e++) {
        int r = ty + 16 * i, c = tx * 4 + 64 * j + e;
        if (r < valid && c < dim) to[(i64)r * pitch + c] = from_f32<T>(x[e]);
      }
    }
}
template <int R, int N> __device__ __forceinline__ void clear(float4 (&acc)[R][N]) {
  for (int i = 0; i < R; i++)
    for (int j = 0; j < N; j++) acc[i][j] = make_float4(0.f, 0.f, 0.f, 0.f);
}
// Maximum and sum over the 16 threads of a row.
__device__ __forceinline__ float row_max(float x) {
  for (int o = 8; o > 0; o >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o));
  return x;
}
__device__ __forceinline__ float row_sum(float x) {
  for (int o = 8; o > 0; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
  return x;
}

template <typename T, int DP, bool MORE>
__device__ void forward(const T *q, i64 qp, const T *keys, i64 kp, const T *values, i64 vp, T *o, i64 op, float *lse,
                        const Tile *tiles, const Segment *segments, i64 heads, i64 group, int dim, float scale,
                        i64 window, float cap, const float *slopes, float rounded, i64 chunk, const float *sinks) {
  constexpr int B = SIDE<DP>, R = B / 16;
  extern __shared__ __align__(16) uint8_t memory[];
  float *sq = reinterpret_cast<float *>(memory), *sk = sq + B * (DP + 4), *sv = sk + B * (DP + 4),
        *sp = sv + B * (DP + 4);
  Tile tile;
  if (!part<B>(tiles, tile)) return;
  int head = blockIdx.y, kv = head / (int)group, tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
  Score<MORE> score(scale, window, cap, slopes, rounded, chunk, head);
  load_rows<T, DP>(sq, q + (i64)tile.row * qp + head * dim, qp, tile.rows, dim);
  int end = tile.position + tile.rows, first = max(0, score.low(tile.position));
  Walk walk(tile, segments);
  float4 acc[R][DP / 64];
  clear(acc);
  float top[R], sum[R];
  // A sink is a score without a value.
  bool sink = MORE && sinks;
  for (int i = 0; i < R; i++) top[i] = sink ? sinks[head] : -CUDART_INF_F, sum[i] = sink ? 1.f : 0.f;
  int start, count, from;
  while (walk.next(B, first, end, start, count, from)) {
    __syncthreads();
    load_rows<T, DP>(sk, keys + (i64)start * kp + kv * dim, kp, count, dim);
    load_rows<T, DP>(sv, values + (i64)start * vp + kv * dim, vp, count, dim);
    __syncthreads();
    float s[R][R];
    product_nt<DP>(s, sq, sk);
    for (int i = 0; i < R; i++) {
      int at = tile.position + ty + 16 * i, low = score.low(at);
      float best = top[i];
      for (int j = 0; j < R; j++) {
        int column = tx + 16 * j, key = from + column;
        s[i][j] = column < count && key <= at && key >= low ? score.of(s[i][j], at, key, 1.f) : -CUDART_INF_F;
        best = fmaxf(best, s[i][j]);
      }
      best = row_max(best);
      float shift = best == -CUDART_INF_F ? 0.f : best, factor = expf(top[i] - shift), add = 0.f;
      top[i] = best;
      for (int j = 0; j < R; j++) s[i][j] = expf(s[i][j] - shift), add += s[i][j];
      sum[i] = sum[i] * factor + row_sum(add);
      for (int j = 0; j < DP / 64; j++)
        acc[i][j].x *= factor, acc[i][j].y *= factor, acc[i][j].z *= factor, acc[i][j].w *= factor;
    }
    put(sp, s);
    __syncthreads();
    product_nn<DP>(acc, sp, sv);
  }
  for (int i = 0; i < R; i++) {
    int r = ty + 16 * i;
    float inverse = sum[i] > 0.f ? 1.f / sum[i] : 0.f;
    for (int j = 0; j < DP / 64; j++)
      acc[i][j].x *= inverse, acc[i][j].y *= inverse, acc[i][j].z *= inverse, acc[i][j].w *= inverse;
    if (lse && tx == 0 && r < tile.rows) lse[(i64)(tile.row + r) * heads + head] = top[i] + logf(sum[i]);
  }
  store_rows<T, DP>(acc, o + (i64)tile.row * op + head * dim, op, tile.rows, dim);
}

// dQ of up to 64 rows of one head.
template <typename T, int DP, bool MORE>
__device__ void backward_q(const T *q, const T *k, const T *v, i64 pitch, const float *lse, const T *d_o, i64 dop,
                           const float *dots, T *dq, i64 dqp, const Tile *tiles, i64 heads, i64 group, int dim,
                           float scale, i64 window, float cap, const float *slopes, float rounded, i64 chunk) {
  constexpr int B = SIDE<DP>, R = B / 16;
  extern __shared__ __align__(16) uint8_t memory[];
  float *sq = reinterpret_cast<float *>(memory), *sd = sq + B * (DP + 4), *sk = sd + B * (DP + 4),
        *sv = sk + B * (DP + 4), *sp = sv + B * (DP + 4);
  Tile tile;
  if (!part<B>(tiles, tile)) return;
  int head = blockIdx.y, kv = head / (int)group, tx = threadIdx.x & 15, ty = threadIdx.x >> 4;
  Score<MORE> score(scale, window, cap, slopes, rounded, chunk, head);
  i64 document = tile.row - tile.position;
  load_rows<T, DP>(sq, q + (i64)tile.row * pitch + head * dim, pitch, tile.rows, dim);
  load_rows<T, DP>(sd, d_o + (i64)tile.row * dop + head * dim, dop, tile.rows, dim);
  float4 acc[R][DP / 64];
  clear(acc);
  int end = tile.position + tile.rows;
  for (int from = max(0, score.low(tile.position)) / B * B; from < end; from += B) {
    __syncthreads();
    load_rows<T, DP>(sk, k + (document + from) * pitch + kv * dim, pitch, end - from, dim);
    load_rows<T, DP>(sv, v + (document + from) * pitch + kv * dim, pitch, end - from, dim);
    __syncthreads();
    float s[R][R], p[R][R];
    product_nt<DP>(s, sq, sk);
    product_nt<DP>(p, sd, sv);
    for (int i = 0; i < R; i++) {
      int r = ty + 16 * i, at = tile.position + r, low = score.low(at);
      i64 place = (i64)(tile.row + (r < tile.rows ? r : 0)) * heads + head;
      for (int j = 0; j < R; j++) {
        int key = from + tx + 16 * j;
        bool seen = r < tile.rows && key <= at && key >= low;
        float x = s[i][j];
        s[i][j] = seen ? expf(score.of(x, at, key, 1.f) - lse[place]) * (p[i][j] - dots[place]) * score.derivative(x)
                       : 0.f;
      }
    }
    put(sp, s);
    __syncthreads();
    product_nn<DP>(acc, sp, sk);
  }
  store_rows<T, DP>(acc, dq + (i64)tile.row * dqp + head * dim, dqp, tile.rows, dim);
}

// dK and dV of up to 64 rows of one key head; `tile.segments` is the length of the document.
template <typename T, int DP, bool MORE>
__device__ void backward_kv(const T *q, const T *k, const T *v, i64 pitch, const float *lse, const T *d_o, i64 dop,
                            const float *dots, T *dk, T *dv, i64 dp, const Tile *tiles, i64 heads, i64 group, int dim,
                            float scale, i64 window, float cap, const float *slopes, float rounded, i64 chunk) {
  constexpr int B = SIDE<DP>, R = B / 16;
  extern __shared__ __align__(16) uint8_t memory[];
  float *sk = reinterpret_cast<float *>(memory), *sv = sk + B * (DP + 4), *sq = sv + B * (DP + 4),
        *sd = sq + B * (DP + 4), *sp = sd + B * (DP + 4);
  Tile tile;
  if (!part<B>(tiles, tile)) return;
  int kv = blockIdx.y, tx = threadIdx.x & 15, ty = threadIdx.x >> 4, len = tile.segments;
  Score<MORE> score(scale, window, cap, slopes, rounded, chunk, kv * (int)group);
  i64 document = tile.row - tile.position;
  load_rows<T, DP>(sk, k + (i64)tile.row * pitch + kv * dim, pitch, tile.rows, dim);
  load_rows<T, DP>(sv, v + (i64)tile.row * pitch + kv * dim, pitch, tile.rows, dim);
  float4 acc_k[R][DP / 64], acc_v[R][DP / 64];
  clear(acc_k), clear(acc_v);
  int end = score.beyond(tile.position + tile.rows - 1, len);
  for (int head = kv * (int)group; head < (kv + 1) * (int)group; head++) {
    score.set_head(slopes, head);
    for (int from = tile.position / B * B; from < end; from += B) {
      __syncthreads();
      load_rows<T, DP>(sq, q + (document + from) * pitch + head * dim, pitch, end - from, dim);
      load_rows<T, DP>(sd, d_o + (document + from) * dop + head * dim, dop, end - from, dim);
      __syncthreads();
      float s[R][R], p[R][R], by[R][R];
      product_nt<DP>(s, sk, sq);
      for (int j = 0; j < R; j++) {
        int at = from + tx + 16 * j, low = score.low(at);
        float log_sum = lse[(document + (at < end ? at : from)) * heads + head];
        for (int i = 0; i < R; i++) {
          int r = ty + 16 * i, key = tile.position + r;
          bool seen = r < tile.rows && at < end && key <= at && key >= low;
          if constexpr (MORE) by[i][j] = score.derivative(s[i][j]);
          s[i][j] = seen ? expf(score.of(s[i][j], at, key, 1.f) - log_sum) : 0.f;
        }
      }
      put(sp, s);
      __syncthreads();
      product_nn<DP>(acc_v, sp, sd);
      product_nt<DP>(p, sv, sd);
      for (int j = 0; j < R; j++) {
        int at = from + tx + 16 * j;
        float dot = dots[(document + (at < end ? at : from)) * heads + head];
        for (int i = 0; i < R; i++) s[i][j] *= (p[i][j] - dot) * (MORE ? by[i][j] : scale);
      }
      __syncthreads();
      put(sp, s);
      __syncthreads();
      product_nn<DP>(acc_k, sp, sq);
    }
  }
  store_rows<T, DP>(acc_k, dk + (i64)tile.row * dp + kv * dim, dp, tile.rows, dim);
  store_rows<T, DP>(acc_v, dv + (i64)tile.row * dp + kv * dim, dp, tile.rows, dim);
}

// dots[row, head] = dO · O; a warp each.
template <typename T>
__device__ void dots(const T *o, i64 op, const T *d_o, i64 dop, i64 rows, i64 heads, i64 dim, float *out) {
  i64 item = blockIdx.x * (i64)blockDim.y + threadIdx.y;
  if (item >= rows * heads) return;
  i64 r = item / heads, h = item % heads;
  float sum = 0.f;
  for (i64 c = threadIdx.x; c < dim; c += 32)
    sum += to_f32(o[r * op + h * dim + c]) * to_f32(d_o[r * dop + h * dim + c]);
  sum = warp_sum(sum);
  if (threadIdx.x == 0) out[item] = sum;
}
}  // namespace simt

#define SIMT(S, T, DP)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(256) attention_##S##_##DP(                                              \
      const T *q, i64 qp, const T *k, i64 kp, const T *v, i64 vp, T *o, i64 op, float *lse, const Tile *tiles,         \
      const Segment *segments, i64 heads, i64 group, i64 dim, float scale, i64 window) {                               \
    simt::forward<T, DP, false>(q, qp, k, kp, v, vp, o, op, lse, tiles, segments, heads, group, (int)dim, scale,       \
                                window, 0.f, nullptr, 0.f, 0, nullptr);                                                \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(256) attention_backward_q_##S##_##DP(                                   \
      const T *q, const T *k, const T *v, i64 p, const float *lse, const T *d_o, i64 dop, const float *dots, T *dq,    \
      i64 dqp, const Tile *tiles, i64 heads, i64 group, i64 dim, float scale, i64 window) {                            \
    simt::backward_q<T, DP, false>(q, k, v, p, lse, d_o, dop, dots, dq, dqp, tiles, heads, group, (int)dim, scale,     \
                                   window, 0.f, nullptr, 0.f, 0);                                                      \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(256) attention_backward_kv_##S##_##DP(                                  \
      const T *q, const T *k, const T *v, i64 p, const float *lse, const T *d_o, i64 dop, const float *dots, T *dk,    \
      T *dv, i64 dp, const Tile *tiles, i64 heads, i64 group, i64 dim, float scale, i64 window) {                      \
    simt::backward_kv<T, DP, false>(q, k, v, p, lse, d_o, dop, dots, dk, dv, dp, tiles, heads, group, (int)dim, scale, \
                                    window, 0.f, nullptr, 0.f, 0);                                                     \
  }
SIMT(f32, float, 64)
SIMT(f32, float, 128)
SIMT(bf16, bf16, 64)
SIMT(bf16, bf16, 128)
SIMT(f16, f16, 64)
SIMT(f16, f16, 128)

#define SIMT_MORE(S, T, DP)                                                                                            \
  extern "C" __global__ void __launch_bounds__(256) attention_all_##S##_##DP(                                          \
      const T *q, i64 qp, const T *k, i64 kp, const T *v, i64 vp, T *o, i64 op, float *lse, const Tile *tiles,         \
      const Segment *segments, i64 heads, i64 group, i64 dim, float scale, i64 window, float cap, const float *slopes, \
      float rounded, i64 chunk, const float *sinks) {                                                                  \
    simt::forward<T, DP, true>(q, qp, k, kp, v, vp, o, op, lse, tiles, segments, heads, group, (int)dim, scale,        \
                               window, cap, slopes, rounded, chunk, sinks);                                            \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(256) attention_backward_q_all_##S##_##DP(                               \
      const T *q, const T *k, const T *v, i64 p, const float *lse, const T *d_o, i64 dop, const float *dots, T *dq,    \
      i64 dqp, const Tile *tiles, i64 heads, i64 group, i64 dim, float scale, i64 window, float cap,                   \
      const float *slopes, float rounded, i64 chunk) {                                                                 \
    simt::backward_q<T, DP, true>(q, k, v, p, lse, d_o, dop, dots, dq, dqp, tiles, heads, group, (int)dim, scale,      \
                                  window, cap, slopes, rounded, chunk);                                                \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(256) attention_backward_kv_all_##S##_##DP(                              \
      const T *q, const T *k, const T *v, i64 p, const float *lse, const T *d_o, i64 dop, const float *dots, T *dk,    \
      T *dv, i64 dp, const Tile *tiles, i64 heads, i64 group, i64 dim, float scale, i64 window, float cap,             \
      const float *slopes, float rounded, i64 chunk) {                                                                 \
    simt::backward_kv<T, DP, true>(q, k, v, p, lse, d_o, dop, dots, dk, dv, dp, tiles, heads, group, (int)dim, scale,  \
                                   window, cap, slopes, rounded, chunk);                                               \
  }
SIMT_MORE(f32, float, 64)
SIMT_MORE(f32, float, 128)
SIMT_MORE(f32, float, 256)
SIMT_MORE(bf16, bf16, 64)
SIMT_MORE(bf16, bf16, 128)
SIMT_MORE(bf16, bf16, 256)
SIMT_MORE(f16, f16, 64)
SIMT_MORE(f16, f16, 128)
SIMT_MORE(f16, f16, 256)

#define DOTS(S, T)                                                                                                     \
  extern "C" __global__ void attention_dots_##S(const T *o, i64 op, const T *d_o, i64 dop, i64 rows, i64 heads,        \
                                                i64 dim, float *out) {                                                 \
    simt::dots<T>(o, op, d_o, dop, rows, heads, dim, out);                                                             \
  }
DOTS(f32, float)
DOTS(bf16, bf16)
DOTS(f16, f16)
