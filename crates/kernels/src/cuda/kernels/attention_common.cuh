// Work of the attention kernels.
#pragma once
#include "common.cuh"

// Up to 64 query rows of one sequence. Their context is the concatenation of `segments`; the query in row i has context
// position `position + i` and sees the keys up to its own position (and within the window).
struct Tile {
  int row, rows, position, segment, segments;
};
struct Segment {
  int start, len;
};

// One piece of at most `step` keys at a time, over all segments of a tile.
struct Walk {
  const Segment *segments;
  int count, at, offset, context;
  __device__ __forceinline__ Walk(const Tile &tile, const Segment *all)
      : segments(all + tile.segment), count(tile.segments), at(0), offset(0), context(0) {}
  // Skips pieces that end at or before context position `first` (whole steps only).
  __device__ __forceinline__ bool next(int step, int first, int end, int &start, int &keys, int &position) {
    while (at < count && context < end) {
      Segment s = segments[at];
      if (offset >= s.len) {
        at++, offset = 0;
        continue;
      }
      start = s.start + offset, keys = min(step, s.len - offset), position = context;
      offset += keys, context += keys;
      if (context > first) return true;
    }
    return false;
  }
};

// What becomes of scores before the softmax. With MORE there may be a soft limit, slopes by distance and chunks; without, the
// code is that of plain attention. `dot` is q · k; `at` and `key` are positions in the context.
template <bool MORE> struct Score {
  float scale, cap, slope, rounded;
  int window, chunk;
  __device__ __forceinline__ Score(float scale, i64 window, float cap, const float *slopes, float rounded, i64 chunk,
                                   int head)
      : scale(scale), cap(cap), slope(0.f), rounded(rounded), window((int)window), chunk((int)chunk) {
    set_head(slopes, head);
  }
  __device__ __forceinline__ void set_head(const float *slopes, int head) {
    if constexpr (MORE) slope = slopes ? slopes[head] : 0.f;
  }
  // The first key that a query sees; it may lie before the context.
  __device__ __forceinline__ int low(int at) const {
    int first = window > 0 ? at + 1 - window : 0;
    if constexpr (MORE)
      if (chunk > 0) first = max(first, at / chunk * chunk);
    return first;
  }
  // The first query after all that see a key.
  __device__ __forceinline__ int beyond(int key, int len) const {
    int end = window > 0 ? min(len, key + window) : len;
    if constexpr (MORE)
      if (chunk > 0) end = min(end, (key / chunk + 1) * chunk);
    return end;
  }
  // The score times `unit`: 1, or log2(e) where exponentials are of base 2.
  __device__ __forceinline__ float of(float dot, int at, int key, float unit) const {
    if constexpr (!MORE) return dot * (scale * unit);
    float s = dot * scale;
    if (cap > 0.f) s = cap * tanhf(s / cap);
    if (rounded != 0.f) s += __bfloat162float(__float2bfloat16_rn(slope * (float)key)) * rounded;
    else s -= slope * (float)(at - key);
    return s * unit;
  }
  // The derivative of the score by `dot`.
  __device__ __forceinline__ float derivative(float dot) const {
    if constexpr (MORE)
      if (cap > 0.f) {
        float t = tanhf(dot * scale / cap);
        return scale * (1.f - t * t);
      }
    return scale;
  }
};
