// Logits of queries over the keys of their frame on the matrix unit, from one pass over queries that are not normalised.
//
// The norm spans all heads, yet only logits are wanted, and those are linear in 1 / rms. So each warp of a block turns its
// heads of 32 tokens into logits while it sums the squares, the block adds the squares up, and only then are logits
// scaled: no second read. They wait in shared memory, where each lane reads back what it wrote itself. The weight of the
// norm is taken into the keys, of which there are fewer, by a kernel of its own that also lays them out as lanes read
// them: a tile needs no arithmetic for its keys. Blocks are small, so that several share a processor and one waits for
// memory while others compute: 16 warps a processor, as many as 128 registers allow. A few registers more, or a few bytes
// of shared memory more for a block, cost a tenth and more (benchmarks/LOG.md).
//
// Lane l of a warp is g = l / 4, t = l % 4. It has rows g, g + 8, g + 16 and g + 24 of the tile, and of each row's 16
// logits those of keys 4 t to 4 t + 3: keys are dealt to the columns of the matrix unit so that each lane stores
// contiguous bytes. Queries do not come from memory that way: four lanes a row would ask for half a line at a time, and
// an H200 reads a tenth slower then. They come as whole lines of 128 bytes, eight lanes each, and pass through a corner of
// shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "audio_face_attention/queries.h"
#include "common/cache.cuh"
#include "common/dependent_launch.cuh"
#include "common/mma.cuh"

namespace humo_rt {

constexpr int kTileRows = 32;  // two tiles of the matrix unit, for which keys are loaded once
constexpr int kLaneRows = 4;
constexpr int kTileKeys = 16;
constexpr int kLine = 64;      // channels of a line of 128 bytes
constexpr int kStep = 16;      // channels of one product of the matrix unit
constexpr int kMostWarps = 8;
constexpr int kSlotBytes = kTileRows * kTileKeys * sizeof(float);  // logits of one head and speaker
constexpr int kCornerRows = 16;
constexpr int kCornerBytes = kCornerRows * 128;
constexpr unsigned kAllLanes = 0xffffffffu;

// A lane's logits of one head and speaker: of rows g + 16 m and g + 16 m + 8 the accumulator of the matrix unit for keys
// 4 t, 4 t + 1 (n = 0) and 4 t + 2, 4 t + 3 (n = 1).
struct Logits {
  float sum[2][2][4];  // [m][n]

  // Of row g + 8 i, key 4 t + j.
  __device__ __forceinline__ float& of(int i, int j) { return sum[i / 2][j / 2][2 * (i % 2) + j % 2]; }
};

// The tile of a block, and what of it a lane and its warp have. Counts of rows are below 2^31, offsets need not be.
struct Tile {
  int batch, frame, first;  // `first` is the tile's first row, counted within the frame
  int lane, g, t;
  int warp, warps;  // a warp has every `warps`-th head from `warp` on, so that the block reads neighbours at once

  __device__ __forceinline__ explicit Tile(const AudioFaceQueries& call) {
    first = blockIdx.x * kTileRows;
    frame = blockIdx.y;
    batch = blockIdx.z;
    lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    g = lane / 4, t = lane % 4;
  }

