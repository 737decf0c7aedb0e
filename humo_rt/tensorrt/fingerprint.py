"""Which weights a DiT has, told from a few values of each tensor: whether a graph was made of the ones that are loaded.

A digest would differ between the precisions of one checkpoint. The values themselves are kept instead, and agree if
they do within what both precisions round. Knows nothing of files, ONNX or TensorRT.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from humo_rt.model.dit import HumoDiT

FINGERPRINT_KEY = "humo_rt.weights"

_SAMPLES = 4
# Its multiples, taken modulo 1, spread evenly: samples share neither row nor column.
_GOLDEN = (math.sqrt(5) - 1) / 2
# A graph may be exported without it, and checkpoints do not carry it.
_OPTIONAL = "mask_predictor."


@dataclass(frozen=True)
class Fingerprint:
    """``samples``: by the tensor's name, up to four of its values."""

    samples: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, dit: HumoDiT) -> Fingerprint:
        """Of the weights that ``dit`` has, before ``fp8.quantize`` where it was called."""
        sampled = {}
        for path, module in dit.named_modules():
            own = dict(module.named_parameters(recurse=False))
            found = {name: sample(weight) for name, weight in own.items()}
            if hasattr(module, "weight_sample"):
                found["weight"] = module.weight_sample
            sampled |= {f"{path}.{name}".removeprefix("."): values for name, values in found.items()}
        sampled = {name: values for name, values in sampled.items() if not name.startswith(_OPTIONAL)}
        values = iter(torch.cat(list(sampled.values())).tolist())
        return cls({name: tuple(next(values) for _ in part) for name, part in sampled.items()})

    def to_json(self) -> dict[str, str]:
        """By name, the values in hexadecimal digits of float32, which lose nothing."""
        return {name: struct.pack(f">{len(values)}f", *values).hex() for name, values in self.samples.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, str]) -> Fingerprint:
        packed = {name: bytes.fromhex(digits) for name, digits in stored.items()}
        return cls({name: struct.unpack(f">{len(each) // 4}f", each) for name, each in packed.items()})

    def difference(self, loaded: Fingerprint, *dtypes: torch.dtype) -> str | None:
        """What differs first from ``loaded`` among the tensors that both have, in words; None if nothing does.

        ``dtypes``: the precisions that the two were rounded to. In one precision one checkpoint has the same values; in
        two they may differ by what these round.
        """
        precisions = [torch.finfo(dtype) for dtype in dtypes] if len(set(dtypes)) > 1 else []
        relative = sum(precision.eps for precision in precisions)
        absolute = sum(precision.smallest_normal * precision.eps for precision in precisions)
        for name in sorted(self.samples.keys() & loaded.samples.keys()):
            for own, other in zip(self.samples[name], loaded.samples[name], strict=True):
                if not abs(own - other) <= relative * max(abs(own), abs(other)) + absolute:  # also for NaN
                    return f"{name} has {own:.4g} instead of {other:.4g}"
        return None


def sample(weight: Tensor) -> Tensor:
    """Up to four values of ``weight`` in float32, always from the same places; copies no more than these."""
    count = min(_SAMPLES, weight.numel())
    places = [int(weight.numel() * (index * _GOLDEN % 1)) for index in range(1, count + 1)]
    found = torch.unravel_index(torch.tensor(places, device=weight.device), weight.shape)
    return weight.detach()[found].float()
