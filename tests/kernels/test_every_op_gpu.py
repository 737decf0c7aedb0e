"""What every op does on a GPU, with every backend: its cases, real shapes, streams, captured graphs, compiled callers.

Where more than the usual few GiB are needed, PyTorch's truth in float64 needs them: real shapes are cut to what that
holds in 20 GiB. What is particular to an op is in a file of its own.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.audio_face_attention.cases import Sizes as AudioSizes
from humo_rt.kernels.causal_conv.cases import Shape as ConvShape
from humo_rt.kernels.gate_residual_norm.cases import Stream
from humo_rt.kernels.testing import Case, check, deviation, taken
from humo_rt.kernels.text_attention.cases import Sizes as TextSizes
from tests.kernels import op_checks
from tests.kernels.test_scatter_residual_norm import changed

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
ELEMENTS = 2**26  # of one operand, half a GiB in float64
BACKENDS = [(op, backend) for op in registry.OPS for backend in op_checks.written_backends(op)]
each_backend = pytest.mark.parametrize(("op", "backend"), BACKENDS, indirect=["backend"])

AUDIO = AudioSizes(batch=2, frames=3, tokens=40, heads=4, head_dim=64, mask="soft")
USUAL_SIZES = (3, 63, 1000)
SIZES: dict[str, Any] = {
    "guided_update": (3, 4, 1000),
    "audio_face_attention": AUDIO,
    "audio_face_probabilities": AUDIO,
    "text_attention": TextSizes(texts=(12, 40), tokens=140, heads=2, head_dim=128, text_len=64),
    "merge_attention": (3, 63, 4, 64),
    "qk_norm_rope": (3, 63, 5, 64),
    "qk_norm_rope_quantize": (3, 63, 4, 64),
    "rms_silu": (2, 3, 14, 15, 96),
    "causal_conv": ConvShape(2, 13, 17, 96, 96),
}


def fewer_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    row = math.prod(shape) // shape[1]
    return (shape[0], min(shape[1], max(1, ELEMENTS // row)), *shape[2:])


def fewer_tokens(stream: Stream) -> Stream:
    return stream._replace(length=min(stream.length, max(1, ELEMENTS // (stream.batch * stream.width))))


def fewer_frames(sizes: AudioSizes) -> AudioSizes:
    frame = sizes.batch * sizes.tokens * sizes.heads * sizes.head_dim
    return replace(sizes, frames=min(sizes.frames, max(2, ELEMENTS // frame)))


CUT: dict[str, Callable[[Any], Any]] = {
    "audio_face_attention": fewer_frames,
    "audio_face_probabilities": fewer_frames,
    "gate_residual_norm": fewer_tokens,
    "gate_residual_norm_quantize": fewer_tokens,
    "residual_norm": fewer_tokens,
    "text_attention": lambda sizes: replace(sizes, texts=sizes.texts[-1:], tokens=min(sizes.tokens, 8192)),
    "rms_silu": lambda shape: (1, min(shape[1], 2), *shape[2:]),
    "causal_conv": lambda shape: shape._replace(frames=2, rows=min(shape.rows, 20)),
}


def cases_of(op: str) -> Any:
    return importlib.import_module(f"humo_rt.kernels.{op}.cases")


def make_inputs(op: str) -> tuple[Any, ...]:
    return cases_of(op).make_inputs(SIZES.get(op, USUAL_SIZES), torch.bfloat16, CUDA)


def wrapper_of(op: str) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The public function with the arguments of its cases; every tensor it returns or changes."""
    if op == "scatter_residual_norm":
        return changed
    wrapper = getattr(importlib.import_module(f"humo_rt.kernels.{op}"), op)

    def call(*arguments: Any) -> tuple[torch.Tensor, ...]:
        return op_checks.results(wrapper(*arguments))

    return call


@each_backend
def test_cases(op, backend):
    check(op, backend, CUDA)


@pytest.mark.gpu_memory(20)
@pytest.mark.parametrize(
    ("op", "backend", "workload"),
    [(op, backend, workload) for op, backend in BACKENDS for workload in cases_of(op).WORKLOADS],
    indirect=["backend"],
)
def test_real_shapes(op, backend, workload):
    cases = cases_of(op)
    sizes = CUT.get(op, fewer_rows)(cases.WORKLOADS[workload])
    case = Case(name=workload, make=lambda device: cases.make_inputs(sizes, torch.bfloat16, device))
    if not taken(op, backend, case.make(CUDA)):
        pytest.skip(f"{op} in {backend} is not written for {workload}")
    found = deviation(op, wrapper_of(op), case, CUDA)
    assert found.accepted, found


@each_backend
def test_opcheck(op, backend):
    torch.library.opcheck(getattr(torch.ops.humo_rt, op).default, make_inputs(op))


@each_backend
def test_compiles_into_one_graph(op, backend):
    op_checks.assert_compiles(wrapper_of(op), make_inputs(op))


@each_backend
def test_a_captured_graph_reads_its_inputs_anew(op, backend):
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(wrapper_of(op), make_inputs(op))


@each_backend
def test_runs_on_the_current_stream(op, backend):
    op_checks.assert_runs_on_the_current_stream(wrapper_of(op), make_inputs(op))


@pytest.mark.parametrize("op", registry.OPS)
def test_the_fastest_available_backend_is_chosen(op):
    faster = min(op_checks.written_backends(op), key=registry.preferred(op).index)
    assert registry.select(op, CUDA) is registry.implementation(op, faster)