  // The tile's first row in the sequence of its batch, and among all rows.
  __device__ __forceinline__ int64_t start(const AudioFaceQueries& call) const { return frame * call.tokens + first; }
  __device__ __forceinline__ int64_t row(const AudioFaceQueries& call) const {
    return batch * call.frames * call.tokens + start(call);
  }
  __device__ __forceinline__ int rows(const AudioFaceQueries& call) const {
    return min(kTileRows, static_cast<int>(call.tokens) - first);
  }
  // A lane's i-th row, or the last one for those behind it: what comes of them is not stored.
  __device__ __forceinline__ int readable(const AudioFaceQueries& call, int i) const {
    return min(g + 8 * i, rows(call) - 1);
  }
};

// The face weights of a lane's rows for one speaker.
__device__ __forceinline__ void read_face(const AudioFaceQueries& call, const Tile& tile, int speaker,
                                          float (&face)[kLaneRows]) {
  const float* weights = call.face + speaker * call.batch * call.frames * call.tokens + tile.row(call);
#pragma unroll
  for (int i = 0; i < kLaneRows; ++i) face[i] = call.face == nullptr ? 1.0f : weights[tile.readable(call, i)];
}

// Whether a row of the tile hears a speaker. All warps look at the same rows, so they agree.
__device__ __forceinline__ bool is_heard(const AudioFaceQueries& call, const Tile& tile) {
  if (call.face == nullptr) return true;
  bool heard = false;
#pragma unroll 1
  for (int speaker = 0; speaker < call.speakers; ++speaker) {
    float face[kLaneRows];
    read_face(call, tile, speaker, face);
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) heard |= face[i] != 0.0f;
  }
  return __any_sync(kAllLanes, heard);
}

// Zeros for the tile, whose rows of `width` elements are contiguous in `out`.
template <typename T>
__device__ __forceinline__ void write_zeros(const AudioFaceQueries& call, const Tile& tile, int64_t width) {
  const int64_t count = tile.rows(call) * width;
  T* out = static_cast<T*>(call.out) + tile.row(call) * width;
  if (width % 8 == 0) {
    for (int64_t i = 8 * threadIdx.x; i < count; i += 8 * blockDim.x) {
      *reinterpret_cast<uint4*>(out + i) = make_uint4(0, 0, 0, 0);
    }
  } else {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) out[i] = T(0.0f);
  }
}

template <typename T>
__device__ __forceinline__ uint32_t times(uint32_t pair, float weight0, float weight1) {
  const float2 x = Half2<T>::unpack(pair);
  return Half2<T>::pack(x.x * weight0, x.y * weight1);
}

// A lane's sums of squares of rows g and g + 8 of 16 rows, in those lanes that have the diagonal of the rows' product with
// themselves. That costs less than to unpack them: what a lane holds of A it holds of B, too. By eight columns, since for
// sixteen the two registers of B would have to be neighbours. Off the diagonal the sums mean nothing.
struct Squares {
  float upper[4] = {}, lower[4] = {};

  template <typename T>
  __device__ __forceinline__ void add(const uint32_t (&a)[4]) {
    Half2<T>::mma8(upper, a[0], a[1], a[0]);
    Half2<T>::mma8(lower, a[0], a[1], a[1]);
    Half2<T>::mma8(upper, a[2], a[3], a[2]);
    Half2<T>::mma8(lower, a[2], a[3], a[3]);
  }
  static __device__ __forceinline__ bool on_diagonal(const Tile& tile) { return tile.t == tile.g / 2; }
  __device__ __forceinline__ float of(const Tile& tile, int i) const {
    const int column = tile.g % 2;
    return i == 0 ? (column ? upper[1] : upper[0]) : (column ? lower[3] : lower[2]);
  }
};

// Where key `key` of a head lies, or the last one: what comes of those behind it weighs nothing.
__device__ __forceinline__ int offset_of(int key, const AudioFaceQueries& call, int64_t key_stride) {
  return min(key, static_cast<int>(call.keys) - 1) * static_cast<int>(key_stride);
}

// Keys of a head in the workspace: for two products and each n, the 16 bytes of all lanes side by side. Column g of the
// matrix unit is key 4 (g / 2) + g % 2, and 2 more for n = 1.
template <int kHeadDim>
constexpr int kHeadKeys = kHeadDim / (2 * kStep) * 2 * 32;  // pieces of 16 bytes

