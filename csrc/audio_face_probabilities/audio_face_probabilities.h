// out = face weight * softmax(rms(q) @ k^T / sqrt(head_dim)) within each latent frame: what attention weighs values with.
#pragma once

#include <cuda_runtime_api.h>

#include "audio_face_attention/queries.h"

namespace humo_rt {

// out is [batch, frames * tokens, heads, speakers, keys].
// Asynchronous on `stream`; allocates nothing. Returns cudaErrorInvalidValue for sizes below one, more than 64 keys, a
// head_dim above 256, a batch above 65535, more than 12,000 channels, 2^31 tokens or more in a sample, or an unknown
// dtype, else what the launch returned.
cudaError_t audio_face_probabilities(const AudioFaceQueries& call, cudaStream_t stream);

}  // namespace humo_rt
