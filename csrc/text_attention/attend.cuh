// The attention of tiles of queries to the keys and values of a head, both in shared memory.
#pragma once

#include <cuda_runtime.h>

#include "common/cache.cuh"
#include "common/hopper.cuh"
#include "common/pairs.cuh"
#include "text_attention/exchange.cuh"
#include "text_attention/layout.cuh"

#if HUMO_RT_HOPPER
namespace humo_rt::text {

// Values are a matrix of blocks of 8 channels by 8 keys. Blocks of the same keys follow one another.
constexpr int kBlockBytes = 128, kColumnBytes = kHead / 8 * kBlockBytes;
constexpr int kVector = 8, kVectors = kHead / kVector;  // elements of 16 bytes, and how many times that a head is
constexpr int kStep = kGroup / kVectors;                // keys that a group reads with one load of each thread
constexpr int kAtOnce = 8;                              // such loads before the first is waited for

template <typename T>
__device__ __forceinline__ void keep_keys(uint8_t* matrix, const TextAttention& call, const T* k, int head, int thread) {
  const int vector = thread % kVectors, first = thread / kVectors;
  const float4* weight = reinterpret_cast<const float4*>(call.norm_weight + head * kHead + vector * kVector);
  const float4 low = __ldg(weight), high = __ldg(weight + 1);
  const float weights[kVector] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  uint8_t* half = matrix + vector / 8 * kHalfKeysBytes;
#pragma unroll
  for (int begin = 0; begin < kKeys; begin += kAtOnce * kStep) {
    uint4 x[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int key = begin + i * kStep + first;
      x[i] = key < call.keys ? load_common(k + key * call.k_strides[2] + vector * kVector) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      uint32_t words[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 pair = Pair<T>::unpack(words[w]);
        words[w] = Pair<T>::pack(pair.x * weights[2 * w], pair.y * weights[2 * w + 1]);
      }
      *reinterpret_cast<uint4*>(half + swizzled(begin + i * kStep + first, vector % 8)) =
          make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

// The product leaves a lane with rows 8 j + 2 (lane % 4) and the next of the values, for every j. Which channel is which
// row is up to the values: those of j from 4 g to 4 g + 3 are to be 16 bytes of the result, and those of two neighbouring
// queries are to lie in different banks. So they are vector 8 (g / 2) + 2 (lane % 4) + g % 2.
template <typename T>
__device__ __forceinline__ void keep_values(uint8_t* matrix, const TextAttention& call, const T* v, int thread) {
  const int vector = thread % kVectors, first = thread / kVectors;
  uint8_t* row = matrix + (vector / 8 * 2 + vector % 2) * 4 * kBlockBytes + vector % 8 / 2 * 32;
#pragma unroll
  for (int begin = 0; begin < kKeys; begin += kAtOnce * kStep) {
    uint4 x[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int key = begin + (i / 2 * kStep + first) * 2 + i % 2;
      x[i] = key < call.keys ? load_common(v + key * call.v_strides[2] + vector * kVector) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i += 2) {
      const int key = begin + (i / 2 * kStep + first) * 2;
      const uint32_t one[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
      const uint32_t next[4] = {x[i + 1].x, x[i + 1].y, x[i + 1].z, x[i + 1].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint8_t* block = row + key / 8 * kColumnBytes + j * kBlockBytes + key % 8 * 2;
        *reinterpret_cast<uint32_t*>(block) = __byte_perm(one[j], next[j], 0x5410);
        *reinterpret_cast<uint32_t*>(block + 16) = __byte_perm(one[j], next[j], 0x7632);
      }
    }
  }
}

__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Over the four lanes that share a query.
__device__ __forceinline__ float most_of_four(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}
__device__ __forceinline__ float sum_of_four(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}

template <int kCount>
__device__ __forceinline__ void pin_all(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) pin(x[i]);
}

// Logits of a tile without scale and bias.
template <typename T>
__device__ __forceinline__ void start_logits(float (&s)[kKeys / 2], uint32_t tile, uint32_t keys) {
  pin_all(s);
  products_begin();
#pragma unroll
  for (int i = 0; i < kHead / 16; ++i) {
    const uint64_t a = matrix_of_128_byte_rows(tile + i / 4 * kHalfTileBytes + i % 4 * 32);
    const uint64_t b = matrix_of_128_byte_rows(keys + i / 4 * kHalfKeysBytes + i % 4 * 32);
    WarpGroupWideProduct<T>::start(s, a, b, i > 0);
  }
  products_commit();
  pin_all(s);
}

template <int kCount>
__device__ __forceinline__ void await_products(float (&result)[kCount]) {
  products_wait<0>();
  pin_all(result);
}

// Scales and shifts the logits of a lane's two queries, and finds the largest of each. Two maxima of a query, and four sums
// of both below: what depends on the instruction before waits for it.
__device__ __forceinline__ void scale_logits(float (&s)[kKeys / 2], float (&most)[2], const float (&scales)[2],
                                             const float* bias) {
  float found[2][2] = {{-kInfinity, -kInfinity}, {-kInfinity, -kInfinity}};
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
    const float2 shift = *reinterpret_cast<const float2*>(bias + 8 * j + threadIdx.x % 4 * 2);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float *x = s + 4 * j + 2 * r, &largest = found[r][j % 2];
      x[0] = fmaf(x[0], scales[r], shift.x);
      x[1] = fmaf(x[1], scales[r], shift.y);
      largest = fmaxf(largest, fmaxf(x[0], x[1]));
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) most[r] = most_of_four(fmaxf(found[r][0], found[r][1]));
}

// Results of a tile from its logits, up to the factors, whose inverse of this lane's keys is `total`. While the product of
// one half of the keys runs, the exponentials of the other are computed.
template <typename T>
__device__ __forceinline__ void start_results(float (&o)[kHead / 2], float (&total)[2], float (&s)[kKeys / 2],
                                              const float (&most)[2], uint32_t values) {
  float sums[2][2] = {};
  pin_all(o);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* x = s + half * kKeys / 4;
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) x[i] = exp2_of(x[i] - most[i / 2 % 2]);
    uint32_t p[kKeys / 8];
#pragma unroll
    for (int i = 0; i < kKeys / 8; ++i) {
      p[i] = Pair<T>::pack(x[2 * i], x[2 * i + 1]);
      sums[i % 2][i / 2 % 2] += x[2 * i] + x[2 * i + 1];
      pin(p[i]);
    }
    products_begin();
#pragma unroll
    for (int i = 0; i < kKeys / 32; ++i) {
      const uint32_t a[4] = {p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]};
      const uint32_t columns = values + (half * kKeys / 16 + 2 * i) * kColumnBytes;
      WarpGroupRegisterProduct<T>::start(o, a, matrix_of_blocks(columns, kColumnBytes, kBlockBytes), half + i > 0);
    }
    products_commit();
  }
  pin_all(o);
#pragma unroll
  for (int r = 0; r < 2; ++r) total[r] = sum_of_four(sums[r][0] + sums[r][1]);
}

