"""The tokens inside of faces, so that audio attention can leave the others out: they cost nothing, and get nothing.

Shape legend: B batch, P speakers, T latent frames, N tokens of a frame, Q = T * N tokens, F frames of a group, M tokens
kept of these frames together.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor


class TokenGroup(NamedTuple):
    """Frames that keep about as many tokens each, filled up to the most of them with tokens that weigh nothing.

    frames_F: their indices. tokens_M: indices of their tokens, no two alike, as many of each frame.
    weight_BM1: float32 weights of these tokens, (B, M, 1), of several speakers (P, B, M, 1).
    """

    frames_F: Tensor
    tokens_M: Tensor
    weight_BM1: Tensor


FaceTokens: TypeAlias = tuple[TokenGroup, ...]

# On an H100, 4 branches of 480x832 in bf16, from text attention to feed-forward in fused blocks: 52 % of the tokens
# take 2.8 ms against 3.7 under a mask (HuMo-1.7B) and 13.7 against 21.1 (17B), 81 % of them 3.7 and 19.4 ms; in plain
# blocks 6.0 against 9.4 and 28 against 48, 9.3 and 43 (benchmarks/results/h100-audio-faces.json).
WORTHWHILE_SHARE = 0.75


def gather_face_tokens(weight_BQ: Tensor, *, frames: int) -> FaceTokens:
    """The tokens that weigh more than nothing in any video and for any speaker, and their weights.

    ``weight_BQ``: (B, Q), of several speakers (P, B, Q), over ``frames`` latent frames. Frames that lie inside as a
    whole, such as reference frames, form a group of their own: filling up the others to their size would cost what the
    mask saves. Waits for the device of the weights.
    """
    inside_TN = (weight_BQ != 0).unflatten(-1, (frames, -1)).flatten(0, -3).any(0)
    counts, tokens = inside_TN.sum(1).tolist(), inside_TN.shape[1]
    whole = [frame for frame, count in enumerate(counts) if count == tokens]
    part = [frame for frame, count in enumerate(counts) if 0 < count < tokens]
    kept = ((chosen, max(counts[frame] for frame in chosen)) for chosen in (part, whole) if chosen)
    return tuple(_group(weight_BQ, inside_TN, chosen, most) for chosen, most in kept)


def gathering_pays(faces: FaceTokens, num_tokens: int) -> bool:
    """Whether ``faces`` hold few enough of the video's ``num_tokens``."""
    return sum(len(group.tokens_M) for group in faces) <= WORTHWHILE_SHARE * num_tokens


def _group(weight_BQ: Tensor, inside_TN: Tensor, frames: list[int], most: int) -> TokenGroup:
    frames_F = torch.tensor(frames, device=inside_TN.device)
    # A stable descending sort puts the tokens inside first, in order. What fills up weighs nothing: it lies outside.
    order_FN = inside_TN[frames_F].to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    tokens_M = (frames_F[:, None] * inside_TN.shape[1] + order_FN[:, :most]).flatten()
    weight_BM1 = weight_BQ.float().index_select(-1, tokens_M)[..., None]
    return TokenGroup(frames_F=frames_F, tokens_M=tokens_M, weight_BM1=weight_BM1)
