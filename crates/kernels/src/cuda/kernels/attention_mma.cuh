// Causal attention over packed documents and over cached keys, on tensor cores (bf16 or f16 in, f32 sums), forward and backward.
//
// Blocks of 128 threads; a warp owns 16 rows of the tile. The forward keeps a running maximum and sum (online softmax);
// the backward recomputes probabilities from the saved log-sum-exp, once for dQ and once for dK and dV, so that every
// sum has one order and no atomics are needed.
#pragma once
#include "attention_common.cuh"
#include "mma.cuh"

namespace mma {
constexpr int THREADS = 128;
constexpr float LOG2E = 1.4426950408889634f;

// Rows of D elements in shared memory, 16 bytes apart from a multiple of 128, so that ldmatrix has no bank conflicts.
template <int D> constexpr int PITCH = D + 8;

// ROWS rows of D elements from global memory, rows from `valid` on as zeros.
template <int D, int ROWS, typename T>
__device__ __forceinline__ void load_rows(T *to, const T *from, i64 pitch, int valid) {
  constexpr int PARTS = D / 8;
  for (int i = threadIdx.x; i < ROWS * PARTS; i += THREADS) {
    int r = i / PARTS, c = i % PARTS * 8;
    copy16(to + r * PITCH<D> + c, from + (i64)(r < valid ? r : 0) * pitch + c, r < valid);
  }
}

// Addresses of this lane for the three uses of a tile in shared memory.
__device__ __forceinline__ int lane_id() { return threadIdx.x & 31; }
template <int D, typename T> __device__ __forceinline__ const T *as_a(const T *tile, int row, int k) {
  int l = lane_id();
  return tile + (row + (l & 15)) * PITCH<D> + k + (l >> 4) * 8;
}
// Operand B of two neighbouring column tiles, from rows = columns of the product.
template <int D, typename T> __device__ __forceinline__ const T *as_b(const T *tile, int n, int k) {
  int l = lane_id();
  return tile + (n + (l >> 4) * 8 + (l & 7)) * PITCH<D> + k + ((l >> 3) & 1) * 8;
}
// The same from rows = the summed dimension (with ldmatrix_trans).
template <int D, typename T> __device__ __forceinline__ const T *as_b_trans(const T *tile, int k, int n) {
  int l = lane_id();
  return tile + (k + ((l >> 3) & 1) * 8 + (l & 7)) * PITCH<D> + n + (l >> 4) * 8;
}

// c[16, N] += a[16, D] b[N, D]ᵀ; a from shared memory at `row`, b from shared memory.
template <int D, int N, typename T>
__device__ __forceinline__ void product_nt(float (&c)[N / 8][4], const T *a, int row, const T *b) {
#pragma unroll
  for (int k = 0; k < D; k += 16) {
    uint32_t fa[4];
    ldmatrix(fa, as_a<D>(a, row, k));
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t fb[4];
      ldmatrix(fb, as_b<D>(b, n, k));
      multiply<T>(c[n / 8], fa, fb[0], fb[1]);
      multiply<T>(c[n / 8 + 1], fa, fb[2], fb[3]);
    }
  }
}
// c[16, D] += p[16, K] b[K, D]; p in registers in the layout of a product's result.
template <int D, int K, typename T>
__device__ __forceinline__ void product_nn(float (&c)[D / 8][4], const float (&p)[K / 8][4], const T *b) {
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    uint32_t fa[4] = {pack<T>(p[k / 8][0], p[k / 8][1]), pack<T>(p[k / 8][2], p[k / 8][3]),
                      pack<T>(p[k / 8 + 1][0], p[k / 8 + 1][1]), pack<T>(p[k / 8 + 1][2], p[k / 8 + 1][3])};
#pragma unroll
    for (int n = 0; n < D; n += 16) {
      uint32_t fb[4];
      ldmatrix_trans(fb, as_b_trans<D>(b, k, n));
      multiply<T>(c[n / 8], fa, fb[0], fb[1]);
      multiply<T>(c[n / 8 + 1], fa, fb[2], fb[3]);
    }
  }
}
// Writes 16 rows of D results, those below `valid`.
template <int D, typename T>
__device__ __forceinline__ void store_rows(const float (&c)[D / 8][4], T *to, i64 pitch, int row, int valid) {
  int g = lane_id() >> 2, t = lane_id() & 3;
#pragma unroll
  for (int n = 0; n < D / 8; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int r = row + g + half * 8;
      if (r < valid)
        *reinterpret_cast<uint32_t *>(to + (i64)r * pitch + n * 8 + t * 2) = pack<T>(c[n][half * 2], c[n][half * 2 + 1]);
    }
}

