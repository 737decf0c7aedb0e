"""An engine against PyTorch on the card it runs on: errors, speed, CUDA graphs. Behind ``humo-rt verify-engine``.

The truth is the same weights in float32. The engine may err twice as much as eager PyTorch in the engine's own
precision, plus a rounding term; fp8 engines are held to the arithmetic of ``fp8``. Knows nothing of files or TensorRT:
any ``GraphDiT`` can be compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from humo_rt.config import CONDITION_CHANNELS, LATENT_CHANNELS
from humo_rt.model.dit import HumoDiT
from humo_rt.tensorrt import fp8
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.float32_pass import in_float32
from humo_rt.tensorrt.graph_dit import GraphDiT
from humo_rt.tensorrt.profiles import Profile

TIMED_RUNS = 10
# Of the largest value, where eager PyTorch is itself the truth: the same sums in another order.
FLOAT32_TOLERANCE = 1e-4
_TIMESTEP = 700.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One size and case. ``error`` and ``bound``: largest absolute errors, found and allowed.

    ``captured``: whether a CUDA graph of the call gives the same; None where that was not tried.
    """

    size: Size
    case: str
    error: float
    bound: float
    captured: bool | None

    @property
    def accepted(self) -> bool:
        return self.error <= self.bound and self.captured is not False  # False for NaN


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Median milliseconds of one forward pass."""

    size: Size
    engine: float
    eager: float


@dataclass(frozen=True, kw_only=True)
class _Call:
    """Seeded inputs of one forward pass; ``arguments`` are those beside the context."""

    arguments: dict[str, Any]
    text_BLE: Tensor
    audio_BTWNA: Tensor

    def run(self, model: HumoDiT | GraphDiT) -> Tensor:
        return self.bound(model)().clone()

    def bound(self, model: HumoDiT | GraphDiT) -> Callable[[], Tensor]:
        """The forward pass with its context projected already; mask logits follow the velocity in one flat tensor."""
        context = model.project_context(self.text_BLE, self.audio_BTWNA)

        def forward() -> Tensor:
            result = model(**self.arguments, context=context)
            return torch.cat([part.flatten() for part in result]) if isinstance(result, tuple) else result

        return forward


def sizes_of(profiles: Sequence[Profile]) -> list[Size]:
    """Where a comparison says most: the smallest and the typical size of every profile, each once."""
    return list(dict.fromkeys(size for profile in profiles for size in (profile.smallest, profile.typical)))


@torch.no_grad()
def compare(
    graph: GraphDiT,
    dit: HumoDiT,
    sizes: Sequence[Size],
    *,
    capture: bool = True,
    fp8_scales: Mapping[str, Tensor] | None = None,
) -> Iterator[Comparison]:
    """Every size with every optional part of the graph.

    ``capture``: also try a CUDA graph of the call, which ONNX Runtime sessions do not support.
    ``dit``: the weights that the graph was exported from, in its precision, on the device that the graph runs on. It is
    put into fp8 when the graph is, with the checkpoint's ``fp8_scales``.
    """
    calls = [
        (size, case, _call(graph, dit, size, masked=masked)) for size in sizes for case, masked in _cases(graph)
    ]  # fmt: skip
    with in_float32(dit):
        truths = [call.run(dit) for _, _, call in calls]
    if graph.spec.fp8:
        fp8.quantize(dit, fp8_scales)
    for (size, case, call), truth in zip(calls, truths, strict=True):
        eager, result = call.run(dit), call.run(graph)
        yield Comparison(
            size=size,
            case=case,
            error=(result - truth).abs().max().item(),
            bound=_bound(eager, truth, graph.spec.dtype),
            captured=_same_when_captured(call.bound(graph), result) if capture and result.is_cuda else None,
        )


@torch.no_grad()
def measure(graph: GraphDiT, dit: HumoDiT, size: Size, runs: int = TIMED_RUNS) -> Speed:
    """Time both without a face mask, after a warm-up."""
    call = _call(graph, dit, size, masked=False)
    return Speed(size=size, engine=_median(call.bound(graph), runs), eager=_median(call.bound(dit), runs))


@torch.no_grad()
def measure_eager(graph: GraphDiT, dit: HumoDiT, size: Size, runs: int = TIMED_RUNS) -> float:
    """Median milliseconds of ``dit`` alone, at what ``measure`` would give it."""
    return _median(_call(graph, dit, size, masked=False).bound(dit), runs)


def _cases(graph: GraphDiT) -> Iterator[tuple[str, bool]]:
    """Names of the cases, and whether a face mask is given."""
    predicting = " and mask predictor" if graph.spec.mask_predictor else ""
    yield f"velocity{predicting}", False
    if graph.spec.face_mask:
        yield f"velocity{predicting} with a face mask", True


def _call(graph: GraphDiT, dit: HumoDiT, size: Size, *, masked: bool) -> _Call:
    config, device = graph.config, dit.patch_embedding.weight.device
    generator = torch.Generator(device).manual_seed(0)
    video = (size.frames, size.height, size.width)

    def noise(*shape: int) -> Tensor:
        return torch.randn(size.branches, *shape, generator=generator, device=device)

    arguments: dict[str, Any] = {
        "x_BCTHW": noise(LATENT_CHANNELS, *video),
        "timestep_B": torch.full((size.branches,), _TIMESTEP, device=device),
        "return_face_mask": graph.spec.mask_predictor,
    }
    if config.image_injection == "channels":
        arguments["condition"] = noise(CONDITION_CHANNELS, *video)
    if masked:
        arguments["face_mask"] = (noise(*video) > 0).float()
    text = noise(config.text_len, config.text_dim)
    audio = noise(size.frames, config.audio_window, config.audio_bands, config.audio_dim)
    return _Call(arguments=arguments, text_BLE=text, audio_BTWNA=audio)


def _bound(eager: Tensor, truth: Tensor, dtype: torch.dtype) -> float:
    rounding = (eager + 0.3 - 0.3 - eager).abs().max()
    bound = 2 * (eager - truth).abs().max() + 2 * rounding
    if dtype == torch.float32:
        bound = torch.maximum(bound, FLOAT32_TOLERANCE * truth.abs().max())
    return bound.item()


def _same_when_captured(forward: Callable[[], Tensor], expected: Tensor) -> bool:
    forward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = forward()
    result.zero_()
    graph.replay()
    torch.cuda.synchronize()
    return torch.equal(result, expected)


def _median(forward: Callable[[], Tensor], runs: int) -> float:
    times = []
    for run in range(runs + 1):
        _synchronize()
        begin = time.perf_counter()
        forward()
        _synchronize()
        if run:
            times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
