// What a launch has to know of the current device.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace humo_rt {

// Blocks for `work` items on the current device: enough to fill it `waves` times over, never more than there is work.
// Reads a cached device attribute only, so it may be called while a stream is being captured.
inline cudaError_t grid_stride_blocks(int64_t work, int threads, int waves, unsigned* blocks) {
  int device = 0;
  int processors = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  const int64_t needed = (work + threads - 1) / threads;
  *blocks = static_cast<unsigned>(std::min<int64_t>(needed, static_cast<int64_t>(processors) * waves));
  return cudaSuccess;
}

// The processors of the current device; cudaErrorNotSupported if it is not of Hopper's family.
inline cudaError_t hopper_processors(int* processors) {
  int device = 0, major = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(processors, cudaDevAttrMultiProcessorCount, device);
  return status == cudaSuccess && major != 9 ? cudaErrorNotSupported : status;
}

}  // namespace humo_rt
