// Attention reads each query once and writes each result once, so memory is the bound to come close to: 748 MB for
// three branches of HuMo-1.7B. The rest, two products and a softmax for each tile of 64 queries, has to hide behind it.
//
// A block is one warp group. It keeps the keys and values of one head in shared memory and lets tiles of queries pass
// by; three blocks fit on a processor, and while one multiplies, another computes its softmax. Once keys and values are
// there a block has no barrier: queries go from memory to registers, which is where the matrix unit takes them from,
// and results from registers to memory.
//
// For that a lane should read 16 contiguous bytes, eight channels of a query, but the matrix unit wants of it two
// channels here and two there. Which channel is which is of no concern to a product that sums over them, as long as the
// keys agree: they are written to shared memory in the order in which the lanes hold the queries. So are the values'
// channels, for the lanes to end up with results of eight contiguous ones.
//
// The norm spans all heads, so a kernel before sums the squares of each query, and reads them for the first time. So
// many do not stay in a cache until the second.

#include "text_attention/text_attention.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <limits>

#include "common/cache.cuh"
#include "common/hopper.cuh"
#include "common/launch.cuh"
#include "common/pairs.cuh"

namespace humo_rt {
namespace {

constexpr int kHead = kTextHeadDim, kKeys = kMostTextKeys;
constexpr int kTile = 64;  // queries
constexpr int kThreads = 128, kSumThreads = 256;
constexpr int kResident = 3;    // blocks of a processor
constexpr int kMostParts = 64;  // of the tiles of a head
constexpr int kVector = 8;      // elements of 16 bytes
// Keys and values are matrices of blocks of 8 rows by 8 columns: rows are keys, or channels of values, columns what the
// product sums over. Blocks of the same columns follow one another.
constexpr int kBlockBytes = 128, kColumnBytes = kKeys / 8 * kBlockBytes;
constexpr int kMatrixBytes = kHead / 8 * kColumnBytes;
constexpr int kSharedBytes = 2 * kMatrixBytes + kKeys * static_cast<int>(sizeof(float));

#if HUMO_RT_HOPPER

constexpr float kLog2E = 1.4426950408889634f, kInfinity = std::numeric_limits<float>::infinity();
constexpr int kVectors = kHead / kVector;
constexpr int kStep = kThreads / kVectors;  // keys that the block reads with one load of each thread
constexpr int kAtOnce = 8;                  // such loads before the first is waited for

// Channels 8 i to 8 i + 7 of a query are held by lane i % 4 of its four, in words 4 (i / 4) to 4 (i / 4) + 3. The
// product takes word w as columns 8 w + 2 (i % 4) and the next: block w of the keys' columns, words i % 4 of its rows.
template <typename T>
__device__ __forceinline__ void keep_keys(uint8_t* matrix, const TextAttention& call, const T* k, int head) {
  const int vector = threadIdx.x % kVectors, first = threadIdx.x / kVectors;
  const float4* weight = reinterpret_cast<const float4*>(call.norm_weight + head * kHead + vector * kVector);
  const float4 low = __ldg(weight), high = __ldg(weight + 1);
  const float weights[kVector] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  uint8_t* column = matrix + vector / 4 * 4 * kColumnBytes + vector % 4 * 4;
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
      const int key = begin + i * kStep + first;
      const uint32_t words[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 pair = Pair<T>::unpack(words[w]);
        const uint32_t weighted = Pair<T>::pack(pair.x * weights[2 * w], pair.y * weights[2 * w + 1]);
        *reinterpret_cast<uint32_t*>(column + w * kColumnBytes + key / 8 * kBlockBytes + key % 8 * 16) = weighted;
      }
    }
  }
}

