// out = sum over speakers of face weight * attention(rms(q), k, v) within each latent frame, before the output projection.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "common/dtype.h"

namespace humo_rt {

// All pointers are device memory of the current device, strides count elements, every last axis is contiguous.
// q [batch, frames * tokens, heads * head_dim] and k, v [speakers, batch, frames, heads, keys, head_dim] are of `dtype`,
// which may be read with any strides; norm_weight [heads * head_dim] and face [speakers, batch, frames * tokens], or
// null, are contiguous float32; out is like q, contiguous, and overlaps nothing.
struct AudioFaceAttention {
  void* out;
  const void* q;
  const float* norm_weight;
  const void* k;
  const void* v;
  const float* face;
  DType dtype;
  int64_t speakers, batch, frames, tokens, heads, keys, head_dim;
  std::array<int64_t, 2> q_strides;  // batch, token
  std::array<int64_t, 5> k_strides;  // speaker, batch, frame, head, key
  std::array<int64_t, 5> v_strides;
  float eps;
};

// Asynchronous on `stream`; allocates nothing. Returns cudaErrorInvalidValue for sizes below one, more than 64 keys, a
// head_dim above 256, a batch above 65535, more than 12,000 channels or an unknown dtype, else what the launch returned.
cudaError_t audio_face_attention(const AudioFaceAttention& call, cudaStream_t stream);

}  // namespace humo_rt
