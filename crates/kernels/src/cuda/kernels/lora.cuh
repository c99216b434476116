// Low-rank additions of several adapters at once: the rows of a product stand in tiles of eight, each of which belongs to one
// adapter or to none. Few rows, in 16 bits, sums in f32 (after SGMV, Chen et al. 2023).
#pragma once
#include "mma.cuh"

// Columns of the product from `first_column` on, which gain scale * u[first_rank ..] * B^T; B: [columns, rank].
struct LoraPart {
  const void *b;
  int first_rank, rank, first_column, columns;
  float scale;
  int unused;
};
// An adapter's addition to a product: u = x * A^T, A: [ranks, inputs], and up to three parts of the product.
struct LoraOf {
  const void *a;
  int ranks, parts;
  LoraPart part[3];
};

namespace lora {
constexpr int WARPS = 16;

__device__ __forceinline__ uint4 load16(const void *p, bool there) {
  return there ? __ldg(reinterpret_cast<const uint4 *>(p)) : make_uint4(0, 0, 0, 0);
}

// acc += the product of 16 rows of W and 8 of x over 32 inputs: lane (g, t) holds of rows g and g + 8 of W, and of row g of
// x, the eight inputs from 8 t on. Which input is which does not matter as long as both factors agree.
template <typename T> __device__ __forceinline__ void step(float (&acc)[4], uint4 low, uint4 high, uint4 x) {
  uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
  mma::multiply<T>(acc, first, x.x, x.y);
  mma::multiply<T>(acc, second, x.z, x.w);
}

// u[tile rows, 16 ranks from 16 blockIdx.y on]; the warps share the inputs.
template <typename T>
__device__ void down(const LoraOf *all, const int *owners, const T *x, i64 xp, i64 inputs, T *u, i64 up) {
  __shared__ float sums[WARPS][16][9];
  int owner = owners[blockIdx.x], first = blockIdx.y * 16;
  if (owner < 0 || first >= all[owner].ranks) return;
  int ranks = all[owner].ranks, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const T *a = (const T *)all[owner].a + (first + g) * inputs, *row = x + (blockIdx.x * 8 + g) * xp;
  bool low = first + g < ranks, high = first + g + 8 < ranks;
  float acc[4] = {};
#pragma unroll 4
  for (i64 k = warp * 32 + t * 8; k < inputs; k += WARPS * 32)
    step<T>(acc, load16(a + k, low), load16(a + 8 * inputs + k, high), load16(row + k, true));
  for (int i = 0; i < 4; i++) sums[warp][g + 8 * (i / 2)][2 * t + i % 2] = acc[i];
  __syncthreads();
  if (threadIdx.x < 128) {
    int rank = threadIdx.x % 16, r = threadIdx.x / 16;
    float sum = 0.f;
    for (int w = 0; w < WARPS; w++) sum += sums[w][rank][r];
    if (first + rank < ranks) u[(blockIdx.x * 8 + r) * up + first + rank] = from_f32<T>(sum);
  }
}

// y[tile rows, 16 columns a warp] += scale * u * B^T
template <typename T>
__device__ void up(const LoraOf *all, const int *owners, const T *u, i64 pitch, T *y, i64 yp) {
  int owner = owners[blockIdx.x];
  if (owner < 0) return;
  int column = (blockIdx.y * WARPS + threadIdx.x / 32) * 16, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int p = 0; p < all[owner].parts; p++) {
    LoraPart part = all[owner].part[p];
    int at = column - part.first_column;
    if (at < 0 || at >= part.columns) continue;
    const T *b = (const T *)part.b + (i64)(at + g) * part.rank, *row = u + (blockIdx.x * 8 + g) * pitch + part.first_rank;
    float acc[4] = {};
    for (int k = t * 8; k - t * 8 < part.rank; k += 32) {
      bool there = k < part.rank;
      step<T>(acc, load16(b + k, there), load16(b + 8 * part.rank + k, there), load16(row + k, there));
    }
    for (int i = 0; i < 4; i++) {
      T *to = y + (blockIdx.x * 8 + 2 * t + i % 2) * yp + column + g + 8 * (i / 2);
      *to = from_f32<T>(to_f32(*to) + part.scale * acc[i]);
    }
    return;
  }
}
}  // namespace lora

#define LORA(S, T)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(512) lora_down_##S(const LoraOf *all, const int *owners, const T *x,     \
                                                                  i64 xp, i64 inputs, T *u, i64 up) {                  \
    lora::down<T>(all, owners, x, xp, inputs, u, up);                                                                  \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(512) lora_up_##S(const LoraOf *all, const int *owners, const T *u,       \
                                                                i64 up, T *y, i64 yp) {                                \
    lora::up<T>(all, owners, u, up, y, yp);                                                                            \
  }
LORA(bf16, bf16)
LORA(f16, f16)
