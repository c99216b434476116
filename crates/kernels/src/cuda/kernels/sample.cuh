// The next token of every row: the most probable one, or one drawn from the softmax at a temperature after top-k, top-p and
// min-p in this order, all after a penalty on tokens that were seen (Keskar et al. 2019).
//
// Tokens are ranked by logit, equal ones by their number. What the filters keep are always the first of this order, so that
// all of them, and the draw, are one search: the last token whose predecessors have at most so much mass. It goes over three
// digits of the ordered bits of logits. Masses are whole numbers, whose sums do not depend on the order of addition.
#pragma once
#include "row_max.cuh"

// How the token of a row is chosen.
struct Choice {
  // 1 / temperature; 0 = the most probable token.
  float sharpness;
  // 0 = all tokens.
  uint32_t top_k;
  // 1 = all tokens.
  float top_p;
  float min_p;
  float penalty;
};

namespace sample {
constexpr int THREADS = 1024, BINS = 2048;
constexpr double UNIT = 4398046511104.0;  // 2^42: the mass of the most probable token

// Bits that are ordered as floats are.
__device__ __forceinline__ uint32_t key_of(float x) {
  uint32_t bits = __float_as_uint(x == 0.f ? 0.f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The first tokens in the order of rank: those above `key`, and `ties` of those that have it.
struct Cut {
  uint32_t key, ties;
};

struct Row {
  const float *logits;
  i64 vocab;
  const uint32_t *seen;
  float penalty, sharpness, best;

  __device__ __forceinline__ float at(i64 token) const {
    float x = logits[token];
    if (seen && seen[token >> 5] >> (token & 31) & 1) x = x > 0.f ? x / penalty : x * penalty;
    return x;
  }
  // The mass of a token: of each one, or as probable as it is beside the best.
  __device__ __forceinline__ unsigned long long mass(uint32_t key, bool each) const {
    if (each) return 1;
    return (unsigned long long)((double)expf((value_of(key) - best) * sharpness) * UNIT);
  }
};

// The mass of all tokens of a cut.
__device__ unsigned long long total(const Row &row, Cut cut, bool each, unsigned long long *scratch) {
  unsigned long long sum = 0;
  for (i64 token = threadIdx.x; token < row.vocab; token += THREADS) {
    uint32_t key = key_of(row.at(token));
    if (key > cut.key) sum += row.mass(key, each);
  }
  for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = cut.ties ? cut.ties * row.mass(cut.key, each) : 0;
  for (int warp = 0; warp < THREADS / 32; warp++) sum += scratch[warp];
  __syncthreads();
  return sum;
}

// The tokens of a cut up to the last one whose predecessors have at most `most` mass.
__device__ Cut find(const Row &row, Cut cut, bool each, unsigned long long most, unsigned long long *bins) {
  __shared__ unsigned long long parts[32];
  __shared__ uint32_t chosen;
  __shared__ unsigned long long before;
  __shared__ uint32_t same;
  uint32_t prefix = 0;
  unsigned long long passed = 0;
  for (int shift = 21, width = 11; shift >= 0; width = shift == 10 ? 10 : 11, shift -= width) {
    int count = 1 << width;
    for (int i = threadIdx.x; i < BINS; i += THREADS) bins[i] = 0;
    __syncthreads();
    uint32_t above = shift + width == 32 ? 0 : 0xffffffffu << (shift + width);
    for (i64 token = threadIdx.x; token < row.vocab; token += THREADS) {
      uint32_t key = key_of(row.at(token));
      if (key > cut.key && (key & above) == prefix)
        atomicAdd(&bins[key >> shift & (count - 1)], row.mass(key, each));
    }
    if (threadIdx.x == 0 && cut.ties && (cut.key & above) == prefix)
      atomicAdd(&bins[cut.key >> shift & (count - 1)], cut.ties * row.mass(cut.key, each));
    __syncthreads();
    // From the largest digit on; a thread takes two neighbours, a warp 64.
    int at = count - 1 - 2 * (int)threadIdx.x;
    unsigned long long first = at >= 0 ? bins[at] : 0, second = at > 0 ? bins[at - 1] : 0, sum = first + second, up = sum;
    for (int o = 1; o < 32; o <<= 1) {
      unsigned long long lower = __shfl_up_sync(0xffffffffu, up, o);
      if (threadIdx.x % 32 >= o) up += lower;
    }
    if (threadIdx.x % 32 == 31) parts[threadIdx.x / 32] = up;
    if (threadIdx.x == 0) chosen = 0;
    __syncthreads();
    unsigned long long ahead = passed + up - sum;
    for (int warp = 0; warp < (int)threadIdx.x / 32; warp++) ahead += parts[warp];
    // Of all digits whose predecessors have at most `most`, the smallest that somebody has; masses of 0 are nobody's.
    if (second && ahead + first <= most) atomicMax(&chosen, (uint32_t)(count - (at - 1)));
    if (first && ahead <= most) atomicMax(&chosen, (uint32_t)(count - at));
    __syncthreads();
    if (chosen == 0) return cut;
    int digit = count - (int)chosen;
    if (digit == at) before = ahead;
    if (digit == at - 1) before = ahead + first;
    __syncthreads();
    passed = before;
    prefix |= (uint32_t)digit << shift;
    __syncthreads();
  }
  // Of those that have the key, as many as there are, or as `most` lets.
  if (threadIdx.x == 0) same = 0;
  __syncthreads();
  uint32_t own = 0;
  for (i64 token = threadIdx.x; token < row.vocab; token += THREADS) own += key_of(row.at(token)) == prefix;
  if (own) atomicAdd(&same, own);
  __syncthreads();
  unsigned long long there = prefix == cut.key ? cut.ties : same, mass = row.mass(prefix, each);
  unsigned long long fit = mass ? (most - passed) / mass + 1 : there;
  __syncthreads();
  return {prefix, (uint32_t)min(there, fit)};
}

// The last token of a cut.
__device__ uint32_t last(const Row &row, Cut cut) {
  __shared__ uint32_t found;
  __shared__ uint32_t counts[THREADS / 32];
  if (threadIdx.x == 0) found = 0;
  __syncthreads();
  uint32_t passed = 0;
  for (i64 from = 0; from < row.vocab; from += THREADS) {
    i64 token = from + threadIdx.x;
    bool has = token < row.vocab && key_of(row.at(token)) == cut.key;
    uint32_t votes = __ballot_sync(0xffffffffu, has), lane = threadIdx.x % 32;
    if (lane == 0) counts[threadIdx.x / 32] = __popc(votes);
    __syncthreads();
    uint32_t rank = passed + __popc(votes & ((1u << lane) - 1));
    for (int warp = 0; warp < THREADS / 32; warp++) {
      if (warp < (int)threadIdx.x / 32) rank += counts[warp];
      passed += counts[warp];
    }
    if (has && rank + 1 == cut.ties) found = token;
    __syncthreads();
    if (passed >= cut.ties) break;
  }
  __syncthreads();
  return found;
}
}  // namespace sample

// drawn[r] = the token of row r, and its log-probability before penalty, temperature and filters. `seen` holds a bit a token,
// `words` words a row, and gets that of the token; `draws` [rows, steps] are uniform in [0, 1).
extern "C" __global__ void __launch_bounds__(1024) sample_tokens(const float *logits, i64 pitch, i64 vocab,
                                                                 const Choice *choices, uint32_t *seen, i64 words,
                                                                 const double *draws, i64 steps, const uint32_t *step,
                                                                 uint2 *drawn) {
  using namespace sample;
  extern __shared__ unsigned long long bins[];
  i64 r = blockIdx.x, place;
  const float *own = logits + r * pitch;
  Choice choice = choices[r];
  MaxSum all = row_max_sum(own, vocab, &place);
  __syncthreads();
  bool penalised = seen && choice.penalty != 1.f;
  Row row = {own, vocab, penalised ? seen + r * words : nullptr, choice.penalty, choice.sharpness, all.max};
  // No token is possible for certain where a logit is no number.
  uint32_t token = place < vocab ? place : 0;
  bool sound = all.max < CUDART_INF_F && all.max > -CUDART_INF_F && all.sum == all.sum;
  if (sound && (choice.sharpness > 0.f || penalised)) {
    Cut cut = {key_of(-CUDART_INF_F), 0}, best = find(row, cut, true, 0, bins);
    row.best = value_of(best.key);
    if (choice.sharpness > 0.f) {
      if (choice.top_k > 0 && choice.top_k < vocab) cut = find(row, cut, true, choice.top_k - 1, bins);
      if (choice.top_p < 1.f) {
        double mass = ceil((double)choice.top_p * (double)total(row, cut, false, bins));
        cut = find(row, cut, false, mass >= 1. ? (unsigned long long)mass - 1 : 0, bins);
      }
      if (choice.min_p > 0.f) {
        // The weight of a token is a function of its key that never falls; so the least key that is kept can be searched for.
        uint32_t low = cut.key, high = best.key;
        while (low < high) {
          uint32_t middle = low + (high - low) / 2;
          if (expf((value_of(middle) - row.best) * row.sharpness) >= choice.min_p) high = middle;
          else low = middle + 1;
        }
        if (low > cut.key) cut = {low - 1, 0};
      }
      i64 now = min((i64)*step, steps - 1);
      unsigned long long mass = total(row, cut, false, bins);
      unsigned long long at = (unsigned long long)(draws[r * steps + now] * (double)mass);
      best = find(row, cut, false, min(at, mass - 1), bins);
    }
    token = last(row, best);
  }
  if (threadIdx.x == 0) {
    drawn[r] = make_uint2(token, __float_as_uint(own[token] - (all.max + logf(all.sum))));
    if (penalised) atomicOr(&seen[r * words + (token >> 5)], 1u << (token & 31));
  }
}
