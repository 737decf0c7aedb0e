"""Face masks from files, as a data set may bring them. Knows the fields of a file, not where faces are.

Shape suffixes: F frames, H W pixels, h w cells of a coarse mask.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from humo_rt.conditions.face_detector import draw
from training.data.humoset.sample import BadSample


def read_masks(path: Path, source_F: list[int], height: int, width: int) -> np.ndarray:
    """Bool (F, h, w) of the wanted frames, all people together.

    The file is an ``.npz`` with ``mask`` (frames, people, h, w) or (frames, h, w) at any resolution, or ``boxes``
    (frames, people, 4) in pixels with -1 for none.
    """
    try:
        with np.load(path) as file:
            field = next((name for name in ("mask", "boxes") if name in file), None)
            values = None if field is None else file[field]
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadSample("unreadable face mask", str(error)) from error
    if values is None or values.ndim < 3 or 0 in values.shape or (field == "boxes" and values.shape[-1] != 4):
        raise BadSample("unreadable face mask", f"{path.name} holds neither 'mask' nor 'boxes' of the known shapes")
    if source_F[-1] >= len(values):
        raise BadSample("unreadable face mask", f"it ends after {len(values)} of {source_F[-1] + 1} frames")
    wanted = values[source_F]
    if field == "mask":
        return wanted.astype(bool).reshape(len(wanted), -1, *wanted.shape[-2:]).any(axis=1)
    return draw([[tuple(map(int, box)) for box in boxes if min(box) >= 0] for boxes in wanted], height, width)
