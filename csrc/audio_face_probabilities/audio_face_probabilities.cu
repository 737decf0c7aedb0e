// Audio face probabilities read every query once, 2 * D bytes a token in half precision, and write an eighth as much for
// 16 keys of 128 channels. Eager PyTorch reads and writes the queries in the norm and the product, in part in float32.
//
// The attention's kernels without the values: bfloat16 takes the matrix unit, other shapes and types the plain kernel.

#include "audio_face_probabilities/audio_face_probabilities.h"

#include "audio_face_attention/plain.cuh"
#include "audio_face_attention/scores.cuh"

namespace humo_rt {
namespace {

// Keys 4 t to 4 t + 3 of a row; `out` is the first of its keys. The four lanes of a row write 16 keys, a sector of 32
// bytes, together.
template <typename T>
__device__ __forceinline__ void store_keys(T* out, int keys, int t, float p0, float p1, float p2, float p3) {
  const uint2 words = make_uint2(Half2<T>::pack(p0, p1), Half2<T>::pack(p2, p3));
  if (keys % 4 == 0) {
    if (4 * t < keys) *reinterpret_cast<uint2*>(out + 4 * t) = words;
    return;
  }
  const auto* narrow = reinterpret_cast<const T*>(&words);
  for (int j = 0; j < 4; ++j) {
    if (4 * t + j < keys) out[4 * t + j] = narrow[j];
  }
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(32 * kMostWarps, 2)
    probabilities_kernel(const __grid_constant__ AudioFaceQueries call) {
  extern __shared__ float4 slots[];
  const Tile tile(call);
  if (!is_heard(call, tile)) {
    write_zeros<T>(call, tile, call.heads * call.speakers * call.keys);
    wait_for_launching_kernel();  // or the workspace might be given away while that one still writes to it
    return;
  }
  Squares squares[2];
  score_heads<T, kHeadDim>(call, tile, slots, squares);
  float scales[kLaneRows];
  exchange_scales<kHeadDim>(call, tile, squares, scales);

  const int keys = static_cast<int>(call.keys), speakers = static_cast<int>(call.speakers);
  const int64_t width = call.heads * speakers * keys;
  T* out = static_cast<T*>(call.out) + (tile.row(call) + tile.g) * width;
#pragma unroll 1
  for (int speaker = 0; speaker < speakers; ++speaker) {
    float face[kLaneRows];
    read_face(call, tile, speaker, face);
#pragma unroll 1
    for (int head = tile.warp; head < call.heads; head += tile.warps) {
      const int slot = head * speakers + speaker;
      Logits p = read_probabilities(call, tile, slot_of(slots, slot, tile.lane), scales, face);
#pragma unroll
      for (int i = 0; i < kLaneRows; ++i) {
        if (tile.g + 8 * i >= tile.rows(call)) continue;
        store_keys(out + 8 * i * width + slot * keys, keys, tile.t, p.of(i, 0), p.of(i, 1), p.of(i, 2), p.of(i, 3));
      }
    }
  }
}

cudaError_t launch_bfloat16(const AudioFaceQueries& call, cudaStream_t stream) {
  using T = __nv_bfloat16;
  const Launch launch = launch_of(call);
  const bool fits = fits_matrix_unit(call);
  bool has_room = false;
  if (fits) {
    const cudaError_t status = has_shared_memory(launch, &has_room);
    if (status != cudaSuccess) return status;
  }
  if (!fits || !has_room) return launch_plain<T, false>({call, nullptr, {}}, stream);
  return call.head_dim == 64 ? run<T, 64>(probabilities_kernel<T, 64>, launch, call, call, stream)
                             : run<T, 128>(probabilities_kernel<T, 128>, launch, call, call, stream);
}

}  // namespace

cudaError_t audio_face_probabilities(const AudioFaceQueries& call, cudaStream_t stream) {
  if (!sizes_are_valid(call)) return cudaErrorInvalidValue;
  switch (call.dtype) {
    case DType::kFloat32:
      return launch_plain<float, false>({call, nullptr, {}}, stream);
    case DType::kFloat16:  // the tiles of the matrix unit are written for bfloat16
      return launch_plain<__half, false>({call, nullptr, {}}, stream);
    case DType::kBFloat16:
      return launch_bfloat16(call, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace humo_rt
