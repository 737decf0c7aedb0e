// Element types that cross the Python boundary. Host code only sees the tag; kernels see the CUDA type.
#pragma once

#include <cstdint>

namespace humo_rt {

enum class DType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

}  // namespace humo_rt