// Keys times the weight of the norm, rounded as the model rounds queries times that weight. A thread for each piece.
template <typename T, int kHeadDim>
__global__ void fold_weight_kernel(const __grid_constant__ AudioFaceQueries call) {
  let_dependent_kernel_start();
  const int64_t piece = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t at = piece / kHeadKeys<kHeadDim>;
  if (at >= call.speakers * call.batch * call.frames * call.heads) return;
  const int lane = piece % 32, n = piece / 32 % 2, g = lane / 4;
  const int channel = piece / 64 % (kHeadDim / (2 * kStep)) * 2 * kStep + 2 * (lane % 4);
  const int64_t head = at % call.heads, frame = (at /= call.heads) % call.frames;
  const int64_t batch = (at /= call.frames) % call.batch, speaker = at / call.batch;
  const T* k = static_cast<const T*>(call.k) + speaker * call.k_strides[0] + batch * call.k_strides[1] +
               frame * call.k_strides[2] + head * call.k_strides[3] +
               offset_of(4 * (g / 2) + 2 * n + g % 2, call, call.k_strides[4]) + channel;
  const float* weights = call.norm_weight + head * kHeadDim + channel;
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 weight = *reinterpret_cast<const float2*>(weights + 8 * i);
    words[i] = times<T>(*reinterpret_cast<const uint32_t*>(k + 8 * i), weight.x, weight.y);
  }
  static_cast<uint4*>(call.workspace)[piece] = make_uint4(words[0], words[1], words[2], words[3]);
}

template <typename T, int kHeadDim>
cudaError_t fold_weight(const AudioFaceQueries& call, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t pieces = call.speakers * call.batch * call.frames * call.heads * kHeadKeys<kHeadDim>;
  fold_weight_kernel<T, kHeadDim>
      <<<static_cast<unsigned>((pieces + kThreads - 1) / kThreads), kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

// A lane's 64 bytes of a slot are spread over it so that a warp reads and writes without conflicts.
__device__ __forceinline__ float4* slot_of(float4* slots, int slot, int lane) {
  return slots + slot * (kSlotBytes / sizeof(float4)) + lane;
}

// A warp's corner of shared memory, behind the slots: a line of 16 rows. Its pieces of 16 bytes are spread so that no eight
// lanes meet in a bank: neither those of a line, nor those of a column of the matrix unit, nor those that write four
// pieces each of two neighbouring rows.
struct Corner {
  uint4* pieces;
  int row, piece;  // of a lane's first piece in whole lines: eight lanes each, four rows at once

  __device__ __forceinline__ Corner(const AudioFaceQueries& call, const Tile& tile, float4* slots) {
    pieces = reinterpret_cast<uint4*>(slots) + call.heads * call.speakers * (kSlotBytes / sizeof(uint4)) +
             tile.warp * (kCornerBytes / sizeof(uint4));
    row = tile.lane / 8, piece = tile.lane % 8;
  }
  __device__ __forceinline__ uint4& at(int row, int piece) const {
    return pieces[8 * row + (piece ^ (row % 2 * 4 + row / 2 % 4))];
  }

  // What the matrix unit takes of its 16 rows and 16 channels, `step` steps on.
  __device__ __forceinline__ void read(const Tile& tile, int step, uint32_t (&a)[4]) const {
    const uint4& place = at(tile.lane % 16, 2 * step + tile.lane / 16);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(&place)))
                 : "memory");
  }
};

