"""Every attention backend of this machine on real tensors: accuracy, compilers, captured graphs, streams, the pipeline.

A machine lacks some packages; those are skipped by name, with the reason that the doctor gives.
"""

from __future__ import annotations

import importlib
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.kernels.testing import poisoned_empty
from humo_rt.pipeline import Pipeline
from humo_rt.result import GenerationResult
from humo_rt.runtime import flash_attention_4
from humo_rt.runtime.attention_backends import BACKENDS, choose, unavailable
from humo_rt.runtime.attention_kernels import FLASH_ATTENTION_4, SDPA, self_attention, self_attention_of_alike
from tests.kernels import op_checks

pytestmark = pytest.mark.gpu

BF16 = torch.bfloat16
ONE_TOKEN = (1, 1, 1, 128)
SHAPES = [
    ONE_TOKEN,
    (2, 3, 63, 64),
    (1, 12, 1000, 128),
    (4, 2, 1560, 128),
    (8, 4, 257, 64),
    (3, 5, 100, 32),
]  # BHLK


@pytest.fixture(scope="module")
def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(params=BACKENDS)
def backend(request, device) -> str:
    require(request.param, device)
    return request.param


def require(backend: str, device: torch.device, dtype: torch.dtype = BF16, head_dim: int = 128) -> None:
    reason = unavailable(backend, device, dtype, head_dim)
    if reason is not None:
        pytest.skip(f"{backend} {reason}")


