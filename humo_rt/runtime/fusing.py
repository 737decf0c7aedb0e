"""A DiT onto fused kernels and back, in place: its parameters keep their names and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from humo_rt.model.attention import SelfAttention
from humo_rt.model.block import Block
from humo_rt.model.dit import Head, HumoDiT
from humo_rt.runtime.fused_block import FusedBlock
from humo_rt.runtime.fused_ends import FusedHead, FusedPatchEmbedding


def fuse(dit: HumoDiT) -> HumoDiT:
    """Make the blocks of ``dit`` run on fused kernels, in place; returns it.

    Call it after the DiT has its device and dtype: q, k and v of a copy, or of one that is moved, cast or loaded with
    ``assign=True`` later, stay what they were. ``ValueError`` when it is fused already.
    """
    if is_fused(dit):
        raise ValueError("this DiT is fused already: call unfuse first")
    for block in dit.blocks:
        block.qkv = pack(block.self_attn)
        block.__class__ = FusedBlock
    return link(dit)


def link(dit: HumoDiT) -> HumoDiT:
    """Tell each fused block of ``dit`` which one follows, and fuse what comes before and after them; returns it."""
    for block, *following in zip(dit.blocks, dit.blocks[1:], strict=False):
        block.following = tuple(following)
    dit.blocks[-1].following = ()
    dit.patch_embedding.__class__ = FusedPatchEmbedding
    dit.head.__class__ = FusedHead
    return dit


def is_fused(dit: HumoDiT) -> bool:
    return any(isinstance(block, FusedBlock) for block in dit.blocks)


def unfuse(dit: HumoDiT) -> HumoDiT:
    """Give a fused ``dit`` its plain blocks back, in place; returns it. A plain one stays as it is.

    ``ValueError`` for a DiT in float8, which has lost its weights.
    """
    for block in dit.blocks:
        if isinstance(block, FusedBlock):
            if type(block) is not FusedBlock:
                raise ValueError(f"a {type(block).__name__} has no plain block to go back to: load the model again")
            block.__class__ = Block
            del block.qkv, block.following
    dit.patch_embedding.__class__ = nn.Conv3d
    dit.head.__class__ = Head
    return dit


def pack(attention: SelfAttention) -> tuple[Tensor, Tensor]:
    """One weight and one bias for q, k and v, whose own parameters become views of them: no memory is spent twice."""
    layers = (attention.q, attention.k, attention.v)
    packed = []
    for name in ("weight", "bias"):
        parts = [getattr(layer, name).detach() for layer in layers]
        if _adjacent(parts):  # fused before: what was recorded then still reads the same memory
            first = parts[0]
            packed.append(first.as_strided((3 * len(first), *first.shape[1:]), first.stride(), first.storage_offset()))
            continue
        joined = torch.cat(parts)
        for layer, part in zip(layers, joined.chunk(3), strict=True):
            getattr(layer, name).data = part
        packed.append(joined)
    return packed[0], packed[1]


def _adjacent(parts: Sequence[Tensor]) -> bool:
    """Whether ``parts`` of one size lie behind one another in one memory."""
    first = parts[0]
    storage, begin, size = first.untyped_storage().data_ptr(), first.storage_offset(), first.numel()
    return all(
        part.untyped_storage().data_ptr() == storage and part.storage_offset() == begin + index * size
        for index, part in enumerate(parts)
    )
