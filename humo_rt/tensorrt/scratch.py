"""The device memory that engines compute in: one block for all of them, as large as the neediest."""

from __future__ import annotations

import torch


class ScratchMemory:
    """Engines that run one after the other on one stream may share an instance."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._block = torch.empty(0, dtype=torch.uint8, device=device)

    @property
    def address(self) -> int:
        return self._block.data_ptr()

    @property
    def nbytes(self) -> int:
        return self._block.numel()

    def reserve(self, nbytes: int) -> None:
        """Make the block at least this large. It may move, which ends the use of CUDA graphs captured before."""
        if nbytes > self.nbytes:
            self._block = torch.empty(0, dtype=torch.uint8, device=self._device)
            self._block = torch.empty(nbytes, dtype=torch.uint8, device=self._device)
