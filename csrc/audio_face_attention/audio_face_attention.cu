// Audio face attention reads every query once and writes every result once: 4 * D bytes a token in half precision. Eager
// PyTorch reads and writes them in the norm, the attention and the face weight, in part in float32: about 30 * D bytes.
//
// bfloat16 takes the matrix unit: scores.cuh makes the logits, here probabilities weigh the values. Other shapes and types
// take the plain kernel.

#include "audio_face_attention/audio_face_attention.h"

#include "audio_face_attention/plain.cuh"
#include "audio_face_attention/scores.cuh"

namespace humo_rt {
namespace {

constexpr int kValueChunk = 64;  // channels of a head whose sums a warp holds for its tile

// Rows 4 t to 4 t + 3 of the values, 8 channels of each. Column g of the matrix unit's n-th product is channel
// 32 (g % 2) + 8 (g / 2) + n, so that a lane's columns 2 t and 2 t + 1 of all products are 8 channels each.
template <typename T>
__device__ __forceinline__ void load_values(const T* v, const int (&offsets)[4], uint4 (&rows)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) rows[j] = load_common(v + offsets[j]);
}

__device__ __forceinline__ uint32_t word(const uint4& x, int i) {
  return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

// sum[m][n] += p @ v for one speaker and 64 channels.
template <typename T>
__device__ __forceinline__ void add_values(const uint4 (&rows)[4], const uint4 (&p)[2], float (&sum)[2][8][4]) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const unsigned pick = n % 2 ? 0x7632 : 0x5410;
    const uint32_t low = __byte_perm(word(rows[0], n / 2), word(rows[1], n / 2), pick);
    const uint32_t high = __byte_perm(word(rows[2], n / 2), word(rows[3], n / 2), pick);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const uint32_t a[4] = {p[m].x, p[m].y, p[m].z, p[m].w};
      Half2<T>::mma(sum[m][n], a, low, high);
    }
  }
}

// Sums of the tile's rows and 64 channels, by whole lines; `out` is the lane's piece of the first row, and `inside`
// counts the rows from there to the tile's end.
template <typename T>
__device__ __forceinline__ void store_rows(T* out, int64_t width, int inside, const Corner& corner, const Tile& tile,
                                           const float (&sum)[2][8][4]) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        uint32_t words[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          words[j] = Half2<T>::pack(sum[m][2 * j][2 * i + side], sum[m][2 * j + 1][2 * i + side]);
        }
        corner.at(tile.g + 8 * i, 4 * side + tile.t) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kCornerRows / 4; ++i) {
      if (4 * i < inside) {
        *reinterpret_cast<uint4*>(out + 4 * i * width) = corner.at(corner.row + 4 * i, corner.piece);
      }
    }
    out += kCornerRows * width;
    inside -= kCornerRows;
  }
}