// A query's fourth of a result, `o` from its row in the products on, into its row of a tile.
template <typename T>
__device__ __forceinline__ void put(uint8_t* tile, int row, const float* o, float factor) {
#pragma unroll
  for (int g = 0; g < 4; ++g) {
    uint32_t word[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* pair = o + (4 * g + j) * 4;
      word[j] = Pair<T>::pack(pair[0] * factor, pair[1] * factor);
    }
    uint8_t* half = tile + g / 2 * kHalfTileBytes;
    *reinterpret_cast<uint4*>(half + swizzled(row, threadIdx.x % 4 * 2 + g % 2)) =
        make_uint4(word[0], word[1], word[2], word[3]);
  }
}

__device__ __forceinline__ void sync_attending() { asm volatile("bar.sync 1, %0;" ::"n"(kAttending) : "memory"); }

static_assert(kPlaces % kSides == 0, "a group must see every phase of the places of its tiles");

// The work of a warp group on every kSides-th tile.
template <typename T>
__device__ __forceinline__ void attend(Shared& shared, const TextAttention& call, const Plan& plan, const Tiles& tiles,
                                       const Slots& slots, const int head, const int side, const int thread) {
  const int lane = thread % 32, row = thread / 32 * 16 + lane / 4;
  const uint32_t keys = shared_address(shared.keys), values = shared_address(shared.values);
  for (int begin = 0, end; begin < tiles.count; begin = end) {  // tiles of one branch
    const int branch = tiles[begin] / plan.tiles;
    end = min(tiles.count, (branch + 1) * plan.tiles - tiles.begin);
    sync_attending();  // none needs the last branch's any more
    if (side == 0) {
      keep_keys(shared.keys, call,
                static_cast<const T*>(call.k) + branch * call.k_strides[0] + head * call.k_strides[1], head, thread);
    } else if (side == 1) {
      keep_values(shared.values, call,
                  static_cast<const T*>(call.v) + branch * call.v_strides[0] + head * call.v_strides[1], thread);
    } else {
      const bool there = thread < call.keys;
      const float given = there && call.bias != nullptr ? __ldg(call.bias + branch * call.keys + thread) : 0.0f;
      shared.bias[thread] = there ? given * kLog2E : -kInfinity;
    }
    fence_for_products();
    sync_attending();
    for (int i = begin + (side + kSides - begin % kSides) % kSides; i < end; i += kSides) {
      barrier_wait(shared_address(&shared.arrived[place_of(i)]), parity_of(i));
      float s[kKeys / 2];
      start_logits<T>(s, shared_address(shared.tiles[place_of(i)]), keys);
      const uint32_t* told = slots.scales(i) + row;
      const uint32_t loaded[2] = {load_scale(told), load_scale(told + 8)};
      await_products(s);
      if (lane == 0) barrier_arrive(shared_address(&shared.freed[place_of(i)]));
      const uint32_t mark = slots.mark(i);
      const float scales[2] = {await_scale(loaded[0], told, mark), await_scale(loaded[1], told + 8, mark)};
      float most[2], total[2], o[kHead / 2];
      scale_logits(s, most, scales, shared.bias);
      start_results<T>(o, total, s, most, values);
      const float factors[2] = {__fdividef(1.0f, total[0]), __fdividef(1.0f, total[1])};
      await_products(o);
      while (shared.written < i) {
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) put<T>(shared.results, row + 8 * r, o + 2 * r, factors[r]);
      fence_for_products();
      __syncwarp();
      if (lane == 0) barrier_arrive(shared_address(&shared.done));
    }
  }
}

}  // namespace humo_rt::text
#endif  // HUMO_RT_HOPPER
