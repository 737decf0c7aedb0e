"""Whether variants of a generation compute the same: their final latents against the truth, before they are timed.

The truth is the reference, the naive order of operations on the same weights, with more digits in its matrix products
and its self-attention. By the common rule of the kernels, a variant that claims to be exact may err twice as much as
the reference does in its own precision, plus what storing the result rounds. Knows no variant; ``latency`` does.

Errors are relative, norm over norm. What comes before the blocks and is the same in every variant (encoders, patches)
keeps its precision, so it is no part of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.model.dit import HumoDiT
from humo_rt.model.layers import Linear
from humo_rt.runtime.attention_backends import AUTO, choose
from humo_rt.runtime.attention_kernels import self_attention


def relative_error(x: Tensor, truth: Tensor) -> float:
    return ((x.double() - truth.double()).norm() / truth.double().norm()).item()


def allowed_error(reference: Tensor, truth: Tensor) -> float:
    """Of latents that claim to be exact."""
    rounding = (reference + 0.3 - 0.3 - reference).double().norm() / truth.double().norm()
    return 2 * relative_error(reference, truth) + 2 * rounding.item()


@contextmanager
def with_more_digits(dit: HumoDiT) -> Iterator[None]:
    """Meanwhile the products of a plain ``dit`` keep more digits than its weights have; these stay as they are.

    float32: in float64. Narrower: products in TF32 and self-attention in float16, both of eleven binary digits where
    bfloat16 has eight, at about half of its speed. In float32 attention over the tokens of a whole video takes minutes.
    """
    weight = dit.blocks[0].self_attn.o.weight
    if weight.dtype == torch.float32:
        with mock.patch.object(Linear, "forward", _float64_product):
            yield
        return
    attentions = [block.self_attn for block in dit.blocks]
    functions = [attention.attention_function for attention in attentions]
    backend = choose(AUTO, weight.device, torch.float16, dit.config.head_dim)
    for attention in attentions:
        attention.attention_function = partial(_float16_attention, backend)
    try:
        with mock.patch.object(Linear, "forward", _tf32_product):
            yield
    finally:
        for attention, function in zip(attentions, functions, strict=True):
            attention.attention_function = function


def _float64_product(linear: Linear, x: Tensor) -> Tensor:
    return F.linear(x.double(), linear.weight.double(), linear.bias.double())


def _tf32_product(linear: Linear, x: Tensor) -> Tensor:
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return F.linear(x.float(), linear.weight.float(), linear.bias.float())
    finally:
        torch.set_float32_matmul_precision(precision)


def _float16_attention(backend: str, q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Tensor:
    return self_attention(*(x.half() for x in (q_BHLK, k_BHLK, v_BHLK)), backend=backend).float()
