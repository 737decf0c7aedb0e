#include "guidance_sum/guidance_sum.h"

#include "common/bind.h"

namespace py = pybind11;

namespace humo_rt {

void bind_guidance_sum(py::module_& module) {
  module.def(
      "guidance_sum",
      [](uintptr_t out, uintptr_t velocity, DType dtype, uintptr_t weights, int64_t branches, int64_t count,
         uintptr_t stream) {
        check(guidance_sum(pointer<float>(out), pointer<const void>(velocity), dtype, pointer<const float>(weights),
                           branches, count, pointer<CUstream_st>(stream)),
              "guidance_sum");
      },
      "Write the float32 [count] weighted sum of velocity [branches, count] to out. Pointers and stream are addresses.",
      py::arg("out"), py::arg("velocity"), py::arg("dtype"), py::arg("weights"), py::arg("branches"), py::arg("count"),
      py::arg("stream"));
}

}  // namespace humo_rt
