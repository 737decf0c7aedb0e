// What the blocks of a team tell each other through global memory: the sums of squares of a tile's queries, each block
// those of its head, and the scales that follow from them. Blocks take turns to make these.
#pragma once

#include <cuda_runtime.h>

#include "common/hopper.cuh"
#include "common/pairs.cuh"
#include "text_attention/layout.cuh"

#if HUMO_RT_HOPPER
namespace humo_rt::text {

// A ring of slots of 64 numbers. The last bit of a number, which is no part of it, tells whether it is of this tile or of
// the one that had the slot before; at first it is zero. So nothing else has to be written and waited for.
//
// A block publishes the sums of tile i when that has arrived. By then the logits of tile i - kPlaces were there, of a group
// that was done with tile i - kSlots. So this block had had the scales of that one, and all blocks' sums of it had been
// read. The scales of tile i are told once all blocks have published its sums, so all had had those of tile i - kSlots.
// Nor is anything of an earlier one read as if it were of tile i: the scales of tile i - kSlots were received by the same
// lanes, and sums are looked for only once tile i has arrived in the block that does so.
static_assert(kSlots % kSides == 0, "a group must see the scales of all tiles of a slot");
struct Slots {
  uint32_t* memory;
  int heads;
  __device__ __forceinline__ Slots(const TextAttention& call, int team)
      : memory(call.memory + team * (call.heads + 1) * kSlots * kTile), heads(static_cast<int>(call.heads)) {}
  __device__ __forceinline__ uint32_t* sums(int i, int head) const {
    return memory + (i % kSlots * heads + head) * kTile;
  }
  __device__ __forceinline__ uint32_t* scales(int i) const { return memory + (kSlots * heads + i % kSlots) * kTile; }
  static __device__ __forceinline__ uint32_t mark(int i) { return (i / kSlots + 1) % 2; }
};

__device__ __forceinline__ uint32_t marked(float x, uint32_t mark) { return (__float_as_uint(x) & ~1u) | mark; }

// Four numbers of a slot, and whether all are of the tile.
__device__ __forceinline__ bool load_marked(float4& x, const uint32_t* address, uint32_t mark) {
  uint4 word;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
               : "l"(address)
               : "memory");
  const auto number = [](uint32_t x) { return __uint_as_float(x & ~1u); };
  x = make_float4(number(word.x), number(word.y), number(word.z), number(word.w));
  return (((word.x ^ mark) | (word.y ^ mark) | (word.z ^ mark) | (word.w ^ mark)) & 1) == 0;
}

constexpr int kPublishing = 4;                   // warps
constexpr int kPublished = kTile / kPublishing;  // rows of each

// Sums of the squares of a warp's rows from `first` on. Lane l returns that of row 4 (l % 8 / 2) + l / 8.
template <typename T>
__device__ __forceinline__ float sum_squares(const uint8_t* tile, int first) {
  const int lane = threadIdx.x % 32;
  float sums[kPublished / 4];
#pragma unroll
  for (int i = 0; i < kPublished / 4; ++i) {
    const uint8_t* line = tile + (first + 4 * i + lane / 8) * kLine + lane % 8 * 16;
    float part[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 vector = *reinterpret_cast<const uint4*>(line + half * kHalfTileBytes);
      const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 pair = Pair<T>::unpack(words[w]);
        part[half] = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, part[half]));
      }
    }
    sums[i] = part[0] + part[1];
  }
  // Of eight lanes that have parts of four sums, two keep each, and the others give them theirs.
#pragma unroll
  for (int kept = 2; kept > 0; kept /= 2) {
    const bool upper = lane & 2 * kept;
#pragma unroll
    for (int i = 0; i < kept; ++i) {
      const float other = __shfl_xor_sync(0xffffffff, upper ? sums[i] : sums[i + kept], 2 * kept);
      sums[i] = (upper ? sums[i + kept] : sums[i]) + other;
    }
  }
  return sums[0] + __shfl_xor_sync(0xffffffff, sums[0], 1);
}

// The work of a warp that publishes sums of its head.
template <typename T>
__device__ __forceinline__ void publish(Shared& shared, const Slots& slots, const int count, const int head,
                                        const int warp) {
  const int lane = threadIdx.x % 32, first = warp * kPublished, row = first + 4 * (lane % 8 / 2) + lane / 8;
  for (int i = 0; i < count; ++i) {
    barrier_wait(shared_address(&shared.arrived[place_of(i)]), parity_of(i));
    const float sum = sum_squares<T>(shared.tiles[place_of(i)], first);
    if (lane % 2 == 0) {
      asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(slots.sums(i, head) + row),
                   "r"(marked(sum, slots.mark(i)))
                   : "memory");
    }
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(shared_address(&shared.freed[place_of(i)]));
      if (warp == 0) shared.reached = i;
    }
  }
}

// The work of the warp that makes scales of the sums of all heads, of those tiles that are its block's turn. Half of its
// lanes read one head's, the other half the next one's, kLoads numbers before the first is waited for.
template <int kLoads>
__device__ __forceinline__ void combine(Shared& shared, const Slots& slots, const int count, const int head,
                                        const float eps) {
  const int lane = threadIdx.x % 32, row = lane % 16 * 4;
  const float per_channel = 1.0f / (slots.heads * kHead), softmax_scale = kLog2E * rsqrtf(kHead);
  for (int i = head; i < count; i += slots.heads) {
    while (shared.reached < i) {
    }
    const uint32_t mark = slots.mark(i);
    const uint32_t* sums = slots.sums(i, 0) + row;
    float4 sum{};
    for (int begin = lane / 16; begin - lane / 16 < slots.heads; begin += 2 * kLoads) {
      float4 x[kLoads];
      bool there;
      do {
        there = true;
#pragma unroll
        for (int j = 0; j < kLoads; ++j) {
          there &= load_marked(x[j], sums + min(begin + 2 * j, slots.heads - 1) * kTile, mark);
        }
      } while (!__all_sync(0xffffffff, there));
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        if (begin + 2 * j < slots.heads) sum.x += x[j].x, sum.y += x[j].y, sum.z += x[j].z, sum.w += x[j].w;
      }
    }
    const auto scale = [&](float x) {
      return marked(rsqrtf((x + __shfl_xor_sync(0xffffffff, x, 16)) * per_channel + eps) * softmax_scale, mark);
    };
    const uint4 x = make_uint4(scale(sum.x), scale(sum.y), scale(sum.z), scale(sum.w));
    if (lane < 16) {
      asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(slots.scales(i) + row), "r"(x.x),
                   "r"(x.y), "r"(x.z), "r"(x.w)
                   : "memory");
    }
  }
}

// A scale as it is told, whether of the tile or not yet.
__device__ __forceinline__ uint32_t load_scale(const uint32_t* address) {
  uint32_t x;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(address) : "memory");
  return x;
}

// What was loaded from an address, or will be once it is of the tile.
__device__ __forceinline__ float await_scale(uint32_t loaded, const uint32_t* address, uint32_t mark) {
  while (loaded % 2 != mark) loaded = load_scale(address);
  return __uint_as_float(loaded & ~1u);
}

}  // namespace humo_rt::text
#endif  // HUMO_RT_HOPPER
