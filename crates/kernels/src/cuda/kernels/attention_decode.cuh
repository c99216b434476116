// Attention of single query rows over cached keys, split over the context (flash-decoding, Dao et al. 2023). A run of keys
// that several sequences share is read once for all of them.
#pragma once
#include "mma.cuh"

// A run of keys, at context positions from `position` on, and the query rows that see it. If there is one, the run ends
// with its position at the latest: behind it the keys of later steps will stand.
struct __align__(16) KeyRun {
  int start, len, position, members;
  // The first of its members, and that one's row.
  int member, row, unused[2];
};
// A query row, and the place of what it gets from a run.
struct Member {
  int row, slot;
};
// The places of what a row gets from its runs.
struct Slots {
  int first, count;
};

namespace decode {
constexpr int WARPS = 4;
constexpr float LOG2E = 1.4426950408889634f;

__device__ __forceinline__ uint4 load16(const void *p) { return __ldg(reinterpret_cast<const uint4 *>(p)); }
// Elements `i` of two runs of eight, in one word.
__device__ __forceinline__ uint32_t pair_of(const uint4 &a, const uint4 &b, int i) {
  uint32_t x = i < 2 ? a.x : i < 4 ? a.y : i < 6 ? a.z : a.w, y = i < 2 ? b.x : i < 4 ? b.y : i < 6 ? b.z : b.w;
  return __byte_perm(x, y, i % 2 ? 0x7632 : 0x5410);
}

// A block takes one run of keys and one head of keys. Rows of its products are the query heads of that head, of all
// members: 16 at most. A warp takes 16 keys at a time. Keys and values go from memory to registers at once: lane (g, t)
// has of 32 dimensions the eight from 8 t on of key g, and for the values of 64 dimensions the eight from 8 g on of keys 2 t,
// 2 t + 1, 2 t + 8 and 2 t + 9; which dimension is which does not matter as long as both factors agree.
// Writes for every row the sum of values weighted by exp2(score - top), the sum of the weights, and top.
template <int D, typename T>
__device__ void runs(const T *q, i64 qp, const T *keys, i64 kp, const T *values, i64 vp, float *sums, float2 *stats,
                     const KeyRun *all, const Member *members, const int *positions, i64 heads, i64 group, float scale,
                     i64 window) {
  __shared__ float tops[WARPS][16], weights[WARPS][16];
  __shared__ float out[WARPS][16][D + 4];
  let_next_begin();
  wait_for_last();
  // All heads of a run are read at about the same time: they lie side by side.
  int kv_heads = heads / group, kv = blockIdx.x % kv_heads;
  KeyRun run = all[blockIdx.x / kv_heads];
  if (run.members == 0) return;
  int used = run.members * (int)group;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  members += run.member, keys += run.start * kp + kv * D, values += run.start * vp + kv * D;
  if (run.members == 1) {
    run.len = min(run.len, positions[run.row] + 1 - run.position);
    if (run.len <= 0) {
      // Nothing to see yet: `join` leaves it out.
      if (threadIdx.x < group) stats[members[0].slot * heads + kv * group + threadIdx.x] = make_float2(-CUDART_INF_F, 0.f);
      return;
    }
  }
  uint32_t a[D / 16][4];
  int low[2], at[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int m = g + 8 * half, member = m / (int)group;
    bool there = member < run.members;
    Member of = members[there ? member : 0];
    int position = positions[of.row];
    at[half] = there ? position : -1;
    low[half] = window > 0 ? position + 1 - (int)window : 0;
    const T *from = q + of.row * qp + (kv * group + m % group) * D;
#pragma unroll
    for (int c = 0; c < D / 32; c++) {
      uint4 v = there ? load16(from + c * 32 + t * 8) : make_uint4(0, 0, 0, 0);
      a[2 * c][half] = v.x, a[2 * c][2 + half] = v.y, a[2 * c + 1][half] = v.z, a[2 * c + 1][2 + half] = v.w;
    }
  }
  float acc[D / 8][4], top[2] = {-CUDART_INF_F, -CUDART_INF_F}, sum[2] = {0.f, 0.f};
  mma::clear(acc);
  for (int from = warp * 16; from < run.len; from += WARPS * 16) {
    int last = run.len - 1;
    uint4 k[2][D / 32], v[D / 64][4];
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int c = 0; c < D / 32; c++) k[n][c] = load16(keys + min(from + n * 8 + g, last) * kp + c * 32 + t * 8);
#pragma unroll
    for (int j = 0; j < D / 64; j++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        v[j][i] = load16(values + min(from + 2 * t + i % 2 + i / 2 * 8, last) * vp + j * 64 + g * 8);
    float s[2][4];
    mma::clear(s);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int c = 0; c < D / 32; c++) {
        mma::multiply<T>(s[n], a[2 * c], k[n][c].x, k[n][c].y);
        mma::multiply<T>(s[n], a[2 * c + 1], k[n][c].z, k[n][c].w);
      }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float best = top[half];
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          int column = from + n * 8 + t * 2 + j, key = run.position + column;
          float &x = s[n][half * 2 + j];
          x = column < run.len && key <= at[half] && key >= low[half] ? x * (scale * LOG2E) : -CUDART_INF_F;
          best = fmaxf(best, x);
        }
      best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
      best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
      float shift = best == -CUDART_INF_F ? 0.f : best, factor = exp2f(top[half] - shift), add = 0.f;
      top[half] = best;
#pragma unroll
      for (int n = 0; n < 2; n++)
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
    uint32_t p[4] = {pack<T>(s[0][0], s[0][1]), pack<T>(s[0][2], s[0][3]), pack<T>(s[1][0], s[1][1]),
                     pack<T>(s[1][2], s[1][3])};
#pragma unroll
    for (int j = 0; j < D / 64; j++)
#pragma unroll
      for (int i = 0; i < 8; i++)
        mma::multiply<T>(acc[j * 8 + i], p, pair_of(v[j][0], v[j][1], i), pair_of(v[j][2], v[j][3], i));
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
    if (t == 0) tops[warp][g + 8 * half] = top[half], weights[warp][g + 8 * half] = sum[half];
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int m = g + 8 * half;
    float best = tops[0][m];
    for (int i = 1; i < WARPS; i++) best = fmaxf(best, tops[i][m]);
    float factor = best == -CUDART_INF_F ? 0.f : exp2f(top[half] - best);
    if (m < used)
#pragma unroll
      for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) out[warp][m][n / 8 * 64 + (2 * t + j) * 8 + n % 8] = acc[n][half * 2 + j] * factor;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < used * (D / 4); i += WARPS * 32) {
    int m = i / (D / 4), d = i % (D / 4) * 4;
    float4 total = make_float4(0, 0, 0, 0);
    for (int w = 0; w < WARPS; w++) {
      float4 x = *reinterpret_cast<const float4 *>(&out[w][m][d]);
      total.x += x.x, total.y += x.y, total.z += x.z, total.w += x.w;
    }
    i64 place = members[m / group].slot * heads + kv * group + m % group;
    *reinterpret_cast<float4 *>(sums + place * D + d) = total;
    if (d == 0) {
      float best = tops[0][m], weight = 0.f;
      for (int w = 1; w < WARPS; w++) best = fmaxf(best, tops[w][m]);
      for (int w = 0; w < WARPS; w++) weight += best == -CUDART_INF_F ? 0.f : weights[w][m] * exp2f(tops[w][m] - best);
      stats[place] = make_float2(best, weight);
    }
  }
}

