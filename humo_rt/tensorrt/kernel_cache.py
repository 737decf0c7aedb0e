"""What TensorRT for RTX compiles when an engine first runs at a size, kept beside the engine for the next start.

The full TensorRT compiles everything while it builds and has no such cache.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from humo_rt.tensorrt.engine_file import replacing

logger = logging.getLogger(__name__)

SUFFIX = ".kernels"


class KernelCache:
    """The cache file of one engine; does nothing for an engine whose package keeps none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache: Any = None
        self._saved = 0

    def attach(self, config: Any) -> None:
        """Let the contexts made with the runtime ``config`` use the cache, filled from the file if there is one."""
        self._cache = config.create_runtime_cache()
        if self._path.is_file():
            stored = self._path.read_bytes()
            if self._cache.deserialize(stored):
                self._saved = len(stored)
            else:
                logger.warning("%s belongs to another card or driver: kernels are compiled again", self._path)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write what was compiled since the last time. A file that cannot be written costs the next start, no more."""
        if self._cache is None:
            return
        blob = memoryview(self._cache.serialize()).cast("B")
        if len(blob) == self._saved:
            return
        try:
            with replacing(self._path) as file:
                file.write(blob)
        except RuntimeError as error:
            logger.warning("%s: kernels are compiled again at the next start", error)
        self._saved = len(blob)
