// Hopper's asynchronous parts as PTX: barriers in shared memory, bulk tensor copies, matrix products of a warp group.
// Compiled for sm_90a only; an includer guards its use with HUMO_RT_HOPPER.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HUMO_RT_HOPPER 1
#else
#define HUMO_RT_HOPPER 0
#endif

#if HUMO_RT_HOPPER
namespace humo_rt {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives and makes the phase end only after so many bytes were copied.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Returns once the phase of this parity is over; on a fresh barrier that of parity 1 is.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Copies the box that begins at (column, row) of the matrix; what lies outside of it reads as zero.
__device__ __forceinline__ void copy_box(uint32_t target, const CUtensorMap* map, int column, int row,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          target),
      "l"(map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// The same of a tensor of four dimensions, from (a, b, c, d) on.
__device__ __forceinline__ void copy_box(uint32_t target, const CUtensorMap* map, int a, int b, int c, int d,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(target),
      "l"(map), "r"(a), "r"(b), "r"(c), "r"(d), "r"(barrier)
      : "memory");
}

// Copies the other way, what lies outside of the tensor left out.
__device__ __forceinline__ void write_box(const CUtensorMap* map, int a, int b, int c, int d, uint32_t source) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(map),
               "r"(a), "r"(b), "r"(c), "r"(d), "r"(source)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Returns once all boxes that this thread writes were read, and their places are free.
__device__ __forceinline__ void written_boxes_wait() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// How the matrix unit finds rows of 64 bytes whose chunks of 16 were swizzled by the copy: groups of eight rows lie 512
// bytes apart. The swizzle follows the address, so a matrix may begin at any row.
__device__ __forceinline__ uint64_t matrix_of_64_byte_rows(uint32_t address) {
  constexpr uint64_t kSwizzle64 = 2, kGroup = 512 >> 4;
  return kSwizzle64 << 62 | kGroup << 32 | 1ull << 16 | static_cast<uint64_t>((address & 0x3ffff) >> 4);
}

// The same for rows of 128 bytes, of groups 1024 bytes apart.
__device__ __forceinline__ uint64_t matrix_of_128_byte_rows(uint32_t address) {
  constexpr uint64_t kSwizzle128 = 1, kGroup = 1024 >> 4;
  return kSwizzle128 << 62 | kGroup << 32 | 1ull << 16 | static_cast<uint64_t>((address & 0x3ffff) >> 4);
}

// How it finds blocks of eight rows by 16 bytes that lie one after another, each contiguous: how far the next block is
// along the rows' own direction, and how far that of the next eight rows.
__device__ __forceinline__ uint64_t matrix_of_blocks(uint32_t address, int along_row, int along_rows) {
  return static_cast<uint64_t>(along_rows >> 4) << 32 | static_cast<uint64_t>(along_row >> 4) << 16 |
         static_cast<uint64_t>((address & 0x3ffff) >> 4);
}

// Makes what threads wrote to shared memory visible to the matrix unit, once a barrier has followed.
__device__ __forceinline__ void fence_for_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Returns once at most kPending committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving a register of a running product across this point.
__device__ __forceinline__ void pin(float& value) { asm volatile("" : "+f"(value)::"memory"); }
__device__ __forceinline__ void pin(uint32_t& value) { asm volatile("" : "+r"(value)::"memory"); }

#define HUMO_RT_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define HUMO_RT_F16(d, i) HUMO_RT_F4(d, i), HUMO_RT_F4(d, i + 4), HUMO_RT_F4(d, i + 8), HUMO_RT_F4(d, i + 12)
#define HUMO_RT_WGMMA_M64N96K16(type)                                                                               \
  asm volatile(                                                                                                     \
      "{\n"                                                                                                         \
      ".reg .pred add;\n"                                                                                           \
      "setp.ne.b32 add, %50, 0;\n"                                                                                  \
      "wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type                                                   \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
      "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "   \
      "%44, %45, %46, %47}, %48, %49, add, 1, 1, 0, 0;\n"                                                           \
      "}"                                                                                                           \
      : HUMO_RT_F16(d, 0), HUMO_RT_F16(d, 16), HUMO_RT_F16(d, 32)                                                   \
      : "l"(a), "l"(b), "r"(add))

// D[64, 96] = A[64, 16] * B[96, 16]^T, plus D if `add`. Lane l of warp w holds of D the rows 16 w + l / 4 and 8 more, in
// d[4 j] and d[4 j + 1] columns 8 j + 2 (l % 4) and the next, in d[4 j + 2] and d[4 j + 3] the same of the lower row.
template <typename T>
struct WarpGroupProduct;

template <>
struct WarpGroupProduct<__nv_bfloat16> {
  static __device__ __forceinline__ void start(float (&d)[48], uint64_t a, uint64_t b, int add) {
    HUMO_RT_WGMMA_M64N96K16("bf16");
  }
};

template <>
struct WarpGroupProduct<__half> {
  static __device__ __forceinline__ void start(float (&d)[48], uint64_t a, uint64_t b, int add) {
    HUMO_RT_WGMMA_M64N96K16("f16");
  }
};

// The registers of D[64, 128] in the text of an instruction.
#define HUMO_RT_D64                                                                                                  \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "  \
  "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define HUMO_RT_WGMMA_M64N128K16(type)                                                                        \
  asm volatile(                                                                                               \
      "{\n"                                                                                                   \
      ".reg .pred add;\n"                                                                                     \
      "setp.ne.b32 add, %69, 0;\n"                                                                            \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " HUMO_RT_D64                            \
      ", {%64, %65, %66, %67}, %68, add, 1, 1, 0;\n"                                                          \
      "}"                                                                                                     \
      : HUMO_RT_F16(d, 0), HUMO_RT_F16(d, 16), HUMO_RT_F16(d, 32), HUMO_RT_F16(d, 48)                         \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))

