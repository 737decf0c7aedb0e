// Attention reads each query once and writes each result once, so memory is the bound to come close to: 1 GB for four
// branches of HuMo-1.7B. The rest, two products and a softmax for each tile of 64 queries, has to hide behind it.
//
// A block keeps the keys and values of one head in shared memory and lets tiles of queries pass by. The copy engine fills
// places with them and writes the results. Three warp groups attend to a tile each, so that one multiplies while another
// computes its softmax.
//
// The norm spans all heads, each of them with another block, and hundreds of megabytes do not stay in a cache until they
// are read again. So the blocks of all heads, a team, work on the same tiles at about the same time, and tell each other
// the sums of the squares of their heads. That takes as long as three to five tiles, and so long a block must have other
// tiles on their way: there are nine places. Logits do not wait for the sums, only their softmax does, and once a tile's
// logits are in registers, its place is free for the next; the results have a place of their own. All blocks have to run
// at once, hence a cooperative launch.

#include "text_attention/text_attention.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <limits>

#include "common/hopper.cuh"
#include "common/launch.cuh"
#include "common/tensor_map.h"
#include "text_attention/attend.cuh"
#include "text_attention/exchange.cuh"
#include "text_attention/layout.cuh"

namespace humo_rt {
namespace text {
namespace {

#if HUMO_RT_HOPPER

// A launch gets the same number for each thread, a multiple of 8. Whoever asked for more than that in sum would wait
// forever.
constexpr int kAttendingRegisters = 128, kHelpingRegisters = 48, kRegisters = 65536 / kThreads / 8 * 8;
static_assert(kAttendingRegisters * kAttending + kHelpingRegisters * kHelping <= kRegisters * kThreads);

// The work of the thread that fills places with tiles.
__device__ __forceinline__ void fetch(Shared& shared, const CUtensorMap& q_map, const Plan& plan, const Tiles& tiles,
                                      const int head) {
  for (int i = 0; i < tiles.count; ++i) {
    if (i >= kPlaces) barrier_wait(shared_address(&shared.freed[place_of(i)]), parity_of(i - kPlaces));
    const uint32_t arrived = shared_address(&shared.arrived[place_of(i)]);
    barrier_expect(arrived, kTileBytes);
    copy_box(shared_address(shared.tiles[place_of(i)]), &q_map, 0, tiles[i] % plan.tiles * kTile, 2 * head,
             tiles[i] / plan.tiles, arrived);
  }
}

// The work of the thread that writes results.
__device__ __forceinline__ void write(Shared& shared, const CUtensorMap& out_map, const Plan& plan, const Tiles& tiles,
                                      const int head) {
  for (int i = 0; i < tiles.count; ++i) {
    barrier_wait(shared_address(&shared.done), i % 2);
    write_box(&out_map, 0, tiles[i] % plan.tiles * kTile, 2 * head, tiles[i] / plan.tiles,
              shared_address(shared.results));
    written_boxes_wait();
    shared.written = i + 1;
  }
}

#endif  // HUMO_RT_HOPPER

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    text_attention_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap out_map,
                          const __grid_constant__ TextAttention call, const __grid_constant__ Plan plan) {
#if HUMO_RT_HOPPER
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  if (threadIdx.x == 0) {
    for (int place = 0; place < kPlaces; ++place) {
      barrier_init(shared_address(&shared.arrived[place]), 1);
      barrier_init(shared_address(&shared.freed[place]), kGroup / 32 + kPublishing);
    }
    barrier_init(shared_address(&shared.done), kGroup / 32);
    barrier_init_fence();
    shared.written = 0;
    shared.reached = -1;
  }
  __syncthreads();
  const int heads = static_cast<int>(call.heads), head = blockIdx.x % heads, team = blockIdx.x / heads;
  const Tiles tiles(plan, team);
  const Slots slots(call, team);
  const int group = __shfl_sync(0xffffffff, threadIdx.x / kGroup, 0);  // so the compiler knows that a warp has but one
  if (group < kSides) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kAttendingRegisters));
    attend<T>(shared, call, plan, tiles, slots, head, group, threadIdx.x % kGroup);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kHelpingRegisters));
    const int warp = threadIdx.x / 32 - kAttending / 32;
    if (warp < kPublishing) {
      publish<T>(shared, slots, tiles.count, head, warp);
    } else if (warp == kPublishing) {
      if (heads % 8 == 0) {  // so that 40 heads, and 12, leave no loads over
        combine<4>(shared, slots, tiles.count, head, call.eps);
      } else {
        combine<3>(shared, slots, tiles.count, head, call.eps);
      }
    } else if (warp == kPublishing + 1 && threadIdx.x % 32 == 0) {
      fetch(shared, q_map, plan, tiles, head);
    } else if (warp == kPublishing + 2 && threadIdx.x % 32 == 0) {
      write(shared, out_map, plan, tiles, head);
    }
  }
