// The convolution is a matrix product of positions by taps and channels, bound by the matrix unit: what has to be kept
// small is the traffic between the L2 cache and the processors, and what has to be hidden is everything else.
//
// With its border in memory a video is a matrix [positions, channels] in which a tap is the same matrix a fixed number of
// rows further on. A tile is 256 positions by 96 output channels, a divisor of Wan's 96, 192, 384 and 768 that wastes no
// products. One step takes 32 input channels of the three taps along a row, whose tiles of x are one tile of 258 rows read
// at three offsets: 34 KiB from the cache for 4.7 MFLOP, half of what three separate tiles would take.
//
// A block stays on its processor and takes every n-th tile. One warp copies the steps of its tiles, in order, into a ring
// of stages; two warp groups take the tiles in turn, so that one adds bias and residual and writes its tile while the other
// keeps the matrix unit busy. A group starts on its tile once the other has seen all of its own steps arrive: a barrier
// tells by a parity whether a step is there, so whoever waits must be the next to take one.

#include "causal_conv/causal_conv.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "common/hopper.cuh"
#include "common/launch.cuh"
#include "common/pairs.cuh"
#include "common/tensor_map.h"

namespace humo_rt {
namespace {

constexpr int kPositions = 256;
constexpr int kOutputs = 96;
constexpr int kChannels = 32;
constexpr int kRowBytes = kChannels * 2;
constexpr int kBoxRows = 136;  // two boxes hold 256 positions and their neighbours on a row
constexpr int kXBytes = 2 * kBoxRows * kRowBytes;
constexpr int kTapBytes = kOutputs * kRowBytes;
constexpr int kGroup = 128;  // threads of a warp group
constexpr int kThreads = 3 * kGroup;
constexpr int kAlignment = 1024;
constexpr int kSharedBytes = 220 * 1024;

constexpr int stage_bytes(int shared_taps) { return kXBytes + shared_taps * kTapBytes; }
static_assert(stage_bytes(1) % kAlignment == 0 && stage_bytes(3) % kAlignment == 0, "a stage keeps the swizzle's phase");

// What a kernel needs to know of its sizes.
struct Plan {
  int rows, columns;            // of a frame
  int positions, outputs;       // of the result
  int output_tiles, tiles;      // across the output channels, altogether
  int height, width;            // of the kernel
  int channel_steps, steps;     // of one tap or of those that share a stage, of one tile
  int inputs;
};

#if HUMO_RT_HOPPER

constexpr int stage_count(int shared_taps) { return (kSharedBytes - kAlignment) / stage_bytes(shared_taps); }

// Four lanes with four words each: lane i's word j becomes lane j's word i.
__device__ __forceinline__ void transpose(uint32_t (&word)[4], int lane) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffff, lane & 1 ? word[i] : word[i + 1], 1);
    (lane & 1 ? word[i] : word[i + 1]) = other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t other = __shfl_xor_sync(0xffffffff, lane & 2 ? word[i] : word[i + 2], 2);
    (lane & 2 ? word[i] : word[i + 2]) = other;
  }
}

