"""Causal convolution on the CPU: arithmetic, registration, compilation, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

from humo_rt.kernels.causal_conv import causal_conv
from humo_rt.kernels.causal_conv.cases import CASES, Shape, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")
NAMES = ("x", "weight", "bias", "residual")


@pytest.fixture
def inputs():
    return make_inputs(Shape(2, 5, 4, 16, 32), torch.bfloat16, CPU)


class TestArithmetic:
    @torch.no_grad()
    def test_as_the_autoencoder_computes(self):
        x, weight, bias, residual = make_inputs(Shape(3, 5, 6, 16, 32), torch.float32, CPU)
        layer = WanCausalConv3d(16, 32, 3, padding=1)
        layer.weight.copy_(weight.permute(0, 4, 1, 2, 3))
        layer.bias.copy_(bias)
        inner = x[:, :, 1:-1, 1:-1].permute(0, 4, 1, 2, 3)
        expected = layer(inner[:, :, 2:], inner[:, :, :2]).permute(0, 2, 3, 4, 1) + residual[:, :, 1:-1, 1:-1]
        torch.testing.assert_close(causal_conv(x, weight, bias, residual)[:, :, 1:-1, 1:-1], expected)

    def test_the_border_is_zero_whatever_the_residual_holds_there(self, inputs):
        out = causal_conv(*inputs[:3], inputs[3] + 1)
        assert out[:, :, 1:-1, 1:-1].abs().min() > 0
        out[:, :, 1:-1, 1:-1] = 0
        assert not out.any()

    @torch.no_grad()
    def test_two_axes_alone(self):
        x, weight, bias, _ = make_inputs(Shape(2, 5, 6, 16, 16, (1, 3, 3), residual=False), torch.float32, CPU)
        frames = x[0].permute(0, 3, 1, 2)
        expected = F.conv2d(frames, weight[:, 0].permute(0, 3, 1, 2), bias).permute(0, 2, 3, 1)
        torch.testing.assert_close(causal_conv(x, weight, bias, None)[0, :, 1:-1, 1:-1], expected)

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("causal_conv", causal_conv, case, CPU).accepted

    def test_a_wrong_result_is_caught(self):
        assert not deviation("causal_conv", lambda *args: causal_conv(*args) * 1.001, CASES[6], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x": torch.ones(4, 7, 6, 16)}, r"x \(4, 7, 6, 16\).*give \(N, T, Y, X, C\)"),
            ({"x": torch.ones(1, 4, 7, 6, 32)}, "does not fit x of 32 channels"),
            ({"weight": torch.ones(8, 3, 3, 3, 16)}, "multiples of 16"),
            ({"weight": torch.ones(32, 3, 5, 3, 16)}, "kernel 5x3"),
            ({"x": torch.ones(1, 2, 7, 6, 16)}, "no pixel for 3 taps in time"),
            ({"bias": torch.ones(31)}, r"bias \(31,\).*give \(32,\)"),
            ({"residual": torch.ones(1, 2, 7, 6, 16)}, "residual.*give"),
            ({"bias": torch.ones(32)}, "bias is torch.float32 on cpu, x is torch.bfloat16"),
            ({"weight": torch.ones(32, 16, 3, 3, 3, dtype=torch.bfloat16).permute(0, 2, 3, 4, 1)}, "not contiguous"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        with pytest.raises(ValueError, match=message):
            causal_conv(*(dict(zip(NAMES, inputs, strict=True)) | changes).values())


class TestGraphs:
    @pytest.mark.parametrize("residual", [False, True])
    def test_opcheck(self, residual):
        inputs = make_inputs(Shape(2, 3, 4, 16, 16, residual=residual), torch.bfloat16, CPU)
        torch.library.opcheck(torch.ops.humo_rt.causal_conv.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(causal_conv, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(causal_conv, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("causal_conv")


@pytest.mark.parametrize(("inputs", "outputs"), [(96, 96), (192, 192), (384, 384), (16, 384), (96, 16)])
def test_a_tile_fits_the_shared_memory_of_every_card(inputs, outputs):
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    from humo_rt.kernels.causal_conv.triton_impl import TILES, fitting_tile, input_parts, output_parts

    for kibibytes in (99, 163, 227):
        tile = fitting_tile(inputs, outputs, 2, 1024 * kibibytes)
        steps = tile.stages * (tile.positions + sum(output_parts(outputs))) * sum(input_parts(inputs))
        assert 2 * steps <= 1024 * kibibytes
    assert fitting_tile(inputs, outputs, 2, 1024 * 227) == TILES[0]
