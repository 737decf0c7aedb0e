"""Fused blocks on the CPU through the ops' references: the eager model's results, names and parameters."""

from __future__ import annotations

import copy
import dataclasses
from unittest import mock

import pytest
import torch

from humo_rt.config import NANO, DiTConfig
from humo_rt.model.block import Block
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime.fused_block import FusedBlock
from humo_rt.runtime.fused_ends import FusedPatchEmbedding
from humo_rt.runtime.fusing import fuse, unfuse

SMALL = {"text_dim": 24, "text_len": 7, "audio_dim": 12, "audio_hidden": 16, "audio_tokens": 4, "audio_token_dim": 24}
CONFIGS = {
    "nano": DiTConfig(**{**vars(NANO.dit), "num_layers": 2, **SMALL, "mask_predictor": False}),
    "like 17B": DiTConfig(
        dim=640, num_layers=2, num_heads=5, ffn_dim=96, image_injection="channels", in_channels=36, **SMALL
    ),
}
FRAMES = 2


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def make_dit(config: DiTConfig) -> HumoDiT:
    torch.manual_seed(0)
    dit = HumoDiT(config).eval().requires_grad_(False)
    for name, parameter in dit.named_parameters():
        if "norm" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return dit


def make_inputs(config: DiTConfig, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    features = (config.audio_window, config.audio_bands, config.audio_dim)
    inputs = {
        "x_BCTHW": noise(3, 16, FRAMES, 6, 10),
        "text_embeds": noise(3, 5, config.text_dim),
        "audio": noise(3, FRAMES, *features),
    }
    if config.in_channels > 16:
        inputs["condition"] = noise(3, 20, FRAMES, 6, 10)
    return inputs


def forward(dit: HumoDiT, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return dit(timestep_B=torch.tensor([999, 500, 1]), **inputs)


def forward_in_float64(dit: HumoDiT, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The eager model with every float32 in it widened."""
    wide = {name: None if x is None else x.double() for name, x in inputs.items()}
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        return forward(copy.deepcopy(dit).double(), wide)


class TestAgreement:
    @pytest.mark.parametrize("case", ["float32", "bfloat16", "no audio", "face mask", "autocast"])
    def test_fused_is_eager_to_the_tolerance_rule(self, config, case):
        dit, inputs = make_dit(config), make_inputs(config)
        if case == "no audio":
            inputs["audio"] = None
        if case == "face mask":
            mask = torch.rand(3, FRAMES, 6, 10, generator=torch.Generator().manual_seed(2))
            inputs["face_mask"] = mask
        if case == "bfloat16":
            dit = dit.bfloat16()
        truth = forward_in_float64(dit, inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            eager = forward(dit, inputs)
            fused = forward(fuse(dit), inputs)
        rounding = 2 * (eager + 0.3 - 0.3 - eager).abs().max()
        assert fused.dtype == eager.dtype
        assert (fused - truth).abs().max() <= 2 * (eager - truth).abs().max() + rounding

    def test_one_block_alone(self, config):
        dit, inputs = make_dit(config), make_inputs(config)
        dit.blocks = dit.blocks[:1]
        eager = forward(dit, inputs)
        torch.testing.assert_close(forward(fuse(dit), inputs), eager)

    def test_cached_context(self, config):
        dit, inputs = make_dit(config), make_inputs(config)
        inputs["context"] = dit.project_context(inputs.pop("text_embeds"), inputs.pop("audio"))
        eager = forward(dit, inputs)
        torch.testing.assert_close(forward(fuse(dit), inputs), eager)

    @pytest.mark.parametrize(
        "case", ["everywhere", "one block", "face mask", "two speakers", "no audio", "face tokens", "unprojected"]
    )
    def test_frames_that_nobody_wants_are_left_out_of_the_last_block(self, config, case, monkeypatch):
        dit, inputs = make_dit(config), make_inputs(config)
        dit.blocks = dit.blocks[: 1 if case == "one block" else None]
        audio = None if case == "no audio" else inputs.pop("audio")
        if case != "unprojected":
            inputs["context"] = dit.project_context(inputs.pop("text_embeds"), audio)
        inputs["audio"] = None
        if case == "face mask":
            inputs["face_mask"] = torch.rand(3, FRAMES, 6, 10, generator=torch.Generator().manual_seed(2))
        if case == "two speakers":
            both = torch.tensor([[0, 1, 2], [2, 0, 1]])
            inputs["context"] = inputs["context"].select(torch.arange(3), both)
            inputs["face_mask"] = torch.rand(2, 3, FRAMES, 6, 10, generator=torch.Generator().manual_seed(2))
        if case == "face tokens":
            mask = torch.zeros(3, FRAMES, 6, 10)
            mask[..., 2:4, 4:8] = 1
            inputs["face_mask"] = dit.place_faces(mask)
        eager, wanted, seen = forward(dit, inputs), FRAMES - 1, []
        plain = forward(dit, {**inputs, "frames_wanted": wanted})
        fuse(dit)
        widened = dit.blocks[-1]._widened
        monkeypatch.setattr(dit.blocks[-1], "_widened", lambda normed: seen.append(normed.shape[1]) or widened(normed))
        result = forward(dit, {**inputs, "frames_wanted": wanted})
        assert torch.equal(plain, eager[:, :, :wanted])
        torch.testing.assert_close(result, plain)
        spared = case not in ("face tokens", "unprojected")
        assert seen == [15 * (wanted if spared else FRAMES)]

    def test_nor_of_samples_that_share_their_input(self, config):
        dit, inputs = make_dit(config), make_inputs(config)
        inputs["context"] = dit.project_context(inputs.pop("text_embeds"), inputs.pop("audio"))
        rows, distinct = torch.tensor([0, 1, 0]), [name for name in ("x_BCTHW", "condition") if name in inputs]
        repeated = inputs | {name: inputs[name][rows] for name in distinct}
        shared = inputs | {name: inputs[name][:2] for name in distinct} | {"rows": rows, "frames_wanted": FRAMES - 1}
        with torch.no_grad():
            expected = dit(timestep_B=torch.full((3,), 500), **repeated)
            result = fuse(dit)(timestep_B=torch.full((2,), 500), **shared)
        torch.testing.assert_close(result, expected[:, :, : FRAMES - 1])

    def test_the_mask_predictor_sees_every_frame(self):
        config = dataclasses.replace(CONFIGS["nano"], mask_predictor=True)
        dit, inputs = fuse(make_dit(config)), make_inputs(config)
        inputs["context"] = dit.project_context(inputs.pop("text_embeds"), inputs.pop("audio"))
        velocity, logits = forward(dit, inputs | {"return_face_mask": True})
        some, same = forward(dit, inputs | {"return_face_mask": True, "frames_wanted": 1})
        assert torch.equal(some, velocity[:, :, :1])
        assert torch.equal(same, logits)

    @pytest.mark.parametrize("wanted", [0, FRAMES + 1])
    def test_frames_that_are_not_there(self, config, wanted):
        with pytest.raises(ValueError, match=f"frames_wanted is {wanted}: give 1 to the {FRAMES} frames"):
            forward(make_dit(config), make_inputs(config) | {"frames_wanted": wanted})

    def test_blocks_compile_without_a_break(self):
        config = CONFIGS["nano"]
        dit, inputs = fuse(make_dit(config)), make_inputs(config)
        expected = forward(dit, inputs)
        torch.compiler.reset()  # all tests share the blocks' code, and with it the limit on recompilations
        for block in dit.blocks:
            block.compile(fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(forward(dit, inputs), expected)


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 2, 3)])
def test_patches_are_embedded_as_by_the_convolution(patch):
    torch.manual_seed(0)
    embedding = torch.nn.Conv3d(3, 10, patch, stride=patch)
    x = torch.randn(2, 3, 4, 6, 12)
    expected = embedding(x)
    embedding.__class__ = FusedPatchEmbedding
    result = embedding(x)
    torch.testing.assert_close(result, expected)
    assert result.flatten(2).transpose(1, 2).is_contiguous()


class TestInPlace:
    def test_names_and_values_stay(self, config):
        dit = make_dit(config)
        before = {name: value.clone() for name, value in dit.state_dict().items()}
        after = fuse(dit).state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)

    def test_the_packed_weight_is_not_a_second_copy(self, config):
        block = fuse(make_dit(config)).blocks[0]
        assert isinstance(block, FusedBlock)
        assert block.qkv[0].data_ptr() == block.self_attn.q.weight.data_ptr()
        block.self_attn.v.weight.fill_(3)
        assert (block.qkv[0][-config.dim :] == 3).all()

    def test_fused_again_is_the_same_memory(self, config):
        dit = fuse(make_dit(config))
        before = [tensor.data_ptr() for tensor in dit.blocks[0].qkv]
        assert [tensor.data_ptr() for tensor in fuse(unfuse(dit)).blocks[0].qkv] == before

    def test_unfuse_is_the_eager_model_again(self, config):
        dit, inputs = make_dit(config), make_inputs(config)
        eager = forward(dit, inputs)
        assert torch.equal(forward(unfuse(fuse(dit)), inputs), eager)
        assert all(type(block) is Block for block in dit.blocks)
        assert type(dit.patch_embedding) is torch.nn.Conv3d
        assert unfuse(dit) is dit

    def test_fusing_twice_is_refused(self, config):
        with pytest.raises(ValueError, match="fused already"):
            fuse(fuse(make_dit(config)))
