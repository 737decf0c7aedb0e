"""Text attention of many tokens on a GPU: the kernels that hold all keys of a head, and what CUDA's is not for."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.testing import Case, deviation
from humo_rt.kernels.text_attention import backend_order, text_attention, triton_impl
from humo_rt.kernels.text_attention.cases import MANY_TOKENS, make_inputs
from humo_rt.kernels.text_attention.reference import reference

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
PUBLISHED = dataclasses.replace(MANY_TOKENS, texts=(100, 126), tokens=12_001, heads=12, head_dim=128)
LONG = dataclasses.replace(PUBLISHED, tokens=6000, heads=40)  # a block has many tiles, of both branches
PADDED = dataclasses.replace(MANY_TOKENS, texts=(3, 127), head_dim=24)


@pytest.mark.parametrize("sizes", [MANY_TOKENS, PUBLISHED, PADDED], ids=["narrow heads", "humo-1.7b", "odd heads"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_tokens_to_the_tolerance_rule(sizes, dtype):
    q, _, k, *_ = make_inputs(sizes, dtype, CUDA)
    rows = q.shape[0] * q.shape[1] * k.shape[1]
    assert triton_impl.few_blocks(rows, k.shape[2], k.shape[3], q.element_size()) is not None
    case = Case(name=str(sizes), make=lambda device: make_inputs(sizes, dtype, device))
    found = deviation("text_attention", triton_impl.run, case, CUDA)
    assert found.accepted, found


@pytest.mark.parametrize(
    "sizes",
    [
        PUBLISHED,
        dataclasses.replace(PUBLISHED, texts=(3, 127)),
        dataclasses.replace(PUBLISHED, texts=(20,), tokens=64, heads=40),
        dataclasses.replace(PUBLISHED, texts=(20,) * 8, tokens=2047, heads=5),
        dataclasses.replace(PUBLISHED, texts=(20,), tokens=9000, heads=64),
        dataclasses.replace(PUBLISHED, texts=(20, 50, 80), tokens=6000, heads=1),
        LONG,
    ],
    ids=["humo-1.7b", "a long and a short text", "one tile", "batch 8", "many heads", "one head", "long"],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["cuda"], indirect=True)
def test_cuda_to_the_tolerance_rule(backend, sizes, dtype):
    case = Case(name=str(sizes), make=lambda device: make_inputs(sizes, dtype, device))
    found = deviation("text_attention", text_attention, case, CUDA)
    assert found.accepted, found


@pytest.mark.parametrize("backend", ["cuda"], indirect=True)
class TestCuda:
    def test_repeats_itself_to_the_bit(self, backend):
        inputs = make_inputs(LONG, torch.bfloat16, CUDA)
        first = text_attention(*inputs)
        assert all(torch.equal(text_attention(*inputs), first) for _ in range(20))

    def test_a_branch_alone_is_the_same_as_among_others(self, backend):
        q, weight, k, v, bias, eps = make_inputs(PUBLISHED, torch.bfloat16, CUDA)
        together = text_attention(q, weight, k, v, bias, eps)
        for i in range(len(q)):
            branch = slice(i, i + 1)
            alone = text_attention(q[branch], weight, k[branch], v[branch], bias[branch], eps)
            assert torch.equal(alone, together[branch])

    def test_queries_that_branches_share_may_be_expanded(self, backend):
        q, *others = make_inputs(PUBLISHED, torch.bfloat16, CUDA)
        shared = q[:1].expand_as(q)
        assert torch.equal(text_attention(shared, *others), text_attention(shared.contiguous(), *others))

    def test_a_row_without_a_number_spoils_that_row_alone(self, backend):
        q, *others = make_inputs(PUBLISHED, torch.bfloat16, CUDA)
        expected = text_attention(q, *others)
        q[0, 100, 5] = float("nan")
        spoiled = text_attention(q, *others)
        assert spoiled[0, 100].isnan().all()
        assert torch.equal(spoiled[0, :100], expected[0, :100])
        assert torch.equal(spoiled[0, 101:], expected[0, 101:])
        assert torch.equal(spoiled[1:], expected[1:])

    def test_an_infinity_makes_of_its_row_what_the_reference_makes(self, backend):
        q, weight, k, v, bias, eps = make_inputs(PUBLISHED, torch.bfloat16, CUDA)
        q[0, 100, 5] = float("inf")
        found = text_attention(q, weight, k, v, bias, eps)[0, 100]
        expected = reference(q[:1, 100:101], weight, k[:1], v[:1], bias[:1], eps)[0, 0]
        assert torch.equal(found.isnan(), expected.isnan())
        assert 0 < int(found.isnan().sum()) < len(found)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2, equal_nan=True)

    @pytest.mark.parametrize(
        ("sizes", "named"),
        [
            (PADDED, r"not \d+ of 24, 128 and"),
            (dataclasses.replace(PUBLISHED, tokens=64, heads=65), "not 65 of 128, 127 and"),
        ],
        ids=["narrow heads", "many heads"],
    )
    def test_what_it_is_not_written_for_is_refused(self, backend, sizes, named):
        with pytest.raises(
            ValueError, match=f"up to 64 heads of 128 channels, up to 128 keys and 16-bit types, {named}"
        ):
            text_attention(*make_inputs(sizes, torch.bfloat16, CUDA))


def test_cuda_runs_where_it_is_faster():
    q, weight, k, *_ = make_inputs(PUBLISHED, torch.bfloat16, CUDA)
    order = backend_order(q, weight, k)
    assert registry.select("text_attention", CUDA, order) is registry.implementation("text_attention", "cuda")


def test_triton_runs_on_a_slice_of_a_card_with_fewer_processors_than_heads(monkeypatch):
    q, weight, k, *_ = make_inputs(PUBLISHED, torch.bfloat16, CUDA)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=11))
    assert backend_order(q, weight, k) == ("triton",)
