// What a step of decoding does besides the kernels of any pass: queries and keys rotated on their way, and the tokens that
// were drawn made the next ones.
#pragma once
#include "common.cuh"

// Rotates the first 2 half elements of every head of queries (in place) and of keys by the angles of their row's position, as
// `rope` does, and writes keys and values to the rows' slots. A row of `qkv` has the heads of queries, keys and values. With V = 4
// a thread takes four neighbours, in halves only.
template <int V, typename T>
__device__ void rope_store(T *qkv, i64 pitch, i64 rows, i64 heads, i64 kv_heads, i64 width, i64 half, i64 pairs,
                           const uint32_t *positions, const float *table, const uint32_t *slots, T *keys, T *values) {
  i64 step = pairs ? 2 : 1, far = pairs ? 1 : half, rest = width - 2 * half, kv_dim = kv_heads * width;
  i64 turned = (heads + kv_heads) * half, kept = kv_heads * rest;
  each(rows, turned + kept + kv_dim, V, [&](i64 r, i64 c) {
    T *row = qkv + r * pitch;
    i64 to = (i64)slots[r] * kv_dim;
    if (c < turned) {
      uint32_t head = (uint32_t)c / (uint32_t)half, i = (uint32_t)c - head * (uint32_t)half;
      const float *angles = table + (i64)positions[r] * 2 * half + i;
      i64 at = head * width + i * step;
      T *out = head < heads ? row + at : keys + to + at - heads * width;
      float a[4], b[4];
      Four<T> u, v;
      if constexpr (V == 4) u.load(row + at), v.load(row + at + far), u.get(a), v.get(b);
      else a[0] = to_f32(row[at]), b[0] = to_f32(row[at + far]);
#pragma unroll
      for (int j = 0; j < V; j++) {
        float cs = angles[j], sn = angles[half + j], x = a[j], y = b[j];
        a[j] = x * cs - y * sn, b[j] = y * cs + x * sn;
      }
      if constexpr (V == 4) u.set(a), v.set(b), u.store(out), v.store(out + far);
      else out[0] = from_f32<T>(a[0]), out[far] = from_f32<T>(b[0]);
      return;
    }
    i64 from, place;
    T *out;
    if (c < turned + kept) {
      uint32_t i = c - turned, head = i / (uint32_t)rest;
      place = head * width + 2 * half + (i - head * (uint32_t)rest), from = heads * width + place, out = keys;
    } else {
      place = c - turned - kept, from = heads * width + kv_dim + place, out = values;
    }
    if constexpr (V == 4) {
      Four<T> u;
      u.load(row + from), u.store(out + to + place);
    } else {
      out[to + place] = row[from];
    }
  });
}
#define ROPE_STORE(S, T)                                                                                               \
  extern "C" __global__ void rope_store_##S(T *x, i64 p, i64 n, i64 heads, i64 kv_heads, i64 width, i64 half,          \
                                            i64 pairs, const uint32_t *positions, const float *table,                  \
                                            const uint32_t *slots, T *k, T *v, i64 vec) {                              \
    if (vec) rope_store<4>(x, p, n, heads, kv_heads, width, half, pairs, positions, table, slots, k, v);               \
    else rope_store<1>(x, p, n, heads, kv_heads, width, half, pairs, positions, table, slots, k, v);                   \
  }
ROPE_STORE(f32, float)
ROPE_STORE(bf16, bf16)
ROPE_STORE(f16, f16)

// The tokens drawn in a step, with their log-probabilities, go to the step's row of `out` and become the next tokens, one
// position further; their keys and values go to the next of their rows' slots in `table` [rows, steps]. One
// block.
extern "C" __global__ void advance(const uint2 *drawn, uint32_t *tokens, uint32_t *positions, uint32_t *slots,
                                   const uint32_t *table, i64 steps, uint32_t *step, uint2 *out, i64 rows) {
  i64 now = *step;
  __syncthreads();
  if (now < steps)
    for (i64 r = threadIdx.x; r < rows; r += blockDim.x) {
      out[now * rows + r] = drawn[r];
      tokens[r] = drawn[r].x, positions[r]++;
      if (now + 1 < steps) slots[r] = table[r * steps + now + 1];
    }
  if (threadIdx.x == 0) *step = now + 1;
}