template <int D, bool MORE, typename T>
__device__ void forward(const T *q, i64 qp, const T *keys, i64 kp, const T *values, i64 vp, T *o, i64 op,
                        float *lse, const Tile *tiles, const Segment *segments, i64 heads, i64 group, float scale,
                        i64 window, float cap, const float *slopes, float rounded, const float *sinks, i64 chunk) {
  constexpr int M = 64, N = D > 128 ? 32 : 64;
  extern __shared__ __align__(16) uint8_t memory[];
  T *sq = reinterpret_cast<T *>(memory), *sk = sq + M * PITCH<D>, *sv = sk + 2 * N * PITCH<D>;
  Tile tile = tiles[blockIdx.x];
  int head = blockIdx.y, kv = head / (int)group, warp = threadIdx.x >> 5, g = lane_id() >> 2, t = lane_id() & 3;
  keys += kv * D, values += kv * D;
  load_rows<D, M>(sq, q + (i64)tile.row * qp + head * D, qp, tile.rows);
  Score<MORE> score(scale, window, cap, slopes, rounded, chunk, head);
  int end = tile.position + tile.rows, first = max(0, score.low(tile.position));
  Walk walk(tile, segments);
  int start, count, position, stage = 0;
  bool more = walk.next(N, first, end, start, count, position);
  if (more) {
    load_rows<D, N>(sk, keys + (i64)start * kp, kp, count);
    load_rows<D, N>(sv, values + (i64)start * vp, vp, count);
  }
  commit();
  float acc[D / 8][4], top[2] = {-CUDART_INF_F, -CUDART_INF_F}, sum[2] = {0.f, 0.f};
  clear(acc);
  if constexpr (MORE)
    if (sinks) {
      // A score without a value; the sums of a row's four threads are added up at the end.
      top[0] = top[1] = sinks[head] * LOG2E;
      sum[0] = sum[1] = t == 0 ? 1.f : 0.f;
    }
  while (more) {
    int keys_here = count, from = position;
    more = walk.next(N, first, end, start, count, position);
    if (more) {
      int other = (stage ^ 1) * N * PITCH<D>;
      load_rows<D, N>(sk + other, keys + (i64)start * kp, kp, count);
      load_rows<D, N>(sv + other, values + (i64)start * vp, vp, count);
    }
    commit();
    wait<1>();
    __syncthreads();
    float s[N / 8][4];
    clear(s);
    product_nt<D, N>(s, sq, warp * 16, sk + stage * N * PITCH<D>);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int at = tile.position + warp * 16 + g + half * 8;
      int low = score.low(at);
      float best = top[half];
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          int column = n * 8 + t * 2 + j, key = from + column;
          float &x = s[n][half * 2 + j];
          x = column < keys_here && key <= at && key >= low ? score.of(x, at, key, LOG2E) : -CUDART_INF_F;
          best = fmaxf(best, x);
        }
      best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
      best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
      float shift = best == -CUDART_INF_F ? 0.f : best, factor = exp2f(top[half] - shift), add = 0.f;
      top[half] = best;
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float &x = s[n][half * 2 + j];
          x = exp2f(x - shift);
          add += x;
        }
      sum[half] = sum[half] * factor + add;
#pragma unroll
      for (int n = 0; n < D / 8; n++) acc[n][half * 2] *= factor, acc[n][half * 2 + 1] *= factor;
    }
    product_nn<D, N>(acc, s, sv + stage * N * PITCH<D>);
    __syncthreads();
    stage ^= 1;
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
    float inverse = sum[half] > 0.f ? 1.f / sum[half] : 0.f;
#pragma unroll
    for (int n = 0; n < D / 8; n++) acc[n][half * 2] *= inverse, acc[n][half * 2 + 1] *= inverse;
    int r = warp * 16 + g + half * 8;
    if (lse && t == 0 && r < tile.rows)
      lse[(i64)(tile.row + r) * heads + head] = (top[half] + log2f(sum[half])) / LOG2E;
  }
  store_rows<D>(acc, o + (i64)tile.row * op + head * D, op, warp * 16, tile.rows);
}

