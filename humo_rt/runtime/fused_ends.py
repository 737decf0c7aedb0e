"""What comes before and after the blocks of a DiT, in fewer passes over memory.

Shape legend: B batch, Q tokens, D width, P channels of a patch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.kernels.adaln_modulate import adaln_modulate
from humo_rt.model.dit import Head


class FusedPatchEmbedding(nn.Conv3d):
    """The embedding of patches that do not overlap as the matrix product that it is: tokens lie one after another, as
    they are read."""

    def forward(self, latents: Tensor) -> Tensor:
        """(batch, channels, frames, rows, columns) to the same of patches, D channels each, last in memory."""
        frames, rows, columns = self.kernel_size
        split = latents.unflatten(4, (-1, columns)).unflatten(3, (-1, rows)).unflatten(2, (-1, frames))
        patches_xP = split.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        return F.linear(patches_xP, self.weight.flatten(1), self.bias).movedim(-1, 1)


class FusedHead(Head):
    """A ``Head`` with its norm and modulation in one pass."""

    def forward(self, x_BQD: Tensor, embedding_BD: Tensor) -> Tensor:
        shift, scale = (self.modulation.float() + embedding_BD[:, None]).chunk(2, dim=1)
        return self.head(adaln_modulate(x_BQD, shift, scale, self.norm.eps, torch.float32))