// The product leaves a lane with rows 8 j + 2 (lane % 4) and the next of the values, for every j. Those of j from 4 g
// to 4 g + 3 are the eight channels from 32 g + 8 (lane % 4).
template <typename T>
__device__ __forceinline__ void keep_values(uint8_t* matrix, const TextAttention& call, const T* v) {
  const int vector = threadIdx.x % kVectors, first = threadIdx.x / kVectors;
  uint8_t* row = matrix + vector / 4 * 4 * kBlockBytes + vector % 4 * 32;
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

// A lane's part of a tile: two queries, eight rows apart, of each a fourth of the channels.
struct Queries {
  uint4 upper[4], lower[4];
  float upper_squares, lower_squares;
};

// Four lanes read 64 bytes of a query, the next load of theirs the next 64: lines stay in the caches until then, and
// the memory is asked for 256 bytes at once. To read past the L1 cache cost a fifth. Not by the read-only path either:
// the compiler puts off loads by that one beyond what should hide them, and leaves others before a barrier.
__device__ __forceinline__ uint4 load_before_barrier(const void* address) {
  uint4 x;
  asm volatile("ld.global.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(address));
  return x;
}

template <typename T>
__device__ __forceinline__ void load(Queries& x, const T* q, const float* squares, int64_t stride, int upper,
                                     int last) {
  const int rows[2] = {min(upper, last), min(upper + 8, last)};
  const int channel = threadIdx.x % 4 * kVector;
#pragma unroll
  for (int j = 0; j < 4; ++j) x.upper[j] = load_before_barrier(q + rows[0] * stride + j * 32 + channel);
#pragma unroll
  for (int j = 0; j < 4; ++j) x.lower[j] = load_before_barrier(q + rows[1] * stride + j * 32 + channel);
  x.upper_squares = __ldg(squares + rows[0]);
  x.lower_squares = __ldg(squares + rows[1]);
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

// The product of the left matrix, whose i-th 16 columns `words(i)` returns as the matrix unit takes them, and `matrix`.
template <typename T, typename Words>
__device__ __forceinline__ void start_products(float (&result)[64], const Words& words, uint32_t matrix) {
  pin_all(result);
  products_begin();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint4 x = words(i);
    const uint32_t a[4] = {x.x, x.y, x.z, x.w};
    const uint64_t b = matrix_of_blocks(matrix + 2 * i * kColumnBytes, kColumnBytes, kBlockBytes);
    WarpGroupRegisterProduct<T>::start(result, a, b, i > 0);
  }
  products_commit();
  pin_all(result);
}

__device__ __forceinline__ void await_products(float (&result)[64]) {
  products_wait<0>();
  pin_all(result);
}

// Probabilities of a lane's two queries up to a factor, in the order of the next product, from their logits; and the
// factors' inverse, of this lane alone.
template <typename T>
__device__ __forceinline__ void soften(uint32_t (&p)[kKeys / 4], float (&total)[2], float (&s)[kKeys / 2],
                                       const float (&scales)[2], const float* bias) {
  float most[2] = {-kInfinity, -kInfinity};
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j) {
    const float2 shift = *reinterpret_cast<const float2*>(bias + 8 * j + threadIdx.x % 4 * 2);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      s[4 * j + 2 * r] = fmaf(s[4 * j + 2 * r], scales[r], shift.x);
      s[4 * j + 2 * r + 1] = fmaf(s[4 * j + 2 * r + 1], scales[r], shift.y);
      most[r] = fmaxf(most[r], fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    most[r] = most_of_four(most[r]);
    total[r] = 0;
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      const float low = exp2_of(s[4 * j + 2 * r] - most[r]), high = exp2_of(s[4 * j + 2 * r + 1] - most[r]);
      total[r] += low + high;
      p[2 * j + r] = Pair<T>::pack(low, high);
    }
  }
}

// A query's fourth of a result, `o` from its row in the products on.
template <typename T>
__device__ __forceinline__ void write(T* target, const float* o, float factor) {
#pragma unroll
  for (int g = 0; g < 4; ++g) {
    uint32_t word[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* pair = o + (4 * g + j) * 4;
      word[j] = Pair<T>::pack(pair[0] * factor, pair[1] * factor);
    }
    __stcs(reinterpret_cast<uint4*>(target + g * 32), make_uint4(word[0], word[1], word[2], word[3]));
  }
}

#endif  // HUMO_RT_HOPPER

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    text_attention_kernel(const __grid_constant__ TextAttention call, const int parts) {
#if HUMO_RT_HOPPER
  extern __shared__ __align__(128) uint8_t memory[];
  float* bias = reinterpret_cast<float*>(memory + 2 * kMatrixBytes);
  // Heads first: the blocks that run at one time read the same rows of memory.
  const int heads = static_cast<int>(call.heads);
  const int head = blockIdx.x % heads, part = blockIdx.x / heads % parts;
  const int64_t b = blockIdx.x / heads / parts;
  const T* k = static_cast<const T*>(call.k) + b * call.k_strides[0] + head * call.k_strides[1];
  const T* v = static_cast<const T*>(call.v) + b * call.v_strides[0] + head * call.v_strides[1];
  const T* q = static_cast<const T*>(call.q) + b * call.q_strides[0] + head * kHead;
  T* out = static_cast<T*>(call.out) + b * call.length * heads * kHead + head * kHead;
  const float* squares = call.squares + b * call.length;

  const int last = static_cast<int>(call.length) - 1, lane = threadIdx.x % 32;
  const int row = threadIdx.x / 32 * 16 + lane / 4;
  Queries x;
  load(x, q, squares, call.q_strides[1], part * kTile + row, last);
  keep_keys(memory, call, k, head);
  keep_values(memory + kMatrixBytes, call, v);
  const bool there = threadIdx.x < call.keys;
  const float given = there && call.bias != nullptr ? __ldg(call.bias + b * call.keys + threadIdx.x) : 0.0f;
  bias[threadIdx.x] = there ? given * kLog2E : -kInfinity;
  fence_for_products();
  __syncthreads();

  const uint32_t keys = shared_address(memory), values = keys + kMatrixBytes;
  const float per_channel = 1.0f / (heads * kHead), softmax_scale = kLog2E * rsqrtf(kHead);
  for (int tile = part * kTile; tile <= last; tile += parts * kTile) {
    float s[kKeys / 2];
    const auto queries = [&x](int i) {
      const uint4 &upper = x.upper[i / 2], &lower = x.lower[i / 2];
      return i % 2 ? make_uint4(upper.z, lower.z, upper.w, lower.w) : make_uint4(upper.x, lower.x, upper.y, lower.y);
    };
    start_products<T>(s, queries, keys);
    await_products(s);
    const float scales[2] = {rsqrtf(x.upper_squares * per_channel + call.eps) * softmax_scale,
                             rsqrtf(x.lower_squares * per_channel + call.eps) * softmax_scale};
    // The next queries arrive while this tile is finished. After the last tile the last query stands for them: behind a
    // branch, the compiler would wait for them right here.
    load(x, q, squares, call.q_strides[1], tile + parts * kTile + row, last);
    __syncwarp();

    uint32_t p[kKeys / 4];
    float total[2];
    soften<T>(p, total, s, scales, bias);
    float o[kHead / 2];
    const auto probabilities = [&p](int i) { return make_uint4(p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]); };
    start_products<T>(o, probabilities, values);
    const float factors[2] = {__fdividef(1.0f, sum_of_four(total[0])), __fdividef(1.0f, sum_of_four(total[1]))};
    await_products(o);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int at = tile + row + 8 * r;
      if (at <= last) write(out + static_cast<int64_t>(at) * heads * kHead + lane % 4 * kVector, o + 2 * r, factors[r]);
    }
  }
