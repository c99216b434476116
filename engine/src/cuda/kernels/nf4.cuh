// 4-bit NormalFloat with blockwise scales, which may themselves be 8-bit with an offset (double quantisation).
// The first element of a pair is in the high nibble.
#pragma once
#include "common.cuh"

__constant__ float nf4_code[16] = {-1.0f,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0.0f,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1.0f};

// scales: f32 per block if `codes8` is null; otherwise nested[block / nested_block] * map[codes8[block]] + offset.
// A thread widens 16 elements, which lie in one block (blocks are multiples of 32).
template <typename T>
__device__ void nf4_dequantize(const uint8_t *packed, const float *scales, const uint8_t *codes8, const float *map,
                               i64 nested_block, float offset, i64 block, T *out, i64 n) {
  __shared__ float code[16];
  if (threadIdx.x < 16) code[threadIdx.x] = nf4_code[threadIdx.x];
  __syncthreads();
  bool aligned = (reinterpret_cast<uintptr_t>(out) & (4 * sizeof(T) - 1)) == 0;
  i64 groups = (n + 15) / 16;
  for (i64 g = blockIdx.x * (i64)blockDim.x + threadIdx.x; g < groups; g += (i64)gridDim.x * blockDim.x) {
    i64 first = g * 16, b = first / block;
    float scale = codes8 ? scales[b / nested_block] * map[codes8[b]] + offset : scales[b];
    if (aligned && first + 16 <= n) {
      uint2 bytes = *reinterpret_cast<const uint2 *>(packed + g * 8);
      uint32_t words[2] = {bytes.x, bytes.y};
      for (int w = 0; w < 2; w++)
        for (int half = 0; half < 2; half++) {
          uint32_t two = words[w] >> (16 * half);
          float x[4] = {code[(two >> 4) & 15] * scale, code[two & 15] * scale, code[(two >> 12) & 15] * scale,
                        code[(two >> 8) & 15] * scale};
          Four<T> v;
          v.set(x), v.store(out + first + w * 8 + half * 4);
        }
    } else {
      for (i64 i = first; i < min(first + 16, n); i++) {
        uint8_t byte = packed[i / 2];
        out[i] = from_f32<T>(code[i % 2 ? byte & 15 : byte >> 4] * scale);
      }
    }
  }
}
#define NF4(S, T)                                                                                                      \
  extern "C" __global__ void nf4_dequantize_##S(const uint8_t *packed, const float *scales, const uint8_t *codes8,     \
                                                const float *map, i64 nested_block, float offset, i64 block, T *out,   \
                                                i64 n) {                                                               \
    nf4_dequantize<T>(packed, scales, codes8, map, nested_block, offset, block, out, n);                               \
  }
NF4(f32, float)
NF4(bf16, bf16)