// What rows get from their runs, put together; a warp takes one head of a row.
template <int D, typename T>
__device__ void join(const float *sums, const float2 *stats, const Slots *slots, T *o, i64 op, i64 rows, i64 heads) {
  i64 item = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
  let_next_begin();
  wait_for_last();
  if (item >= rows * heads) return;
  int row = item / heads, head = item % heads, lane = threadIdx.x % 32;
  Slots own = slots[row];
  float best = -CUDART_INF_F, weight = 0.f, total[D / 32] = {};
  for (int i = lane; i < own.count; i += 32) best = fmaxf(best, stats[(own.first + i) * heads + head].x);
  for (int o = 16; o > 0; o >>= 1) best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, o));
  for (int from = 0; from < own.count; from += 32) {
    int i = from + lane;
    float2 stat = i < own.count ? stats[(own.first + i) * heads + head] : make_float2(-CUDART_INF_F, 0.f);
    // A run with nothing to see has written no sums.
    float factor = stat.x == -CUDART_INF_F ? 0.f : exp2f(stat.x - best);
    weight += stat.y * factor;
    int here = min(32, own.count - from);
#pragma unroll 8
    for (int k = 0; k < here; k++) {
      float of_run = __shfl_sync(0xffffffffu, factor, k);
      const float *sum = sums + ((own.first + from + k) * heads + head) * D + lane;
#pragma unroll
      for (int j = 0; j < D / 32; j++) total[j] += of_run == 0.f ? 0.f : sum[j * 32] * of_run;
    }
  }
  weight = warp_sum(weight);
  float share = weight > 0.f ? 1.f / weight : 0.f;
#pragma unroll
  for (int j = 0; j < D / 32; j++) o[row * op + head * D + j * 32 + lane] = from_f32<T>(total[j] * share);
}
}  // namespace decode

#define DECODE(S, T, D)                                                                                                \
  extern "C" __global__ void __launch_bounds__(128, D == 64 ? 4 : 3) attention_runs_##S##_##D(                          \
      const T *q, i64 qp, const T *k, i64 kp, const T *v, i64 vp, float *sums, float2 *stats, const KeyRun *all,       \
      const Member *members, const int *positions, i64 heads, i64 group, float scale, i64 window) {                    \
    decode::runs<D>(q, qp, k, kp, v, vp, sums, stats, all, members, positions, heads, group, scale, window);           \
  }                                                                                                                    \
  extern "C" __global__ void attention_join_##S##_##D(const float *sums, const float2 *stats, const Slots *slots, T *o, \
                                                      i64 op, i64 rows, i64 heads) {                                   \
    decode::join<D>(sums, stats, slots, o, op, rows, heads);                                                           \
  }
DECODE(bf16, bf16, 64)
DECODE(bf16, bf16, 128)
DECODE(f16, f16, 64)
DECODE(f16, f16, 128)
