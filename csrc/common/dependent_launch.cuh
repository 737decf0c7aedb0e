// A kernel that starts while the one before it in its stream still runs, and itself waits for what that one writes: its
// blocks are in place, and have read what little the compiler leaves before the wait, when it is done. On Hopper, where
// that was measured; of GeForce Blackwell it is reported that CUDA graphs of such launches cannot be recorded.
#pragma once

#include <cuda_runtime.h>

namespace humo_rt {

// In the kernel before: from here on the dependent one may start, once all blocks came here.
__device__ __forceinline__ void let_dependent_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// In the dependent kernel: returns once the kernel before is over and its writes can be seen.
__device__ __forceinline__ void wait_for_launching_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The same; what is read from the address that it returns is read afterwards.
template <typename T>
__device__ __forceinline__ const T* written_by_launching_kernel(const T* address) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" : "+l"(address)::"memory");
#endif
  return address;
}

template <typename Call>
cudaError_t launch_dependent(void (*kernel)(Call), dim3 grid, int threads, int shared_bytes, cudaStream_t stream,
                             const Call& call) {
  cudaFuncAttributes code = {};
  const cudaError_t status = cudaFuncGetAttributes(&code, kernel);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute dependent = {};
  dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  dependent.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &dependent;
  config.numAttrs = code.ptxVersion / 10 == 9 ? 1 : 0;  // of the code, not the card: older code does not wait
  return cudaLaunchKernelEx(&config, kernel, call);
}

}  // namespace humo_rt
