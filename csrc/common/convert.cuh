// Loads of 16 bytes and exact widening to float32, for every element type we take.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace humo_rt {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// kCount elements that are read or written as one transaction. The address must be a multiple of the size.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Packed {
  T values[kCount];
};

}  // namespace humo_rt
