"""ONNX files with the inputs and outputs of a DiT and next to nothing in between: they build in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.tensorrt.bindings import Binding
from humo_rt.tensorrt.fingerprint import Fingerprint
from humo_rt.tensorrt.source import ORIGIN_KEY, Origin
from humo_rt.tensorrt.spec import METADATA_KEY, GraphSpec
from tests.tiny import tiny_config

ONNX_DTYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
}


def tiny_spec(layout: str = "frames", dtype: torch.dtype = torch.float16, **parts: bool) -> GraphSpec:
    published = {"frames": HUMO_1_7B, "channels": HUMO_17B}[layout]
    return GraphSpec(config=tiny_config(published).dit, dtype=dtype, **parts)


# It has no tensor in common with any DiT, and so disagrees with none.
NO_ORIGIN = Origin(source=None, fingerprint=Fingerprint({}))


def scaling_model(
    spec: GraphSpec,
    *,
    origin: Origin = NO_ORIGIN,
    seed: int = 0,
    opset: int = 23,
    domain: str = "",
    renamed: str | None = None,
) -> onnx.ModelProto:
    """Velocity = latents * gain + offset, one of each per channel. ``renamed``: an input that gets another name."""
    generator = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(generator.standard_normal((16, 1, 1, 1), dtype=np.float32), name)
        for name in ("gain", "offset")
    ]
    nodes = [
        helper.make_node("Mul", ["latents", "gain"], ["scaled"], name="scale", domain=domain),
        helper.make_node("Add", ["scaled", "offset"], ["velocity"], name="shift"),
    ]
    for output in spec.outputs[1:]:
        nodes.append(helper.make_node("ReduceMean", ["velocity", "channel"], [output.name], name="mean", keepdims=0))
        weights.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "channel"))
    inputs = [_value(binding, renamed) for binding in spec.inputs]
    graph = helper.make_graph(nodes, "scaling", inputs, [_value(output) for output in spec.outputs], weights)
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json(), ORIGIN_KEY: origin.to_json()})
    return model


def save_scaling(path: Path, spec: GraphSpec, *, external: bool = False, **options) -> Path:
    data = {"save_as_external_data": external, "location": f"{path.name}.data", "size_threshold": 0}
    onnx.save(scaling_model(spec, **options), path, **data)
    return path


def _value(binding: Binding, renamed: str | None = None) -> onnx.ValueInfoProto:
    name = f"{binding.name}_renamed" if binding.name == renamed else binding.name
    return helper.make_tensor_value_info(name, ONNX_DTYPES[binding.dtype], binding.axes)
