"""Fused blocks on a GPU: guided branches of nano and of full-width blocks against eager ones, by the common rule."""

from __future__ import annotations

import copy
import dataclasses
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from humo_rt.config import HUMO_1_7B, HUMO_17B, NANO, ModelConfig
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime import attention_backends, fused_block
from humo_rt.runtime.attention_kernels import FLASH_ATTENTION_4
from humo_rt.runtime.fusing import fuse, is_fused, unfuse
from humo_rt.runtime.matmul_kernels import TORCH, linear_gelu
from humo_rt.runtime.replay import ReplayedDiT
from humo_rt.sampling.branches import Conditions, GuidedModel
from humo_rt.sampling.guidance import guidance_table
from humo_rt.weights.random_init import fill_random
from tests.tiny import tiny_pipeline

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
CONFIGS = {
    "nano": NANO,
    "humo-1.7b": dataclasses.replace(HUMO_1_7B, dit=dataclasses.replace(HUMO_1_7B.dit, num_layers=2)),
    "humo-17b": dataclasses.replace(HUMO_17B, dit=dataclasses.replace(HUMO_17B.dit, num_layers=1)),
}


def make_dit(config: ModelConfig) -> HumoDiT:
    with torch.device("meta"):
        dit = HumoDiT(config.dit)
    fill_random(dit, part="dit", seed=0, dtype=torch.bfloat16, device=CUDA)
    return dit.eval().requires_grad_(False)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device=CUDA)


def make_conditions(config: ModelConfig, noise: torch.Tensor, length: int = 11) -> Conditions:
    dit = config.dit
    return Conditions(
        text_embeds=[random(length, dit.text_dim)],
        negative_embeds=random(min(70, dit.text_len), dit.text_dim),
        audio=random(1, noise.shape[2] - 1, dit.audio_window, dit.audio_bands, dit.audio_dim),
        reference_latents=random(1, 16, 1, *noise.shape[3:]),
        grey_latents=random(*noise.shape[1:]) if dit.image_injection == "channels" else None,
    )


def branches(dit: HumoDiT, conditions: Conditions, noise: torch.Tensor, names: list[str], **options) -> torch.Tensor:
    with torch.no_grad():
        return GuidedModel(dit, conditions, noise, **options).branches(noise, 900, names)


def in_float64(dit: HumoDiT, conditions: Conditions, noise: torch.Tensor, names: list[str]) -> torch.Tensor:
    """The eager model with every float32 in it widened; its products in float64 take conditions as they are."""
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        return branches(copy.deepcopy(dit).double(), conditions, noise.double(), names, branch_batch_size=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_guided_branches_are_the_eager_ones_to_the_tolerance_rule(name: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[name]
    dit, noise = make_dit(config), random(1, 16, 4, 12, 20)
    conditions, names = make_conditions(config, noise), list(guidance_table(config, "TIA").at(900))
    truth = in_float64(dit, conditions, noise, names)
    backend = attention_backends.choose("auto", CUDA, torch.bfloat16, config.dit.head_dim)
    attention_backends.use_attention(dit, backend)
    eager = branches(dit, conditions, noise, names, branch_batch_size=1)
    together = branches(fuse(dit), conditions, noise, names)
    alone = branches(dit, conditions, noise, names, branch_batch_size=1)
    assert torch.equal(branches(unfuse(dit), conditions, noise, names, branch_batch_size=1), eager)
    bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    assert (together - truth).abs().max() <= bound
    assert (alone - truth).abs().max() <= bound


@pytest.mark.parametrize("replayed", [False, True])
def test_frames_alike_are_attended_to_once_to_the_tolerance_rule(replayed: bool, monkeypatch) -> None:
    monkeypatch.setattr(fused_block, "FEWEST_ALIKE", 1)
    torch.manual_seed(0)
    config = CONFIGS["humo-1.7b"]
    dit, noise = make_dit(config), random(1, 16, 4, 12, 20)
    conditions, names = make_conditions(config, noise), list(guidance_table(config, "TIA").at(900))
    truth = in_float64(dit, conditions, noise, names)
    backend = attention_backends.choose("auto", CUDA, torch.bfloat16, config.dit.head_dim)
    if backend != FLASH_ATTENTION_4:
        pytest.skip(f"{backend} cannot spare them")
    attention_backends.use_attention(dit, backend)
    eager = branches(dit, conditions, noise, names, branch_batch_size=1)
    attended = []
    alike = dit.blocks[0].self_attn.alike_function
    monkeypatch.setattr(dit.blocks[0].self_attn, "alike_function", lambda *args: attended.append(args) or alike(*args))
    model = ReplayedDiT(fuse(dit), always=True) if replayed else fuse(dit)
    result = branches(model, conditions, noise, names)
    assert [args[3] for args in attended] == [3 * 6 * 10] * (2 if replayed else 1)
    bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    assert (result - truth).abs().max() <= bound


@pytest.mark.parametrize("shape", [(2, 300, 256, 768), (1, 40_560, 1536, 8960), (3, 63, 1000, 200)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gelu_in_the_product_is_the_tanh_form_to_the_tolerance_rule(shape, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    batch, length, width, widened = shape
    linear = torch.nn.Linear(width, widened, device=CUDA, dtype=dtype).requires_grad_(False)
    x = random(batch, min(length, 4096), width).to(dtype)
    wide = F.linear(x.double(), linear.weight.double(), linear.bias.double())
    truth, erf = F.gelu(wide, approximate="tanh"), F.gelu(wide)
    eager, result = F.gelu(linear(x), approximate="tanh"), linear_gelu(x, linear.weight, linear.bias, TORCH)
    bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    assert result.shape == eager.shape
    assert (result - truth).abs().max() <= bound
    assert (result - truth).abs().mean() <= (eager - truth).abs().mean()
    wide_result = linear_gelu(x, linear.weight, linear.bias, TORCH).double()
    assert (wide_result - truth).abs().mean() < (wide_result - erf).abs().mean()


def test_a_pipeline_on_a_gpu_is_fused() -> None:
    pipeline = tiny_pipeline("frames", torch.bfloat16, "cuda")
    assert is_fused(pipeline.dit)
    assert pipeline.denoiser.dit is pipeline.dit
