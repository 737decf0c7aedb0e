// Audio face attention reads every query once and writes every result once: 4 * D bytes a token in half precision. Eager
// PyTorch reads and writes them in the norm, the attention and the face weight, in part in float32: about 30 * D bytes.
//
// The norm spans all heads, yet attention needs the queries only as logits, and those are linear in 1 / rms. So each
// warp of a block turns its heads of 16 tokens into logits while it sums the squares, the block adds the squares up, and
// only then scales the logits: no second read, and what waits in registers is 16 logits a head instead of 128 channels.
// Channels and keys are dealt to the lanes so that each loads and stores 16 contiguous bytes without shared memory: the
// order of a sum is free, as is that of the output's columns. Other shapes and types than bfloat16 take the plain kernel.

#include "audio_face_attention/audio_face_attention.h"

#include <algorithm>

#include "common/convert.cuh"
#include "common/mma.cuh"

namespace humo_rt {
namespace {

constexpr int kRows = 16;         // of the matrix unit
constexpr int kTiles = 4;         // tiles of one block, which find the frame's keys and values in the cache
constexpr int kMaxWarps = 20;
constexpr int kMaxKeys = 64;
constexpr int kMaxHeadDim = 256;
constexpr int kMaxWidth = 12000;  // float32 in the 48 KiB of shared memory that need no request
constexpr int kPlainThreads = 128;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ uint4 load16(const void* address, bool inside) {
  return inside ? *static_cast<const uint4*>(address) : make_uint4(0, 0, 0, 0);
}

// Four squares of a pair of words, and the words times their weights.
template <typename T>
__device__ __forceinline__ uint32_t weigh(uint32_t pair, float weight0, float weight1, float* squares) {
  const float2 x = Half2<T>::unpack(pair);
  *squares = fmaf(x.x, x.x, fmaf(x.y, x.y, *squares));
  return Half2<T>::pack(x.x * weight0, x.y * weight1);
}

// logits[speaker][n] += (q * norm weight) @ k^T of one head and 16 rows; squares of rows g and g + 8.
template <typename T, int kHeadDim, int kSpeakers>
__device__ __forceinline__ void score(const T* row0, const T* row1, const float* norm_weight, const T* k,
                                      int64_t k_speaker, int64_t k_key, int keys, int lane,
                                      float (&logits)[kSpeakers][2][4], float (&squares)[2]) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int chunk = 0; chunk < kHeadDim; chunk += 32) {
    const int first = chunk + 8 * t;
    const uint4 x0 = load16(row0 + first, row0 != nullptr);
    const uint4 x1 = load16(row1 + first, row1 != nullptr);
    const float4 low = *reinterpret_cast<const float4*>(norm_weight + first);
    const float4 high = *reinterpret_cast<const float4*>(norm_weight + first + 4);
    const uint32_t a0[4] = {weigh<T>(x0.x, low.x, low.y, &squares[0]), weigh<T>(x1.x, low.x, low.y, &squares[1]),
                            weigh<T>(x0.y, low.z, low.w, &squares[0]), weigh<T>(x1.y, low.z, low.w, &squares[1])};
    const uint32_t a1[4] = {weigh<T>(x0.z, high.x, high.y, &squares[0]), weigh<T>(x1.z, high.x, high.y, &squares[1]),
                            weigh<T>(x0.w, high.z, high.w, &squares[0]), weigh<T>(x1.w, high.z, high.w, &squares[1])};
#pragma unroll
    for (int speaker = 0; speaker < kSpeakers; ++speaker) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int key = 8 * n + g;
        const uint4 y = load16(k + speaker * k_speaker + key * k_key + first, key < keys);
        Half2<T>::mma(logits[speaker][n], a0, y.x, y.y);
        Half2<T>::mma(logits[speaker][n], a1, y.z, y.w);
      }
    }
  }
}

// Softmax over the keys of row g (half 0) or g + 8 (half 1), times the row's face weight.
__device__ __forceinline__ void softmax(float (&logits)[2][4], int half, float scale, float face, int keys, int t) {
  float peak = -INFINITY, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float& x = logits[i / 2][2 * half + i % 2];
    x = 8 * (i / 2) + 2 * t + i % 2 < keys ? x * scale : -INFINITY;
    peak = fmaxf(peak, x);
  }
  peak = fmaxf(peak, __shfl_xor_sync(kAllLanes, peak, 1));
  peak = fmaxf(peak, __shfl_xor_sync(kAllLanes, peak, 2));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float& x = logits[i / 2][2 * half + i % 2];
    x = exp2f(x - peak);
    sum += x;
  }
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  const float factor = face / sum;
#pragma unroll
  for (int i = 0; i < 4; ++i) logits[i / 2][2 * half + i % 2] *= factor;
}

