"""From an ONNX file to a TensorRT network that is known to be the DiT its description says.

The parser alone accepts junk, foreign opsets and renamed inputs without a word; here each is refused. Knows both
TensorRT packages through their module; builds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from humo_rt.tensorrt import plugin
from humo_rt.tensorrt.audio_node import DOMAIN
from humo_rt.tensorrt.bindings import Binding
from humo_rt.tensorrt.engine_file import WeightBinding
from humo_rt.tensorrt.source import ORIGIN_KEY, Origin
from humo_rt.tensorrt.spec import METADATA_KEY, OPSET, GraphSpec
from humo_rt.tensorrt.targets import TensorRT
from humo_rt.tensorrt.weights import SEPARATE, require_external_files, separate_weights, weight_bytes

if TYPE_CHECKING:
    import onnx

DOMAINS = ("", "ai.onnx")

_TORCH_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "FP8": "float8_e4m3fn"}


@dataclass(frozen=True, kw_only=True)
class Graph:
    """An exported DiT, its weights still on disk. ``opset`` of the operators, ``nbytes`` of the weights."""

    path: Path
    model: onnx.ModelProto
    spec: GraphSpec
    origin: Origin
    opset: int
    nbytes: int


def read_graph(path: Path) -> Graph:
    """Read ``path`` as far as names and shapes.

    ``ValueError`` for a file that is no ONNX model, was not exported by this project, uses operators the parsers were
    not checked with, or lacks the file with its weights.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise ValueError(f"ONNX file {str(path)!r} does not exist: write one with humo-rt export")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path} is no ONNX file ({error}): write one with humo-rt export") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in metadata:
        raise ValueError(f"{path} was not exported by humo-rt: write one with humo-rt export")
    if ORIGIN_KEY not in metadata:
        raise ValueError(f"{path} was exported by another version of humo-rt: export it again")
    spec = GraphSpec.from_json(metadata[METADATA_KEY], str(path))
    origin = Origin.from_json(metadata[ORIGIN_KEY])
    opset = _known_opset(model, spec, path)
    require_external_files(model, path)
    return Graph(path=path, model=model, spec=spec, origin=origin, opset=opset, nbytes=weight_bytes(model))


def _known_opset(model: onnx.ModelProto, spec: GraphSpec, path: Path) -> int:
    """The opset of the operators; ``ValueError`` if it, or an operator's domain, was never parsed and compared."""
    known = {*DOMAINS, DOMAIN} if spec.plugins else set(DOMAINS)
    foreign = sorted({node.domain for node in model.graph.node} - known)
    if foreign:
        raise ValueError(f"{path} uses operators of {', '.join(foreign)}: export it again with plain ONNX operators")
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opset = max(opsets.get(domain, 0) for domain in DOMAINS)
    if opset != OPSET:
        raise ValueError(
            f"{path} uses opset {opset}, and only {OPSET} was parsed and compared: export it again with this version's "
            "humo-rt export, which writes that one"
        )
    return opset


@dataclass(frozen=True, kw_only=True)
class Network:
    """A parsed network. ``keep`` holds what must outlive the build. ``notes``: what the user should know of it."""

    definition: Any
    weight_bindings: tuple[WeightBinding, ...]
    notes: tuple[str, ...]
    keep: tuple[Any, ...]


def parse(graph: Graph, builder: Any, tensorrt: TensorRT, logger: Any, *, weights: str) -> Network:
    """Parse ``graph`` into a strongly typed network of ``builder``.

    ``RuntimeError`` lists every node that TensorRT cannot read; ``ValueError`` if inputs or outputs are not those of
    the graph's description. With ``weights="separate"`` no weight is read.
    """
    trt = tensorrt.module
    if graph.spec.plugins:
        plugin.require_parser(tensorrt)
        plugin.register(tensorrt)
    definition = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(definition, logger)
    bindings: tuple[WeightBinding, ...] = ()
    if weights == SEPARATE:
        bindings = separate_weights(graph.model)
        parsed = parser.parse(graph.model.SerializeToString())
    else:
        parsed = parser.parse_from_file(str(graph.path))
    if not parsed or parser.num_errors:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        listed = "; ".join(f"{error.node_name()} ({error.node_operator()}): {error.desc()}" for error in errors)
        raise RuntimeError(f"{tensorrt.package} {tensorrt.version} cannot read {graph.path}: {listed or 'no reason'}")
    _require_bindings(definition, graph, bindings)
    notes = _allow_decomposed_attention(definition, trt) if graph.spec.dtype == torch.float32 else ()
    return Network(definition=definition, weight_bindings=bindings, notes=notes, keep=(parser, builder, logger))


def torch_dtype(data_type: Any) -> torch.dtype:
    """The torch dtype of a TensorRT one."""
    return getattr(torch, _TORCH_DTYPES[data_type.name])


def _strongly_typed(trt: Any) -> int:
    """Creation flags. Newer versions know no other kind of network and have dropped the flag."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _require_bindings(definition: Any, graph: Graph, weights: tuple[WeightBinding, ...]) -> None:
    expected = {binding.name: _described(binding) for binding in (*graph.spec.inputs, *graph.spec.outputs)}
    expected |= {weight.name: (weight.dtype, weight.shape) for weight in weights}
    inputs = (definition.get_input(index) for index in range(definition.num_inputs))
    outputs = (definition.get_output(index) for index in range(definition.num_outputs))
    found = {
        tensor.name: (str(torch_dtype(tensor.dtype)).removeprefix("torch."), tuple(tensor.shape))
        for tensor in (*inputs, *outputs)
    }
    different = sorted(
        name for name in expected.keys() | found.keys()
        if name not in expected or name not in found or not _agree(expected[name], found[name])
    )  # fmt: skip
    if different:
        listed = "; ".join(f"{name}: {found.get(name)} instead of {expected.get(name)}" for name in different)
        raise ValueError(f"{graph.path} is not what it says it is ({listed}): export it again")


def _described(binding: Binding) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape with -1 for dynamic axes, as TensorRT writes them."""
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in binding.axes)
    return str(binding.dtype).removeprefix("torch."), shape


def _agree(expected: tuple[str, tuple[int, ...]], found: tuple[str, tuple[int, ...]]) -> bool:
    """A fixed size may come out as a dynamic one, where shape inference gave up; never the other way round."""
    sizes = zip(expected[1], found[1], strict=False)
    same_rank = len(expected[1]) == len(found[1])
    return expected[0] == found[0] and same_rank and all(size in (-1, wanted) for wanted, size in sizes)


def _allow_decomposed_attention(definition: Any, trt: Any) -> tuple[str, ...]:
    """Float32 attention has no fused kernel. Without this the build fails, as it should for every other precision."""
    count = 0
    for index in range(definition.num_layers):
        layer = definition.get_layer(index)
        if layer.type == getattr(trt.LayerType, "ATTENTION_OUTPUT", None):
            layer.__class__ = trt.IAttentionOutputLayer
            layer.attention.decomposable = True
            count += 1
    if not count:
        return ()
    return (f"{count} attentions run as several kernels: there is no fused one for float32, use bfloat16 for speed",)
