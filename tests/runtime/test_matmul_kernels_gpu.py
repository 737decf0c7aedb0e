"""quack's products on a Hopper GPU: by the common rule, at any length, recorded, compiled, in blocks of full width."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.runtime import attention_backends, matmul_backends, matmul_kernels
from humo_rt.runtime.fusing import fuse
from humo_rt.runtime.matmul_kernels import HALF, QUACK, TORCH, linear, linear_gelu, taken_by_quack
from humo_rt.sampling.guidance import guidance_table
from tests.kernels.op_checks import assert_compiles
from tests.runtime.test_fused_block_gpu import CONFIGS, branches, in_float64, make_conditions, make_dit, random

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
# Batch, rows, inputs, outputs: lengths and widths that are no multiple of a tile, and what HuMo-1.7B has.
SHAPES = [(3, 333, 1536, 1536), (1, 97, 1536, 8960), (2, 200, 264, 1000), (8, 1, 128, 128), (3, 4060, 8960, 1536)]


@pytest.fixture(autouse=True)
def quack(monkeypatch):
    """Takes products of every size. Where the card is Hopper's, a missing quack fails."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("quack is set up for Hopper alone")
    monkeypatch.setattr(matmul_kernels, "FEWEST_ROWS", 1)
    monkeypatch.setattr(matmul_kernels, "FEWEST_INPUTS", 8)
    monkeypatch.setattr(matmul_kernels, "MOST_INPUTS", 2**20)
    assert matmul_backends.choose(QUACK, CUDA, torch.bfloat16, 1536) == QUACK


def make_layer(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    batch, length, width, outputs = shape
    return (
        random(batch, length, width).to(dtype),
        (random(outputs, width) / width**0.5).to(dtype),
        random(outputs).to(dtype),
    )


def assert_rule(result: Tensor, eager: Tensor, truth: Tensor) -> None:
    assert (result.shape, result.dtype) == (eager.shape, eager.dtype)
    bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    assert (result - truth).abs().max() <= bound


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", HALF, ids=str)
class TestArithmetic:
    def test_linear(self, shape, dtype):
        x, weight, bias = make_layer(shape, dtype)
        truth = F.linear(x.double(), weight.double(), bias.double())
        assert_rule(linear(x, weight, bias, QUACK), F.linear(x, weight, bias), truth)

    def test_gelu_is_the_tanh_form(self, shape, dtype):
        x, weight, bias = make_layer(shape, dtype)
        wide = F.linear(x.double(), weight.double(), bias.double())
        truth, result = F.gelu(wide, approximate="tanh"), linear_gelu(x, weight, bias, QUACK)
        assert_rule(result, F.gelu(F.linear(x, weight, bias), approximate="tanh"), truth)
        assert (result - truth).abs().mean() < (result - F.gelu(wide)).abs().mean()


def test_queries_among_others_and_other_strides():
    """Inputs that are a part of something wider are copied, not read wrongly."""
    x, weight, bias = make_layer((2, 70, 256, 128), torch.bfloat16)
    part = torch.cat([x, -x], dim=-1)[..., :256]
    assert torch.equal(linear(part, weight, bias, QUACK), linear(x, weight, bias, QUACK))


def test_it_is_recorded_and_replayed():
    x, weight, bias = make_layer((3, 333, 1536, 1536), torch.bfloat16)

    def run() -> tuple[Tensor, Tensor]:
        return linear(x, weight, bias, QUACK), linear_gelu(x, weight, bias, QUACK)

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = run()
    x.normal_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(recorded, run(), strict=True))


def test_it_compiles_into_one_graph():
    x, weight, bias = make_layer((2, 64, 256, 128), torch.bfloat16)

    def ops(x: Tensor) -> Tensor:
        return linear(linear_gelu(x, weight, bias, QUACK), weight[:, :128], bias, QUACK)

    assert_compiles(ops, (x,))


def test_small_products_and_other_dtypes_stay_with_torch(monkeypatch):
    monkeypatch.undo()
    x, weight, _ = make_layer((1, 8191, 1024, 1024), torch.bfloat16)
    more = torch.cat([x, x[:, :1]], dim=1)
    assert not taken_by_quack(x, weight, QUACK)
    assert taken_by_quack(more, weight, QUACK)
    assert not taken_by_quack(more, weight, TORCH)
    assert not taken_by_quack(more[..., :1000], weight[:, :1000], QUACK)
    wide = random(1, 8192, 2056).bfloat16()
    assert not taken_by_quack(wide, wide[0], QUACK)
    assert not taken_by_quack(more.float(), weight.float(), QUACK)


@pytest.mark.parametrize("name", ["humo-1.7b", "humo-17b"])
def test_guided_branches_are_the_eager_ones_to_the_tolerance_rule(name: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[name]
    dit, noise = make_dit(config), random(1, 16, 4, 12, 20)
    conditions, names = make_conditions(config, noise), list(guidance_table(config, "TIA").at(900))
    truth = in_float64(copy.deepcopy(dit), conditions, noise, names)
    attention_backends.use_attention(dit, attention_backends.choose("auto", CUDA, torch.bfloat16, config.dit.head_dim))
    eager = branches(dit, conditions, noise, names, branch_batch_size=1)
    matmul_backends.use_matmul(fuse(dit), QUACK)
    for options in ({}, {"branch_batch_size": 1}):
        assert_rule(branches(dit, conditions, noise, names, **options), eager, truth)
