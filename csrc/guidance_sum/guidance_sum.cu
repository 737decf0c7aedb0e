// The guidance sum reads every branch once and writes the result once: count * (branches * sizeof(T) + 4) bytes. Eager
// PyTorch makes a float32 copy of the branches, multiplies it in a second pass and adds in a third: for three bf16
// branches 18 + 24 + 16 = 58 bytes for each element of the result, where this kernel moves 10. Memory is the only bound,
// so all there is to do is to keep 16-byte loads of several branches in flight.

#include "common/convert.cuh"
#include "common/launch.cuh"
#include "guidance_sum/guidance_sum.h"

namespace humo_rt {
namespace {

constexpr int kThreads = 256;
constexpr int kWaves = 8;

// kVector elements for each thread and step; count is a multiple of kVector and rows start on kVector elements.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    guidance_sum_kernel(float* __restrict__ out, const T* __restrict__ velocity, const float* __restrict__ weights,
                        int64_t branches, int64_t count) {
  using Input = Packed<T, kVector>;
  constexpr int kStore = kVector < 4 ? kVector : 4;
  using Output = Packed<float, kStore>;

  const int64_t vectors = count / kVector;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t v = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; v < vectors; v += step) {
    float sum[kVector] = {};
#pragma unroll 4
    for (int64_t b = 0; b < branches; ++b) {
      const Input x = *reinterpret_cast<const Input*>(velocity + b * count + v * kVector);
      const float weight = weights[b];
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum[i] = fmaf(weight, to_float(x.values[i]), sum[i]);
    }
#pragma unroll
    for (int i = 0; i < kVector; i += kStore) {
      Output y;
#pragma unroll
      for (int j = 0; j < kStore; ++j) y.values[j] = sum[i + j];
      *reinterpret_cast<Output*>(out + v * kVector + i) = y;
    }
  }
}

template <typename T, int kVector>
cudaError_t launch(float* out, const T* velocity, const float* weights, int64_t branches, int64_t count,
                   cudaStream_t stream) {
  unsigned blocks = 0;
  const cudaError_t status = grid_stride_blocks(count / kVector, kThreads, kWaves, &blocks);
  if (status != cudaSuccess) return status;
  guidance_sum_kernel<T, kVector><<<blocks, kThreads, 0, stream>>>(out, velocity, weights, branches, count);
  return cudaGetLastError();
}

// Sixteen-byte accesses where every row allows them, else one element at a time.
template <typename T>
cudaError_t dispatch(float* out, const void* velocity, const float* weights, int64_t branches, int64_t count,
                     cudaStream_t stream) {
  constexpr int kVector = 16 / sizeof(T);
  const T* typed = static_cast<const T*>(velocity);
  const auto addresses = reinterpret_cast<uintptr_t>(velocity) | reinterpret_cast<uintptr_t>(out);
  if (count % kVector == 0 && addresses % 16 == 0) {
    return launch<T, kVector>(out, typed, weights, branches, count, stream);
  }
  return launch<T, 1>(out, typed, weights, branches, count, stream);
}

}  // namespace

cudaError_t guidance_sum(float* out, const void* velocity, DType dtype, const float* weights, int64_t branches,
                         int64_t count, cudaStream_t stream) {
  if (branches < 1 || count < 1) return cudaErrorInvalidValue;
  switch (dtype) {
    case DType::kFloat32:
      return dispatch<float>(out, velocity, weights, branches, count, stream);
    case DType::kFloat16:
      return dispatch<__half>(out, velocity, weights, branches, count, stream);
    case DType::kBFloat16:
      return dispatch<__nv_bfloat16>(out, velocity, weights, branches, count, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace humo_rt