#else
  asm volatile("trap;");  // built for 90, not 90a: an error at once, not a result that no one wrote
#endif
}

// Queries or results as the copy engine takes them, in boxes of one head of one tile.
cudaError_t describe(PFN_cuTensorMapEncodeTiled_v12000 encode, const void* rows, const TextAttention& call,
                     std::array<int64_t, 2> strides, CUtensorMap* map) {
  const cuuint64_t sizes[] = {kHalf, static_cast<cuuint64_t>(call.length), static_cast<cuuint64_t>(2 * call.heads),
                              static_cast<cuuint64_t>(call.batch)};
  // The stride of a single row or branch may be any number.
  const int64_t row = call.length > 1 ? strides[1] : call.heads * kHead;
  const int64_t branch = call.batch > 1 ? strides[0] : row * call.length;
  const cuuint64_t steps[] = {static_cast<cuuint64_t>(row * 2), kLine, static_cast<cuuint64_t>(branch * 2)};
  const cuuint32_t box[] = {kHalf, kTile, 2, 1}, every[] = {1, 1, 1, 1};
  const CUresult result = encode(map, tensor_map_type(call.dtype), 4, const_cast<void*>(rows), sizes, steps, box, every,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

int64_t words(int64_t teams, int64_t heads) { return teams * (heads + 1) * kSlots * kTile; }

template <typename T>
cudaError_t launch(const CUtensorMap& q_map, const CUtensorMap& out_map, const TextAttention& call, const Plan& plan,
                   cudaStream_t stream) {
  const auto kernel = text_attention_kernel<T>;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared));
  if (status != cudaSuccess) return status;
  status = cudaMemsetAsync(call.memory, 0, words(plan.teams, call.heads) * sizeof(uint32_t), stream);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute at_once;
  at_once.id = cudaLaunchAttributeCooperative;
  at_once.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(plan.teams * call.heads);
  config.blockDim = kThreads;
  config.dynamicSmemBytes = sizeof(Shared);
  config.stream = stream;
  config.attrs = &at_once;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, q_map, out_map, call, plan);
}

}  // namespace
}  // namespace text

int64_t text_attention_words(int64_t heads) {
  int processors = 0;
  if (heads < 1 || hopper_processors(&processors) != cudaSuccess) return 0;
  return text::words(processors / heads, heads);
}

cudaError_t text_attention(const TextAttention& call, cudaStream_t stream) {
  using namespace text;
  int processors = 0;
  cudaError_t status = hopper_processors(&processors);
  if (status != cudaSuccess) return status;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (call.batch < 1 || call.length < 1 || call.heads < 1 || call.keys < 1 || call.keys > kKeys ||
      call.length > kMost - kTile || call.batch > kMost / call.length || call.heads > processors ||
      call.dtype == DType::kFloat32) {
    return cudaErrorInvalidValue;
  }
  PFN_cuTensorMapEncodeTiled_v12000 encode = nullptr;
  status = find_encoder(&encode);
  if (status != cudaSuccess) return status;
  CUtensorMap q_map, out_map;
  status = describe(encode, call.q, call, call.q_strides, &q_map);
  if (status != cudaSuccess) return status;
  const int64_t width = call.heads * kHead;
  status = describe(encode, call.out, call, {call.length * width, width}, &out_map);
  if (status != cudaSuccess) return status;

  Plan plan;
  plan.tiles = static_cast<int>((call.length + kTile - 1) / kTile);
  plan.all = static_cast<int>(call.batch * plan.tiles);
  plan.teams = std::min(processors / static_cast<int>(call.heads), plan.all);
  const auto run = call.dtype == DType::kBFloat16 ? launch<__nv_bfloat16> : launch<__half>;
  return run(q_map, out_map, call, plan, stream);
}

}  // namespace humo_rt
