// The matrix unit of Ampere and later: D[16, 8] += A[16, 16] * B[16, 8] of one warp, bfloat16 in, float32 out.
// Lane l, with g = l / 4 and t = l % 4, holds of A the pairs (row g, columns 2t), (g + 8, 2t), (g, 2t + 8) and
// (g + 8, 2t + 8), of B the pairs (rows 2t, column g) and (2t + 8, g), of D (g, 2t), (g, 2t + 1), (g + 8, 2t) and
// (g + 8, 2t + 1). All lanes must arrive together; volatile keeps the compiler from moving one into a divergent branch.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "common/pairs.cuh"

namespace humo_rt {

template <typename T>
struct Half2;

template <>
struct Half2<__nv_bfloat16> : Pair<__nv_bfloat16> {
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  // Of eight columns of A and rows of B only: the first two pairs of A, the first of B.
  static __device__ __forceinline__ void mma8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(b));
  }
};

}  // namespace humo_rt
