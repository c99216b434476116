// Products of few rows with matrices of 16 bits, and what stands before and after them in a block: the norm of the rows, the
// rotation of queries and keys on their way to the cache, the activation, the residual stream.
#pragma once
#include "activation.cuh"
#include "mma.cuh"

namespace few {
// Rows that are multiplied; with weights, the RMS norm of each.
struct Rows {
  const bf16 *x;
  i64 pitch, count, cols;
  const bf16 *norm;
  float eps;
};

__device__ __forceinline__ uint4 times(uint4 a, uint4 b) {
  uint32_t *x = reinterpret_cast<uint32_t *>(&a), *y = reinterpret_cast<uint32_t *>(&b);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    __nv_bfloat162 v = __hmul2(*reinterpret_cast<__nv_bfloat162 *>(x + i), *reinterpret_cast<__nv_bfloat162 *>(y + i));
    x[i] = *reinterpret_cast<uint32_t *>(&v);
  }
  return a;
}

// Products of 16 HIGH rows from `first` on with TILES times eight rows of a matrix, of which lane (g, t) has the g-th from w[tile]
// on. The warps share the columns, 32 at a time and RUNS times that at once, and their sums are added in order, so what becomes
// of a row does not depend on those beside it. A lane takes eight columns from 8 t on: the order of columns within a product
// does not matter as long as both factors have the same. The norm's factor, one a row, is applied to the sums; squares are
// products of rows with themselves. `out(row, column, sums of the tiles)` is called for every row and all eight columns. The
// matrix is read before the rows are there.
template <int WARPS, int RUNS, int HIGH, int TILES, typename F>
__device__ void product(const Rows &in, i64 first, const bf16 *const (&w)[TILES], F out) {
  __shared__ float sums[WARPS][HIGH * 16][TILES * 8];
  __shared__ float squares[WARPS][HIGH * 16];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float acc[HIGH][TILES][4] = {}, square[HIGH][2][4] = {};
  bool waited = false;
  let_next_begin();
  for (int base = warp * 32; base < in.cols; base += WARPS * 32 * RUNS) {
    uint4 none = make_uint4(0, 0, 0, 0), of[RUNS][TILES], norm[RUNS], rows[RUNS][HIGH][2];
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
      int col = base + run * WARPS * 32 + t * 8;
      bool there = col < in.cols;
#pragma unroll
      for (int tile = 0; tile < TILES; tile++)
        of[run][tile] = there ? __ldg(reinterpret_cast<const uint4 *>(w[tile] + col)) : none;
      if (in.norm) norm[run] = there ? __ldg(reinterpret_cast<const uint4 *>(in.norm + col)) : none;
    }
    if (!waited) wait_for_last(), waited = true;
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
      int col = base + run * WARPS * 32 + t * 8;
#pragma unroll
      for (int i = 0; i < 2 * HIGH; i++) {
        i64 row = first + g + 8 * i;
        bool given = col < in.cols && row < in.count;
        rows[run][i / 2][i % 2] = given ? *reinterpret_cast<const uint4 *>(in.x + row * in.pitch + col) : none;
      }
    }
#pragma unroll
    for (int run = 0; run < RUNS; run++) {
      if (base + run * WARPS * 32 >= in.cols) break;
#pragma unroll
      for (int high = 0; high < HIGH; high++) {
        uint4 a = rows[run][high][0], b = rows[run][high][1];
        if (in.norm) {
          uint32_t even[4] = {a.x, b.x, a.y, b.y}, odd[4] = {a.z, b.z, a.w, b.w};
          mma::multiply<bf16>(square[high][0], even, a.x, a.y), mma::multiply<bf16>(square[high][0], odd, a.z, a.w);
          mma::multiply<bf16>(square[high][1], even, b.x, b.y), mma::multiply<bf16>(square[high][1], odd, b.z, b.w);
          a = times(a, norm[run]), b = times(b, norm[run]);
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
          uint4 v = of[run][tile];
          mma::multiply<bf16>(acc[high][tile], {a.x, b.x, a.y, b.y}, v.x, v.y);
          mma::multiply<bf16>(acc[high][tile], {a.z, b.z, a.w, b.w}, v.z, v.w);
        }
      }
    }
  }
  if (!waited) wait_for_last();
