// Loads of 16 bytes that tell the L2 cache how long to keep a line. What passes by once in hundreds of megabytes would
// else drive out the few that every block reads.
#pragma once

#include <cstdint>

namespace humo_rt {

// What createpolicy.fractional.L2 makes of evict_first and evict_last from Hopper on, as constants because every load
// would else spend an instruction on it. Cards before, where nothing was measured, take no hint.
constexpr uint64_t kForgetFirst = 0x12F0000000000000, kForgetLast = 0x14F0000000000000;

// Of what is read once, and not worth a place in the L1 cache. Not moved across other loads of this kind.
__device__ __forceinline__ uint4 load_once(const void* address) {
  uint4 x;
#if __CUDA_ARCH__ >= 900
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(address), "l"(kForgetFirst));
#else
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(address));
#endif
  return x;
}

// Of what many blocks read. Not by the read-only path, so that a kernel may wait first for what another writes; what
// puts it behind the wait is its address, if that is what `written_by_launching_kernel` returned.
__device__ __forceinline__ uint4 load_common(const void* address) {
#if __CUDA_ARCH__ >= 900
  uint4 x;
  asm("ld.global.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
      : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
      : "l"(address), "l"(kForgetLast));
  return x;
#else
  return *static_cast<const uint4*>(address);
#endif
}

}  // namespace humo_rt
