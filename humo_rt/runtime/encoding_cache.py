"""Encodings of inputs that a pipeline has seen before: text, sound and images go through their encoders once.

Knows tensors and bytes, not how anything is encoded. Tensors stay on the device they were made on and must not be
changed in place.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

Input = TypeVar("Input")

# Of a HuMo-17B video of 97 frames at 720x1280, prompts and sound take 14 MB and the grey video 25 MB.
MAX_BYTES = 256 * 2**20


class EncodingCache:
    """The most recently used encodings, ``max_bytes`` in all; one larger than that is not kept."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the entries keep."""
        return sum(map(_nbytes, self._entries.values()))

    def get(self, key: Hashable, encode: Callable[[], Tensor]) -> Tensor:
        """What ``encode`` gave when it was first called for ``key``, which must name all that decides the result."""
        return self.get_each([(key, None)], lambda _: [encode()])[0]

    def get_each(
        self, inputs: Sequence[tuple[Hashable, Input]], encode: Callable[[list[Input]], Iterable[Tensor]]
    ) -> list[Tensor]:
        """The encoding of each input, by its key. ``encode`` is called once with those that are new, if there are any,
        and must not let one input decide what becomes of another."""
        found = {key: self._entries.get(key) for key, _ in inputs}
        new = {key: each for key, each in inputs if found[key] is None}
        if new:
            found |= zip(new, encode(list(new.values())), strict=True)
        for key, encoding in found.items():
            self._keep(key, encoding)
        return [found[key] for key, _ in inputs]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def _keep(self, key: Hashable, encoding: Tensor) -> None:
        if _nbytes(encoding) > self.max_bytes:
            return
        self._entries[key] = encoding
        self._entries.move_to_end(key)
        while self.nbytes > self.max_bytes:
            self._entries.popitem(last=False)


def digest(array: np.ndarray) -> bytes:
    """Names an array by its shape, type and content."""
    hashed = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=32)
    hashed.update(np.ascontiguousarray(array).data)
    return hashed.digest()


def _nbytes(tensor: Tensor) -> int:
    """A view keeps the whole memory that it looks into."""
    return tensor.untyped_storage().nbytes()