// dQ of up to 64 rows of one head; the document begins `position` rows before the tile.
template <int D, bool MORE, typename T>
__device__ void backward_q(const T *q, const T *k, const T *v, i64 pitch, const float *lse, const T *d_o,
                           i64 dop, const float *dots, T *dq, i64 dqp, const Tile *tiles, i64 heads, i64 group,
                           float scale, i64 window, float cap, const float *slopes, float rounded, i64 chunk) {
  constexpr int M = 64, N = 32;
  extern __shared__ __align__(16) uint8_t memory[];
  T *sq = reinterpret_cast<T *>(memory), *sd = sq + M * PITCH<D>, *sk = sd + M * PITCH<D>,
       *sv = sk + 2 * N * PITCH<D>;
  Tile tile = tiles[blockIdx.x];
  int head = blockIdx.y, kv = head / (int)group, warp = threadIdx.x >> 5, g = lane_id() >> 2, t = lane_id() & 3;
  i64 document = tile.row - tile.position;
  k += document * pitch + kv * D, v += document * pitch + kv * D;
  load_rows<D, M>(sq, q + (i64)tile.row * pitch + head * D, pitch, tile.rows);
  load_rows<D, M>(sd, d_o + (i64)tile.row * dop + head * D, dop, tile.rows);
  float log_sum[2], dot[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int r = warp * 16 + g + half * 8;
    i64 at = (i64)(tile.row + r) * heads + head;
    log_sum[half] = r < tile.rows ? lse[at] * LOG2E : 0.f;
    dot[half] = r < tile.rows ? dots[at] : 0.f;
  }
  Score<MORE> score(scale, window, cap, slopes, rounded, chunk, head);
  int end = tile.position + tile.rows;
  int from = max(0, score.low(tile.position)) / N * N, stage = 0;
  load_rows<D, N>(sk, k + (i64)from * pitch, pitch, end - from);
  load_rows<D, N>(sv, v + (i64)from * pitch, pitch, end - from);
  commit();
  float acc[D / 8][4];
  clear(acc);
  for (; from < end; from += N) {
    if (from + N < end) {
      int other = (stage ^ 1) * N * PITCH<D>;
      load_rows<D, N>(sk + other, k + (i64)(from + N) * pitch, pitch, end - from - N);
      load_rows<D, N>(sv + other, v + (i64)(from + N) * pitch, pitch, end - from - N);
    }
    commit();
    wait<1>();
    __syncthreads();
    const T *tk = sk + stage * N * PITCH<D>, *tv = sv + stage * N * PITCH<D>;
    float s[N / 8][4], p[N / 8][4];
    clear(s), clear(p);
    product_nt<D, N>(s, sq, warp * 16, tk);
    product_nt<D, N>(p, sd, warp * 16, tv);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int r = warp * 16 + g + half * 8, at = tile.position + r, low = score.low(at);
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          int key = from + n * 8 + t * 2 + j;
          bool seen = r < tile.rows && key <= at && key >= low;
          float &x = s[n][half * 2 + j], by = score.derivative(x);
          float probability = seen ? exp2f(score.of(x, at, key, LOG2E) - log_sum[half]) : 0.f;
          x = probability * (p[n][half * 2 + j] - dot[half]) * by;
        }
    }
    product_nn<D, N>(acc, s, tk);
    __syncthreads();
    stage ^= 1;
  }
  store_rows<D>(acc, dq + (i64)tile.row * dqp + head * D, dqp, warp * 16, tile.rows);
}

// Whether dK and dV are sums of blocks of their own, because both do not fit into the registers.
template <int D> constexpr bool SPLIT = D > 128;

