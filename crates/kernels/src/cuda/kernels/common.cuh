// What all kernels share: element types, reductions, launch conventions.
//
// Integer arguments are `long long`, so that the caller has one width to get right; statistics and sums are f32 or wider.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math_constants.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;
typedef __half f16;
typedef long long i64;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }
template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }

// Two neighbouring elements of 16 bits in one word.
template <typename T> __device__ __forceinline__ uint32_t pack(float low, float high);
template <> __device__ __forceinline__ uint32_t pack<bf16>(float low, float high) {
  __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t *>(&v);
}
template <> __device__ __forceinline__ uint32_t pack<f16>(float low, float high) {
  __half2 v = __floats2half2_rn(low, high);
  return *reinterpret_cast<uint32_t *>(&v);
}
__device__ __forceinline__ float2 unpack(uint32_t x, bf16) {
  return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&x));
}
__device__ __forceinline__ float2 unpack(uint32_t x, f16) { return __half22float2(*reinterpret_cast<__half2 *>(&x)); }

__device__ __forceinline__ float warp_sum(float x) {
  for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
  return x;
}
__device__ __forceinline__ double warp_sum(double x) {
  for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(0xffffffffu, x, o);
  return x;
}

// Sum over the threads of a row group of `width` threads (32, or the whole block), given to all of them.
// `scratch` holds 32 values.
template <typename S> __device__ __forceinline__ S group_sum(S x, int width, S *scratch) {
  x = warp_sum(x);
  if (width == 32) return x;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = width >> 5;
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : S(0));
}

// Four elements at once.
template <typename T> struct Four;
template <> struct Four<float> {
  float4 v;
  __device__ __forceinline__ void load(const float *p) { v = *reinterpret_cast<const float4 *>(p); }
  __device__ __forceinline__ void store(float *p) const { *reinterpret_cast<float4 *>(p) = v; }
  __device__ __forceinline__ void get(float (&x)[4]) const { x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w; }
  __device__ __forceinline__ void set(const float (&x)[4]) { v = make_float4(x[0], x[1], x[2], x[3]); }
};
template <typename T> struct FourHalves {
  uint2 v;
  __device__ __forceinline__ void load(const T *p) { v = *reinterpret_cast<const uint2 *>(p); }
  __device__ __forceinline__ void store(T *p) const { *reinterpret_cast<uint2 *>(p) = v; }
  __device__ __forceinline__ void get(float (&x)[4]) const {
    float2 a = unpack(v.x, T()), b = unpack(v.y, T());
    x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y;
  }
  __device__ __forceinline__ void set(const float (&x)[4]) { v = make_uint2(pack<T>(x[0], x[1]), pack<T>(x[2], x[3])); }
};
template <> struct Four<bf16> : FourHalves<bf16> {};
template <> struct Four<f16> : FourHalves<f16> {};

// Calls f(row, column) for every group of `step` columns of a [rows, cols] matrix.
template <typename F> __device__ __forceinline__ void each(i64 rows, i64 cols, int step, F f) {
  i64 groups = cols / step, total = rows * groups;
  if (total < (1ll << 31)) {
    // Divisions of 32 bits cost a fraction of those of 64.
    uint32_t n = (uint32_t)total, per = (uint32_t)groups, stride = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
      uint32_t row = i / per;
      f((i64)row, (i64)((i - row * per) * step));
    }
    return;
  }
  for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < total; i += (i64)gridDim.x * blockDim.x)
    f(i / groups, i % groups * step);
}

// Lets the next kernel of the stream begin, if it was queued to begin early; and waits for the kernels before this one, which a
// kernel that begins early must do before it reads what they write, or writes anything.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void wait_for_last() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
