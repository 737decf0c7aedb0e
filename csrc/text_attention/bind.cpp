#include "text_attention/text_attention.h"

#include <pybind11/stl.h>

#include "common/bind.h"

namespace py = pybind11;

namespace humo_rt {

void bind_text_attention(py::module_& module) {
  module.def("text_attention_words", &text_attention_words,
             "Words of 32 bits that text_attention takes as memory on the current device; 0 where it does not run.",
             py::arg("heads"));
  module.def(
      "text_attention",
      [](uintptr_t out, uintptr_t memory, uintptr_t q, uintptr_t norm_weight, uintptr_t k, uintptr_t v, uintptr_t bias,
         DType dtype, std::array<int64_t, 4> sizes, std::array<int64_t, 2> q_strides, std::array<int64_t, 3> k_strides,
         std::array<int64_t, 3> v_strides, float eps, uintptr_t stream) {
        const auto [batch, length, heads, keys] = sizes;
        const TextAttention call{pointer<void>(out), pointer<uint32_t>(memory), pointer<const void>(q),
                                 pointer<const float>(norm_weight), pointer<const void>(k), pointer<const void>(v),
                                 pointer<const float>(bias), dtype, batch, length, heads, keys, q_strides, k_strides,
                                 v_strides, eps};
        check(text_attention(call, pointer<CUstream_st>(stream)), "text_attention");
      },
      "Write the attention of q to at most 128 keys to out. Pointers (bias may be 0) and stream are addresses, memory "
      "that of text_attention_words words; sizes are batch, length, heads, keys; strides count elements.",
      py::arg("out"), py::arg("memory"), py::arg("q"), py::arg("norm_weight"), py::arg("k"), py::arg("v"),
      py::arg("bias"), py::arg("dtype"), py::arg("sizes"), py::arg("q_strides"), py::arg("k_strides"),
      py::arg("v_strides"), py::arg("eps"), py::arg("stream"));
}

}  // namespace humo_rt
