#include "guided_update/guided_update.h"

#include <pybind11/stl.h>

#include <array>

#include "common/bind.h"

namespace py = pybind11;

namespace humo_rt {

void bind_guided_update(py::module_& module) {
  module.def(
      "guided_update",
      [](const std::array<uintptr_t, kUpdateOutputs>& outputs, uintptr_t velocity, DType dtype, uintptr_t weights,
         const std::array<uintptr_t, kUpdateLatents>& latents, uintptr_t coefficients, int64_t branches, int64_t count,
         uintptr_t stream) {
        UpdateOutputs out;
        UpdateLatents in;
        for (int i = 0; i < kUpdateOutputs; ++i) out.values[i] = pointer<float>(outputs[i]);
        for (int i = 0; i < kUpdateLatents; ++i) in.values[i] = pointer<const float>(latents[i]);
        check(guided_update(out, pointer<const void>(velocity), dtype, pointer<const float>(weights), in,
                            pointer<const float>(coefficients), branches, count, pointer<CUstream_st>(stream)),
              "guided_update");
      },
      "Write the three combinations of the guided velocity and the latents. Pointers and stream are addresses.",
      py::arg("outputs"), py::arg("velocity"), py::arg("dtype"), py::arg("weights"), py::arg("latents"),
      py::arg("coefficients"), py::arg("branches"), py::arg("count"), py::arg("stream"));
}

}  // namespace humo_rt