// Logits, not yet scaled, of the warp's heads into the slots head * speakers + speaker; the squares of its heads' queries,
// once for each speaker: those after the first find the queries in the cache.
template <typename T, int kHeadDim>
__device__ __forceinline__ void score_heads(const AudioFaceQueries& call, const Tile& tile, float4* slots,
                                            Squares (&squares)[2]) {
  constexpr int kLines = kHeadDim / kLine, kLoads = kTileRows / 4;
  const Corner corner(call, tile, slots);
  const int speakers = static_cast<int>(call.speakers), stride = static_cast<int>(call.q_strides[1]);
  const int row = min(corner.row, tile.rows(call) - 1), below = tile.rows(call) - 1 - row;
  const T* q = static_cast<const T*>(call.q) + tile.batch * call.q_strides[0] +
               (tile.start(call) + row) * call.q_strides[1] + tile.warp * kHeadDim + 8 * corner.piece;
  const int64_t speaker_keys = call.batch * call.frames * call.heads * kHeadKeys<kHeadDim>;
  const uint4* keys = written_by_launching_kernel(static_cast<const uint4*>(call.workspace)) + tile.lane +
                      ((tile.batch * call.frames + tile.frame) * call.heads + tile.warp) * kHeadKeys<kHeadDim>;
  int head = tile.warp, speaker = 0;
  float4* slot = slot_of(slots, head * speakers, tile.lane);
#pragma unroll 1
  while (head < call.heads) {
    uint4 x[kLines][kLoads];
    const T* from = q;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
#pragma unroll
      for (int line = 0; line < kLines; ++line) x[line][i] = load_once(from + line * kLine);
      from += 4 * i + 4 <= below ? 4 * stride : 0;
      asm volatile("" : "+l"(from));  // else there would be an address in registers for every row
    }
    Logits logits = {};
#pragma unroll
    for (int line = 0; line < kLines; ++line) {
      uint4 k[2][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) k[i / 2][i % 2] = load_common(keys + line * kHeadKeys<kLine> + 32 * i);
      __syncwarp();  // asked for before the queries are waited for
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kLoads / 2; ++i) corner.at(corner.row + 4 * i, corner.piece) = x[line][kLoads / 2 * m + i];
        __syncwarp();
#pragma unroll
        for (int step = 0; step < kLine / kStep; ++step) {
          uint32_t a[4];
          corner.read(tile, step, a);
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            const uint4& words = k[step / 2][n];
            Half2<T>::mma(logits.sum[m][n], a, step % 2 ? words.z : words.x, step % 2 ? words.w : words.y);
          }
          squares[m].template add<T>(a);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float(&part)[4] = logits.sum[j / 2][j % 2];
      slot[32 * j] = make_float4(part[0], part[1], part[2], part[3]);
    }
    slot = slot_of(slot, 1, 0);
    keys += speaker_keys;
    if (++speaker == speakers) {
      speaker = 0, head += tile.warps;
      q += tile.warps * kHeadDim;
      keys += tile.warps * kHeadKeys<kHeadDim> - speakers * speaker_keys;
      slot = slot_of(slot, (tile.warps - 1) * speakers, 0);
    }
  }
}

// What the logits of a lane's rows are multiplied with, in powers of two: log2(e) / (rms * sqrt(head_dim)). A barrier of
// the block.
template <int kHeadDim>
__device__ __forceinline__ void exchange_scales(const AudioFaceQueries& call, const Tile& tile,
                                                const Squares (&squares)[2], float (&scales)[kLaneRows]) {
  __shared__ float shared_squares[kMostWarps][kTileRows];
  constexpr float kLog2E = 1.4426950408889634f;
  if (Squares::on_diagonal(tile)) {
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      shared_squares[tile.warp][tile.g + 8 * i] = squares[i / 2].of(tile, i % 2);
    }
  }
  __syncthreads();
  const float inverse_count = 1.0f / static_cast<float>(call.speakers * call.heads * kHeadDim);
#pragma unroll
  for (int i = 0; i < kLaneRows; ++i) {
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kMostWarps; ++warp) {
      if (warp < tile.warps) total += shared_squares[warp][tile.g + 8 * i];
    }
    scales[i] = kLog2E * rsqrtf(static_cast<float>(kHeadDim)) * rsqrtf(total * inverse_count + call.eps);
  }
}

// Without the care of exp2f for results below 2^-126, which are nothing beside a largest of 1.
__device__ __forceinline__ float exp2_of(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}

// Reads the logits of a slot and makes them probabilities, times the face weight of each row.
__device__ __forceinline__ Logits read_probabilities(const AudioFaceQueries& call, const Tile& tile, const float4* slot,
                                                     const float (&scales)[kLaneRows], const float (&face)[kLaneRows]) {
  Logits logits;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float4 part = slot[32 * j];
    float(&sum)[4] = logits.sum[j / 2][j % 2];
    sum[0] = part.x, sum[1] = part.y, sum[2] = part.z, sum[3] = part.w;
  }
  float absent[4];  // what keeps keys that are not there out