#pragma unroll
  for (int high = 0; high < HIGH; high++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = high * 16 + half * 8 + g;
#pragma unroll
      for (int tile = 0; tile < TILES; tile++)
        *reinterpret_cast<float2 *>(&sums[warp][row][tile * 8 + 2 * t]) =
            make_float2(acc[high][tile][2 * half], acc[high][tile][2 * half + 1]);
      // The row's product with itself.
      float even = square[high][half][2 * half], odd = square[high][half][2 * half + 1];
      if (g / 2 == t) squares[warp][row] = g % 2 ? odd : even;
    }
  __syncthreads();
  for (int i = threadIdx.x; i < HIGH * 16 * 8; i += WARPS * 32) {
    int row = i / 8, c = i % 8;
    if (first + row >= in.count) continue;
    float total[TILES] = {}, norm = 0.f;
#pragma unroll
    for (int from = 0; from < WARPS; from++) {
#pragma unroll
      for (int tile = 0; tile < TILES; tile++) total[tile] += sums[from][row][tile * 8 + c];
      norm += squares[from][row];
    }
    if (in.norm) {
      float factor = rsqrtf(norm / (float)in.cols + in.eps);
#pragma unroll
      for (int tile = 0; tile < TILES; tile++) total[tile] *= factor;
    }
    out(first + row, c, total);
  }
}

// Lane's row of a matrix; the last one stands for rows that are not there.
__device__ __forceinline__ const bf16 *lane_row(const bf16 *w, i64 row, i64 rows, i64 cols) {
  return w + min(row + threadIdx.x % 32 / 4, rows - 1) * cols;
}

// y = norm(x) W^T + bias, or y += x W^T.
template <int WARPS, int HIGH, bool ADD>
__device__ void linear(const Rows &in, const bf16 *w, i64 out, const float *bias, bf16 *y, i64 yp) {
  i64 column = blockIdx.x * (i64)8;
  const bf16 *of[1] = {lane_row(w, column, out, in.cols)};
  product<WARPS, 3, HIGH, 1>(in, blockIdx.y * (i64)(16 * HIGH), of, [&](i64 row, int c, const float (&sum)[1]) {
    i64 at = column + c;
    if (at >= out) return;
    bf16 *to = y + row * yp + at;
    *to = from_f32<bf16>(sum[0] + (ADD ? to_f32(*to) : 0.f) + (bias ? bias[at] : 0.f));
  });
}

// y = act(gate) · factor(up), where gate and up are products of norm(x) with the two halves of the matrix. A block has eight
// columns of both, PAIRS times.
template <int WARPS, int RUNS, int HIGH, int PAIRS>
__device__ void gated(const Rows &in, const bf16 *w, i64 inner, Activation f, bf16 *y, i64 yp) {
  i64 column = blockIdx.x * (i64)(8 * PAIRS);
  const bf16 *of[2 * PAIRS];
#pragma unroll
  for (int pair = 0; pair < PAIRS; pair++) {
    of[2 * pair] = lane_row(w, column + 8 * pair, inner, in.cols);
    of[2 * pair + 1] = lane_row(w + inner * in.cols, column + 8 * pair, inner, in.cols);
  }
  auto out = [&](i64 row, int c, const float (&sum)[2 * PAIRS]) {
#pragma unroll
    for (int pair = 0; pair < PAIRS; pair++) {
      i64 at = column + 8 * pair + c;
      float value = activate(f, sum[2 * pair]).x * factor(f, sum[2 * pair + 1]).x;
      if (at < inner) y[row * yp + at] = from_f32<bf16>(value);
    }
  };
  product<WARPS, RUNS, HIGH, 2 * PAIRS>(in, blockIdx.y * (i64)(16 * HIGH), of, out);
}

