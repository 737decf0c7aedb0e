"""Encodings of inputs that a pipeline has seen before: text, sound and images go through their encoders once.

Knows tensors and bytes, not how anything is encoded. Tensors stay on the device they were made on and must not be
changed in place.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from torch import Tensor

# Of a HuMo-17B video of 97 frames at 720x1280, prompts and sound take 14 MB and the grey video 25 MB.
MAX_BYTES = 256 * 2**20


class EncodingCache:
    """The most recently used encodings, ``max_bytes`` in all; one larger than that is not kept."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Tensor, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the entries keep."""
        return sum(map(_nbytes, self._entries.values()))

    def get(self, key: Hashable, encode: Callable[[], Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """What ``encode`` gave when it was first called for ``key``, which must name all that decides the result."""
        if key not in self._entries:
            encoded = tuple(encode())
            if _nbytes(encoded) > self.max_bytes:
                return encoded
            self._entries[key] = encoded
            while self.nbytes > self.max_bytes:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return self._entries[key]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()


def digest(array: np.ndarray) -> bytes:
    """Names an array by its shape, type and content."""
    hashed = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=32)
    hashed.update(np.ascontiguousarray(array).data)
    return hashed.digest()


def _nbytes(tensors: Sequence[Tensor]) -> int:
    """A view keeps the whole memory that it looks into; views of one memory share it."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
