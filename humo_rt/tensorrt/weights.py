"""Where an engine's weights are, and how they are read from an ONNX file.

``separate`` weights are inputs of the engine: it holds none, needs none to be built, and any other export of the same
model can take their place. Knows ONNX files; nothing of TensorRT.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from humo_rt.tensorrt.engine_file import WeightBinding

if TYPE_CHECKING:
    import onnx

EMBEDDED, REFITTABLE, STRIPPED, SEPARATE = "embedded", "refittable", "stripped", "separate"
WEIGHTS = {
    EMBEDDED: "in the engine for good, the fastest",
    REFITTABLE: "in the engine and replaceable",
    STRIPPED: "left out of the engine, put in when it is loaded",
    SEPARATE: "inputs of the engine",
}


def separate_weights(model: onnx.ModelProto) -> tuple[WeightBinding, ...]:
    """Turn every floating-point initializer of more than one value into an input, in place; returns them in order."""
    import onnx

    found = [tensor for tensor in model.graph.initializer if _is_weight(tensor)]
    for tensor in found:
        model.graph.initializer.remove(tensor)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return tuple(
        WeightBinding(name=tensor.name, dtype=_dtype_name(tensor.data_type), shape=tuple(tensor.dims))
        for tensor in found
    )


def weight_bytes(model: onnx.ModelProto) -> int:
    """Size of all initializers, wherever they are stored."""
    return sum(_nbytes(tensor) for tensor in model.graph.initializer)


def read_weights(path: Path, bindings: Sequence[WeightBinding]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an ONNX file that ``bindings`` name, one after the other, on the CPU.

    ``ValueError``, before the first, if one is missing or differs in dtype or shape: the file was exported from another
    model.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for binding in bindings:
        _require_weight(stored.get(binding.name), binding, path)
    for binding in bindings:
        yield binding.name, _tensor(stored[binding.name], path.parent)


def _require_weight(tensor: onnx.TensorProto | None, binding: WeightBinding, path: Path) -> None:
    if tensor is None:
        raise ValueError(f"{path} has no weight {binding.name!r}: give an export of the engine's own model")
    found = (_dtype_name(tensor.data_type), tuple(tensor.dims))
    if found != (binding.dtype, binding.shape):
        raise ValueError(
            f"weight {binding.name!r} of {path} is {found[0]} {list(found[1])}, the engine takes {binding.dtype} "
            f"{list(binding.shape)}: export the same model in the same precision"
        )


def onnx_digest(path: Path) -> str:
    """SHA-256 over an ONNX file and the files that hold its weights."""
    import onnx

    digest = hashlib.sha256()
    for part in (path, *_external_files(onnx.load(path, load_external_data=False), path.parent)):
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def require_external_files(model: onnx.ModelProto, path: Path) -> None:
    """``ValueError`` if a file with weights is not beside the ONNX file that names it, or ends before the last one."""
    missing = [part.name for part in _external_files(model, path.parent) if not part.is_file()]
    if missing:
        raise ValueError(f"{path} keeps its weights in {', '.join(missing)}, which is not there: put it beside it")
    for tensor in model.graph.initializer:
        if not (place := _external(tensor)):
            continue
        needed = int(place.get("offset", 0)) + _nbytes(tensor)
        found = (path.parent / place["location"]).stat().st_size
        if found < needed:
            raise ValueError(
                f"{place['location']} has {found} bytes, and {tensor.name!r} of {path} ends at {needed}: "
                "copy it again, or export again"
            )


def _external_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    places = (_external(tensor) for tensor in model.graph.initializer)
    return sorted({folder / place["location"] for place in places if place})


def _external(tensor: onnx.TensorProto) -> dict[str, str]:
    """Where the values are, if they are in another file."""
    return {entry.key: entry.value for entry in tensor.external_data}


def _tensor(tensor: onnx.TensorProto, folder: Path) -> Tensor:
    import numpy as np
    import onnx

    dtype = getattr(torch, _dtype_name(tensor.data_type))
    if place := _external(tensor):
        count = math.prod(tensor.dims) * dtype.itemsize
        # Mapped copy-on-write: torch accepts writable memory only.
        values = np.memmap(folder / place["location"], mode="c", offset=int(place.get("offset", 0)), shape=(count,))
    else:
        values = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor)).reshape(-1).view(np.uint8).copy()
    return torch.from_numpy(values).view(dtype).reshape(tuple(tensor.dims))


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return math.prod(tensor.dims) > 1 and getattr(torch, _dtype_name(tensor.data_type)).is_floating_point


def _dtype_name(data_type: int) -> str:
    """The torch name of an ONNX element type; for those of weights both agree apart from float and double."""
    import onnx

    name = onnx.TensorProto.DataType.Name(data_type).lower()
    return {"float": "float32", "double": "float64", "float8e4m3fn": "float8_e4m3fn"}.get(name, name)


def _nbytes(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * getattr(torch, _dtype_name(tensor.data_type)).itemsize