// Copies the steps of every tile of this block into the ring, each as soon as its stage is free.
template <int kTaps, int kStages>
__device__ __forceinline__ void produce(const CUtensorMap& x_map, const CUtensorMap& weight_map, const Plan& plan,
                                        uint32_t stages, uint32_t full, uint32_t empty) {
  int stage = 0;
  uint32_t parity = 1;
  for (int tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    const int output = tile % plan.output_tiles * kOutputs;
    const int position = tile / plan.output_tiles * kPositions;
    for (int step = 0; step < plan.steps; ++step) {
      const int tap = step / plan.channel_steps * kTaps;  // the first of the taps that share the stage
      const int channel = step % plan.channel_steps * kChannels;
      const int line = tap / plan.width;
      const int frame = line / plan.height;
      const int down = frame * plan.rows + line % plan.height - plan.height / 2;
      const int row = position + down * plan.columns + tap % plan.width - plan.width / 2;
      const uint32_t target = stages + stage * stage_bytes(kTaps);
      barrier_wait(empty + stage * 8, parity);
      barrier_expect(full + stage * 8, stage_bytes(kTaps));
      copy_box(target, &x_map, channel, row, full + stage * 8);
      copy_box(target + kXBytes / 2, &x_map, channel, row + kBoxRows, full + stage * 8);
#pragma unroll
      for (int i = 0; i < kTaps; ++i) {
        copy_box(target + kXBytes + i * kTapBytes, &weight_map, (tap + i) * plan.inputs + channel, output,
                 full + stage * 8);
      }
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

// The products of one step: four blocks of 64 positions, every tap, two halves of the channels.
template <typename T, int kTaps>
__device__ __forceinline__ void multiply(float (&total)[4][48], uint32_t stage, bool add) {
#pragma unroll
  for (int i = 0; i < kTaps * 2; ++i) {
    const int tap = i / 2, half = i % 2 * (kRowBytes / 2);
    const uint64_t b = matrix_of_64_byte_rows(stage + kXBytes + tap * kTapBytes + half);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const uint64_t a = matrix_of_64_byte_rows(stage + (m * 64 + tap) * kRowBytes + half);
      WarpGroupProduct<T>::start(total[m], a, b, add || i > 0);
    }
  }
}

// Bias, residual, zeros in the border, and the tile in memory: 16 bytes of a position for each lane.
template <typename T>
__device__ __forceinline__ void finish(const float (&total)[4][48], const Plan& plan, int position, int output,
                                       const T* bias, const T* residual, T* out) {
  const int thread = threadIdx.x % kGroup, lane = threadIdx.x % 32, quarter = lane % 4;
#pragma unroll
  for (int block = 0; block < 8; ++block) {
    const int m = block / 2, lower = block % 2;
    const int p = position + m * 64 + thread / 32 * 16 + lower * 8 + lane / 4;
    const int x = p % plan.columns, y = p / plan.columns % plan.rows;
    const bool inside = x > 0 && x < plan.columns - 1 && y > 0 && y < plan.rows - 1;
    const int64_t begin = static_cast<int64_t>(p) * plan.outputs + output + quarter * 8;
#pragma unroll
    for (int part = 0; part < kOutputs / 32; ++part) {
      const bool there = p < plan.positions && output + part * 32 + quarter * 8 < plan.outputs;
      uint32_t added[4] = {};
      if (residual != nullptr) {
        if (there && inside) {
          const uint4 x4 = __ldg(reinterpret_cast<const uint4*>(residual + begin + part * 32));
          added[0] = x4.x, added[1] = x4.y, added[2] = x4.z, added[3] = x4.w;
        }
        transpose(added, lane);
      }
      uint32_t word[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = part * 32 + j * 8 + quarter * 2;
        const bool known = output + column < plan.outputs;
        const uint32_t* biases = reinterpret_cast<const uint32_t*>(bias + output + column);
        const float2 shift = Pair<T>::unpack(known ? __ldg(biases) : 0);
        const float2 more = Pair<T>::unpack(added[j]);
        const float* sum = &total[m][(part * 4 + j) * 4 + lower * 2];
        word[j] = Pair<T>::pack(sum[0] + shift.x + more.x, sum[1] + shift.y + more.y);
      }
      transpose(word, lane);
      const uint4 result = inside ? make_uint4(word[0], word[1], word[2], word[3]) : make_uint4(0, 0, 0, 0);
      if (there) *reinterpret_cast<uint4*>(out + begin + part * 32) = result;
    }
  }
}

// Every second tile of this block, from the ring. `turns`: a barrier for each group, which the other one passes.
template <typename T, int kTaps, int kStages>
__device__ __forceinline__ void consume(const Plan& plan, uint32_t stages, uint32_t full, uint32_t empty, uint32_t turns,
                                        int group, const T* bias, const T* residual, T* out) {
  const bool speaks = threadIdx.x % 32 == 0;  // for its warp
  float total[4][48];
  uint32_t begin = group * plan.steps;
  uint32_t turn = group == 0 ? 1 : 0;  // the first group's first turn needs no one
  for (int tile = blockIdx.x + group * gridDim.x; tile < plan.tiles; tile += 2 * gridDim.x, begin += 2 * plan.steps) {
    barrier_wait(turns + group * 8, turn);
    turn ^= 1;
    for (int step = 0; step < plan.steps; ++step) {
      const uint32_t stage = (begin + step) % kStages, parity = (begin + step) / kStages & 1;
      barrier_wait(full + stage * 8, parity);
#pragma unroll
      for (int i = 0; i < 4 * 48; ++i) pin(total[i / 48][i % 48]);
      products_begin();
      multiply<T, kTaps>(total, stages + stage * stage_bytes(kTaps), step > 0);
      products_commit();
#pragma unroll
      for (int i = 0; i < 4 * 48; ++i) pin(total[i / 48][i % 48]);
      products_wait<1>();
      if (speaks && step > 0) barrier_arrive(empty + (begin + step - 1) % kStages * 8);
    }
    if (speaks) barrier_arrive(turns + (1 - group) * 8);
    products_wait<0>();
#pragma unroll
    for (int i = 0; i < 4 * 48; ++i) pin(total[i / 48][i % 48]);
    if (speaks) barrier_arrive(empty + (begin + plan.steps - 1) % kStages * 8);
    finish(total, plan, tile / plan.output_tiles * kPositions, tile % plan.output_tiles * kOutputs, bias, residual, out);
  }
}

#endif  // HUMO_RT_HOPPER

template <typename T, int kTaps>
__global__ void __launch_bounds__(kThreads, 1)
    causal_conv_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap weight_map,
                       const Plan plan, const T* __restrict__ bias, const T* __restrict__ residual,
                       T* __restrict__ out) {
#if HUMO_RT_HOPPER
  constexpr int kStages = stage_count(kTaps);
  extern __shared__ uint8_t memory[];
  __shared__ alignas(8) uint64_t barriers[2 * kStages + 2];
  const uint32_t stages = (shared_address(memory) + kAlignment - 1) / kAlignment * kAlignment;
  const uint32_t full = shared_address(barriers), empty = full + kStages * 8, turns = empty + kStages * 8;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(full + i * 8, 1);
      barrier_init(empty + i * 8, kGroup / 32);
    }
    for (int i = 0; i < 2; ++i) barrier_init(turns + i * 8, kGroup / 32);
    barrier_init_fence();
    prefetch_map(&x_map);
    prefetch_map(&weight_map);
  }
  __syncthreads();
  const int group = threadIdx.x / kGroup;
  if (group == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 2 * kGroup) produce<kTaps, kStages>(x_map, weight_map, plan, stages, full, empty);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    consume<T, kTaps, kStages>(plan, stages, full, empty, turns, group, bias, residual, out);
  }
