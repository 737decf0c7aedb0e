"""Other weights of the same model in an engine that exists: a LoRA merged in, a later checkpoint, without a rebuild.

The weights come from an ONNX file that was exported as the engine's own was. Knows TensorRT's refitter and engines with
separate weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from humo_rt.tensorrt.engine_file import EngineHeader
from humo_rt.tensorrt.network import Graph, read_graph
from humo_rt.tensorrt.targets import TensorRT
from humo_rt.tensorrt.weights import EMBEDDED, SEPARATE, STRIPPED, read_weights


def weights_file(header: EngineHeader, engine: Path, given: str | Path | None) -> Path | None:
    """The ONNX file an engine takes its weights from; None if it runs with those it has.

    ``given`` comes first, then the file the engine was built from, beside the engine or where it was. ``ValueError`` if
    the engine has no weights and no such file is there.
    """
    if given is not None:
        return Path(given)
    if header.weights not in (STRIPPED, SEPARATE):
        return None
    known = Path(header.onnx)
    places = (engine.with_name(known.name), known)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"{engine} was built with {header.weights} weights, so it has none, and the ONNX file it was built from is "
            f"neither {places[0]} nor {places[1]}: put it beside the engine, with the .data file it may have, or name "
            "an export of the same model with --engine-onnx"
        )
    return found


def require_fitting(header: EngineHeader, onnx: Path, source: str) -> Graph:
    """What ``onnx`` is; ``ValueError`` unless it holds weights that the engine ``source`` can take."""
    if header.weights == EMBEDDED:
        raise ValueError(
            f"{source} holds its weights for good: build it with --engine-weights {SEPARATE} to replace them"
        )
    graph = read_graph(onnx)
    if graph.spec != header.spec:
        own, other = dataclasses.asdict(header.spec), dataclasses.asdict(graph.spec)
        differing = ", ".join(name for name in own if own[name] != other[name])
        raise ValueError(
            f"{onnx} is another graph than {source} was built of (other {differing}): export the model of the engine "
            "with the same options of humo-rt export"
        )
    return graph


def copy_weights(destination: Mapping[str, Tensor], header: EngineHeader, onnx: Path) -> None:
    """Fill the tensors that an engine with separate weights reads; their addresses stay."""
    for name, values in read_weights(onnx, header.weight_bindings):
        destination[name].copy_(values)


def refit(engine: Any, tensorrt: TensorRT, logger: Any, onnx: Path) -> None:
    """Give TensorRT's ``engine`` (refittable or stripped) the weights of ``onnx``.

    ``RuntimeError`` lists what the file lacks or TensorRT rejects.
    """
    trt = tensorrt.module
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    accepted = parser.refit_from_file(str(onnx))
    missing = refitter.get_missing_weights()
    if not accepted or missing or not refitter.refit_cuda_engine():
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        reasons = errors + [f"{name} is missing" for name in missing]
        raise RuntimeError(
            f"{tensorrt.package} did not take the weights of {onnx}: {'; '.join(reasons) or 'it gave no reason'}"
        )