// out = sum over speakers of p @ v for 64 channels of one head; lane (g, t) writes channels 16 t .. 16 t + 15.
template <typename T, int kSpeakers>
__device__ __forceinline__ void gather(T* row0, T* row1, const T* v, int64_t v_speaker, int64_t v_key, int keys,
                                       int lane, const uint32_t (&p)[kSpeakers][4]) {
  const int g = lane / 4, t = lane % 4;
  float sum[8][4] = {};
#pragma unroll
  for (int speaker = 0; speaker < kSpeakers; ++speaker) {
    uint4 rows[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = 2 * t + 8 * (i / 2) + i % 2;
      rows[i] = load16(v + speaker * v_speaker + key * v_key + 8 * g, key < keys);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const unsigned pick = i % 2 ? 0x7632 : 0x5410;
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        words[j] = i / 2 == 0 ? rows[j].x : i / 2 == 1 ? rows[j].y : i / 2 == 2 ? rows[j].z : rows[j].w;
      }
      Half2<T>::mma(sum[i], p[speaker], __byte_perm(words[0], words[1], pick), __byte_perm(words[2], words[3], pick));
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    T* row = half ? row1 : row0;
    if (row == nullptr) continue;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int c = 2 * half + j;
      *reinterpret_cast<uint4*>(row + 16 * t + 8 * j) =
          make_uint4(Half2<T>::pack(sum[0][c], sum[1][c]), Half2<T>::pack(sum[2][c], sum[3][c]),
                     Half2<T>::pack(sum[4][c], sum[5][c]), Half2<T>::pack(sum[6][c], sum[7][c]));
    }
  }
}

// One block: kTiles * kRows tokens of a frame. Warp w has the heads w, w + warps, ...
template <typename T, int kHeadDim, int kHeads, int kSpeakers>
__global__ void __launch_bounds__(kMaxWarps * 32) matrix_kernel(const __grid_constant__ AudioFaceAttention call) {
  __shared__ float shared_squares[2][kMaxWarps][kRows];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int g = lane / 4, t = lane % 4;
  const int keys = static_cast<int>(call.keys), heads = static_cast<int>(call.heads);
  const int64_t blocks = (call.tokens + kTiles * kRows - 1) / (kTiles * kRows);
  const int64_t frame = blockIdx.x / blocks, first = blockIdx.x % blocks * (kTiles * kRows), b = blockIdx.y;
  const int64_t width = call.heads * kHeadDim, length = call.frames * call.tokens;
  const T* q = static_cast<const T*>(call.q) + b * call.q_strides[0] + frame * call.tokens * call.q_strides[1];
  const T* k = static_cast<const T*>(call.k) + b * call.k_strides[1] + frame * call.k_strides[2];
  const T* v = static_cast<const T*>(call.v) + b * call.v_strides[1] + frame * call.v_strides[2];
  T* out = static_cast<T*>(call.out) + (b * length + frame * call.tokens) * width;
  const float scale = kLog2E * rsqrtf(static_cast<float>(kHeadDim));
  int buffer = 0;

  for (int64_t start = first; start < min(first + kTiles * kRows, call.tokens); start += kRows) {
    const int64_t rows[2] = {start + g, start + g + 8};
    const bool inside[2] = {rows[0] < call.tokens, rows[1] < call.tokens};
    float face[kSpeakers][2];
    bool heard = false;
#pragma unroll
    for (int i = 0; i < 2 * kSpeakers; ++i) {
      const int64_t at = ((i / 2) * call.batch + b) * length + frame * call.tokens + rows[i % 2];
      face[i / 2][i % 2] = !inside[i % 2] ? 0.0f : call.face == nullptr ? 1.0f : call.face[at];
      heard |= face[i / 2][i % 2] != 0.0f;
    }
    // All warps look at the same rows, so they leave out the same tiles.
    const bool read = __any_sync(kAllLanes, heard);

    float logits[kHeads][kSpeakers][2][4] = {};
    float scales[2] = {};
    if (read) {
      float squares[2] = {};
#pragma unroll
      for (int i = 0; i < kHeads; ++i) {
        const int head = warp + i * warps;
        if (head >= heads) continue;
        const T* row0 = inside[0] ? q + rows[0] * call.q_strides[1] + head * kHeadDim : nullptr;
        const T* row1 = inside[1] ? q + rows[1] * call.q_strides[1] + head * kHeadDim : nullptr;
        score<T, kHeadDim, kSpeakers>(row0, row1, call.norm_weight + head * kHeadDim, k + head * call.k_strides[3],
                                      call.k_strides[0], call.k_strides[4], keys, lane, logits[i], squares);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        squares[half] += __shfl_xor_sync(kAllLanes, squares[half], 1);
        squares[half] += __shfl_xor_sync(kAllLanes, squares[half], 2);
        if (t == 0) shared_squares[buffer][warp][g + 8 * half] = squares[half];
      }
      __syncthreads();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float total = 0.0f;
        for (int w = 0; w < warps; ++w) total += shared_squares[buffer][w][g + 8 * half];
        scales[half] = scale * rsqrtf(total / width + call.eps);
      }
      buffer ^= 1;
    }

#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      const int head = warp + i * warps;
      if (head >= heads) continue;
      uint32_t p[kSpeakers][4] = {};
      if (read) {
#pragma unroll
        for (int speaker = 0; speaker < kSpeakers; ++speaker) {
          float (&x)[2][4] = logits[i][speaker];
          softmax(x, 0, scales[0], face[speaker][0], keys, t);
          softmax(x, 1, scales[1], face[speaker][1], keys, t);
#pragma unroll
          for (int j = 0; j < 4; ++j) p[speaker][j] = Half2<T>::pack(x[j / 2][2 * (j % 2)], x[j / 2][2 * (j % 2) + 1]);
        }
      }
#pragma unroll
      for (int chunk = 0; chunk < kHeadDim; chunk += 64) {
        T* row0 = inside[0] ? out + rows[0] * width + head * kHeadDim + chunk : nullptr;
        T* row1 = inside[1] ? out + rows[1] * width + head * kHeadDim + chunk : nullptr;
        gather<T, kSpeakers>(row0, row1, v + head * call.v_strides[3] + chunk, call.v_strides[0], call.v_strides[4],
                             read ? keys : 0, lane, p);
      }
    }
  }
}

