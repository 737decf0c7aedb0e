"""Images from files, Pillow or arrays, as RGB. Knows nothing of frame sizes (``humo_rt.conditions.image`` does)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | Image | np.ndarray"


def read_image(source: ImageSource) -> Image:
    """A Pillow image in mode RGB from a path, a Pillow image or an array.

    Arrays are (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), uint8 or float in [0, 1]. Alpha is dropped, not blended, and
    the orientation tag of cameras is not applied, as in the published pipeline. ``ValueError`` when the file is
    missing, not an image or cut short, and when an array is no image.
    """
    from PIL import Image as PillowImage

    if isinstance(source, PillowImage.Image):
        return _convert(source, "image")
    if isinstance(source, str | os.PathLike):
        return _open(Path(source))
    return PillowImage.fromarray(_to_uint8(np.asarray(source)), "RGB")


def _open(path: Path) -> Image:
    from PIL import Image as PillowImage
    from PIL import UnidentifiedImageError

    if not path.exists():
        raise ValueError(f"image file {str(path)!r} does not exist: check the path")
    if not path.is_file():
        raise ValueError(f"image {str(path)!r} is not a file: give a PNG, JPEG or WebP file")
    try:
        with PillowImage.open(path) as image:
            return _convert(image, f"image file {str(path)!r}")
    except UnidentifiedImageError as error:
        raise ValueError(f"{str(path)!r} is not an image: give a PNG, JPEG or WebP file") from error
    except PillowImage.DecompressionBombError as error:
        raise ValueError(f"image file {str(path)!r} is too large ({error}): shrink it first") from error
    except OSError as error:  # some formats are decoded when they are opened
        raise ValueError(f"image file {str(path)!r} cannot be decoded ({error}): copy or export it again") from error


def _convert(image: Image, name: str) -> Image:
    """``image.convert("RGB")``, which is also where Pillow decodes the pixels; deep greys are scaled, not clipped."""
    if image.mode in ("I", "F"):
        raise ValueError(f"{name} has 32 bits per pixel and no scale: convert it to 8 bits")
    try:
        if image.mode.startswith("I;16"):
            image = image.convert("I").point(lambda level: level / 257).convert("L")
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be decoded ({error}): copy or export it again") from error


def _to_uint8(pixels: np.ndarray[Any, Any]) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        raise ValueError(f"array of shape {pixels.shape} is not an image: use (height, width, 3)")
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(
                f"float image ranges from {pixels.min():.3g} to {pixels.max():.3g}: scale it to [0, 1] or use uint8"
            )
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"image of type {pixels.dtype} has no scale: use uint8 or float in [0, 1]")
    rgb = pixels[:, :, :3] if pixels.shape[2] != 1 else pixels.repeat(3, axis=2)
    return np.ascontiguousarray(rgb)
