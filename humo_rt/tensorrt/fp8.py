"""The DiT's block linears in fp8 (e4m3), as quantised graphs compute them; lossy, and never used unless asked for.

A weight has one scale per output channel, or the one its checkpoint brings. An activation is scaled row by row to the
range of e4m3 while it runs, so nothing needs calibration. The rows' scales are multiplied outside of the quantisation,
whose own scale is constant: TensorRT makes an fp8 product of such a pattern. Norms, attention, embeddings, the
head, and the keys and values of text and audio keep their precision. Knows nothing of files.

Shape legend: Q rows, K input channels, N output channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from humo_rt.kernels import registry
from humo_rt.model.dit import HumoDiT
from humo_rt.tensorrt.fingerprint import sample

E4M3 = torch.float8_e4m3fn
E4M3_MAX = torch.finfo(E4M3).max
# What the graph computes in around its fp8 products, unless the caller loads another precision.
COMPUTE_DTYPE = torch.bfloat16

# A power of two, exact in every float type: rows are scaled to -0.875..0.875, whose codes then reach e4m3's 448.
_STEP = 2.0**-9
_ROW_MAX = E4M3_MAX * _STEP
# Rows of zeros divide by this.
_TINY = 1e-12
_ONNX_E4M3 = 17  # onnx.TensorProto.FLOAT8E4M3FN
_ONNX_TYPES = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}
_LINEARS = (
    *(f"self_attn.{name}" for name in "qkvo"),
    *(f"cross_attn.{name}" for name in "qo"),
    *(f"audio_cross_attn_wrapper.audio_cross_attn.{name}" for name in "qo"),
    "ffn.0",
    "ffn.2",
)


class QuantizedLinear(nn.Module):
    """``model.layers.Linear`` with weight and input in e4m3; sums, scales and bias are wider.

    ``weight_scale`` (N,) or (1,) float32: the weight is ``weight_e4m3 * weight_scale``.
    """

    weight_e4m3: Tensor
    weight_scale: Tensor

    def __init__(self, linear: nn.Linear, scale: Tensor | None) -> None:
        """``scale``: the checkpoint's; None takes the smallest that holds each channel."""
        super().__init__()
        wide_NK = linear.weight.detach().float()
        if scale is None:
            scale = wide_NK.abs().amax(dim=1).clamp(min=_TINY) / E4M3_MAX
        scale_N = scale.to(wide_NK).reshape(-1)
        codes_NK = (wide_NK / scale_N[:, None]).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)
        self.dtype = linear.weight.dtype
        self.weight_sample = sample(linear.weight)  # whose weight this was is told by values that were not rounded
        self.register_buffer("weight_e4m3", codes_NK.t().contiguous())
        self.register_buffer("weight_scale", scale_N)
        self.bias = linear.bias

    def forward(self, x_QK: Tensor) -> Tensor:
        wide_QK = x_QK.float()
        row_Q1 = wide_QK.abs().amax(dim=-1, keepdim=True).clamp(min=_TINY) / _ROW_MAX
        unit_QK = wide_QK / row_Q1
        if registry.exporting():
            product = _rounded(unit_QK, self.dtype) @ _weight_node(self.weight_e4m3, self.weight_scale, self.dtype)
        else:
            codes = (unit_QK / _STEP).to(E4M3)
            weight_KN = (self.weight_e4m3.float() * self.weight_scale).to(self.dtype)
            product = (codes.float() * _STEP).to(self.dtype) @ weight_KN
        return (product.float() * row_Q1 + self.bias.float()).to(self.dtype)


def quantize(dit: HumoDiT, scales: Mapping[str, Tensor] | None = None) -> HumoDiT:
    """Put the block linears of ``dit`` into fp8, in place; returns it. ``scales``: checkpoint scales by weight name."""
    known = scales or {}
    for index, block in enumerate(dit.blocks):
        for name in _LINEARS:
            scale = known.get(f"blocks.{index}.{name}.weight")
            block.set_submodule(name, QuantizedLinear(block.get_submodule(name), scale))
    return dit


def is_quantized(dit: HumoDiT) -> bool:
    return isinstance(dit.blocks[0].ffn[0], QuantizedLinear)


def _rounded(unit_QK: Tensor, dtype: torch.dtype) -> Tensor:
    """QuantizeLinear and DequantizeLinear with the constant step."""
    step = unit_QK.new_tensor(_STEP)
    codes = _node("QuantizeLinear", (unit_QK, step), E4M3, unit_QK, {"output_dtype": _ONNX_E4M3})
    return _node("DequantizeLinear", (codes, step), dtype, unit_QK, {"output_dtype": _ONNX_TYPES[dtype]})


def _weight_node(codes_KN: Tensor, scale_N: Tensor, dtype: torch.dtype) -> Tensor:
    attributes = {"output_dtype": _ONNX_TYPES[dtype]}
    if scale_N.numel() > 1:
        return _node("DequantizeLinear", (codes_KN, scale_N), dtype, codes_KN, attributes | {"axis": 1})
    return _node("DequantizeLinear", (codes_KN, scale_N.reshape(())), dtype, codes_KN, attributes)


def _node(operator: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, like: Tensor, attributes: dict) -> Tensor:
    return torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=dtype, shape=like.shape)
