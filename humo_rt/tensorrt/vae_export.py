"""The VAE's decoder as two ONNX files: the first latent frame, and every one that follows with caches in and out.

Height and width stay free. Knows nothing of runtimes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from humo_rt.config import LATENT_CHANNELS
from humo_rt.model.vae import VideoVAE
from humo_rt.tensorrt.export import quiet_exporter, require_output
from humo_rt.tensorrt.onnx_file import write_onnx
from humo_rt.tensorrt.packages import require
from humo_rt.tensorrt.spec import OPSET
from humo_rt.tensorrt.vae_graph import CACHED_FRAMES, CacheShape, VAEDecoderStep, cache_shapes

LATENTS, FRAMES = "latents", "frames"
NEXT = "next_"
# Differ from each other and from every channel and cache length.
_ROWS, _COLUMNS = 6, 10


@dataclass(frozen=True, kw_only=True)
class ExportedVAE:
    """``first`` takes ``latents`` (1, 16, 1, h, w); ``rest`` takes them and ``cache_<i>``.

    Both give ``frames`` (1, 3, f, 8h, 8w) in float32, not clamped, and ``next_cache_<i>``, which are the caches of the
    next call. f is 1 for the first and 4 for the rest.
    """

    first: Path
    rest: Path
    caches: tuple[CacheShape, ...]


def export_vae_decoder(vae: VideoVAE, path: str | Path) -> ExportedVAE:
    """Write ``NAME_first.onnx`` and ``NAME_rest.onnx`` for a ``path`` that ends in ``NAME.onnx``.

    ``ValueError`` for a path that cannot be written to; ``RuntimeError`` if onnx is missing or the disk is full.
    """
    require("onnx", "onnxscript")
    path = Path(path)
    require_output(path)
    shapes = cache_shapes(vae)
    first, rest = (path.with_name(f"{path.stem}_{part}.onnx") for part in ("first", "rest"))
    _write(vae, shapes, first, is_first=True)
    _write(vae, shapes, rest, is_first=False)
    return ExportedVAE(first=first, rest=rest, caches=shapes)


@torch.no_grad()
def _write(vae: VideoVAE, shapes: tuple[CacheShape, ...], path: Path, *, is_first: bool) -> None:
    weight = next(vae.parameters())
    given = () if is_first else shapes
    rows, columns = (torch.export.Dim(name, min=1) for name in ("rows", "columns"))
    inputs = {
        "latents": torch.zeros(1, LATENT_CHANNELS, 1, _ROWS, _COLUMNS, device=weight.device),
        "caches": [
            torch.zeros(
                1, s.channels, CACHED_FRAMES, s.scale * _ROWS, s.scale * _COLUMNS,
                dtype=weight.dtype, device=weight.device,
            )
            for s in given
        ],
    }  # fmt: skip
    free = {
        "latents": {3: rows, 4: columns},
        "caches": [{3: s.scale * rows if s.scale > 1 else rows, 4: s.scale * columns if s.scale > 1 else columns}
                   for s in given],
    }  # fmt: skip
    step = VAEDecoderStep(vae, shapes, first=is_first).eval()
    with quiet_exporter():
        traced = torch.export.export(step, (), inputs, dynamic_shapes=free, strict=False)
        model = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=OPSET,
            input_names=[LATENTS, *(shape.name for shape in given)],
            output_names=[FRAMES, *(NEXT + shape.name for shape in shapes)],
            optimize=True,
            verbose=False,
        ).model
    model.graph.name = path.stem
    write_onnx(model, path)