#else
  asm volatile("trap;");  // built for 90, not 90a: an error at once, not a result that no one wrote
#endif
}

// A matrix [rows, columns] of 16-bit elements, copied in boxes of box_rows by kChannels.
cudaError_t describe(PFN_cuTensorMapEncodeTiled_v12000 encode, const void* matrix, DType dtype, int64_t rows, int64_t columns,
                     int box_rows, CUtensorMap* map) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[] = {kChannels, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t every[] = {1, 1};
  const CUresult result = encode(map, tensor_map_type(dtype), 2, const_cast<void*>(matrix), sizes, strides, box, every,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_64B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename T, int kTaps>
cudaError_t launch(const CUtensorMap& x_map, const CUtensorMap& weight_map, const Plan& plan, const void* bias,
                   const void* residual, void* out, int processors, cudaStream_t stream) {
  const auto kernel = causal_conv_kernel<T, kTaps>;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (status != cudaSuccess) return status;
  kernel<<<std::min(processors, plan.tiles), kThreads, kSharedBytes, stream>>>(
      x_map, weight_map, plan, static_cast<const T*>(bias), static_cast<const T*>(residual), static_cast<T*>(out));
  return cudaGetLastError();
}

Plan make_plan(const ConvShape& shape, int shared_taps) {
  Plan plan;
  plan.rows = shape.rows;
  plan.columns = shape.columns;
  plan.positions = shape.frames * shape.rows * shape.columns;
  plan.outputs = shape.outputs;
  plan.output_tiles = (shape.outputs + kOutputs - 1) / kOutputs;
  plan.tiles = (plan.positions + kPositions - 1) / kPositions * plan.output_tiles;
  plan.height = shape.height;
  plan.width = shape.width;
  plan.channel_steps = (shape.inputs + kChannels - 1) / kChannels;
  plan.steps = shape.taps * shape.height * shape.width / shared_taps * plan.channel_steps;
  plan.inputs = shape.inputs;
  return plan;
}

}  // namespace

cudaError_t causal_conv(const void* x, const void* weight, const void* bias, const void* residual, void* out,
                        DType dtype, const ConvShape& shape, bool shared_columns, cudaStream_t stream) {
  const int64_t positions = static_cast<int64_t>(shape.frames + shape.taps - 1) * shape.rows * shape.columns;
  if (shape.frames < 1 || shape.taps < 1 || shape.inputs < 16 || shape.outputs < 16 || shape.inputs % 16 ||
      shape.outputs % 16 || positions > INT32_MAX - kPositions || dtype == DType::kFloat32) {
    return cudaErrorInvalidValue;
  }
  int processors = 0;
  cudaError_t status = hopper_processors(&processors);
  if (status != cudaSuccess) return status;
  PFN_cuTensorMapEncodeTiled_v12000 encode = nullptr;
  status = find_encoder(&encode);
  if (status != cudaSuccess) return status;
  const int64_t taps = shape.taps * shape.height * shape.width;
  CUtensorMap x_map, weight_map;
  status = describe(encode, x, dtype, positions, shape.inputs, kBoxRows, &x_map);
  if (status != cudaSuccess) return status;
  status = describe(encode, weight, dtype, shape.outputs, taps * shape.inputs, kOutputs, &weight_map);
  if (status != cudaSuccess) return status;

  const bool three = shared_columns && shape.width == 3;
  const Plan plan = make_plan(shape, three ? 3 : 1);
  const bool bfloat16 = dtype == DType::kBFloat16;
  const auto run = bfloat16 ? (three ? launch<__nv_bfloat16, 3> : launch<__nv_bfloat16, 1>)
                            : (three ? launch<__half, 3> : launch<__half, 1>);
  return run(x_map, weight_map, plan, bias, residual, out, processors, stream);
}

}  // namespace humo_rt