def make_qkv(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """q dense as (B, L, H, K), k dense as (B, H, L, K), v a part of a packed product: all three occur."""
    batch, heads, tokens, head_dim = shape
    generator = torch.Generator(device).manual_seed(0)
    q, k = (
        torch.randn(batch, tokens, heads, head_dim, generator=generator, device=device).to(dtype).transpose(1, 2)
        for _ in range(2)
    )
    packed = torch.randn(batch, tokens, 3 * heads * head_dim, generator=generator, device=device).to(dtype)
    v = packed[..., 2 * heads * head_dim :].unflatten(-1, (heads, head_dim)).transpose(1, 2)
    return q, k.contiguous(), v


def reference(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Tensor:
    scores_BHLS = q_BHLK @ k_BHLK.mT * q_BHLK.shape[-1] ** -0.5
    return scores_BHLS.softmax(-1) @ v_BHLK


def test_torchs_own_kernels_are_there(device) -> None:
    """So that a machine on which all tests are skipped does not pass for one on which they passed."""
    assert unavailable("cudnn", device, BF16, 128) is None
    assert unavailable("sdpa-flash", device, BF16, 128) is None
    assert unavailable(SDPA, device, BF16, 128) is None


@pytest.mark.parametrize("dtype", [BF16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", BACKENDS)
def test_agrees_with_float64(name: str, shape: tuple[int, ...], dtype: torch.dtype, device) -> None:
    require(name, device, dtype, shape[-1])
    qkv = make_qkv(shape, dtype, device)
    if name == "cudnn" and shape == ONE_TOKEN:  # no video has one: its reference slot is a second
        with pytest.raises(RuntimeError, match="No available kernel"):
            self_attention(*qkv, backend=name)
        return
    with poisoned_empty():
        result = self_attention(*qkv, backend=name)
    truth, eager = reference(*(x.double() for x in qkv)), reference(*qkv)
    bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    assert result.shape == eager.shape
    assert result.dtype == dtype
    assert (result - truth).abs().max() <= bound


def test_full_size_agrees_with_the_other_backends(backend, device) -> None:
    """The tokens of 480x832 with 97 frames; rows of the result against float64 on those rows alone."""
    qkv = make_qkv((1, 2, 40_560, 128), BF16, device)
    result = self_attention(*qkv, backend=backend)
    rows = torch.arange(0, 40_560, 997, device=device)
    q, k, v = qkv[0][:, :, rows], *qkv[1:]
    truth, eager = reference(q.double(), k.double(), v.double()), reference(q, k, v)
    bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    assert (result[:, :, rows] - truth).abs().max() <= bound


def test_compiles_into_one_graph(backend, device) -> None:
    inputs = (*make_qkv((2, 3, 63, 128), BF16, device), backend)
    op_checks.assert_compiles(self_attention, inputs, ours=backend != SDPA)


def test_a_captured_graph_reads_its_inputs_anew(backend, device) -> None:
    inputs = (*make_qkv((2, 3, 63, 128), BF16, device), backend)
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(self_attention, inputs)


def test_runs_on_the_current_stream(backend, device) -> None:
    op_checks.assert_runs_on_the_current_stream(self_attention, (*make_qkv((2, 3, 63, 128), BF16, device), backend))


@pytest.fixture(scope="module")
def videos(device) -> tuple[np.ndarray, np.ndarray]:
    """In float32, and in bfloat16 by plain SDPA."""
    made = []
    for dtype in (torch.float32, BF16):
        loaded = Pipeline.from_pretrained("nano", device=device, dtype=dtype, attention_backend=SDPA)
        made.append(generate(loaded).frames.astype(float))
    return made[0], made[1]


def generate(pipeline: Pipeline) -> GenerationResult:
    return pipeline.generate("A man speaks.", num_frames=9, num_inference_steps=4, seed=3)


def test_a_pipeline_takes_it_and_repeats_itself(backend, device, videos) -> None:
    require(backend, device, BF16, 64)
    pipeline = Pipeline.from_pretrained("nano", device=device, attention_backend=backend)
    first, second = (generate(pipeline) for _ in range(2))
    assert np.array_equal(first.frames, second.frames)
    assert first.settings["attention_backend"] == backend
    truth, plain = videos
    level = 0.5  # half a step of the 256 levels: the rounding of a frame
    assert np.abs(first.frames - truth).mean() <= 2 * np.abs(plain - truth).mean() + level


def test_auto_takes_the_first_that_works(device) -> None:
    works = [name for name in BACKENDS if unavailable(name, device, BF16, 128) is None]
    assert choose("auto", device, BF16, 128) == works[0]
    assert choose("auto", device, torch.float32, 128) == SDPA
    with pytest.raises(ValueError, match="no attention backend takes head_dim 300 in float64"):
        choose("auto", device, torch.float64, 300)


def test_probing_leaves_the_random_numbers_alone(backend, device) -> None:
    before = torch.cuda.get_rng_state(device)
    assert unavailable(backend, device, torch.float16, 96) is None
    assert torch.equal(torch.cuda.get_rng_state(device), before)


class TestFlashAttention4:
    @pytest.fixture(autouse=True)
    def there(self, device):
        require(FLASH_ATTENTION_4, device)

    @pytest.mark.parametrize("shape", [(2, 3, 1, 128), (1, 12, 1000, 128), (3, 2, 4097, 128)])
    def test_our_tiles_give_the_package_s_bits(self, device, shape):
        if torch.cuda.get_device_capability(device)[0] != 9:
            pytest.skip("tiles of our own are for Hopper")
        q, k, v = (x.transpose(1, 2) for x in make_qkv(shape, BF16, device))
        assert isinstance(flash_attention_4._function(q), partial), "the package takes no tiles any more"
        public = importlib.import_module(flash_attention_4.MODULE).flash_attn_func(q, k, v)
        assert torch.equal(flash_attention_4.attend(q, k, v), public[0] if isinstance(public, tuple) else public)

    @pytest.mark.parametrize("head_dim", [64, 128])
    @pytest.mark.parametrize("alike", [1, 1000, 1499])
    def test_tokens_alike_to_the_tolerance_rule(self, device, head_dim, alike):
        qkv = [x.clone() for x in make_qkv((2, 3, 1500, head_dim), BF16, device)]
        for x in qkv:
            x[:, :, :alike] = x[:1, :, :alike].clone()
        truth = F.scaled_dot_product_attention(*(x.double() for x in qkv))
        eager, result = self_attention(*qkv, FLASH_ATTENTION_4), self_attention_of_alike(*qkv, alike)
        bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
        assert (result - truth).abs().max() <= bound
        assert result.transpose(1, 2).is_contiguous()