// D[64, 128] = A[64, 16] * B[128, 16]^T, plus D if `add`, where A is in registers: lane l of warp w holds the pairs
// (row 16 w + l / 4, columns 2 (l % 4)), (8 rows below, the same), (the first row, 8 columns on) and (both).
template <typename T>
struct WarpGroupRegisterProduct;

template <>
struct WarpGroupRegisterProduct<__nv_bfloat16> {
  static __device__ __forceinline__ void start(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int add) {
    HUMO_RT_WGMMA_M64N128K16("bf16");
  }
};

template <>
struct WarpGroupRegisterProduct<__half> {
  static __device__ __forceinline__ void start(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int add) {
    HUMO_RT_WGMMA_M64N128K16("f16");
  }
};

#define HUMO_RT_WGMMA_M64N128K16_SHARED(type)                                                                 \
  asm volatile(                                                                                               \
      "{\n"                                                                                                   \
      ".reg .pred add;\n"                                                                                     \
      "setp.ne.b32 add, %66, 0;\n"                                                                            \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " HUMO_RT_D64                            \
      ", %64, %65, add, 1, 1, 0, 0;\n"                                                                        \
      "}"                                                                                                     \
      : HUMO_RT_F16(d, 0), HUMO_RT_F16(d, 16), HUMO_RT_F16(d, 32), HUMO_RT_F16(d, 48)                         \
      : "l"(a), "l"(b), "r"(add))

// The same where A is in shared memory too.
template <typename T>
struct WarpGroupWideProduct;

template <>
struct WarpGroupWideProduct<__nv_bfloat16> {
  static __device__ __forceinline__ void start(float (&d)[64], uint64_t a, uint64_t b, int add) {
    HUMO_RT_WGMMA_M64N128K16_SHARED("bf16");
  }
};

template <>
struct WarpGroupWideProduct<__half> {
  static __device__ __forceinline__ void start(float (&d)[64], uint64_t a, uint64_t b, int add) {
    HUMO_RT_WGMMA_M64N128K16_SHARED("f16");
  }
};

}  // namespace humo_rt
#endif  // HUMO_RT_HOPPER
