// What attention of audio confined to faces and its probabilities have in common: the queries, the keys, the face weights.
#pragma once

#include <array>
#include <cstdint>

#include "common/dtype.h"

namespace humo_rt {

// All pointers are device memory of the current device, strides count elements, every last axis is contiguous.
// q [batch, frames * tokens, heads * head_dim] and k [speakers, batch, frames, heads, keys, head_dim] are of `dtype`,
// which may be read with any strides; norm_weight [heads * head_dim] and face [speakers, batch, frames * tokens], or
// null, are contiguous float32; out is of `dtype`, contiguous, and overlaps nothing. workspace is memory for 16 * speakers
// * batch * frames * heads * head_dim elements of `dtype`, aligned to 16 bytes, that the call may write; without it, null,
// slower kernels run.
struct AudioFaceQueries {
  void* out;
  const void* q;
  const float* norm_weight;
  const void* k;
  const float* face;
  void* workspace;
  DType dtype;
  int64_t speakers, batch, frames, tokens, heads, keys, head_dim;
  std::array<int64_t, 2> q_strides;  // batch, token
  std::array<int64_t, 5> k_strides;  // speaker, batch, frame, head, key
  float eps;
};

}  // namespace humo_rt
