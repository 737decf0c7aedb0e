// Audio face attention and its probabilities for any shape and type, without the matrix unit: one block a token, a warp a
// head, a lane a key and then a channel. The normalised token waits in shared memory.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "audio_face_attention/audio_face_attention.h"
#include "common/convert.cuh"

namespace humo_rt {

constexpr int kMaxKeys = 64;
constexpr int kMaxHeadDim = 256;
constexpr int kMaxWidth = 12000;  // float32 in the 48 KiB of shared memory that need no request
constexpr int kPlainThreads = 128;

__device__ __forceinline__ float sum_of_warp(float x) {
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

__device__ __forceinline__ float max_of_warp(float x) {
  for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}

template <typename T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) { return x; }
template <>
__device__ __forceinline__ __half narrow<__half>(float x) { return __float2half_rn(x); }
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// The token of this block after the norm, rounded to T as the model rounds it, in `normed`. Barriers of the block.
template <typename T>
__device__ __forceinline__ void normalise(const T* q, const float* norm_weight, int width, float eps, float* normed) {
  __shared__ float squares[kPlainThreads / 32];
  float sum = 0.0f;
  for (int d = threadIdx.x; d < width; d += kPlainThreads) {
    normed[d] = to_float(q[d]);
    sum = fmaf(normed[d], normed[d], sum);
  }
  sum = sum_of_warp(sum);
  if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = sum;
  __syncthreads();
  const float mean = (squares[0] + squares[1] + squares[2] + squares[3]) / width;
  const float inverse = 1.0f / sqrtf(mean + eps);
  for (int d = threadIdx.x; d < width; d += kPlainThreads) {
    normed[d] = to_float(narrow<T>(normed[d] * inverse * norm_weight[d]));
  }
  __syncthreads();
}

// Softmax over the keys of one head, times `face`: of keys `lane` and `lane` + 32.
template <typename T>
__device__ __forceinline__ void weigh_keys(const float* query, const T* k, int64_t k_key, int keys, int head_dim,
                                           float face, float (&p)[2]) {
  const int lane = threadIdx.x % 32;
  const float scale = 1.0f / sqrtf(static_cast<float>(head_dim));
  for (int i = 0; i < 2; ++i) {
    const int key = lane + 32 * i;
    p[i] = -INFINITY;
    if (key >= keys) continue;
    float logit = 0.0f;
    for (int c = 0; c < head_dim; ++c) logit = fmaf(query[c], to_float(k[key * k_key + c]), logit);
    p[i] = logit * scale;
  }
  const float peak = max_of_warp(fmaxf(p[0], p[1]));
  for (int i = 0; i < 2; ++i) p[i] = expf(p[i] - peak);
  const float factor = face / sum_of_warp(p[0] + p[1]);
  for (int i = 0; i < 2; ++i) p[i] *= factor;
}

// With kValues the attention, else its probabilities.
template <typename T, bool kValues>
__global__ void __launch_bounds__(kPlainThreads) plain_kernel(const __grid_constant__ AudioFaceAttention attention) {
  extern __shared__ float normed[];
  const AudioFaceQueries& call = attention.queries;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int keys = static_cast<int>(call.keys), head_dim = static_cast<int>(call.head_dim);
  const int width = static_cast<int>(call.heads) * head_dim;
  const int64_t length = call.frames * call.tokens, l = blockIdx.x, b = blockIdx.y, frame = l / call.tokens;
  const T* q = static_cast<const T*>(call.q) + b * call.q_strides[0] + l * call.q_strides[1];
  const T* k = static_cast<const T*>(call.k) + b * call.k_strides[1] + frame * call.k_strides[2];
  const T* v = static_cast<const T*>(attention.v) + b * attention.v_strides[1] + frame * attention.v_strides[2];
  T* out = static_cast<T*>(call.out) + (b * length + l) * (kValues ? width : call.heads * call.speakers * keys);

  normalise(q, call.norm_weight, width, call.eps, normed);
  for (int head = warp; head < call.heads; head += kPlainThreads / 32) {
    float total[kMaxHeadDim / 32] = {};
    for (int64_t speaker = 0; speaker < call.speakers; ++speaker) {
      const float face = call.face == nullptr ? 1.0f : call.face[(speaker * call.batch + b) * length + l];
      float p[2] = {};
      if (face != 0.0f) {
        const T* k_head = k + speaker * call.k_strides[0] + head * call.k_strides[3];
        weigh_keys(normed + head * head_dim, k_head, call.k_strides[4], keys, head_dim, face, p);
      }
      if constexpr (!kValues) {
        for (int i = 0; i < 2; ++i) {
          const int key = lane + 32 * i;
          if (key < keys) out[(head * call.speakers + speaker) * keys + key] = narrow<T>(p[i]);
        }
      } else if (face != 0.0f) {
        const T* v_head = v + speaker * attention.v_strides[0] + head * attention.v_strides[3];
        for (int key = 0; key < keys; ++key) {
          const float share = __shfl_sync(0xffffffffu, key < 32 ? p[0] : p[1], key % 32);
#pragma unroll
          for (int i = 0; i < kMaxHeadDim / 32; ++i) {
            const int c = lane + 32 * i;
            if (c < head_dim) total[i] = fmaf(share, to_float(v_head[key * attention.v_strides[4] + c]), total[i]);
          }
        }
      }
    }
    if constexpr (kValues) {
#pragma unroll
      for (int i = 0; i < kMaxHeadDim / 32; ++i) {
        const int c = lane + 32 * i;
        if (c < head_dim) out[head * head_dim + c] = narrow<T>(total[i]);
      }
    }
  }
}

template <typename T, bool kValues>
cudaError_t launch_plain(const AudioFaceAttention& attention, cudaStream_t stream) {
  const AudioFaceQueries& call = attention.queries;
  const dim3 grid(static_cast<unsigned>(call.frames * call.tokens), static_cast<unsigned>(call.batch));
  plain_kernel<T, kValues><<<grid, kPlainThreads, call.heads * call.head_dim * sizeof(float), stream>>>(attention);
  return cudaGetLastError();
}

// A grid has fewer than 2^31 blocks: one for each token.
inline bool sizes_are_valid(const AudioFaceQueries& call) {
  const int64_t smallest = std::min({call.speakers, call.batch, call.frames, call.tokens, call.heads, call.keys,
                                     call.head_dim});
  return smallest >= 1 && call.keys <= kMaxKeys && call.head_dim <= kMaxHeadDim && call.batch <= 65535 &&
         call.heads * call.head_dim <= kMaxWidth && call.frames * call.tokens < int64_t{1} << 31;
}

}  // namespace humo_rt
