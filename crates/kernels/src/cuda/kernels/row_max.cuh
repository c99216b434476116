// The largest element of a row, and the sum of exponentials.
#pragma once
#include "common.cuh"

struct MaxSum {
  float max, sum;
};
__device__ __forceinline__ MaxSum join(MaxSum a, MaxSum b) {
  if (b.max == -CUDART_INF_F) return a;
  if (a.max == -CUDART_INF_F) return b;
  float m = fmaxf(a.max, b.max);
  return {m, a.sum * expf(a.max - m) + b.sum * expf(b.max - m)};
}

// max and sum of exp(x - max) of a row, given to all threads of the block; and the first position of the maximum.
template <typename T> __device__ MaxSum row_max_sum(const T *row, i64 n, i64 *argmax) {
  __shared__ MaxSum parts[32];
  __shared__ i64 places[32];
  MaxSum own = {-CUDART_INF_F, 0.f};
  i64 place = n;
  bool nan = false;
  for (i64 c = threadIdx.x; c < n; c += blockDim.x) {
    float v = to_f32(row[c]);
    nan |= v != v;
    if (v > own.max) {
      own.sum = own.sum * expf(own.max - v) + 1.f;
      own.max = v, place = c;
    } else if (v > -CUDART_INF_F) {
      own.sum += expf(v - own.max);
    }
  }
  if (nan) own.max = CUDART_INF_F, own.sum = CUDART_NAN_F;
  for (int o = 16; o > 0; o >>= 1) {
    MaxSum other = {__shfl_xor_sync(0xffffffffu, own.max, o), __shfl_xor_sync(0xffffffffu, own.sum, o)};
    i64 at = __shfl_xor_sync(0xffffffffu, place, o);
    if (other.max > own.max || (other.max == own.max && at < place)) place = at;
    own = join(own, other);
  }
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  if (lane == 0) parts[warp] = own, places[warp] = place;
  __syncthreads();
  own = parts[0], place = places[0];
  for (int i = 1; i < warps; i++) {
    if (parts[i].max > own.max || (parts[i].max == own.max && places[i] < place)) place = places[i];
    own = join(own, parts[i]);
  }
  if (argmax) *argmax = place;
  return own;
}
