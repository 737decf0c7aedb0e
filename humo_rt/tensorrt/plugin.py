"""The operator ``audio_face_attention`` as a TensorRT plugin: the compiled kernel of ``csrc`` behind ``IPluginV3``.

``audio_node`` puts the nodes into a graph. TensorRT asks the plugin for shapes and types while it builds, with no GPU;
the kernel runs on TensorRT's own stream and addresses, so a CUDA graph captures it. An engine with plugins needs this
package, with its CUDA module, wherever it runs. Both TensorRT packages know the interface. Their classes can only be
subclassed once the module is imported, so these are made by functions.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from humo_rt.kernels import registry
from humo_rt.kernels.audio_face_attention import workspace_size
from humo_rt.tensorrt.audio_node import DOMAIN, EPSILON, NAME, VERSION
from humo_rt.tensorrt.targets import RTX, TensorRT

# What TensorRT for RTX's parser looks for when it meets a plugin; the wheel ships it under another name.
_RTX_LIBRARY = "libtensorrt_rtx.so"

# Creators by TensorRT module: a registry holds them by address, so they must live as long as the process.
_registered: dict[str, Any] = {}


def register(tensorrt: TensorRT) -> None:
    """Make the plugin known to TensorRT, once per process: before a graph is parsed and before an engine is loaded."""
    if tensorrt.package in _registered:
        return
    creator = _creator(tensorrt.module)
    accepted = tensorrt.module.get_plugin_registry().register_creator(creator, DOMAIN)
    assert accepted, f"{tensorrt.package} knows another plugin {DOMAIN}::{NAME}"
    _registered[tensorrt.package] = creator


def require_parser(tensorrt: TensorRT) -> None:
    """``RuntimeError`` with the command to run if the parser would end the process at the first plugin it meets.

    The parser of TensorRT for RTX opens its own library by a name without a version, which the wheel does not contain.
    """
    if tensorrt.package != RTX or _opens(_RTX_LIBRARY):
        return
    found = importlib.util.find_spec("tensorrt_rtx_libs")
    folder = Path(found.origin).parent if found and found.origin else None
    if folder is not None and not (folder / _RTX_LIBRARY).exists():
        raise RuntimeError(
            f"{tensorrt.package} {tensorrt.version} reads plugins only where it finds {_RTX_LIBRARY}, and its wheel "
            f"has no such file: ln -s {_RTX_LIBRARY}.1 {folder / _RTX_LIBRARY}"
        )


def require_kernel(source: str) -> None:
    """``RuntimeError`` unless the compiled kernel can be called, said before TensorRT calls it."""
    reason = registry.unavailable(NAME, "cuda")
    if reason is not None:
        raise RuntimeError(f"{source} runs the plugin {NAME}, which is not here: {reason}; install with CUDA's nvcc")


def launch(
    inputs: Sequence[int],
    output: int,
    workspace: int,
    *,
    shapes: Sequence[tuple[int, ...]],
    dtype: str,
    eps: float,
    stream: int,
) -> None:
    """Run the kernel on the node's inputs, contiguous and by address; ``shapes``: of the first three of them.

    ``workspace``: address of ``workspace_bytes`` of the keys' shape.
    """
    from humo_rt import _C

    (_, length, width), _, (speakers, batch, frames, heads, keys, head_dim) = shapes
    strides = _strides((speakers, batch, frames, heads, keys, head_dim))
    _C.audio_face_attention(
        out=output,
        q=inputs[0],
        norm_weight=inputs[1],
        k=inputs[2],
        v=inputs[3],
        face=0,
        workspace=workspace,
        dtype=getattr(_C.DType, dtype),
        sizes=(speakers, batch, frames, length // frames, heads, keys, head_dim),
        q_strides=(length * width, width),
        k_strides=strides,
        v_strides=strides,
        eps=eps,
        stream=stream,
    )


def workspace_bytes(keys_shape: Sequence[int]) -> int:
    """Of bfloat16: the kernels of other dtypes want none."""
    return 2 * workspace_size(keys_shape)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a contiguous tensor, in elements, without the last axis, whose stride is 1."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides[:-1])


def _opens(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _plugin_class(trt: Any) -> type:
    dtypes = {trt.DataType.FLOAT: "float32", trt.DataType.HALF: "float16", trt.DataType.BF16: "bfloat16"}

    class AudioFaceAttention(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
        """All three capabilities of the plugin in one object, as TensorRT's Python interface wants them."""

        def __init__(self, eps: float) -> None:
            trt.IPluginV3.__init__(self)
            trt.IPluginV3OneCore.__init__(self)
            trt.IPluginV3OneBuild.__init__(self)
            trt.IPluginV3OneRuntime.__init__(self)
            self.plugin_name, self.plugin_namespace, self.plugin_version = NAME, DOMAIN, str(VERSION)
            self.num_outputs = 1
            self.eps = eps

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> AudioFaceAttention:
            return AudioFaceAttention(self.eps)

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            return [input_types[0]]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
            return [trt.DimsExprs(inputs[0])]

        def supports_format_combination(self, position: int, described: Sequence[Any], num_inputs: int) -> bool:
            wanted = described[position].desc
            if wanted.format != trt.TensorFormat.LINEAR:
                return False
            is_norm_weight = position == 1
            return wanted.type == (trt.DataType.FLOAT if is_norm_weight else described[0].desc.type) in dtypes

        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None: ...

        def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None: ...

        def get_valid_tactics(self) -> list[int]:
            return []

        def set_tactic(self, tactic: int) -> None: ...

        def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
            return workspace_bytes(tuple(inputs[2].max))

        def attach_to_context(self, context: Any) -> AudioFaceAttention:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            return trt.PluginFieldCollection([_epsilon_field(trt, self.eps)])

        def enqueue(
            self, described: Sequence[Any], _: Sequence[Any], inputs: Sequence[int], outputs: Sequence[int],
            workspace: int, stream: int,
        ) -> None:  # fmt: skip
            shapes = [tuple(tensor.dims) for tensor in described[:3]]
            dtype = dtypes[described[0].type]
            launch(inputs, outputs[0], workspace, shapes=shapes, dtype=dtype, eps=self.eps, stream=stream)

    return AudioFaceAttention


def _creator(trt: Any) -> Any:
    plugin = _plugin_class(trt)

    class Creator(trt.IPluginCreatorV3One):
        """Makes the plugin from a node of the graph or from an engine."""

        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_namespace, self.plugin_version = NAME, DOMAIN, str(VERSION)
            self.field_names = trt.PluginFieldCollection([_epsilon_field(trt)])

        def create_plugin(self, name: str, fields: Sequence[Any], phase: Any) -> Any:
            values = {field.name: field.data for field in fields}
            return plugin(float(np.asarray(values[EPSILON]).item()))

    return Creator()


def _epsilon_field(trt: Any, *values: float) -> Any:
    return trt.PluginField(EPSILON, np.array(values, dtype=np.float32), trt.PluginFieldType.FLOAT32)
