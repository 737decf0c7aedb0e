// The Python module humo_rt._C: one bind function for each op folder. Knows raw addresses, never torch.

#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include "common/dtype.h"

namespace py = pybind11;

namespace humo_rt {

void bind_audio_face_attention(py::module_& module);
void bind_audio_face_probabilities(py::module_& module);
void bind_causal_conv(py::module_& module);
void bind_guided_update(py::module_& module);
void bind_text_attention(py::module_& module);

}  // namespace humo_rt

PYBIND11_MODULE(_C, module) {
  using humo_rt::DType;
  module.doc() = "CUDA kernels of humo_rt, called with device addresses and a stream.";
  module.attr("cuda_version") = CUDART_VERSION;
  py::enum_<DType>(module, "DType")
      .value("float32", DType::kFloat32)
      .value("float16", DType::kFloat16)
      .value("bfloat16", DType::kBFloat16);
  humo_rt::bind_audio_face_attention(module);
  humo_rt::bind_audio_face_probabilities(module);
  humo_rt::bind_causal_conv(module);
  humo_rt::bind_guided_update(module);
  humo_rt::bind_text_attention(module);
}