// Queries, keys and values are products of norm(x) with the matrix. Heads of queries and keys are rotated whole, in halves
// against each other; queries go to y, keys and values to the rows' slots. A block has eight columns of both halves of a head.
template <int WARPS, int RUNS, int HIGH>
__device__ void project(const Rows &in, const bf16 *w, const float *bias, i64 heads, i64 kv_heads, i64 width,
                        const uint32_t *positions, const float *table, const uint32_t *slots, bf16 *y, i64 yp,
                        bf16 *keys, bf16 *values) {
  i64 half = width / 2, each = half / 8, head = blockIdx.x / each, column = blockIdx.x % each * 8;
  i64 from = head * width + column, all = (heads + 2 * kv_heads) * width;
  const bf16 *of[2] = {lane_row(w, from, all, in.cols), lane_row(w, from + half, all, in.cols)};
  product<WARPS, RUNS, HIGH, 2>(in, blockIdx.y * (i64)(16 * HIGH), of, [&](i64 row, int c, const float (&sum)[2]) {
    float a = sum[0], b = sum[1];
    if (bias) a += bias[from + c], b += bias[from + half + c];
    bf16 *to;
    if (head < heads + kv_heads) {
      const float *angles = table + (i64)positions[row] * width + column + c;
      float cs = angles[0], sn = angles[half];
      // Rounded before they turn, as between two kernels.
      float x = to_f32(from_f32<bf16>(a)), z = to_f32(from_f32<bf16>(b));
      a = x * cs - z * sn, b = z * cs + x * sn;
      to = head < heads ? y + row * yp + head * width : keys + slots[row] * kv_heads * width + (head - heads) * width;
    } else {
      to = values + slots[row] * kv_heads * width + (head - heads - kv_heads) * width;
    }
    to[column + c] = from_f32<bf16>(a), to[column + c + half] = from_f32<bf16>(b);
  });
}
}  // namespace few

#define ROWS const bf16 *x, i64 xp, i64 n, i64 cols, const bf16 *norm, float eps
#define GIVEN_ROWS {x, xp, n, cols, norm, eps}
#define KERNEL(WARPS) extern "C" __global__ void __launch_bounds__(32 * WARPS)
// Up to 768 columns are read at once by 8 warps, up to 1,024 (1,536 by the simple ones) by 16.
#define FEW(HIGH, WARPS, RUNS, PAIRS)                                                                                  \
  KERNEL(WARPS)                                                                                                        \
  few_linear_##HIGH##_##WARPS(ROWS, const bf16 *w, i64 out, const float *bias, bf16 *y, i64 yp) {                      \
    few::linear<WARPS, HIGH, false>(GIVEN_ROWS, w, out, bias, y, yp);                                                  \
  }                                                                                                                    \
  KERNEL(WARPS)                                                                                                        \
  few_add_##HIGH##_##WARPS(ROWS, const bf16 *w, i64 out, const float *bias, bf16 *y, i64 yp) {                         \
    few::linear<WARPS, HIGH, true>(GIVEN_ROWS, w, out, bias, y, yp);                                                   \
  }                                                                                                                    \
  KERNEL(WARPS)                                                                                                        \
  few_gated_##HIGH##_##WARPS(ROWS, const bf16 *w, i64 inner, i64 kind, float a, float b, float c, float d, bf16 *y,    \
                             i64 yp) {                                                                                 \
    Activation f = {kind, a, b, c, d};                                                                                 \
    few::gated<WARPS, RUNS, HIGH, PAIRS>(GIVEN_ROWS, w, inner, f, y, yp);                                              \
  }                                                                                                                    \
  KERNEL(WARPS)                                                                                                        \
  few_project_##HIGH##_##WARPS(ROWS, const bf16 *w, const float *bias, i64 heads, i64 kv_heads, i64 width,             \
                               const uint32_t *positions, const float *table, const uint32_t *slots, bf16 *y, i64 yp,  \
                               bf16 *keys, bf16 *values) {                                                             \
    few::project<WARPS, RUNS, HIGH>(GIVEN_ROWS, w, bias, heads, kv_heads, width, positions, table, slots, y, yp, keys, \
                                    values);                                                                           \
  }
FEW(1, 8, 3, 2)
FEW(2, 8, 3, 2)
FEW(1, 16, 2, 1)
FEW(2, 16, 2, 1)
