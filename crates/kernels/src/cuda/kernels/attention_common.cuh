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
