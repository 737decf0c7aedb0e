"""How every op is checked: its cases, its tolerance, and memory that was never written.

A case makes inputs. The truth is the op's reference on the same values in float64. An implementation may err twice as
much as the reference in the inputs' own dtype, plus a rounding term of the result: no op has numbers of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from humo_rt.kernels import registry


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of inputs. ``make(device)`` returns the op's tensors, always the same values."""

    name: str
    make: Callable[[torch.device], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """The largest error of one case and the largest one allowed."""

    case: str
    error: float
    bound: float

    @property
    def accepted(self) -> bool:
        return self.error <= self.bound  # False for NaN


def cases(op: str) -> list[Case]:
    """The small, awkward inputs of ``op``."""
    return importlib.import_module(f"humo_rt.kernels.{op}.cases").CASES


def deviation(op: str, run: Callable[..., Tensor], case: Case, device: torch.device) -> Deviation:
    """Run one case with poisoned allocations and compare it with the float64 reference.

    ``AssertionError`` when shape or dtype differ from the reference's.
    """
    inputs = case.make(device)
    reference = registry.implementation(op, registry.REFERENCE)
    truth = reference(*(_widened(x) for x in inputs))
    eager = reference(*inputs)
    with poisoned_empty():
        result = run(*inputs)
    assert result.shape == eager.shape, f"{op} {case.name}: shape {tuple(result.shape)}, not {tuple(eager.shape)}"
    assert result.dtype == eager.dtype, f"{op} {case.name}: {result.dtype}, not {eager.dtype}"
    rounding = 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    bound = 2 * (eager - truth).abs().max() + rounding
    return Deviation(case=case.name, error=(result - truth).abs().max().item(), bound=bound.item())


def check(op: str, backend: str, device: torch.device | str) -> list[Deviation]:
    """Compare ``backend`` with the reference on every case of ``op``; ``AssertionError`` lists the cases that fail."""
    device = torch.device(device)
    run = registry.implementation(op, backend)
    deviations = [deviation(op, run, case, device) for case in cases(op)]
    wrong = [f"{d.case}: error {d.error:.3g} > {d.bound:.3g}" for d in deviations if not d.accepted]
    assert not wrong, f"{op} on {backend}: {'; '.join(wrong)}"
    return deviations


def _widened(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


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
