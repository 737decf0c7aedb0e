// The driver's function that describes a tensor to the copy engine, found through the runtime: no second library.
#pragma once

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "common/dtype.h"

namespace humo_rt {

inline cudaError_t find_encoder(PFN_cuTensorMapEncodeTiled_v12000* encode) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t status =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (status != cudaSuccess) return status;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  *encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  return cudaSuccess;
}

inline CUtensorMapDataType tensor_map_type(DType dtype) {
  return dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
}

}  // namespace humo_rt