// The probabilities of a slot take the place of its logits, in the order in which the matrix unit takes them.
template <typename T>
__device__ __forceinline__ void weigh_slot(const AudioFaceQueries& call, const Tile& tile, float4* slot,
                                           const float (&scales)[kLaneRows], const float (&face)[kLaneRows]) {
  Logits p = read_probabilities(call, tile, slot, scales, face);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const int i = 2 * m;
    *reinterpret_cast<uint4*>(slot + 32 * m) =
        make_uint4(Half2<T>::pack(p.of(i, 0), p.of(i, 1)), Half2<T>::pack(p.of(i + 1, 0), p.of(i + 1, 1)),
                   Half2<T>::pack(p.of(i, 2), p.of(i, 3)), Half2<T>::pack(p.of(i + 1, 2), p.of(i + 1, 3)));
  }
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(32 * kMostWarps, 2)
    attention_kernel(const __grid_constant__ AudioFaceAttention attention) {
  extern __shared__ float4 slots[];
  const AudioFaceQueries& call = attention.queries;
  const Tile tile(call);
  const int64_t width = call.heads * kHeadDim;
  if (!is_heard(call, tile)) {
    write_zeros<T>(call, tile, width);
    wait_for_launching_kernel();  // or the workspace might be given away while that one still writes to it
    return;
  }
  Squares squares[2];
  score_heads<T, kHeadDim>(call, tile, slots, squares);

  float scales[kLaneRows];
  exchange_scales<kHeadDim>(call, tile, squares, scales);

  // A lane's 8 channels of keys 4 t to 4 t + 3.
  const T* v = static_cast<const T*>(attention.v) + tile.batch * attention.v_strides[1] +
               tile.frame * attention.v_strides[2] + tile.warp * attention.v_strides[3] +
               32 * (tile.g % 2) + 8 * (tile.g / 2);
  const Corner corner(call, tile, slots);
  T* out = static_cast<T*>(call.out) + (tile.row(call) + corner.row) * width + 8 * corner.piece;
  const int speakers = static_cast<int>(call.speakers);
  int offsets[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) offsets[j] = offset_of(4 * tile.t + j, call, attention.v_strides[4]);
  uint4 rows[4];
#pragma unroll 1
  for (int speaker = 0; speaker < speakers; ++speaker) {
    float face[kLaneRows];
    read_face(call, tile, speaker, face);
    if (speaker == 0) load_values(v, offsets, rows);  // behind the face weights, which are wanted first
#pragma unroll 1
    for (int head = tile.warp; head < call.heads; head += tile.warps) {
      weigh_slot<T>(call, tile, slot_of(slots, head * speakers + speaker, tile.lane), scales, face);
    }
  }
#pragma unroll 1
  for (int head = tile.warp; head < call.heads; head += tile.warps) {
    const auto* slot = reinterpret_cast<const uint4*>(slot_of(slots, head * speakers, tile.lane));
#pragma unroll 1
    for (int chunk = 0; chunk < kHeadDim; chunk += kValueChunk) {
      float sum[2][8][4] = {};
      const T* next = v + chunk;
#pragma unroll 1
      for (int speaker = 0; speaker < speakers; ++speaker) {
        const uint4* weights = slot + speaker * (kSlotBytes / sizeof(uint4));
        const uint4 p[2] = {weights[0], weights[32]};
        add_values<T>(rows, p, sum);
        // The values of the next speaker, channels or head take the place of these and come while sums are stored.
        const bool last = speaker + 1 == speakers, last_chunk = chunk + kValueChunk == kHeadDim;
        next = !last ? next + attention.v_strides[0]
                     : last_chunk ? v + tile.warps * attention.v_strides[3] : v + chunk + kValueChunk;
        if (!last || !last_chunk || head + tile.warps < call.heads) load_values(next, offsets, rows);
      }
      store_rows(out + head * kHeadDim + chunk, width, tile.rows(call) - corner.row, corner, tile, sum);
    }
    v += tile.warps * attention.v_strides[3];
  }
}

bool values_fit_matrix_unit(const AudioFaceAttention& attention) {
  uint64_t elements = 0;
  for (const int64_t stride : attention.v_strides) elements |= stride;
  return elements % 8 == 0 && reinterpret_cast<uintptr_t>(attention.v) % 16 == 0 &&
         is_near(attention.v_strides[4]);
}

cudaError_t launch_bfloat16(const AudioFaceAttention& attention, cudaStream_t stream) {
  using T = __nv_bfloat16;
  const Launch launch = launch_of(attention.queries);
  bool fits = fits_matrix_unit(attention.queries) && values_fit_matrix_unit(attention), has_room = false;
  if (fits) {
    const cudaError_t status = has_shared_memory(launch, &has_room);
    if (status != cudaSuccess) return status;
  }
  if (!fits || !has_room) return launch_plain<T, true>(attention, stream);
  const AudioFaceQueries& call = attention.queries;
  return call.head_dim == 64 ? run<T, 64>(attention_kernel<T, 64>, launch, attention, call, stream)
                             : run<T, 128>(attention_kernel<T, 128>, launch, attention, call, stream);
}

}  // namespace

cudaError_t audio_face_attention(const AudioFaceAttention& call, cudaStream_t stream) {
  if (!sizes_are_valid(call.queries)) return cudaErrorInvalidValue;
  switch (call.queries.dtype) {
    case DType::kFloat32:
      return launch_plain<float, true>(call, stream);
    case DType::kFloat16:  // the tiles of the matrix unit are written for bfloat16
      return launch_plain<__half, true>(call, stream);
    case DType::kBFloat16:
      return launch_bfloat16(call, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace humo_rt
