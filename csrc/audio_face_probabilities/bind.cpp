#include "audio_face_probabilities/audio_face_probabilities.h"

#include <pybind11/stl.h>

#include "common/bind.h"

namespace py = pybind11;

namespace humo_rt {

void bind_audio_face_probabilities(py::module_& module) {
  module.def(
      "audio_face_probabilities",
      [](uintptr_t out, uintptr_t q, uintptr_t norm_weight, uintptr_t k, uintptr_t face,
         uintptr_t workspace, DType dtype, std::array<int64_t, 7> sizes, std::array<int64_t, 2> q_strides,
         std::array<int64_t, 5> k_strides, float eps, uintptr_t stream) {
        const auto [speakers, batch, frames, tokens, heads, keys, head_dim] = sizes;
        const AudioFaceQueries call{pointer<void>(out), pointer<const void>(q), pointer<const float>(norm_weight),
                                    pointer<const void>(k), pointer<const float>(face), pointer<void>(workspace),
                                    dtype,
                                    speakers, batch, frames, tokens, heads, keys, head_dim,
                                    q_strides, k_strides, eps};
        check(audio_face_probabilities(call, pointer<CUstream_st>(stream)), "audio_face_probabilities");
      },
      "Write what frame-local audio attention of q weighs values with to out. Pointers (face and workspace may be 0) "
      "and stream are addresses; sizes are speakers, batch, frames, tokens of a frame, heads, keys, head_dim; strides "
      "count elements.",
      py::arg("out"), py::arg("q"), py::arg("norm_weight"), py::arg("k"), py::arg("face"), py::arg("workspace"),
      py::arg("dtype"), py::arg("sizes"), py::arg("q_strides"), py::arg("k_strides"), py::arg("eps"), py::arg("stream"));
}

}  // namespace humo_rt
