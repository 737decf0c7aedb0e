#include "common/bind.h"

#include "causal_conv/causal_conv.h"

namespace py = pybind11;

namespace humo_rt {

void bind_causal_conv(py::module_& module) {
  module.def(
      "causal_conv",
      [](uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t residual, uintptr_t out, DType dtype, int frames,
         int rows, int columns, int inputs, int outputs, int taps, int height, int width, bool shared_columns,
         uintptr_t stream) {
        const ConvShape shape{frames, rows, columns, inputs, outputs, taps, height, width};
        check(causal_conv(pointer<const void>(x), pointer<const void>(weight), pointer<const void>(bias),
                          pointer<const void>(residual), pointer<void>(out), dtype, shape, shared_columns,
                          pointer<CUstream_st>(stream)),
              "causal_conv");
      },
      "Write the convolution of one video. Pointers and stream are addresses; a residual of 0 is none.", py::arg("x"),
      py::arg("weight"), py::arg("bias"), py::arg("residual"), py::arg("out"), py::arg("dtype"), py::arg("frames"),
      py::arg("rows"), py::arg("columns"), py::arg("inputs"), py::arg("outputs"), py::arg("taps"), py::arg("height"),
      py::arg("width"), py::arg("shared_columns"), py::arg("stream"));
}

}  // namespace humo_rt
