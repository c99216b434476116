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
// A thread widens 8 elements, which lie in one block (blocks are multiples of 16).
template <typename T>
__device__ void nf4_dequantize(const uint8_t *packed, const float *scales, const uint8_t *codes8, const float *map,
                               i64 nested_block, float offset, i64 block, T *out, i64 n) {
  __shared__ float code[16];
  if (threadIdx.x < 16) code[threadIdx.x] = nf4_code[threadIdx.x];
  __syncthreads();
  bool aligned = (reinterpret_cast<uintptr_t>(out) & 15) == 0;
  // Blocks are powers of two.
  int shift = __ffsll(block) - 1, nested_shift = __ffsll(nested_block) - 1;
  i64 groups = (n + 7) / 8;
  for (i64 g = blockIdx.x * (i64)blockDim.x + threadIdx.x; g < groups; g += (i64)gridDim.x * blockDim.x) {
    i64 first = g * 8, b = first >> shift;
    float scale = codes8 ? scales[b >> nested_shift] * map[codes8[b]] + offset : scales[b];
    if (aligned && first + 8 <= n) {
      uint32_t w = *reinterpret_cast<const uint32_t *>(packed + g * 4);
      float x[8] = {code[(w >> 4) & 15] * scale,  code[w & 15] * scale,         code[(w >> 12) & 15] * scale,
                    code[(w >> 8) & 15] * scale,  code[(w >> 20) & 15] * scale, code[(w >> 16) & 15] * scale,
                    code[w >> 28] * scale,        code[(w >> 24) & 15] * scale};
      if constexpr (sizeof(T) == 2) {
        *reinterpret_cast<uint4 *>(out + first) =
            make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
      } else {
        reinterpret_cast<float4 *>(out + first)[0] = make_float4(x[0], x[1], x[2], x[3]);
        reinterpret_cast<float4 *>(out + first)[1] = make_float4(x[4], x[5], x[6], x[7]);
      }
    } else {
      for (i64 i = first; i < min(first + 8, n); i++) {
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
NF4(f16, f16)
