"""Linears in fp8: what rounding allows, the checkpoint's own codes, and graphs that ONNX Runtime and TensorRT take."""

from __future__ import annotations

import onnx
import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.model.layers import Linear
from humo_rt.tensorrt import fp8
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.build import BuildSettings, build_engine
from humo_rt.tensorrt.engine_file import file_name, mapped_plan
from humo_rt.tensorrt.export import export_onnx
from humo_rt.tensorrt.fp8 import E4M3_MAX, QuantizedLinear, quantize
from humo_rt.tensorrt.session import OnnxDiT
from humo_rt.tensorrt.verify import compare
from humo_rt.weights.load import fp8_scales
from tests.tensorrt.conftest import tiny_dit

# Of a value in the normal range of e4m3, and of the largest value for those below it.
ROUNDING, SUBNORMAL = 2.0**-4, 2.0**-10 / E4M3_MAX
SIZES = [Size(branches=1, frames=2, height=4, width=6), Size(branches=4, frames=3, height=6, width=4)]
PRODUCTS = 10  # of the DiT's rows with weights, in each block
INPUTS = 8  # of these products; q, k and v share one


def linear(dtype=torch.float32, seed=0):
    layer = Linear(96, 40).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(40, 96, generator=generator) * 0.05)
        layer.weight[3] *= 100
        layer.bias.copy_(torch.randn(40, generator=generator))
    return layer


@pytest.mark.parametrize("scale", [None, torch.tensor(0.09)], ids=["a scale for each channel", "one scale"])
@torch.no_grad()
def test_the_error_is_that_of_rounding_to_e4m3(scale):
    layer = linear()
    x = torch.randn(7, 96, generator=torch.Generator().manual_seed(1))
    x[2] *= 1000
    x[4] = 0
    found, expected = QuantizedLinear(layer, scale)(x), layer(x)
    largest_w = layer.weight.abs().amax(1) if scale is None else scale * E4M3_MAX
    worst_w = ROUNDING * layer.weight.abs() + SUBNORMAL * largest_w.reshape(-1, 1)
    worst_x = ROUNDING * x.abs() + SUBNORMAL * x.abs().amax(1, keepdim=True)
    allowed = x.abs() @ worst_w.T + worst_x @ (layer.weight.abs() + worst_w).T
    assert ((found - expected).abs() <= allowed + 1e-5 * expected.abs()).all()
    assert torch.equal(found[4], layer.bias)
    assert not torch.equal(found, expected)


@pytest.mark.parametrize("scale", [None, torch.tensor(0.0371)], ids=["plain", "scaled"])
def test_the_codes_of_an_fp8_checkpoint_are_kept(scale):
    codes = (linear().weight.detach() * 60).to(torch.float8_e4m3fn)
    stored = {"blocks.0.ffn.0.weight": codes, "blocks.0.ffn.0.bias": torch.zeros(40)}
    if scale is not None:
        stored["blocks.0.ffn.0.scale_weight"] = scale
    scales = fp8_scales(stored)
    assert list(scales) == ["blocks.0.ffn.0.weight"]
    loaded = linear(torch.bfloat16)
    with torch.no_grad():
        loaded.weight.copy_((codes.float() * (1 if scale is None else scale)).bfloat16())
    quantized = QuantizedLinear(loaded, scales["blocks.0.ffn.0.weight"])
    assert torch.equal(quantized.weight_e4m3.float(), codes.float().T)


@pytest.fixture(scope="module", params=[HUMO_1_7B, HUMO_17B], ids=lambda model: model.name)
def exported(request, tmp_path_factory):
    """The layout, and its export in fp8 around float32."""
    dit = quantize(tiny_dit(request.param))
    return request.param, export_onnx(dit, tmp_path_factory.mktemp("fp8") / "dit.onnx", face_mask=True)


def stored_codes(export):
    stored = onnx.load(export.path).graph.initializer
    return [tensor for tensor in stored if tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN]


def test_every_product_of_a_block_is_quantised(exported):
    _, export = exported
    assert export.spec.precision == "fp8"
    assert export.nodes["QuantizeLinear"] == INPUTS
    assert export.nodes["DequantizeLinear"] == INPUTS + PRODUCTS
    codes = [tensor.name for tensor in stored_codes(export)]
    assert len(codes) == PRODUCTS
    assert "blocks.0.ffn.0.weight_e4m3" in codes


def test_onnx_runtime_errs_no_more_than_pytorch_in_fp8(exported):
    published, export = exported
    dit = tiny_dit(published)
    session = OnnxDiT.load(export.path, dit)
    comparisons = list(compare(session, dit, SIZES))
    assert len(comparisons) == 2 * len(SIZES)
    assert all(comparison.accepted for comparison in comparisons), comparisons
    assert fp8.is_quantized(dit)


@pytest.fixture(scope="module")
def bfloat16_export(tmp_path_factory):
    dit = quantize(tiny_dit(HUMO_1_7B, fp8.COMPUTE_DTYPE))
    return export_onnx(dit, tmp_path_factory.mktemp("fp8") / "dit.onnx")


def test_onnx_runtime_on_the_cpu_says_that_it_has_no_such_bfloat16(bfloat16_export):
    with pytest.raises(RuntimeError, match="ONNX Runtime cannot load .*"):
        OnnxDiT.load(bfloat16_export.path, tiny_dit(HUMO_1_7B, fp8.COMPUTE_DTYPE))


@pytest.mark.parametrize("weights", ["embedded", "separate"])
@pytest.mark.parametrize("target", ["rtx4090", "rtx5090"])
def test_engines_are_built_without_a_gpu(bfloat16_export, tmp_path, target, weights):
    settings = BuildSettings(target=target, sizes=[(48, 32)], num_frames=9, branches=4, weights=weights)
    report = build_engine(bfloat16_export.path, tmp_path / "dit.engine", settings=settings)
    assert report.fallbacks == report.notes == ()
    assert file_name(report.header).startswith("custom_fp8_48x32_")
    if weights == "embedded":
        with mapped_plan(report.path) as plan:
            held = bytes(plan)
        # Row by row, because TensorRT joins products of one input.
        rows = {codes.name: codes.raw_data[: codes.dims[1]] for codes in stored_codes(bfloat16_export)}
        assert [name for name, row in rows.items() if row not in held] == []
