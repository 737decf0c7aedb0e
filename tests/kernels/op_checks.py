"""What is asked of every op alike, on the CPU and on a GPU. Each run has inputs of its own: an op may change them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from humo_rt.kernels import registry

ROOT = Path(__file__).parents[2]


def written_backends(op: str) -> list[str]:
    """Those that ``op`` is written for. A GPU machine has them all: a missing one fails."""
    return [name for name in registry.BACKENDS if (ROOT / "kernels" / op / f"{name}_impl.py").exists()]


def backends_of(op: str) -> pytest.MarkDecorator:
    """For a test with ``backend``: each of them in turn."""
    return pytest.mark.parametrize("backend", written_backends(op), indirect=True)


def results(value: Any) -> tuple[Tensor, ...]:
    """Every tensor of a result, those in tuples within it too."""
    return (value,) if isinstance(value, Tensor) else tuple(x for each in value for x in results(each))


def widened(x: Tensor) -> Tensor:
    """e4m3 knows no arithmetic; in float32 it has the same values."""
    return x.float() if x.dtype == torch.float8_e4m3fn else x


def enlarged(x: Tensor) -> Tensor:
    """A result that is wrong by a little: by a tenth where an e4m3 number is coarser than that."""
    return (x.float() * 1.1).to(x.dtype) if x.dtype == torch.float8_e4m3fn else x * 1.001


def run_anew(op: Callable[..., Any], inputs: tuple[object, ...]) -> Any:
    """The op on copies that lie in memory as ``inputs`` do."""
    return op(*copy.deepcopy(inputs))


def assert_equal(actual: Any, expected: Any) -> None:
    """Every result the same to the bit."""
    assert all(torch.equal(widened(a), widened(b)) for a, b in zip(results(actual), results(expected), strict=True))


def assert_interpreted_code_is_right(op: str, *changes: str) -> None:
    """The op's cases through Triton's interpreter, which has to be on before Triton is imported.

    ``changes``: ``NAME=number`` of its Triton module, see ``interpreted``.
    """
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.kernels.interpreted", op, *changes]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def assert_compiles(op: Callable[..., Any], inputs: tuple[object, ...], *, ours: bool = True, **knobs: Any) -> None:
    """The op between other operations, without a graph break, and still the op: on the CPU its reference agrees too.

    ``ours`` is False for what is an operator of PyTorch's.
    """

    def caller(*args: Any) -> tuple[Tensor, ...]:
        return tuple(widened(each) + 1 for each in results(op(*args)))

    torch.compiler.reset()  # all ops share the caller's code, and with it the limit on recompilations
    graphs = []

    def record(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    run_anew(torch.compile(caller, fullgraph=True, backend=record), inputs)
    found = [node for node in graphs[0].graph.nodes if str(node.target).startswith("humo_rt.")]
    assert bool(found) == ours
    compiled = torch.compile(caller, fullgraph=True, **knobs)
    assert_equal(run_anew(compiled, inputs), run_anew(caller, inputs))


def assert_exports_as_plain_operators(op: Callable[..., Any], inputs: tuple[object, ...]) -> None:
    """Tensors are the inputs of the exported graph, everything else is part of it."""
    tensors = tuple(x for x in inputs if isinstance(x, Tensor))

    class Model(torch.nn.Module):
        def forward(self, *given: Tensor) -> Any:
            remaining = iter(given)
            return op(*(next(remaining) if isinstance(x, Tensor) else x for x in inputs))

    program = torch.export.export(Model(), tensors)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets
    assert not [target for target in targets if "humo_rt" in target]
    assert_equal(run_anew(program.module(), tensors), run_anew(op, inputs))


def assert_a_captured_graph_reads_its_inputs_anew(op: Callable[..., Any], inputs: tuple[object, ...]) -> None:
    """Captured with every input halved, weights and masks too, replayed with the true ones."""
    given = [x / 2 if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    op(*given)  # compiles outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = op(*given)
    for x, true in zip(given, inputs, strict=True):
        if isinstance(x, Tensor):
            x.copy_(true)
    # Not of ``inputs``: what lies in memory differently may be added up in another order.
    expected = run_anew(op, given)
    graph.replay()
    assert_equal(captured, expected)


def assert_runs_on_the_current_stream(op: Callable[..., Any], inputs: tuple[object, ...]) -> None:
    expected = run_anew(op, inputs)
    torch.cuda.synchronize()
    late = torch.zeros_like(inputs[0])
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(inputs[0])
        actual = op(late, *inputs[1:])
    stream.synchronize()
    assert_equal(actual, expected)