// dK and dV of up to 64 rows of one key head; `tile.segments` is the length of the document.
template <int D, bool MORE, typename T>
__device__ void backward_kv(const T *q, const T *k, const T *v, i64 pitch, const float *lse, const T *d_o,
                            i64 dop, const float *dots, T *dk, T *dv, i64 dp, const Tile *tiles, i64 heads,
                            i64 group, float scale, i64 window, float cap, const float *slopes, float rounded,
                            i64 chunk) {
  constexpr bool APART = SPLIT<D>;
  constexpr int M = 64, N = 32;
  extern __shared__ __align__(16) uint8_t memory[];
  T *sk = reinterpret_cast<T *>(memory), *sv = sk + M * PITCH<D>, *sq = sv + M * PITCH<D>,
       *sd = sq + 2 * N * PITCH<D>;
  float *logs = reinterpret_cast<float *>(sd + 2 * N * PITCH<D>), *sums = logs + 2 * N;
  Tile tile = tiles[blockIdx.x];
  int kv = APART ? blockIdx.y / 2 : blockIdx.y, warp = threadIdx.x >> 5, g = lane_id() >> 2, t = lane_id() & 3;
  bool of_k = !APART || blockIdx.y % 2 == 0, of_v = !APART || blockIdx.y % 2 == 1;
  i64 document = tile.row - tile.position;
  int len = tile.segments;
  load_rows<D, M>(sk, k + (i64)tile.row * pitch + kv * D, pitch, tile.rows);
  load_rows<D, M>(sv, v + (i64)tile.row * pitch + kv * D, pitch, tile.rows);
  // Sums of dK and dV; one array for either where they are apart.
  constexpr int K = 0, V = APART ? 0 : 1;
  float acc[V + 1][D / 8][4];
  clear(acc[K]), clear(acc[V]);
  Score<MORE> score(scale, window, cap, slopes, rounded, chunk, kv * (int)group);
  // The last query that sees any of these keys.
  int end = score.beyond(tile.position + tile.rows - 1, len);
  int begin = tile.position / N * N, steps = (end - begin + N - 1) / N, all = steps * (int)group;
  auto load = [&](int step, int stage) {
    int head = kv * (int)group + step / steps, from = begin + step % steps * N, valid = end - from;
    load_rows<D, N>(sq + stage * N * PITCH<D>, q + (document + from) * pitch + head * D, pitch, valid);
    load_rows<D, N>(sd + stage * N * PITCH<D>, d_o + (document + from) * dop + head * D, dop, valid);
    for (int i = threadIdx.x; i < N; i += THREADS) {
      i64 at = (document + from + (i < valid ? i : 0)) * heads + head;
      logs[stage * N + i] = lse[at] * LOG2E, sums[stage * N + i] = dots[at];
    }
  };
  if (all > 0) load(0, 0);
  commit();
  for (int step = 0, stage = 0; step < all; step++, stage ^= 1) {
    if (step + 1 < all) load(step + 1, stage ^ 1);
    commit();
    wait<1>();
    __syncthreads();
    int from = begin + step % steps * N;
    score.set_head(slopes, kv * (int)group + step / steps);
    const T *tq = sq + stage * N * PITCH<D>, *td = sd + stage * N * PITCH<D>;
    float s[N / 8][4], p[N / 8][4], by[MORE ? N / 8 : 1][4];
    clear(s);
    product_nt<D, N>(s, sk, warp * 16, tq);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int r = warp * 16 + g + half * 8, key = tile.position + r;
#pragma unroll
      for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          int i = n * 8 + t * 2 + j, at = from + i;
          bool seen = r < tile.rows && at < end && key <= at && key >= score.low(at);
          float &x = s[n][half * 2 + j];
          if constexpr (MORE) by[n][half * 2 + j] = score.derivative(x);
          x = seen ? exp2f(score.of(x, at, key, LOG2E) - logs[stage * N + i]) : 0.f;
        }
    }
    if (of_v) product_nn<D, N>(acc[V], s, td);
    if (!of_k) {
      __syncthreads();
      continue;
    }
    clear(p);
    product_nt<D, N>(p, sv, warp * 16, td);
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int i = n * 8 + t * 2 + (j & 1);
        s[n][j] *= (p[n][j] - sums[stage * N + i]) * (MORE ? by[MORE ? n : 0][j] : scale);
      }
    product_nn<D, N>(acc[K], s, tq);
    __syncthreads();
  }
  if (of_k) store_rows<D>(acc[K], dk + (i64)tile.row * dp + kv * D, dp, warp * 16, tile.rows);
  if (of_v) store_rows<D>(acc[V], dv + (i64)tile.row * dp + kv * D, dp, warp * 16, tile.rows);
}
}  // namespace mma

