// Convolution over past frames, rows and columns of channels-last video that carries its border of zeros, on Hopper.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/dtype.h"

namespace humo_rt {

// A video of `frames` result frames, `rows` x `columns` positions each, the border of one included.
struct ConvShape {
  int frames;
  int rows;
  int columns;
  int inputs;
  int outputs;
  int taps;    // in time: x has frames + taps - 1 frames
  int height;  // of the kernel, 1 or 3
  int width;
};

// All pointers are device memory of the current device, 16-byte aligned and contiguous, of type `dtype` (half or
// bfloat16): `x` is [frames + taps - 1, rows, columns, inputs], `weight` [outputs, taps, height, width, inputs], `bias`
// [outputs], `residual` (or null) and `out` [frames, rows, columns, outputs]. Sums are float32; the border of `out` is
// zero. `shared_columns`: the taps along a row share one tile of x, which is the fast way. Asynchronous on `stream`;
// allocates nothing. cudaErrorNotSupported off Hopper, cudaErrorInvalidValue for sizes or types that do not fit, else
// what the launch returned.
cudaError_t causal_conv(const void* x, const void* weight, const void* bias, const void* residual, void* out,
                        DType dtype, const ConvShape& shape, bool shared_columns, cudaStream_t stream);

}  // namespace humo_rt
