// Matrices in codes: their elements in floats, and products with few rows straight from the codes.
#pragma once
#include "codes.cuh"
#include "mma.cuh"

namespace codes {
// Elements of rows from `from` on, contiguous; or of the rows that `list` names, if there is one.
template <typename T> __device__ void widen(const Codes &c, const uint32_t *list, i64 from, i64 rows, T *out) {
  __shared__ float table[16];
  fill_table(c.format, table);
  unsigned each = (c.cols + 7) / 8;
  i64 groups = rows * each;
  with_format(c, [&](auto format) {
    for (i64 g = blockIdx.x * (i64)blockDim.x + threadIdx.x; g < groups; g += (i64)gridDim.x * blockDim.x) {
      unsigned row = (unsigned)g / each;
      i64 col = ((unsigned)g - row * each) * (i64)8;
      float x[8];
      eight<decltype(format)::value>(c, list ? list[row] : from + row, col, table, x);
      T *to = out + row * c.cols + col;
      if (c.cols % 8) {
        for (int i = 0; i < 8 && col + i < c.cols; i++) to[i] = from_f32<T>(x[i]);
      } else if constexpr (sizeof(T) == 2) {
        *reinterpret_cast<uint4 *>(to) =
            make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
      } else {
        reinterpret_cast<float4 *>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
        reinterpret_cast<float4 *>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
      }
    }
  });
}

constexpr int WARPS = 8;

// y = x W^T for up to 8 TILES rows of x and 16 HIGH rows of W a block, on tensor cores. The warps share the columns, 32 at a
// time, and their sums are added in order, so a row of y is the same whatever stands beside it. Lane (g, t) of a warp owns
// rows g and g + 8 of every 16 and of 32 columns the eight from 8 t on: the order of columns within a product does not
// matter as long as both factors have the same.
template <typename T, int TILES, int HIGH>
__device__ void multiply(const Codes &c, i64 rows, const T *x, i64 xp, i64 n, void *y, i64 yp, bool wide) {
  __shared__ float table[16];
  __shared__ float sums[WARPS][TILES * HIGH * 4][32];
  fill_table(c.format, table);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  i64 row = blockIdx.x * (i64)(16 * HIGH) + g, first = blockIdx.y * (i64)(8 * TILES);
  i64 own[2 * HIGH];
#pragma unroll
  for (int i = 0; i < 2 * HIGH; i++) own[i] = min(row + 8 * i, rows - 1);
  float acc[HIGH][TILES][4] = {};
  with_format(c, [&](auto format) {
    constexpr int F = decltype(format)::value;
#pragma unroll(TILES* HIGH == 1 ? 4 : 2)
    for (int col = warp * 32 + t * 8; col < c.cols; col += WARPS * 32) {
      uint32_t w[HIGH][2][4];
#pragma unroll
      for (int high = 0; high < HIGH; high++) {
        float a[8], b[8];
        eight<F>(c, own[2 * high], col, table, a);
        eight<F>(c, own[2 * high + 1], col, table, b);
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
          for (int pair = 0; pair < 2; pair++) {
            int at = 4 * half + 2 * pair;
            w[high][half][2 * pair] = pack<T>(a[at], a[at + 1]), w[high][half][2 * pair + 1] = pack<T>(b[at], b[at + 1]);
          }
      }
#pragma unroll
      for (int tile = 0; tile < TILES; tile++) {
        i64 at = first + tile * 8 + g;
        uint4 v = at < n ? __ldg(reinterpret_cast<const uint4 *>(x + at * xp + col)) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int high = 0; high < HIGH; high++) {
          mma::multiply<T>(acc[high][tile], w[high][0], v.x, v.y);
          mma::multiply<T>(acc[high][tile], w[high][1], v.z, v.w);
        }
      }
    }
  });
#pragma unroll
  for (int i = 0; i < TILES * HIGH * 4; i++) sums[warp][i][lane] = acc[i / 4 / TILES][i / 4 % TILES][i % 4];
  __syncthreads();
  for (int i = warp; i < TILES * HIGH * 4; i += WARPS) {
    float sum = 0;
    for (int from = 0; from < WARPS; from++) sum += sums[from][i][lane];
    i64 at = first + i / 4 % TILES * 8 + t * 2 + i % 2, col = row + i / 4 / TILES * 16 + i % 4 / 2 * 8;
    if (at >= n || col >= rows) continue;
    if (wide)
      static_cast<float *>(y)[at * yp + col] = sum;
    else
      static_cast<T *>(y)[at * yp + col] = from_f32<T>(sum);
  }
}
}  // namespace codes

#define CODES                                                                                                          \
  const uint8_t *codes, const void *scales, const uint8_t *more, const void *map, i64 format, i64 cols, i64 stride,    \
      i64 rows_shift, i64 cols_shift, i64 groups, i64 scale_type, i64 zero, float number
#define GIVEN                                                                                                          \
  {codes,           scales,          more,   map,             (int)format, cols,  stride, (int)rows_shift,             \
   (int)cols_shift, groups, (int)scale_type, (int)zero, number}
#define WIDEN(S, T)                                                                                                    \
  extern "C" __global__ void widen_codes_##S(CODES, const uint32_t *list, i64 from, i64 rows, T *out) {                \
    codes::widen<T>(GIVEN, list, from, rows, out);                                                                     \
  }
#define MULTIPLY(S, T, TILES, HIGH)                                                                                    \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      multiply_codes_##TILES##_##HIGH##_##S(CODES, i64 rows, const T *x, i64 xp, i64 n, void *y, i64 yp, i64 wide) {   \
    codes::multiply<T, TILES, HIGH>(GIVEN, rows, x, xp, n, y, yp, wide);                                               \
  }
WIDEN(f32, float)
WIDEN(bf16, bf16)
WIDEN(f16, f16)
MULTIPLY(bf16, bf16, 1, 1)
MULTIPLY(bf16, bf16, 2, 1)
MULTIPLY(bf16, bf16, 4, 1)
MULTIPLY(bf16, bf16, 4, 2)
MULTIPLY(f16, f16, 1, 1)
MULTIPLY(f16, f16, 2, 1)
MULTIPLY(f16, f16, 4, 1)
MULTIPLY(f16, f16, 4, 2)
