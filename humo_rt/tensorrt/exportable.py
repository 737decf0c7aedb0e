"""``HumoDiT`` with tensors only for arguments, so that ``torch.export`` can trace it; it computes nothing itself."""

from __future__ import annotations

from torch import Tensor, nn

from humo_rt.model.attention import KeyValue
from humo_rt.model.dit import Context, HumoDiT


class ExportableDiT(nn.Module):
    """Arguments and results are the inputs and outputs of ``humo_rt.tensorrt.bindings``, by name and in order."""

    def __init__(self, dit: HumoDiT, *, mask_predictor: bool) -> None:
        super().__init__()
        self.dit = dit
        self.return_face_mask = mask_predictor

    def forward(
        self,
        latents: Tensor,
        timestep_sinusoid: Tensor,
        rope_cos: Tensor,
        rope_sin: Tensor,
        text_keys: Tensor,
        text_values: Tensor,
        audio_keys: Tensor,
        audio_values: Tensor,
        condition: Tensor | None = None,
        face_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        return self.dit(
            latents,
            timestep_sinusoid,
            context=Context(_by_block(text_keys, text_values), _by_block(audio_keys, audio_values)),
            condition=condition,
            face_mask=face_mask,
            rope=(rope_cos.flatten(0, 2), rope_sin.flatten(0, 2)),
            return_face_mask=self.return_face_mask,
        )


def _by_block(keys: Tensor, values: Tensor) -> tuple[KeyValue, ...]:
    return tuple(KeyValue(k, v) for k, v in zip(keys.unbind(0), values.unbind(0), strict=True))
