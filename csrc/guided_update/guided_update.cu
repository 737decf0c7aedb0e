// One step of guidance and sampler reads every branch and four latents once and writes three results once: count *
// (branches * sizeof(T) + 28) bytes. Eager PyTorch makes a pass for each term: three float32 branches and a UniPC step
// of order 2 move about 250 bytes for each element in some 25 launches, where this kernel moves 40 in one. Memory is
// the only bound at full size; for small videos it is the launches saved that show.

#include "common/convert.cuh"
#include "common/launch.cuh"
#include "guided_update/guided_update.h"

namespace humo_rt {
namespace {

constexpr int kThreads = 256;
constexpr int kWaves = 8;
constexpr int kTerms = 1 + kUpdateLatents;

// kVector elements for each thread and step; count is a multiple of kVector and rows start on kVector elements.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    guided_update_kernel(UpdateOutputs outputs, const T* __restrict__ velocity, const float* __restrict__ weights,
                         UpdateLatents latents, const float* __restrict__ coefficients, int64_t branches,
                         int64_t count) {
  using Branch = Packed<T, kVector>;
  using Latent = Packed<float, kVector>;

  float c[kUpdateOutputs][kTerms];
#pragma unroll
  for (int i = 0; i < kUpdateOutputs * kTerms; ++i) c[i / kTerms][i % kTerms] = coefficients[i];

  const int64_t vectors = count / kVector;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t v = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; v < vectors; v += step) {
    Latent x[kUpdateLatents];
#pragma unroll
    for (int j = 0; j < kUpdateLatents; ++j) x[j] = *reinterpret_cast<const Latent*>(latents.values[j] + v * kVector);
    float guided[kVector] = {};
#pragma unroll 4
    for (int64_t b = 0; b < branches; ++b) {
      const Branch y = *reinterpret_cast<const Branch*>(velocity + b * count + v * kVector);
      const float weight = weights[b];
#pragma unroll
      for (int i = 0; i < kVector; ++i) guided[i] = fmaf(weight, to_float(y.values[i]), guided[i]);
    }
#pragma unroll
    for (int r = 0; r < kUpdateOutputs; ++r) {
      Latent out;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        float sum = c[r][0] * guided[i];
#pragma unroll
        for (int j = 0; j < kUpdateLatents; ++j) sum = fmaf(c[r][1 + j], x[j].values[i], sum);
        out.values[i] = sum;
      }
      *reinterpret_cast<Latent*>(outputs.values[r] + v * kVector) = out;
    }
  }
}

template <typename T, int kVector>
cudaError_t launch(UpdateOutputs outputs, const T* velocity, const float* weights, UpdateLatents latents,
                   const float* coefficients, int64_t branches, int64_t count, cudaStream_t stream) {
  unsigned blocks = 0;
  const cudaError_t status = grid_stride_blocks(count / kVector, kThreads, kWaves, &blocks);
  if (status != cudaSuccess) return status;
  guided_update_kernel<T, kVector>
      <<<blocks, kThreads, 0, stream>>>(outputs, velocity, weights, latents, coefficients, branches, count);
  return cudaGetLastError();
}

// Four elements at a time, 16 bytes of each latent, where every row allows it, else one.
template <typename T>
cudaError_t dispatch(UpdateOutputs outputs, const void* velocity, const float* weights, UpdateLatents latents,
                     const float* coefficients, int64_t branches, int64_t count, cudaStream_t stream) {
  const T* typed = static_cast<const T*>(velocity);
  auto addresses = reinterpret_cast<uintptr_t>(velocity);
  for (const float* latent : latents.values) addresses |= reinterpret_cast<uintptr_t>(latent);
  for (const float* output : outputs.values) addresses |= reinterpret_cast<uintptr_t>(output);
  if (count % 4 == 0 && addresses % 16 == 0) {
    return launch<T, 4>(outputs, typed, weights, latents, coefficients, branches, count, stream);
  }
  return launch<T, 1>(outputs, typed, weights, latents, coefficients, branches, count, stream);
}

}  // namespace

cudaError_t guided_update(UpdateOutputs outputs, const void* velocity, DType dtype, const float* weights,
                          UpdateLatents latents, const float* coefficients, int64_t branches, int64_t count,
                          cudaStream_t stream) {
  if (branches < 1 || count < 1) return cudaErrorInvalidValue;
  switch (dtype) {
    case DType::kFloat32:
      return dispatch<float>(outputs, velocity, weights, latents, coefficients, branches, count, stream);
    case DType::kFloat16:
      return dispatch<__half>(outputs, velocity, weights, latents, coefficients, branches, count, stream);
    case DType::kBFloat16:
      return dispatch<__nv_bfloat16>(outputs, velocity, weights, latents, coefficients, branches, count, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace humo_rt