__device__ __forceinline__ float sum_of_warp(float x) {
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(kAllLanes, x, lane);
  return x;
}

__device__ __forceinline__ float max_of_warp(float x) {
  for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lane));
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

// Any shape: one block a token, a warp a head, a lane a key and then a channel. The normalised token waits in shared.
template <typename T>
__global__ void __launch_bounds__(kPlainThreads) plain_kernel(const __grid_constant__ AudioFaceAttention call) {
  extern __shared__ float normed[];
  __shared__ float squares[kPlainThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int keys = static_cast<int>(call.keys), head_dim = static_cast<int>(call.head_dim);
  const int width = static_cast<int>(call.heads) * head_dim;
  const int64_t length = call.frames * call.tokens, l = blockIdx.x, b = blockIdx.y, frame = l / call.tokens;
  const T* q = static_cast<const T*>(call.q) + b * call.q_strides[0] + l * call.q_strides[1];
  const T* k = static_cast<const T*>(call.k) + b * call.k_strides[1] + frame * call.k_strides[2];
  const T* v = static_cast<const T*>(call.v) + b * call.v_strides[1] + frame * call.v_strides[2];
  T* out = static_cast<T*>(call.out) + (b * length + l) * width;

  float sum = 0.0f;
  for (int d = threadIdx.x; d < width; d += kPlainThreads) {
    normed[d] = to_float(q[d]);
    sum = fmaf(normed[d], normed[d], sum);
  }
  sum = sum_of_warp(sum);
  if (lane == 0) squares[warp] = sum;
  __syncthreads();
  const float mean = (squares[0] + squares[1] + squares[2] + squares[3]) / width;
  const float inverse = 1.0f / sqrtf(mean + call.eps);
  for (int d = threadIdx.x; d < width; d += kPlainThreads) {
    normed[d] = to_float(narrow<T>(normed[d] * inverse * call.norm_weight[d]));
  }
  __syncthreads();

  const float scale = 1.0f / sqrtf(static_cast<float>(head_dim));
  for (int head = warp; head < call.heads; head += kPlainThreads / 32) {
    const float* query = normed + head * head_dim;
    float total[kMaxHeadDim / 32] = {};
    for (int64_t speaker = 0; speaker < call.speakers; ++speaker) {
      const float face = call.face == nullptr ? 1.0f : call.face[(speaker * call.batch + b) * length + l];
      if (face == 0.0f) continue;
      const T* k_head = k + speaker * call.k_strides[0] + head * call.k_strides[3];
      const T* v_head = v + speaker * call.v_strides[0] + head * call.v_strides[3];
      float p[2] = {-INFINITY, -INFINITY};
      for (int i = 0; i < 2; ++i) {
        const int key = lane + 32 * i;
        if (key >= keys) continue;
        float logit = 0.0f;
        for (int c = 0; c < head_dim; ++c) logit = fmaf(query[c], to_float(k_head[key * call.k_strides[4] + c]), logit);
        p[i] = logit * scale;
      }
      const float peak = max_of_warp(fmaxf(p[0], p[1]));
      for (int i = 0; i < 2; ++i) p[i] = expf(p[i] - peak);
      const float factor = face / sum_of_warp(p[0] + p[1]);
      for (int key = 0; key < keys; ++key) {
        const float share = factor * __shfl_sync(kAllLanes, key < 32 ? p[0] : p[1], key % 32);
#pragma unroll
        for (int i = 0; i < kMaxHeadDim / 32; ++i) {
          const int c = lane + 32 * i;
          if (c < head_dim) total[i] = fmaf(share, to_float(v_head[key * call.v_strides[4] + c]), total[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kMaxHeadDim / 32; ++i) {
      const int c = lane + 32 * i;
      if (c < head_dim) out[head * head_dim + c] = narrow<T>(total[i]);
    }
  }
}

template <typename T>
cudaError_t launch_plain(const AudioFaceAttention& call, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(call.frames * call.tokens), static_cast<unsigned>(call.batch));
  plain_kernel<T><<<grid, kPlainThreads, call.heads * call.head_dim * sizeof(float), stream>>>(call);
  return cudaGetLastError();
}

template <typename T, int kHeadDim, int kHeads, int kSpeakers>
cudaError_t launch_matrix(const AudioFaceAttention& call, cudaStream_t stream) {
  const int64_t blocks = call.frames * ((call.tokens + kTiles * kRows - 1) / (kTiles * kRows));
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(call.batch));
  const int warps = static_cast<int>((call.heads + kHeads - 1) / kHeads);
  matrix_kernel<T, kHeadDim, kHeads, kSpeakers><<<grid, 32 * warps, 0, stream>>>(call);
  return cudaGetLastError();
}

template <typename T, int kHeadDim>
cudaError_t dispatch_matrix(const AudioFaceAttention& call, cudaStream_t stream) {
  if (call.heads <= kMaxWarps) {
    return call.speakers == 1 ? launch_matrix<T, kHeadDim, 1, 1>(call, stream)
                              : launch_matrix<T, kHeadDim, 1, 2>(call, stream);
  }
  return call.speakers == 1 ? launch_matrix<T, kHeadDim, 2, 1>(call, stream)
                            : launch_matrix<T, kHeadDim, 2, 2>(call, stream);
}

// Loads of 16 bytes need aligned rows everywhere.
bool fits_matrix_kernel(const AudioFaceAttention& call) {
  uint64_t elements = call.q_strides[0] | call.q_strides[1];
  for (const int64_t stride : call.k_strides) elements |= stride;
  for (const int64_t stride : call.v_strides) elements |= stride;
  const auto addresses = reinterpret_cast<uintptr_t>(call.q) | reinterpret_cast<uintptr_t>(call.k) |
                         reinterpret_cast<uintptr_t>(call.v) | reinterpret_cast<uintptr_t>(call.out) |
                         reinterpret_cast<uintptr_t>(call.norm_weight);
  return elements % 8 == 0 && addresses % 16 == 0 && (call.head_dim == 64 || call.head_dim == 128) &&
         call.keys <= 16 && call.speakers <= 2 && call.heads <= 2 * kMaxWarps;
}

cudaError_t dispatch_bfloat16(const AudioFaceAttention& call, cudaStream_t stream) {
  using T = __nv_bfloat16;
  if (!fits_matrix_kernel(call)) return launch_plain<T>(call, stream);
  return call.head_dim == 64 ? dispatch_matrix<T, 64>(call, stream) : dispatch_matrix<T, 128>(call, stream);
}

}  // namespace

cudaError_t audio_face_attention(const AudioFaceAttention& call, cudaStream_t stream) {
  const int64_t smallest = std::min({call.speakers, call.batch, call.frames, call.tokens, call.heads, call.keys,
                                     call.head_dim});
  if (smallest < 1 || call.keys > kMaxKeys || call.head_dim > kMaxHeadDim || call.batch > 65535 ||
      call.heads * call.head_dim > kMaxWidth) {
    return cudaErrorInvalidValue;
  }
  switch (call.dtype) {
    case DType::kFloat32:
      return launch_plain<float>(call, stream);
    case DType::kFloat16:  // the matrix kernel weighs queries before it divides them, which float16 cannot always hold
      return launch_plain<__half>(call, stream);
    case DType::kBFloat16:
      return dispatch_bfloat16(call, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace humo_rt
