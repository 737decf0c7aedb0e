// guided[n] = sum over b of weights[b] * velocity[b, n], then three linear combinations of it and four stored tensors:
// one step of guidance and of a linear multistep sampler.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/dtype.h"

namespace humo_rt {

// Sample, last sample, newest and older prediction; and next, corrected and predicted clean latents.
constexpr int kUpdateLatents = 4;
constexpr int kUpdateOutputs = 3;

struct UpdateLatents {
  const float* values[kUpdateLatents];
};

struct UpdateOutputs {
  float* values[kUpdateOutputs];
};

// All pointers are device memory of the current device. `velocity` is [branches, count], contiguous, of type `dtype`;
// `weights` is [branches] float32; every latent and output is [count] float32; `coefficients` is [3, 5] float32, a row
// for each output, a column for the guided velocity and one for each latent. Outputs overlap nothing. Products and sums
// are float32. Asynchronous on `stream`; allocates nothing. Returns cudaErrorInvalidValue for sizes below one or an
// unknown dtype, else what the launch returned.
cudaError_t guided_update(UpdateOutputs outputs, const void* velocity, DType dtype, const float* weights,
                          UpdateLatents latents, const float* coefficients, int64_t branches, int64_t count,
                          cudaStream_t stream);

}  // namespace humo_rt
