"""Whether a mouth still opens on time after reconstruction, read from the pixels without any trained network.

For each clip a linear reading of the mouth's surroundings is fitted on every other *true* frame against the size of
the true mouth, and applied to the frames between: true ones (what the reading can do at best) and reconstructed ones.

Shape suffixes: B clips, F frames, C colours, H W pixels, D numbers that describe one frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CELL = 4
_ROWS, _COLUMNS = 6, 8
_RIDGE = 0.3
_FOLLOW_FRAMES = 6


def mouth_survival(true_BCFHW: Tensor, made_BCFHW: Tensor, mouth_BFHW: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation of the read with the true mouth size, in true and in reconstructed frames: (B,) each.

    Videos in [-1, 1]; ``mouth_BFHW`` marks lips and opening, so its size follows the opening. Clips whose mouth keeps
    still say nothing: leave them out. Computed in float32 whatever surrounds the call: half precision has no solver.
    """
    with torch.autocast(true_BCFHW.device.type, enabled=False):
        return _read(true_BCFHW.float(), made_BCFHW.float(), mouth_BFHW)


def _read(true_BCFHW: Tensor, made_BCFHW: Tensor, mouth_BFHW: Tensor) -> tuple[Tensor, Tensor]:
    size_BF = mouth_BFHW.float().sum(dim=(2, 3))
    size_BF = size_BF / size_BF.mean(dim=1, keepdim=True).clamp(min=1.0)
    centre_BF2 = _centres(mouth_BFHW)
    true_BFD, made_BFD = (_describe(video, centre_BF2) for video in (true_BCFHW, made_BCFHW))
    fit_BFD, fit_BF = true_BFD[:, ::2], size_BF[:, ::2]
    mean_B1D, level_B1 = fit_BFD.mean(dim=1, keepdim=True), fit_BF.mean(dim=1, keepdim=True)
    centred_BFD = fit_BFD - mean_B1D
    # Ridge regression in its dual form: fewer frames than pixels.
    kernel = centred_BFD @ centred_BFD.transpose(1, 2) + _RIDGE * torch.eye(fit_BF.shape[1], device=fit_BF.device)
    reading_BD = (torch.linalg.solve(kernel, fit_BF - level_B1)[:, None] @ centred_BFD)[:, 0]
    between = size_BF[:, 1::2]
    read = [((x[:, 1::2] - mean_B1D) @ reading_BD[..., None])[..., 0] for x in (true_BFD, made_BFD)]
    return correlation(read[0], between), correlation(read[1], between)


def correlation(a_BF: Tensor, b_BF: Tensor) -> Tensor:
    """Pearson's correlation of each row: (B,)."""
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (a_BF, b_BF))
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-8)


def _centres(mouth_BFHW: Tensor) -> Tensor:
    """Where the mouth is, (y, x) in pixels, averaged over neighbouring frames to follow the head: (B, F, 2)."""
    mask = mouth_BFHW.float()
    rows, columns = (torch.arange(n, device=mask.device) + 0.5 for n in mask.shape[-2:])
    count = mask.sum(dim=(2, 3)).clamp(min=1.0)
    centre_B2F = torch.stack([(mask.sum(3) * rows).sum(2) / count, (mask.sum(2) * columns).sum(2) / count], dim=1)
    padded = F.pad(centre_B2F, (_FOLLOW_FRAMES, _FOLLOW_FRAMES), mode="replicate")
    return F.avg_pool1d(padded, 2 * _FOLLOW_FRAMES + 1, 1).transpose(1, 2)


def _describe(video_BCFHW: Tensor, centre_BF2: Tensor) -> Tensor:
    """Mean colours of a grid of cells around the mouth: (B, F, D)."""
    height, width = video_BCFHW.shape[-2:]
    rows, columns = (
        torch.arange(n * _CELL, device=video_BCFHW.device) + 0.5 - n * _CELL / 2 for n in (_ROWS, _COLUMNS)
    )
    y = (centre_BF2[..., :1] + rows) / height * 2 - 1
    x = (centre_BF2[..., 1:] + columns) / width * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, :, None, :], y[:, :, :, None]), dim=-1)
    frames = video_BCFHW.transpose(1, 2).flatten(0, 1)
    window = F.grid_sample(frames, grid.flatten(0, 1), padding_mode="border", align_corners=False)
    return F.avg_pool2d(window, _CELL).flatten(1).unflatten(0, centre_BF2.shape[:2])
