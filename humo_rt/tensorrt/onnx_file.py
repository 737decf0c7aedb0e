"""Write an ONNX model so that no reader ever finds half of one.

Everything is written and checked in a folder beside the target and moved out of it at the end, the weights before the
graph that names them. Knows ONNX files; nothing of what the graph computes.
"""

from __future__ import annotations

import errno
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

# One protobuf message holds 2 GB at most; the graph itself needs some of it.
EMBEDDED_BYTES = 1_900_000_000
DATA_SUFFIX = ".data"

Progress = Callable[[str, int, int], None]


def weight_bytes(model: onnx_ir.Model) -> int:
    """Bytes of all initializers."""
    values = model.graph.initializers.values()
    return sum(math.ceil(math.prod(value.shape) * value.dtype.bitwidth / 8) for value in values)


def write_onnx(
    model: onnx_ir.Model, path: Path, *, embedded_bytes: int = EMBEDDED_BYTES, progress: Progress | None = None
) -> Path | None:
    """Write and check ``model``; returns the file of the weights, beside ``path``, when they need one of their own.

    ``progress``: called as ("writing", weights written, weights in all).

    Raises:
        RuntimeError: the disk is full or fails. Nothing of the new model is left, an older one at ``path`` is unharmed.
    """
    needed, free = weight_bytes(model), shutil.disk_usage(path.parent).free
    if needed > free:
        raise RuntimeError(
            f"{path} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: make room, or write elsewhere"
        )
    separate = needed > embedded_bytes
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as folder:
            written = Path(folder) / path.name
            _save(model, written, external=written.name + DATA_SUFFIX if separate else None, progress=progress)
            return _publish(written, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or error
        raise RuntimeError(f"cannot write {path} ({reason}): make room, or write to another folder") from error


def _save(model: onnx_ir.Model, path: Path, *, external: str | None, progress: Progress | None) -> None:
    import onnx
    import onnx_ir

    def report(tensor: object, info: onnx_ir.external_data.CallbackInfo) -> None:
        if progress is not None:
            progress("writing", info.index + 1, info.total)

    onnx_ir.save(model, path, external_data=external, callback=report if external else None)
    onnx.checker.check_model(str(path), full_check=True)


def _publish(written: Path, path: Path) -> Path | None:
    source, data = (file.with_name(file.name + DATA_SUFFIX) for file in (written, path))
    if not source.exists():
        written.replace(path)
        data.unlink(missing_ok=True)  # of an older model at the same place
        return None
    path.unlink(missing_ok=True)  # for a moment there is no model rather than one with another's weights
    source.replace(data)
    written.replace(path)
    return data
