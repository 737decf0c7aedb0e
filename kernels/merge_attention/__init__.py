"""Attention to two sets of keys from the results for each, as if there had been one softmax over both.

    share[b, l, h] = 1 / (1 + exp(first_lse[b, h, l] - second_lse[b, h, l]))
    out[b, l, h] = first[b, l, h] + share[b, l, h] * (second[b, l, h] - first[b, l, h])

first, second: (B, L, H, K) float32, float16 or bfloat16, one dtype; what is not contiguous is copied first.
first_lse, second_lse: (B, H, L) float32, the logarithms of the sums of exponentials. The first pair may have a batch of
one, which serves every sample of the second. out: (B, L, H, K) contiguous, in their dtype. All arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_axes, check_types
from humo_rt.kernels.merge_attention.reference import reference


def merge_attention(first_BLHK: Tensor, first_lse_BHL: Tensor, second_BLHK: Tensor, second_lse_BHL: Tensor) -> Tensor:
    """The merged results; shapes above. ``ValueError`` names the argument that does not fit."""
    check_axes("(B, L, H, K)", first=first_BLHK, second=second_BLHK)
    check_types(first=first_BLHK, second=second_BLHK, first_lse=first_lse_BHL, second_lse=second_lse_BHL)
    batch, length, heads, head_dim = second_BLHK.shape
    if first_BLHK.shape not in {(1, length, heads, head_dim), second_BLHK.shape}:
        raise ValueError(f"first {tuple(first_BLHK.shape)} does not fit second {tuple(second_BLHK.shape)}")
    if first_BLHK.dtype != second_BLHK.dtype:
        raise ValueError(f"first is {first_BLHK.dtype}, second {second_BLHK.dtype}: give one dtype")
    for name, lse, samples in (("first_lse", first_lse_BHL, len(first_BLHK)), ("second_lse", second_lse_BHL, batch)):
        if lse.shape != (samples, heads, length) or lse.dtype != torch.float32:
            expected = (samples, heads, length)
            raise ValueError(f"{name} {tuple(lse.shape)} {lse.dtype} does not fit: give {expected} in float32")
    run = reference if registry.exporting() else _merge_attention
    return run(first_BLHK, first_lse_BHL, second_BLHK, second_lse_BHL)


@torch.library.custom_op("humo_rt::merge_attention", mutates_args=())
def _merge_attention(first_BLHK: Tensor, first_lse_BHL: Tensor, second_BLHK: Tensor, second_lse_BHL: Tensor) -> Tensor:
    run = registry.select("merge_attention", second_BLHK.device)
    return run(first_BLHK, first_lse_BHL, second_BLHK, second_lse_BHL)


_merge_attention.register_fake(reference)
