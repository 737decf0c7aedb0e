"""Random numbers as a pure function of named keys.

Every choice of the generator draws from its own stream, so adding a choice in one place never shifts another.
Knows nothing about what is drawn.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(*keys: int | str) -> np.random.Generator:
    """A generator that depends on ``keys`` only: the same keys give the same numbers on every machine."""
    words = [zlib.crc32(key.encode()) if isinstance(key, str) else int(key) & 0xFFFFFFFFFFFFFFFF for key in keys]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def bucket(text: str, buckets: int) -> int:
    """Put ``text`` into one of ``buckets`` groups; used for splits that no seed can change."""
    return zlib.crc32(text.encode()) % buckets
