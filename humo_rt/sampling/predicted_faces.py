"""Face masks from the model's own mask predictor: what it saw in one step confines the audio in the next.

It changes the result, so it is off unless asked for. The mask comes from the branch that sees most conditions and
serves all branches, so that their differences stay about the conditions. Until there is a prediction, and in latent
frames where no face is predicted, the audio acts everywhere: a noisy start must not silence a frame for good.

Nothing here waits for the device. Shape legend: N videos, B branches of them, C channels, T latent frames, H W latent
size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from humo_rt.sampling.guidance import richest_branch


class PredictedFaces:
    """The face mask of the current step, and what the current step predicts for the next one."""

    def __init__(self, noise_NCTHW: Tensor, num_slots: int, threshold: float) -> None:
        """``threshold``: probability from which on a latent pixel is face. Reference frames always count as one."""
        self._slots = num_slots
        # The logits are compared, so that no probability has to be computed.
        self._least_logit = torch.logit(torch.tensor(threshold, dtype=torch.float64)).item()
        self.mask_NTHW = torch.ones_like(noise_NCTHW[:, 0], dtype=torch.float32)
        self._next_NTHW = self.mask_NTHW
        self._richest = ""

    def begin_step(self, branches: Iterable[str]) -> None:
        """From here on the mask is the last step's prediction. ``branches``: those of this step's guidance."""
        self.mask_NTHW = self._next_NTHW
        self._richest = richest_branch(branches)

    def forward(
        self, model: Any, inputs: Tensor, timesteps: Tensor, constants: Mapping[str, Any], names: tuple[str, ...]
    ) -> Tensor:
        """The velocities (B, C, T, H, W) of the branches ``names`` under the mask of this step, or of the frames that
        ``constants`` want."""
        mask_BTHW = self.mask_NTHW.repeat(len(names), 1, 1, 1)
        if self._richest not in names:
            return model(inputs, timesteps, **constants, face_mask=mask_BTHW)
        velocity, logits_BTHW = model(inputs, timesteps, **constants, face_mask=mask_BTHW, return_face_mask=True)
        logits_NTHW = logits_BTHW.unflatten(0, (len(names), -1))[names.index(self._richest)]
        self._next_NTHW = self._thresholded(logits_NTHW)
        return velocity

    def _thresholded(self, logits_NTHW: Tensor) -> Tensor:
        face_NTHW = logits_NTHW >= self._least_logit
        face_NTHW |= ~face_NTHW.any(dim=(-2, -1), keepdim=True)
        face_NTHW[:, face_NTHW.shape[1] - self._slots :] = True
        return face_NTHW.float()
