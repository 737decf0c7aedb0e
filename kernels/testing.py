"""How every op is checked: its cases, its tolerance, and memory that was never written.

A case makes inputs. The truth is the op's reference on the same values in float64. An implementation may err twice as
much as the reference in the inputs' own dtype, plus a rounding term of the result: no op has numbers of its own.
e4m3 results are compared with the truth before it was rounded, and may miss it by half a step.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.float8 import FLOAT8, LARGEST, half_step


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of inputs. ``make(device)`` returns the op's arguments, always the same values."""

    name: str
    make: Callable[[torch.device], tuple[object, ...]]


def in_each_dtype(
    makers: Mapping[str, Callable[[torch.dtype, torch.device], tuple[object, ...]]], dtypes: Sequence[torch.dtype]
) -> list[Case]:
    """A case for each dtype and each of ``makers``, which make inputs of that dtype on a device."""
    return [
        Case(name=f"{name} {str(dtype).removeprefix('torch.')}", make=partial(make, dtype))
        for dtype in dtypes
        for name, make in makers.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """The largest error of one case and the largest one allowed; of several results the one nearest to its bound."""

    case: str
    error: float
    bound: float

    @property
    def accepted(self) -> bool:
        return self.error <= self.bound  # False for NaN


def cases(op: str) -> list[Case]:
    """The small, awkward inputs of ``op``."""
    return importlib.import_module(f"humo_rt.kernels.{op}.cases").CASES


def deviation(op: str, run: Callable[..., Any], case: Case, device: torch.device) -> Deviation:
    """Run one case with poisoned allocations and compare it with the float64 reference.

    An op that changes inputs in place returns what it changed; then each run gets inputs of its own.
    ``AssertionError`` when shape or dtype of a result differ from the reference's.
    """
    inputs = case.make(device)
    reference = registry.implementation(op, registry.REFERENCE)
    truths = _results(reference(*(_widened(x) for x in inputs)))
    eagers = _results(reference(*inputs))
    if any(result is x for result in eagers for x in inputs):
        inputs = case.make(device)
    with poisoned_empty():
        results = _results(run(*inputs))
    assert len(results) == len(eagers), f"{op} {case.name}: {len(results)} results, not {len(eagers)}"
    found = [_deviation(f"{op} {case.name}", *each) for each in zip(results, eagers, truths, strict=True)]
    error, bound = next((pair for pair in found if not pair[0] <= pair[1]), max(found, key=_share))
    return Deviation(case=case.name, error=error, bound=bound)


def _deviation(name: str, result: Tensor, eager: Tensor, truth: Tensor) -> tuple[float, float]:
    """The error of one result and its bound."""
    assert result.shape == eager.shape, f"{name}: shape {tuple(result.shape)}, not {tuple(eager.shape)}"
    assert result.dtype == eager.dtype, f"{name}: {result.dtype}, not {eager.dtype}"
    if result.dtype == FLOAT8:
        return _float8_deviation(result.double(), eager.double(), truth)
    rounding = 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    bound = 2 * (eager - truth).abs().max() + rounding
    return (result - truth).abs().max().item(), bound.item()


def _float8_deviation(result: Tensor, eager: Tensor, truth: Tensor) -> tuple[float, float]:
    """The error beyond half a step, the largest of all elements, and its bound: twice that of eager PyTorch, plus what
    arithmetic in float32 may err before it rounds, taken as 64 roundings of the largest e4m3 number."""
    allowed = half_step(truth)
    excess, eager_excess = (((x - truth).abs() - allowed).clamp(min=0) for x in (result, eager))
    return excess.amax().item(), 2 * eager_excess.amax().item() + 64 * LARGEST * 2.0**-24


def _share(pair: tuple[float, float]) -> float:
    error, bound = pair
    return error / bound if bound else 0.0


def _results(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def taken(op: str, backend: str, inputs: tuple[object, ...]) -> bool:
    """Whether ``backend`` is written for such inputs: where not all are, a function ``takes`` beside the op says so."""
    takes = getattr(importlib.import_module(f"humo_rt.kernels.{op}"), "takes", None)
    return takes is None or takes(backend, *inputs)


def check(op: str, backend: str, device: torch.device | str) -> list[Deviation]:
    """Compare ``backend`` with the reference on every case of ``op`` that it is written for.

    ``AssertionError`` lists the cases that fail.
    """
    device = torch.device(device)
    run = registry.implementation(op, backend)
    chosen = [case for case in cases(op) if taken(op, backend, case.make(device))]
    assert chosen, f"{op} on {backend}: it is written for none of the cases"
    deviations = [deviation(op, run, case, device) for case in chosen]
    wrong = [f"{d.case}: error {d.error:.3g} > {d.bound:.3g}" for d in deviations if not d.accepted]
    assert not wrong, f"{op} on {backend}: {'; '.join(wrong)}"
    return deviations


def _widened(x: object) -> object:
    """Tensors in float64, and a result asked for in float64; sizes and numbers as they are."""
    if isinstance(x, torch.dtype):
        return torch.float64
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@contextmanager
def poisoned_empty() -> Iterator[None]:
    """Fill what ``torch.empty`` and its kin return with NaN, so that an element nobody writes shows."""

    def poisoning(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def poisoned(*args: object, **kwargs: object) -> Tensor:
            memory = allocate(*args, **kwargs)
            return memory.fill_(float("nan")) if memory.is_floating_point() else memory

        return poisoned

    with (
        mock.patch.object(torch, "empty", poisoning(torch.empty)),
        mock.patch.object(torch, "empty_like", poisoning(torch.empty_like)),
        mock.patch.object(torch, "empty_strided", poisoning(torch.empty_strided)),
        mock.patch.object(Tensor, "new_empty", poisoning(Tensor.new_empty)),
    ):
        yield