#define ATTENTION(S, T, D)                                                                                             \
  extern "C" __global__ void __launch_bounds__(128) attention_mma_##S##_##D(                                           \
      const T *q, i64 qp, const T *k, i64 kp, const T *v, i64 vp, T *o, i64 op, float *lse, const Tile *tiles,         \
      const Segment *segments, i64 heads, i64 group, float scale, i64 window) {                                        \
    mma::forward<D, false>(q, qp, k, kp, v, vp, o, op, lse, tiles, segments, heads, group, scale, window, 0.f,         \
                           nullptr, 0.f, nullptr, 0);                                                                  \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(128) attention_backward_q_mma_##S##_##D(                                \
      const T *q, const T *k, const T *v, i64 p, const float *lse, const T *d_o, i64 dop, const float *dots, T *dq,    \
      i64 dqp, const Tile *tiles, i64 heads, i64 group, float scale, i64 window) {                                     \
    mma::backward_q<D, false>(q, k, v, p, lse, d_o, dop, dots, dq, dqp, tiles, heads, group, scale, window, 0.f,       \
                              nullptr, 0.f, 0);                                                                        \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(128) attention_backward_kv_mma_##S##_##D(                               \
      const T *q, const T *k, const T *v, i64 p, const float *lse, const T *d_o, i64 dop, const float *dots, T *dk,    \
      T *dv, i64 dp, const Tile *tiles, i64 heads, i64 group, float scale, i64 window) {                               \
    mma::backward_kv<D, false>(q, k, v, p, lse, d_o, dop, dots, dk, dv, dp, tiles, heads, group, scale, window, 0.f,   \
                               nullptr, 0.f, 0);                                                                       \
  }
ATTENTION(bf16, bf16, 64)
ATTENTION(bf16, bf16, 96)
ATTENTION(bf16, bf16, 128)
ATTENTION(f16, f16, 64)
ATTENTION(f16, f16, 96)
ATTENTION(f16, f16, 128)

#define ATTENTION_MORE(S, T, D)                                                                                        \
  extern "C" __global__ void __launch_bounds__(128) attention_more_##S##_##D(                                          \
      const T *q, i64 qp, const T *k, i64 kp, const T *v, i64 vp, T *o, i64 op, float *lse, const Tile *tiles,         \
      const Segment *segments, i64 heads, i64 group, float scale, i64 window, float cap, const float *slopes,          \
      float rounded, i64 chunk, const float *sinks) {                                                                  \
    mma::forward<D, true>(q, qp, k, kp, v, vp, o, op, lse, tiles, segments, heads, group, scale, window, cap, slopes,  \
                          rounded, sinks, chunk);                                                                      \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(128) attention_backward_q_more_##S##_##D(                               \
      const T *q, const T *k, const T *v, i64 p, const float *lse, const T *d_o, i64 dop, const float *dots, T *dq,    \
      i64 dqp, const Tile *tiles, i64 heads, i64 group, float scale, i64 window, float cap, const float *slopes,       \
      float rounded, i64 chunk) {                                                                                      \
    mma::backward_q<D, true>(q, k, v, p, lse, d_o, dop, dots, dq, dqp, tiles, heads, group, scale, window, cap,        \
                             slopes, rounded, chunk);                                                                  \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(128) attention_backward_kv_more_##S##_##D(                              \
      const T *q, const T *k, const T *v, i64 p, const float *lse, const T *d_o, i64 dop, const float *dots, T *dk,    \
      T *dv, i64 dp, const Tile *tiles, i64 heads, i64 group, float scale, i64 window, float cap, const float *slopes, \
      float rounded, i64 chunk) {                                                                                      \
    mma::backward_kv<D, true>(q, k, v, p, lse, d_o, dop, dots, dk, dv, dp, tiles, heads, group, scale, window, cap,    \
                              slopes, rounded, chunk);                                                                 \
  }
ATTENTION_MORE(bf16, bf16, 64)
ATTENTION_MORE(bf16, bf16, 80)
ATTENTION_MORE(bf16, bf16, 96)
ATTENTION_MORE(bf16, bf16, 128)
ATTENTION_MORE(bf16, bf16, 192)
ATTENTION_MORE(bf16, bf16, 256)
