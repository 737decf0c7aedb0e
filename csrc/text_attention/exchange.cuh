// What the blocks of a team tell each other through global memory: the sums of squares of a tile's queries, each block
// those of its head, and the scales that follow from them. Blocks take turns to make these.
#pragma once

#include <cuda_runtime.h>

#include <limits>

#include "common/hopper.cuh"
#include "common/pairs.cuh"
#include "text_attention/layout.cuh"

#if HUMO_RT_HOPPER
namespace humo_rt::text {

// A ring of slots of 64 numbers. The last bit of a number, which is no part of it, tells whether it is of this tile or of
// the one that had the slot before; at first it is zero. So nothing else has to be written and waited for.
//
// A block publishes the sums of tile i when that has arrived: it was done with tile i - kPlaces then, all had published the
// sums of that one, and all were done with tile i - 2 kPlaces. Of this one nothing is read any more. Nor is anything of an
// earlier one read as if it were of tile i: the scales of tile i - kSlots were received by the same lanes, and sums are
// looked for only once tile i has arrived in the block that does so.
static_assert(kSlots % 2 == 0, "half of the lanes that receive see every other tile, and all tiles of a slot");
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

__device__ __forceinline__ uint32_t marked(float x, uint32_t mark) {
  return (__float_as_uint(x == kInfinity ? std::numeric_limits<float>::max() : x) & ~1u) | mark;
}

// Four numbers of a slot, and whether all are of the tile.
__device__ __forceinline__ bool load_marked(float4& x, const uint32_t* address, uint32_t mark) {
  uint4 word;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
               : "l"(address)
               : "memory");
  const auto number = [](uint32_t x) { return __uint_as_float(x & ~1u); };
  x = make_float4(number(word.x), number(word.y), number(word.z), number(word.w));
  return ((word.x ^ mark) & (word.y ^ mark) & (word.z ^ mark) & (word.w ^ mark) & 1) == 0;
}

// Of eight numbers of each of eight lanes, lane l returns the sum of their l-th ones.
__device__ __forceinline__ float sum_transposed(float (&x)[8]) {
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
    const bool upper = threadIdx.x & half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float other = __shfl_xor_sync(0xffffffff, upper ? x[i] : x[i + half], half);
      x[i] = (upper ? x[i + half] : x[i]) + other;
    }
  }
  return x[0];
}

// Sums of the squares of 32 rows from `first` on. Lane l returns that of row 4 (l % 8) + l / 8.
template <typename T>
__device__ __forceinline__ float sum_squares(const uint8_t* tile, int first) {
  const int lane = threadIdx.x % 32;
  float sums[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint8_t* line = tile + (first + 4 * i + lane / 8) * kLine + lane % 8 * 16;
    sums[i] = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint4 vector = *reinterpret_cast<const uint4*>(line + half * kHalfTileBytes);
      const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 pair = Pair<T>::unpack(words[w]);
        sums[i] = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, sums[i]));
      }
    }
  }
  return sum_transposed(sums);
}

constexpr int kPublishing = 4;  // warps: one for each half of the rows and rotation

// The work of a warp that publishes sums of its head, of half of the rows of the tiles of a rotation.
template <typename T>
__device__ __forceinline__ void publish(Shared& shared, const Slots& slots, const int count, const int head,
                                        const int rotation, const int first_row) {
  const int lane = threadIdx.x % 32, row = first_row + 4 * (lane % 8) + lane / 8;
  for (int i = 0; i < count; ++i) {
    if (rotation_of(i) != rotation) continue;
    barrier_wait(shared_address(&shared.arrived[place_of(i)]), parity_of(i));
    const float sum = sum_squares<T>(shared.tiles[place_of(i)], first_row);
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(slots.sums(i, head) + row), "r"(marked(sum, slots.mark(i)))
                 : "memory");
    if (lane == 0 && first_row == 0) shared.reached[rotation] = i;
  }
}

// The work of the warp that makes scales of the sums of all heads, of those tiles that are its block's turn. Half of its
// lanes read one head's, the other half the next one's.
__device__ __forceinline__ void combine(Shared& shared, const Slots& slots, const int count, const int head,
                                        const float eps) {
  constexpr int kLoads = 4;  // before the first is waited for
  const int lane = threadIdx.x % 32, row = lane % 16 * 4;
  const float per_channel = 1.0f / (slots.heads * kHead), softmax_scale = kLog2E * rsqrtf(kHead);
  for (int i = head; i < count; i += slots.heads) {
    // Not a wait for the barrier of tile i, which this warp would not see every phase of.
    while (shared.reached[rotation_of(i)] < i) {
    }
    const uint32_t mark = slots.mark(i);
    float4 sum{};
    for (int begin = lane / 16; begin - lane / 16 < slots.heads; begin += 2 * kLoads) {
      float4 x[kLoads];
      bool there;
      do {
        there = true;
#pragma unroll
        for (int j = 0; j < kLoads; ++j) {
          there &= load_marked(x[j], slots.sums(i, min(begin + 2 * j, slots.heads - 1)) + row, mark);
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

// The work of the warp that receives the scales. Half of its lanes look for those of one tile, the other half for the
// next one's.
__device__ __forceinline__ void receive(Shared& shared, const Slots& slots, const int count) {
  const int lane = threadIdx.x % 32, row = lane % 16 * 4;
  for (int i = lane / 16; __any_sync(0xffffffff, i < count);) {
    float4 x;
    const bool there = i < count && load_marked(x, slots.scales(i) + row, slots.mark(i));
    const uint32_t all = __ballot_sync(0xffffffff, there) >> (lane / 16 * 16) & 0xffff;
    if (all == 0xffff) *reinterpret_cast<float4*>(&shared.scales[place_of(i)][row]) = x;
    __syncwarp();
    if (all == 0xffff) {
      if (row == 0) barrier_arrive(shared_address(&shared.scaled[place_of(i)]));
      i += 2;
    }
  }
}

}  // namespace humo_rt::text
#endif  // HUMO_RT_HOPPER
