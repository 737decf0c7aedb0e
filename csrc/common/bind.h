// What every op's bind.cpp needs: addresses as integers in, CUDA errors out as RuntimeError.
#pragma once

#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/dtype.h"

namespace humo_rt {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

inline void check(cudaError_t status, const char* op) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or PyTorch would report it again, for whatever it does next
  throw std::runtime_error(std::string(op) + ": " + cudaGetErrorString(status));
}

}  // namespace humo_rt
