"""Audio attention on the tokens inside of faces only: gathered once per generation, the others cost nothing.

Shape legend: B batch, P speakers, T latent frames, N tokens of a frame, Q = T * N tokens, D width, F frames of a group,
M tokens kept of each of its frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from humo_rt.model.attention import KeyValue
from humo_rt.model.block import AudioSubBlock


@dataclass(frozen=True, kw_only=True)
class TokenGroup:
    """Frames that keep about as many tokens each, padded to the most with tokens that add nothing.

    frames_F: their indices. tokens_FM: flat indices of the tokens, (F * M,). valid_FM1: (F * M, 1), 0 for padding.
    """

    frames_F: Tensor
    tokens_FM: Tensor
    valid_FM1: Tensor


FaceTokens = tuple[TokenGroup, ...]


def gather_face_tokens(face_weight_PQ: Tensor, *, frames: int, tokens: int) -> tuple[FaceTokens, ...]:
    """Where the face of each speaker is, from binary weights of ``frames`` latent frames with ``tokens`` tokens each.

    Frames that lie inside as a whole, such as reference frames, form a group of their own: padding the others to
    their size would cost what the mask saves. Waits for the device: call it once per generation.
    ``ValueError`` for weights of another size, between 0 and 1, or without a face.
    """
    if face_weight_PQ.ndim != 2 or face_weight_PQ.shape[1] != frames * tokens:
        raise ValueError(
            f"face weights {tuple(face_weight_PQ.shape)} do not fit {frames} latent frames of {tokens} tokens: "
            f"give (speakers, {frames * tokens})"
        )
    if not ((face_weight_PQ == 0) | (face_weight_PQ == 1)).all():
        raise ValueError("face weights are not all 0 or 1: threshold the mask, or use the dense audio attention")
    inside_PTN = face_weight_PQ.bool().unflatten(1, (frames, tokens))
    return tuple(_groups(inside_TN, speaker) for speaker, inside_TN in enumerate(inside_PTN))


def attend_faces(
    sub_block: AudioSubBlock, x_BQD: Tensor, audios: Sequence[KeyValue], faces: Sequence[FaceTokens]
) -> Tensor:
    """``x_BQD`` plus what each speaker's audio adds to the tokens of its face; ``x_BQD`` itself stays as it is.

    ``audios``: keys and values of each speaker, (B, T, H, S, K). ``ValueError`` unless every speaker has a face.
    """
    if len(faces) != len(audios):
        raise ValueError(
            f"{len(audios)} speakers have {len(faces)} face masks: every speaker needs one, so give one for each audio"
        )
    result = x_BQD.clone()
    for audio, groups in zip(audios, faces, strict=True):
        for group in groups:
            kv = KeyValue(audio.k.index_select(1, group.frames_F), audio.v.index_select(1, group.frames_F))
            heard = sub_block(x_BQD.index_select(1, group.tokens_FM), kv)
            result.index_add_(1, group.tokens_FM, heard.to(result.dtype) * group.valid_FM1.to(result.dtype))
    return result


def _groups(inside_TN: Tensor, speaker: int) -> FaceTokens:
    counts = inside_TN.sum(1).tolist()
    if not any(counts):
        raise ValueError(f"the face mask of speaker {speaker} holds no face: mark at least one token of one frame")
    whole = [frame for frame, count in enumerate(counts) if count == inside_TN.shape[1]]
    part = [frame for frame, count in enumerate(counts) if 0 < count < inside_TN.shape[1]]
    return tuple(_group(inside_TN, frames, max(counts[f] for f in frames)) for frames in (part, whole) if frames)


def _group(inside_TN: Tensor, frames: list[int], most: int) -> TokenGroup:
    device, tokens = inside_TN.device, inside_TN.shape[1]
    frames_F = torch.tensor(frames, device=device)
    # A stable descending sort puts the tokens inside first, in order; the rest of the row is padding.
    valid_FN, order_FN = inside_TN[frames_F].to(torch.uint8).sort(dim=1, descending=True, stable=True)
    tokens_FM = (frames_F[:, None] * tokens + order_FN[:, :most]).flatten()
    return TokenGroup(frames_F=frames_F, tokens_FM=tokens_FM, valid_FM1=valid_FN[:, :most].float().reshape(-1, 1))
