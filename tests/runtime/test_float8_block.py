"""Blocks in float8 on the CPU: against the model they were made from, and against their own weights and rounding."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.kernels.float8 import quantized
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime.attention_backends import CUDNN_FP8, use_attention
from humo_rt.runtime.float8_block import Float8Block, fuse_float8
from humo_rt.runtime.float8_linear import Float8Linear
from humo_rt.runtime.fusing import fuse, unfuse
from tests.runtime import fake_cudnn
from tests.runtime.test_float8_attention import nothing_remembered  # noqa: F401  a fixture for every test here
from tests.runtime.test_fused_block import CONFIGS, forward, make_dit, make_inputs

PER_BLOCK = 7


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def rounded(x: Tensor) -> Tensor:
    values, scale = quantized(x.float())
    return values.float() * scale


class RoundedLinear(nn.Linear):
    """In float32, on what e4m3 leaves of weight and input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(rounded(x), rounded(self.weight), self.bias.float())


def rounded_model(dit: HumoDiT) -> HumoDiT:
    """Plain blocks that compute what float8 blocks should: nothing is fused, nothing is bf16 in between."""
    model = copy.deepcopy(dit).float()
    for block in model.blocks:
        audio = block.audio_cross_attn_wrapper.audio_cross_attn
        layers = [
            block.self_attn.q,
            block.self_attn.k,
            block.self_attn.v,
            block.self_attn.o,
            block.ffn[0],
            block.ffn[2],
        ]
        for layer in (*layers, block.cross_attn.q, block.cross_attn.o, audio.q):
            layer.__class__ = RoundedLinear
    return model


def relative_error(x: Tensor, truth: Tensor) -> float:
    return ((x - truth).norm() / truth.norm()).item()


def count(dit: HumoDiT) -> int:
    return sum(isinstance(module, Float8Linear) for module in dit.modules())


