// out = sum over speakers of face weight * attention(rms(q), k, v) within each latent frame, before the output projection.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "audio_face_attention/queries.h"

namespace humo_rt {

// v is of the shape and dtype of k, and may be read with strides of its own; out is like q.
struct AudioFaceAttention {
  AudioFaceQueries queries;
  const void* v;
  std::array<int64_t, 5> v_strides;
};

// Asynchronous on `stream`; allocates nothing. Returns cudaErrorInvalidValue for sizes below one, more than 64 keys, a
// head_dim above 256, a batch above 65535, more than 12,000 channels, 2^31 tokens or more in a sample, or an unknown
// dtype, else what the launch returned.
cudaError_t audio_face_attention(const AudioFaceAttention& call, cudaStream_t stream);

}  // namespace humo_rt
