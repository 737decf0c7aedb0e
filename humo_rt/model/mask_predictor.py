"""Focus-by-predicting: guess the face mask from the hidden states after audio attention.

The paper gives the inputs (the last four blocks), the average of the four outputs and the loss, but not the layers:
one small perceptron shared by the four blocks is this project's choice, as is averaging logits, which stays finite
where averaged probabilities saturate. Published checkpoints carry no weights for it.
Shape legend: B batch, Q tokens, D width, P latent pixels per patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from humo_rt.config import DiTConfig
from humo_rt.model.layers import LayerNorm, Linear

PREDICTING_BLOCKS = 4


class MaskPredictor(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        pixels = config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
        hidden = config.dim // 4
        self.norm = LayerNorm(config.dim, eps=config.eps)
        self.layers = nn.Sequential(Linear(config.dim, hidden), nn.GELU(approximate="tanh"), Linear(hidden, pixels))

    def forward(self, hidden_states_BQD: Sequence[Tensor]) -> Tensor:
        """Mean logits (B, Q, P) over the given hidden states."""
        return torch.stack([self.layers(self.norm(h)).float() for h in hidden_states_BQD]).mean(0)
