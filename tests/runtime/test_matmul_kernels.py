"""Linear layers by either library on the CPU; a stand-in computes what quack does, in the same order."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import humo_rt.runtime
from humo_rt.runtime import matmul_kernels
from humo_rt.runtime.fusing import fuse
from humo_rt.runtime.matmul_backends import use_matmul
from humo_rt.runtime.matmul_kernels import QUACK, TORCH, linear, linear_gelu, taken_by_quack
from tests.runtime.test_fused_block import CONFIGS, forward, forward_in_float64, make_dit, make_inputs

BF16 = torch.bfloat16


@pytest.fixture
def quack(monkeypatch):
    """A quack that takes every product on the CPU; and what it was asked for."""
    asked: list[str] = []

    def product(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
        asked.append("gelu" if gelu else "linear")
        y = F.linear(x.float(), weight.float(), bias.float())
        return (F.gelu(y, approximate="tanh") if gelu else y).to(x.dtype)

    module = ModuleType("quack_products")
    module.linear = product
    monkeypatch.setattr(humo_rt.runtime, "quack_products", module, raising=False)
    monkeypatch.setattr(matmul_kernels, "taken_by_quack", lambda x, weight, backend: backend == QUACK)
    return asked


def make_layer(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 5, 24), (40, 24), (40,)))
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


class TestTorch:
    def test_a_linear_layer(self):
        x, weight, bias = make_layer()
        assert torch.equal(linear(x, weight, bias, TORCH), F.linear(x, weight, bias))

    def test_any_input_is_rounded_to_the_weight(self):
        x, weight, bias = make_layer()
        weight, bias = weight.to(BF16), bias.to(BF16)
        assert torch.equal(linear(x, weight, bias, TORCH), F.linear(x.to(BF16), weight, bias))

    def test_gelu_is_the_tanh_form(self):
        x, weight, bias = make_layer()
        expected = F.gelu(F.linear(x, weight, bias), approximate="tanh")
        assert torch.equal(linear_gelu(x, weight, bias, TORCH), expected)


class TestQuack:
    def test_it_takes_nothing_on_a_cpu(self):
        x, weight, _ = make_layer(BF16)
        assert not taken_by_quack(x, weight, QUACK)

    def test_each_operator(self, quack):
        x, weight, bias = make_layer()
        product = F.linear(x, weight, bias)
        torch.testing.assert_close(linear(x, weight, bias, QUACK), product)
        torch.testing.assert_close(linear_gelu(x, weight, bias, QUACK), F.gelu(product, approximate="tanh"))
        assert quack == ["linear", "gelu"]

    def test_opcheck(self, quack):
        torch.library.opcheck(torch.ops.humo_rt.quack_linear.default, (*make_layer(), True))


class TestBlocks:
    @pytest.mark.parametrize("name", CONFIGS)
    @pytest.mark.parametrize("case", ["bfloat16", "no audio", "face mask"])
    def test_they_are_the_eager_ones_to_the_tolerance_rule(self, quack, name, case):
        config = CONFIGS[name]
        dit, inputs = make_dit(config).bfloat16(), make_inputs(config)
        if case == "no audio":
            inputs["audio"] = None
        if case == "face mask":
            inputs["face_mask"] = torch.rand(3, 2, 6, 10, generator=torch.Generator().manual_seed(2))
        truth, eager = forward_in_float64(dit, inputs), forward(dit, inputs)
        use_matmul(fuse(dit), QUACK)
        fused = forward(dit, inputs)
        bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
        assert (fused - truth).abs().max() <= bound
        before = 4 if case == "no audio" else 5  # of audio the queries; its output projection is folded into its values
        assert quack == [*["linear"] * before, "gelu", "linear"] * len(dit.blocks)

    def test_they_compile_without_a_break(self, quack):
        config = CONFIGS["nano"]
        dit, inputs = fuse(make_dit(config)), make_inputs(config)
        use_matmul(dit, QUACK)
        torch.compiler.reset()  # all tests share the blocks' code, and with it the limit on recompilations
        expected = forward(dit, inputs)
        for block in dit.blocks:
            block.compile(fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(forward(dit, inputs), expected)
