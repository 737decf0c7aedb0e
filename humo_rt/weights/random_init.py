"""Seeded random weights for any preset: tests, benchmarks and first runs without a download.

Every tensor is drawn on the device it will live on from a generator seeded by its name, so weights depend neither on
the order of creation nor on which other parts exist. Knows no trained values.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from humo_rt.weights.load import load_into
from humo_rt.weights.modules import float32_rule
from humo_rt.weights.readers import StoredTensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Keeps the variance of activations about constant through deep stacks without normalising each layer.
_MATRIX_GAIN = 0.7


def fill_random(module: nn.Module, *, part: str, seed: int, dtype: torch.dtype, device: torch.device | str) -> None:
    """Give every parameter of a module on the meta device a seeded random value on ``device`` in ``dtype``.

    The same ``part``, ``seed``, dtype and kind of device give the same values.
    """
    device = torch.device(device)

    def stored(name: str, tensor: Tensor) -> StoredTensor:
        shape = tuple(tensor.shape)
        return StoredTensor(shape, torch.float32, lambda: _draw(f"{part}.{name}", shape, seed, device))

    tensors = {name: stored(name, tensor) for name, tensor in module.named_parameters()}
    load_into(module, tensors, dtype=dtype, device=device, keep_float32=float32_rule(module), source="random weights")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that needs no file: one token per UTF-8 byte and an end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from humo_rt.conditions.text import EOS, PAD, UNKNOWN

    tokens = [PAD, EOS, UNKNOWN, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, padding_side="right"
    )


def _draw(name: str, shape: tuple[int, ...], seed: int, device: torch.device) -> Tensor:
    # The CPU's generator heeds only 32 bits of its seed, so seed and name are hashed together.
    generator = torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    values = torch.randn(shape, generator=generator, device=device)
    std, mean = _spread(name.rpartition(".")[2], shape)
    return values.mul_(std).add_(mean)


def _spread(leaf: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Standard deviation and mean: matrices by fan-in, scales around one, the rest small."""
    if leaf == "modulation":
        return 0.2, 0.0
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return 0.1, 1.0
    if len(shape) > 1:
        fan_in = torch.Size(shape[1:]).numel()
        return _MATRIX_GAIN / fan_in**0.5, 0.0
    return 0.02, 0.0
