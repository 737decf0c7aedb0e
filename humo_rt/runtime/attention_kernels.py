"""Self-attention by each library that computes it, as one operator: their calls, their layouts, their packages.

Knows nothing of what this machine has or which library is best; ``attention_backends`` does. A package is imported by
the first call that needs it. For inference: the operator has no backward pass.

Shape legend: B batch, L tokens, H heads, K head_dim.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from humo_rt.kernels import registry
from humo_rt.kernels.merge_attention import merge_attention
from humo_rt.runtime import flash_attention_4

SDPA, FLASH_ATTENTION_4 = "sdpa", "flash-attn-4"


class Package(NamedTuple):
    """The module whose ``flash_attn_func`` computes attention over (B, L, H, K), and how to install it."""

    module: str
    install: str


PACKAGES = {
    FLASH_ATTENTION_4: Package(
        flash_attention_4.MODULE,
        "pip install 'flash-attn-4[cu13]>=4.0.0b36' (without [cu13] for a torch built with CUDA 12)",
    ),
    "flash-attn-3": Package(
        "flash_attn_interface",
        "pip install --no-build-isolation 'git+https://github.com/Dao-AILab/flash-attention#subdirectory=hopper'",
    ),
    "flash-attn-2": Package("flash_attn", "pip install --no-build-isolation flash-attn"),
}
SDPA_KERNELS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "sdpa-flash": SDPBackend.FLASH_ATTENTION}


@cache
def package_function(backend: str) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """``flash_attn_func`` of the package; ``ImportError`` when the package is absent or cannot be loaded."""
    module = importlib.import_module(PACKAGES[backend].module)
    if not hasattr(module, "flash_attn_func"):
        # FlashAttention-4 alone also makes a `flash_attn` that imports, an empty one.
        raise ModuleNotFoundError(f"No module named {module.__name__!r} with flash_attn_func", name=module.__name__)
    return module.flash_attn_func


def self_attention(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, backend: str) -> Tensor:
    """softmax(q k^T / sqrt(K)) v by ``backend``: (B, H, L, K) from three of that shape, any strides, last axis dense.
    Of queries there may be fewer.

    The result is dense as (B, L, H, K), so that joining the heads copies nothing. One graph node for the compiler;
    exported graphs hold plain attention instead.
    """
    if backend == SDPA or registry.exporting():
        return F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK)
    return _self_attention(q_BHLK, k_BHLK, v_BHLK, backend).transpose(1, 2)


@torch.library.custom_op("humo_rt::self_attention", mutates_args=())
def _self_attention(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, backend: str) -> Tensor:
    # The packages ask for the current device and its stream, which need not be those of the tensors.
    with torch.cuda.device_of(q_BHLK):
        if backend == FLASH_ATTENTION_4:
            out_BLHK = flash_attention_4.attend(*(x.transpose(1, 2) for x in (q_BHLK, k_BHLK, v_BHLK)))
        elif backend in PACKAGES:
            found = package_function(backend)(*(x.transpose(1, 2) for x in (q_BHLK, k_BHLK, v_BHLK)))
            # Some versions also return the logarithms of the softmax sums.
            out_BLHK = found[0] if isinstance(found, tuple) else found
        else:
            with sdpa_kernel(SDPA_KERNELS[backend]):
                out_BLHK = F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK).transpose(1, 2)
    return out_BLHK.contiguous()


@_self_attention.register_fake
def _(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, backend: str) -> Tensor:
    return torch.empty_like(q_BHLK.transpose(1, 2), memory_format=torch.contiguous_format)


def self_attention_of_alike(q_UHLK: Tensor, k_UHLK: Tensor, v_UHLK: Tensor, alike: int) -> Tensor:
    """``self_attention`` by FlashAttention-4 of inputs whose first ``alike`` tokens are the same in q, k and v.

    What these tokens find among themselves is computed once, for the first input. Each input's other keys are attended
    to apart, and the two results are merged as if there had been one softmax.
    """
    q_ULHK, k_ULHK, v_ULHK = (x.transpose(1, 2) for x in (q_UHLK, k_UHLK, v_UHLK))
    common = _attention_with_lse(*(x[:1, :alike] for x in (q_ULHK, k_ULHK, v_ULHK)))
    own = _attention_with_lse(q_ULHK[:, :alike], k_ULHK[:, alike:], v_ULHK[:, alike:])
    merged_ULHK = merge_attention(*common, *own)
    del common, own  # as large as the result
    others_UHLK = self_attention(q_UHLK[:, :, alike:], k_UHLK, v_UHLK, FLASH_ATTENTION_4)
    return torch.cat([merged_ULHK, others_UHLK.transpose(1, 2)], dim=1).transpose(1, 2)


@torch.library.custom_op("humo_rt::attention_with_lse", mutates_args=())
def _attention_with_lse(q_BLHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> tuple[Tensor, Tensor]:
    with torch.cuda.device_of(q_BLHK):
        out_BLHK, lse_BHL = flash_attention_4.attend_with_lse(q_BLHK, k_BSHK, v_BSHK)
    return out_BLHK.contiguous(), lse_BHL.contiguous()


@_attention_with_lse.register_fake
def _(q_BLHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = q_BLHK.shape
    return torch.empty_like(q_BLHK, memory_format=torch.contiguous_format), q_BLHK.new_empty(
        (batch, heads, length), dtype=torch.float32
    )
