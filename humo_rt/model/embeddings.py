"""How time, text, audio and position become vectors the blocks can use.

Shape legend: B batch, L text tokens, E text width, T latent frames, W audio window, N bands, A audio width,
S audio tokens per frame, C audio token width, D model width, P head_dim / 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.config import DiTConfig
from humo_rt.model.layers import FullPrecisionLinear, LayerNorm, Linear

ROPE_BASE = 10_000.0
AUDIO_NORM_EPS = 1e-5


def timestep_sinusoid(timestep_B: Tensor, dim: int) -> Tensor:
    """Cosines then sines of ``timestep`` at ``dim / 2`` frequencies, computed in float64. Returns float32 (B, dim)."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float64, device=timestep_B.device)
    angles = timestep_B.double()[:, None] * torch.pow(ROPE_BASE, -steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


def rope_table(frames: int, rows: int, columns: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the 3-D rotary angles, each float32 (frames*rows*columns, head_dim / 2).

    The pairs of a head are split as Wan2.1 splits them: two shares of ``head_dim // 6`` pairs for rows and columns,
    the rest for the frame index. Reference frames simply continue the frame index.
    """
    spatial = 2 * (head_dim // 6)
    widths = (head_dim - 2 * spatial, spatial, spatial)
    grid = (frames, rows, columns)
    parts = []
    for axis, (size, width) in enumerate(zip(grid, widths, strict=True)):
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
        angles = torch.arange(size, dtype=torch.float64, device=device)[:, None] * torch.pow(ROPE_BASE, -exponents)
        view = [1, 1, 1, angles.shape[-1]]
        view[axis] = size
        parts.append(angles.view(view).expand(*grid, -1))
    table = torch.cat(parts, dim=-1).reshape(frames * rows * columns, head_dim // 2)
    return table.cos().float(), table.sin().float()


class TimeEmbedding(nn.Sequential):
    """Two linear layers over the sinusoid, in float32."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(
            FullPrecisionLinear(config.freq_dim, config.dim), nn.SiLU(), FullPrecisionLinear(config.dim, config.dim)
        )
        self.freq_dim = config.freq_dim

    def forward(self, timestep: Tensor) -> Tensor:
        """``timestep``: (B,), or the sinusoid (B, freq_dim) of it, which exported graphs take: they have no float64."""
        return super().forward(timestep if timestep.ndim == 2 else timestep_sinusoid(timestep, self.freq_dim))


class TimeProjection(nn.Sequential):
    """The six modulation vectors every block starts from, in float32: (B, D) -> (B, 6, D)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(nn.SiLU(), FullPrecisionLinear(config.dim, 6 * config.dim))

    def forward(self, embedding_BD: Tensor) -> Tensor:
        return super().forward(embedding_BD).unflatten(-1, (6, -1))


class TextEmbedding(nn.Sequential):
    """Text features to model width. Rows beyond a prompt's length are zero and pass through here like any other."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__(
            Linear(config.text_dim, config.dim), nn.GELU(approximate="tanh"), Linear(config.dim, config.dim)
        )


class _Named(nn.Module):
    """Gives a layer the ``.layer`` its published name carries."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class AudioProjection(nn.Module):
    """One latent frame's audio window to its audio tokens: (B, T, W, N, A) -> (B, T, S, C)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_tokens = config.audio_tokens
        features = config.audio_window * config.audio_bands * config.audio_dim
        hidden = config.audio_hidden
        self.audio_proj_glob_1 = _Named(Linear(features, hidden))
        self.audio_proj_glob_2 = _Named(Linear(hidden, hidden))
        self.audio_proj_glob_3 = _Named(Linear(hidden, config.audio_tokens * config.audio_token_dim))
        self.audio_proj_glob_norm = _Named(LayerNorm(config.audio_token_dim, eps=AUDIO_NORM_EPS))

    def forward(self, audio_BTWNA: Tensor) -> Tensor:
        hidden = F.relu(self.audio_proj_glob_1(audio_BTWNA.flatten(2)))
        hidden = F.relu(self.audio_proj_glob_2(hidden))
        tokens = self.audio_proj_glob_3(hidden).unflatten(-1, (self.num_tokens, -1))
        return self.audio_proj_glob_norm(tokens)
