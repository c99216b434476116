// Losses, log-probabilities, norms of gradients, and the optimizer.
#pragma once
#include "row_max.cuh"

// losses[r] = logsumexp(row) - row[label]; with scale != 0 the row becomes scale * (softmax - onehot). One block a row.
template <typename T>
__device__ void cross_entropy(T *logits, i64 pitch, i64 vocab, const uint32_t *labels, float scale, float *losses) {
  T *row = logits + blockIdx.x * pitch;
  i64 label = labels[blockIdx.x];
  MaxSum ms = row_max_sum(row, vocab, nullptr);
  float log_sum = logf(ms.sum), factor = scale / ms.sum;
  if (threadIdx.x == 0) losses[blockIdx.x] = (ms.max - to_f32(row[label])) + log_sum;
  if (scale == 0.f) return;
  __syncthreads();
  for (i64 c = threadIdx.x; c < vocab; c += blockDim.x) {
    float p = expf(to_f32(row[c]) - ms.max) * factor;
    row[c] = from_f32<T>(c == label ? p - scale : p);
  }
}
extern "C" __global__ void cross_entropy_f32(float *x, i64 p, i64 v, const uint32_t *l, float s, float *o) {
  cross_entropy(x, p, v, l, s, o);
}
extern "C" __global__ void cross_entropy_bf16(bf16 *x, i64 p, i64 v, const uint32_t *l, float s, float *o) {
  cross_entropy(x, p, v, l, s, o);
}
extern "C" __global__ void cross_entropy_f16(f16 *x, i64 p, i64 v, const uint32_t *l, float s, float *o) {
  cross_entropy(x, p, v, l, s, o);
}

// Per row of logits: log-sum-exp and the first largest. One block a row.
extern "C" __global__ void read_logits(const float *logits, i64 pitch, i64 vocab, float *lse, uint32_t *best) {
  i64 place;
  const float *row = logits + blockIdx.x * pitch;
  MaxSum ms = row_max_sum(row, vocab, &place);
  if (threadIdx.x == 0) {
    lse[blockIdx.x] = ms.max + logf(ms.sum);
    best[blockIdx.x] = (uint32_t)(place < vocab ? place : 0);
  }
}
// Per row of logits: the first largest and its log-probability. One block a row.
extern "C" __global__ void read_best(const float *logits, i64 pitch, i64 vocab, uint2 *best) {
  i64 place;
  const float *row = logits + blockIdx.x * pitch;
  MaxSum ms = row_max_sum(row, vocab, &place);
  if (threadIdx.x == 0) {
    uint32_t token = place < vocab ? place : 0;
    best[blockIdx.x] = make_uint2(token, __float_as_uint(row[token] - (ms.max + logf(ms.sum))));
  }
}
// Log-probability of token[i] at row[i], and whether it is the first largest.
extern "C" __global__ void read_targets(const float *logits, i64 pitch, const float *lse, const uint32_t *best,
                                        const uint32_t *row, const uint32_t *token, i64 n, float *logprob,
                                        uint32_t *greedy) {
  i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x;
  if (i >= n) return;
  logprob[i] = logits[(i64)row[i] * pitch + token[i]] - lse[row[i]];
  greedy[i] = best[row[i]] == token[i];
}

// Sums in f64, in an order that depends on n only. One block finishes what many began.
template <bool SQUARE> __device__ void partial_sums(const float *x, i64 n, double *parts) {
  __shared__ double scratch[32];
  double sum = 0.0;
  for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x)
    sum += SQUARE ? (double)x[i] * (double)x[i] : (double)x[i];
  sum = group_sum(sum, blockDim.x, scratch);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
extern "C" __global__ void partial_squares(const float *x, i64 n, double *parts) { partial_sums<true>(x, n, parts); }
extern "C" __global__ void partial_total(const float *x, i64 n, double *parts) { partial_sums<false>(x, n, parts); }
extern "C" __global__ void total(const double *parts, i64 n, double *out) {
  __shared__ double scratch[32];
  double sum = 0.0;
  for (i64 i = threadIdx.x; i < n; i += blockDim.x) sum += parts[i];
  sum = group_sum(sum, blockDim.x, scratch);
  if (threadIdx.x == 0) *out = sum;
}

// One AdamW update, and the image of the new values in 16 bits where there is one.
template <typename T>
__device__ void adamw(float *value, const float *grad, float *mean, float *square, T *image, i64 n, float grad_scale,
                      float beta1, float beta2, float keep, float step_size, float inv_root2, float epsilon) {
  for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
    float g = grad[i] * grad_scale;
    float m = beta1 * mean[i] + (1.f - beta1) * g, v = beta2 * square[i] + (1.f - beta2) * g * g;
    mean[i] = m, square[i] = v;
    float p = value[i] * keep - step_size * m / (sqrtf(v) * inv_root2 + epsilon);
    value[i] = p;
    if (image) image[i] = from_f32<T>(p);
  }
}
#define ADAMW(S, T)                                                                                                    \
  extern "C" __global__ void adamw_##S(float *value, const float *grad, float *mean, float *square, T *image, i64 n,   \
                                       float grad_scale, float beta1, float beta2, float keep, float step_size,       \
                                       float inv_root2, float epsilon) {                                               \
    adamw<T>(value, grad, mean, square, image, n, grad_scale, beta1, beta2, keep, step_size, inv_root2, epsilon);      \
  }
ADAMW(f32, float)
ADAMW(bf16, bf16)
ADAMW(f16, f16)