#pragma unroll
  for (int j = 0; j < 4; ++j) absent[j] = 4 * tile.t + j < call.keys ? 0.0f : -INFINITY;
#pragma unroll
  for (int i = 0; i < kLaneRows; ++i) {
    float peak = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& x = logits.of(i, j);
      x = fmaf(x, scales[i], absent[j]);
      peak = fmaxf(peak, x);
    }
    peak = fmaxf(peak, __shfl_xor_sync(kAllLanes, peak, 1));
    peak = fmaxf(peak, __shfl_xor_sync(kAllLanes, peak, 2));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& x = logits.of(i, j);
      x = exp2_of(x - peak);
      sum += x;
    }
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    const float factor = __fdividef(face[i], sum);  // a sum of 1 to 16
#pragma unroll
    for (int j = 0; j < 4; ++j) logits.of(i, j) *= factor;
  }
  return logits;
}

// Whether offsets of a tile's rows, or of the keys of a frame, are 32 bits.
inline bool is_near(int64_t stride) { return stride >= 0 && stride < (1 << 26); }

// Whether all that the kernels of this header need holds: aligned rows for loads of 16 bytes, and shapes they know.
inline bool fits_matrix_unit(const AudioFaceQueries& call) {
  uint64_t elements = call.q_strides[0] | call.q_strides[1];
  for (const int64_t stride : call.k_strides) elements |= stride;
  const auto addresses = reinterpret_cast<uintptr_t>(call.q) | reinterpret_cast<uintptr_t>(call.k) |
                         reinterpret_cast<uintptr_t>(call.out) | reinterpret_cast<uintptr_t>(call.norm_weight) |
                         reinterpret_cast<uintptr_t>(call.workspace);
  return call.workspace != nullptr && elements % 8 == 0 && addresses % 16 == 0 &&
         (call.head_dim == 64 || call.head_dim == 128) && call.keys <= kTileKeys && call.frames <= 65535 &&
         is_near(call.q_strides[1]) && is_near(call.k_strides[4]);
}

struct Launch {
  dim3 grid;
  int threads;
  int64_t shared_bytes;
};

inline Launch launch_of(const AudioFaceQueries& call) {
  const int64_t tiles = (call.tokens + kTileRows - 1) / kTileRows;
  const int64_t most = call.heads <= 16 ? 4 : kMostWarps, share = (call.heads + most - 1) / most;
  const int64_t warps = (call.heads + share - 1) / share;
  return {dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(call.frames), static_cast<unsigned>(call.batch)),
          static_cast<int>(32 * warps), call.heads * call.speakers * kSlotBytes + warps * kCornerBytes};
}

// Whether the current device has the shared memory that a launch asks for, beside what is not asked for.
inline cudaError_t has_shared_memory(const Launch& launch, bool* has) {
  int device = 0, most = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  *has = launch.shared_bytes + static_cast<int64_t>(kMostWarps * kTileRows * sizeof(float)) <= most;
  return status;
}

template <typename T, int kHeadDim, typename Call>
cudaError_t run(void (*kernel)(Call), const Launch& launch, const Call& call, const AudioFaceQueries& queries,
                cudaStream_t stream) {
  const auto bytes = static_cast<int>(launch.shared_bytes);
  constexpr int kUnasked = 40 * 1024;  // of 48 KiB; the squares take one
  cudaError_t status = cudaSuccess;
  if (bytes > kUnasked) status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status == cudaSuccess) status = fold_weight<T, kHeadDim>(queries, stream);
  if (status != cudaSuccess) return status;
  return launch_dependent(kernel, launch.grid, launch.threads, bytes, stream, call);
}

}  // namespace humo_rt
