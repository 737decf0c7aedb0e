// Cross-attention of many queries to at most 128 keys, with the RMS norm of the queries, on Hopper.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "common/dtype.h"

namespace humo_rt {

constexpr int kTextHeadDim = 128, kMostTextKeys = 128;

// All pointers are device memory of the current device, of type `dtype` (half or bfloat16) or float32 where it says so,
// 16-byte aligned but for the bias; strides count elements, are multiples of 8, and channels are contiguous.
struct TextAttention {
  void* out;                         // [batch, length, heads * 128], contiguous
  uint32_t* memory;                  // text_attention_words(heads) of them, for what blocks tell each other
  const void* q;                     // [batch, length, heads * 128]
  const float* norm_weight;          // [heads * 128], float32
  const void* k;                     // [batch, heads, keys, 128]
  const void* v;                     // [batch, heads, keys, 128]
  const float* bias;                 // [batch, keys], float32, contiguous, or null
  DType dtype;
  int64_t batch, length, heads, keys;
  std::array<int64_t, 2> q_strides;  // of batch and length
  std::array<int64_t, 3> k_strides;  // of batch, heads and keys
  std::array<int64_t, 3> v_strides;
  float eps;
};

// The words of memory that a call takes on the current device; 0 where none is possible.
int64_t text_attention_words(int64_t heads);

// out = softmax(rms(q) @ k^T / sqrt(128) + bias) @ v for each head. Asynchronous on `stream`; allocates nothing.
// cudaErrorNotSupported off Hopper, cudaErrorInvalidValue for a size or type that does not fit or for more heads than
// processors, cudaErrorCooperativeLaunchTooLarge on a part of a card that has fewer than the card says, else what the
// launch returned.
cudaError_t text_attention(const TextAttention& call, cudaStream_t stream);

}  // namespace humo_rt
