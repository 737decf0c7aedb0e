// out[n] = sum over b of weights[b] * velocity[b, n]: the guided velocity from the branches of one batched forward.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/dtype.h"

namespace humo_rt {

// All pointers are device memory of the current device. `velocity` is [branches, count], contiguous, of type `dtype`;
// `weights` is [branches] float32; `out` is [count] float32 and overlaps neither. Products and sums are float32, in
// the order of the branches. Asynchronous on `stream`; allocates nothing. Returns cudaErrorInvalidValue for sizes
// below one or an unknown dtype, else what the launch returned.
cudaError_t guidance_sum(float* out, const void* velocity, DType dtype, const float* weights, int64_t branches,
                         int64_t count, cudaStream_t stream);

}  // namespace humo_rt