#else
  asm volatile("trap;");  // built for 90, not 90a: an error at once, not a result that no one wrote
#endif
}

// A warp for each query.
template <typename T>
__global__ void __launch_bounds__(kSumThreads) sum_squares_kernel(const __grid_constant__ TextAttention call) {
  const int lane = threadIdx.x % 32;
  const int64_t rows = call.batch * call.length, width = call.heads * kHead;
  int64_t row = blockIdx.x * static_cast<int64_t>(kSumThreads / 32) + threadIdx.x / 32;
  for (; row < rows; row += gridDim.x * static_cast<int64_t>(kSumThreads / 32)) {
    const int64_t b = row / call.length, l = row % call.length;
    const T* x = static_cast<const T*>(call.q) + b * call.q_strides[0] + l * call.q_strides[1];
    float sum = 0;
#pragma unroll 6
    for (int64_t i = lane * kVector; i < width; i += 32 * kVector) {
      const uint4 vector = load_once(x + i);
      const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 pair = Pair<T>::unpack(words[w]);
        sum = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, sum));
      }
    }
#pragma unroll
    for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffff, sum, other);
    if (lane == 0) call.squares[row] = sum;
  }
}

// Into how many parts the tiles of a head are split, for the processors to be done at about one time. To keep keys and
// values takes about as long as two tiles.
int best_parts(int64_t heads, int64_t tiles, int64_t resident) {
  constexpr int64_t kStart = 2;
  int64_t best = 1, least = std::numeric_limits<int64_t>::max();
  for (int64_t parts = 1; parts <= std::min<int64_t>(tiles, kMostParts); ++parts) {
    const int64_t waves = (heads * parts + resident - 1) / resident;
    const int64_t time = waves * ((tiles + parts - 1) / parts + kStart);
    if (time < least) best = parts, least = time;
  }
  return static_cast<int>(best);
}

template <typename T>
cudaError_t launch(const TextAttention& call, int processors, cudaStream_t stream) {
  const auto kernel = text_attention_kernel<T>;
  cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (status != cudaSuccess) return status;
  status = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (status != cudaSuccess) return status;
  unsigned blocks = 0;
  status = grid_stride_blocks(call.batch * call.length, kSumThreads / 32, 16, &blocks);
  if (status != cudaSuccess) return status;
  sum_squares_kernel<T><<<blocks, kSumThreads, 0, stream>>>(call);
  status = cudaGetLastError();
  if (status != cudaSuccess) return status;
  const int64_t heads = call.batch * call.heads, tiles = (call.length + kTile - 1) / kTile;
  const int parts = best_parts(heads, tiles, static_cast<int64_t>(processors) * kResident);
  kernel<<<static_cast<unsigned>(heads * parts), kThreads, kSharedBytes, stream>>>(call, parts);
  return cudaGetLastError();
}

}  // namespace

cudaError_t text_attention(const TextAttention& call, cudaStream_t stream) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (call.batch < 1 || call.length < 1 || call.heads < 1 || call.keys < 1 || call.keys > kKeys ||
      call.length > kMost - (kMostParts + 2) * kTile || call.batch * call.heads > kMost / kMostParts ||
      call.dtype == DType::kFloat32) {
    return cudaErrorInvalidValue;
  }
  int processors = 0;
  const cudaError_t status = hopper_processors(&processors);
  if (status != cudaSuccess) return status;
  const auto run = call.dtype == DType::kBFloat16 ? launch<__nv_bfloat16> : launch<__half>;
  return run(call, processors, stream);
}

}  // namespace humo_rt