class TestArithmetic:
    @pytest.mark.parametrize("case", ["audio", "no audio", "face mask", "face tokens", "cached context"])
    def test_it_computes_with_rounded_weights_and_rows(self, config, case):
        dit, inputs = make_dit(config).bfloat16(), make_inputs(config)
        if case == "no audio":
            inputs["audio"] = None
        if case == "face mask":
            inputs["face_mask"] = torch.rand(3, 2, 6, 10, generator=torch.Generator().manual_seed(2))
        if case == "face tokens":
            inputs["face_mask"] = torch.zeros(3, 2, 6, 10)
            inputs["face_mask"][..., :4, 2:5] = 0.5
        exact = forward(copy.deepcopy(dit).float(), inputs)
        expected = forward(rounded_model(dit), inputs)
        fuse_float8(dit, ())
        if case == "face tokens":
            inputs["face_mask"] = dit.place_faces(inputs["face_mask"])
            assert isinstance(inputs["face_mask"], tuple)
        if case in ("cached context", "face tokens"):
            inputs["context"] = dit.project_context(inputs.pop("text_embeds"), inputs.pop("audio"))
        float8 = forward(dit, inputs)
        assert float8.dtype == torch.float32
        # Nearer to the rounded model than that is to the exact one: bf16 in between turns some roundings the other way.
        assert relative_error(float8, expected) < relative_error(expected, exact)
        assert relative_error(float8, exact) < 3e-2

    def test_samples_that_share_their_input(self, config):
        dit, inputs = fuse_float8(make_dit(config).bfloat16()), make_inputs(config)
        rows = torch.tensor([0, 0, 0])
        shared = {name: x[:1] if name in ("x_BCTHW", "condition") else x for name, x in inputs.items()}
        repeated = {name: x[rows] if name in ("x_BCTHW", "condition") else x for name, x in inputs.items()}
        with torch.no_grad():
            expected = dit(timestep_B=torch.tensor([500]).expand(3), **repeated)
            actual = dit(timestep_B=torch.tensor([500]), rows=rows, **shared)
        assert relative_error(actual, expected) < 1e-2

    def test_blocks_compile_without_a_break(self):
        config = CONFIGS["nano"]
        dit, inputs = fuse_float8(make_dit(config).bfloat16()), make_inputs(config)
        expected = forward(dit, inputs)
        for block in dit.blocks:
            block.compile(fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(forward(dit, inputs), expected)


class TestAttention:
    @pytest.mark.parametrize("exact_layers", [(), ("*.self_attn.o",), ("*.self_attn.*",)], ids=str)
    def test_in_float8_too(self, monkeypatch, config, exact_layers):
        fake_cudnn.install(monkeypatch)
        dit, inputs = make_dit(config).bfloat16(), make_inputs(config)
        exact = forward(copy.deepcopy(dit).float(), inputs)
        use_attention(dit, CUDNN_FP8)
        float8 = forward(fuse_float8(dit, exact_layers), inputs)
        assert sum(graph.runs for graph in fake_cudnn.FakeGraph.built) == config.num_layers
        assert relative_error(float8, exact) < 4e-2

    def test_frames_that_nobody_wants_are_left_out_after_it(self, monkeypatch, config):
        fake_cudnn.install(monkeypatch)
        dit, inputs = make_dit(config).bfloat16(), make_inputs(config)
        use_attention(dit, CUDNN_FP8)
        fuse_float8(dit)
        inputs["context"] = dit.project_context(inputs.pop("text_embeds"), inputs.pop("audio"))
        whole = forward(dit, inputs)
        widened, seen = dit.blocks[-1]._widened, []
        monkeypatch.setattr(dit.blocks[-1], "_widened", lambda x: seen.append(len(x.values[0])) or widened(x))
        assert relative_error(forward(dit, inputs | {"frames_wanted": 1}), whole[:, :, :1]) < 1e-3
        assert seen == [15]

    def test_on_exact_blocks_when_it_is_named(self, monkeypatch, config):
        fake_cudnn.install(monkeypatch)
        dit, inputs = make_dit(config).bfloat16(), make_inputs(config)
        exact = forward(dit, inputs)
        use_attention(dit, CUDNN_FP8)
        float8 = forward(fuse(dit), inputs)
        assert 1e-3 < relative_error(float8, exact) < 3e-2

    def test_queries_that_nobody_wants_are_left_out_and_their_keys_are_not(self, monkeypatch, config):
        fake_cudnn.install(monkeypatch)
        dit, inputs = make_dit(config).bfloat16(), make_inputs(config)
        use_attention(dit, CUDNN_FP8)
        fuse(dit)
        inputs["context"] = dit.project_context(inputs.pop("text_embeds"), inputs.pop("audio"))
        whole = forward(dit, inputs)
        assert relative_error(forward(dit, inputs | {"frames_wanted": 1}), whole[:, :, :1]) < 2e-3

    def test_a_block_compiles_into_one_graph(self, monkeypatch):
        fake_cudnn.install(monkeypatch)
        config = CONFIGS["nano"]
        dit, inputs = make_dit(config).bfloat16(), make_inputs(config)
        use_attention(dit, CUDNN_FP8)
        expected = forward(fuse_float8(dit), inputs)
        for block in dit.blocks:
            block.compile(fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(forward(dit, inputs), expected)


class TestLayers:
    def test_all_of_them(self, config):
        dit = fuse_float8(make_dit(config).bfloat16(), ())
        assert count(dit) == PER_BLOCK * config.num_layers
        assert all(type(block) is Float8Block for block in dit.blocks)

    @pytest.mark.parametrize(
        ("pattern", "kept"),
        [
            ("0.ffn.*", 2), ("0.ffn.0", 1), ("-1.ffn.2", 1), ("1.self_attn.qkv", 1), ("*.self_attn.o", 2),
            ("*.cross_attn.*", 4), ("0.audio_cross_attn.q", 1), ("*", 14),
        ],
    )  # fmt: skip
    def test_some_stay_exact(self, config, pattern, kept):
        dit, inputs = make_dit(config).bfloat16(), make_inputs(config)
        exact = forward(copy.deepcopy(dit).float(), inputs)
        fuse_float8(dit, (pattern,))
        assert count(dit) == PER_BLOCK * config.num_layers - kept
        assert relative_error(forward(dit, inputs), exact) < (5e-3 if pattern == "*" else 3e-2)

    def test_audio_attention_does_unless_something_else_is_asked_for(self, config):
        dit = fuse_float8(make_dit(config).bfloat16())
        assert count(dit) == (PER_BLOCK - 1) * config.num_layers
        assert not [name for name, layer in dit.named_modules() if "audio" in name and isinstance(layer, Float8Linear)]

    def test_the_wide_weights_are_gone(self, config):
        dit = make_dit(config).bfloat16()
        before = sum(p.nbytes for p in dit.blocks.parameters())
        after = sum(p.nbytes for p in fuse_float8(dit).blocks.parameters())
        assert after < 0.75 * before
        assert not [
            name for name, p in dit.named_parameters() if "self_attn" in name and p.ndim == 2 and p.itemsize == 2
        ]

    def test_a_weight_is_rounded_row_by_row(self):
        layers = [nn.Linear(32, 16), nn.Linear(32, 48)]
        joined = torch.cat([layer.weight.detach() for layer in layers])
        error = (Float8Linear(layers).dequantized() - joined).abs().amax(1)
        assert (error <= joined.abs().amax(1) / 28).all()


class TestRefusals:
    def test_fusing_twice(self, config):
        with pytest.raises(ValueError, match="fused already"):
            fuse_float8(fuse(make_dit(config)))

    def test_going_back(self, config):
        with pytest.raises(ValueError, match="a Float8Block has no plain block to go back to: load the model again"):
            unfuse(fuse_float8(make_dit(config).bfloat16()))

    def test_a_pattern_that_names_nothing(self, config):
        dit = make_dit(config)
        with pytest.raises(ValueError, match="'9.ffn.0' names no layer of 2 blocks"):
            fuse_float8(dit, ("9.ffn.0",))
        assert count(dit) == 0
