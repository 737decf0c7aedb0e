"""Each op by the best calls that a library has for it: PyTorch's own fused ones, cuDNN's, flash-attn's.

What somebody has without this project's kernels and without a compiler. Every call takes an op's arguments and returns
its result, or changes the same inputs. Where no library does what an op does, the reason is given. Knows nothing of
time.

Shape legend: as in each op's ``__init__``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.kernels.audio_face_attention.reference import split_frames
from humo_rt.runtime.attention_kernels import package_function

FLASH_ATTENTION = "flash-attn-4"

Inputs = tuple[Any, ...]


def _unchanged(*inputs: Any) -> Inputs:
    return inputs


@dataclass(frozen=True, kw_only=True)
class Call:
    """``library``: whose calls ``run`` makes. ``given``: the op's arguments as the library takes them; ``differs`` says
    in what. ``package``: what has to be installed, a name that ``attention_kernels.PACKAGES`` knows."""

    library: str
    run: Callable[..., Any]
    given: Callable[..., Inputs] = _unchanged
    differs: str = ""
    package: str | None = None

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        if self.package is None:
            return None
        try:
            package_function(self.package)
        except ImportError as error:
            return f"{self.package} cannot be loaded: {error}"
        return None


def modulated_norm(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """One vector for all samples is the norm's own weight and bias; several are applied after it."""
    factor_B1D = 1 + scale_B1D
    if shift_B1D.shape[0] == scale_B1D.shape[0] == 1:
        return F.layer_norm(x_BLD, x_BLD.shape[-1:], factor_B1D[0, 0], shift_B1D[0, 0], eps).to(dtype)
    return torch.addcmul(shift_B1D, F.layer_norm(x_BLD, x_BLD.shape[-1:], eps=eps), factor_B1D).to(dtype)


def gate_residual_norm(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    dtype: torch.dtype,
    earlier_BLD: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    if earlier_BLD is not None:
        residual_BLD = residual_BLD + earlier_BLD
    total_BLD = residual_BLD + y_BLD if gate_B1D is None else torch.addcmul(residual_BLD, gate_B1D, y_BLD)
    if modulated:
        return total_BLD, modulated_norm(total_BLD, shift, scale, eps, dtype)
    return total_BLD, F.layer_norm(total_BLD, total_BLD.shape[-1:], scale, shift, eps).to(dtype)


def scatter_residual_norm(
    residual_BLD: Tensor,
    normed_BLD: Tensor,
    row_scale_BL1: Tensor | None,
    y_BMD: Tensor,
    rows_M: Tensor,
    shift_B1D: Tensor,
    scale_B1D: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """In place, as the op."""
    assert row_scale_BL1 is None, "no library quantises rows"
    inside_BMD = residual_BLD.index_select(1, rows_M) + y_BMD
    residual_BLD.index_copy_(1, rows_M, inside_BMD)
    normed_BLD.index_copy_(1, rows_M, modulated_norm(inside_BMD, shift_B1D, scale_B1D, eps, normed_BLD.dtype))
    return residual_BLD, normed_BLD


def qk_norm_rope(
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Rotation as a product of complex numbers."""
    turn_L1P = torch.complex(cos_LP, sin_LP)[:, None]

    def one(x_BLD: Tensor, weight_D: Tensor) -> Tensor:
        normed = F.rms_norm(x_BLD, x_BLD.shape[-1:], weight_D, eps).float().unflatten(-1, (num_heads, -1, 2))
        return torch.view_as_real(torch.view_as_complex(normed) * turn_L1P).flatten(-2).to(x_BLD.dtype)

    return one(q_BLD, weight_q_D), one(k_BLD, weight_k_D)


def text_attention(
    q_BLD: Tensor, norm_weight_D: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias_BS: Tensor | None, eps: float
) -> Tensor:
    normed_BLD = F.rms_norm(q_BLD, q_BLD.shape[-1:], norm_weight_D, eps)
    q_BHLK = normed_BLD.unflatten(-1, (k_BHSK.shape[1], -1)).transpose(1, 2)
    mask = None if bias_BS is None else bias_BS[:, None, None]
    return F.scaled_dot_product_attention(q_BHLK, k_BHSK, v_BHSK, mask).transpose(1, 2).reshape(q_BLD.shape)


def audio_face_attention(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_PBTHSK: Tensor,
    v_PBTHSK: Tensor,
    face_weight_PBL: Tensor | None,
    eps: float,
) -> Tensor:
    """``attend`` takes frames as a batch, (N, H, L, K), and returns that shape."""
    frames, heads = k_PBTHSK.shape[2:4]
    q_NHLK = split_frames(F.rms_norm(q_BLD, q_BLD.shape[-1:], norm_weight_D, eps), frames, heads).flatten(0, 1)
    total = None
    for speaker, (k, v) in enumerate(zip(k_PBTHSK, v_PBTHSK, strict=True)):
        out = attend(q_NHLK, k.flatten(0, 1), v.flatten(0, 1)).transpose(1, 2).reshape(q_BLD.shape)
        if face_weight_PBL is not None:
            out = face_weight_PBL[speaker, :, :, None] * out
        total = out if total is None else total + out
    return total.to(q_BLD.dtype)


def audio_sdpa(*inputs: Any) -> Tensor:
    return audio_face_attention(F.scaled_dot_product_attention, *inputs)


def audio_flash(*inputs: Any) -> Tensor:
    def attend(*parts_NHLK: Tensor) -> Tensor:
        found = package_function(FLASH_ATTENTION)(*(x.transpose(1, 2) for x in parts_NHLK))
        return (found[0] if isinstance(found, tuple) else found).transpose(1, 2)

    return audio_face_attention(attend, *inputs)


def audio_face_probabilities(
    q_BLD: Tensor, norm_weight_D: Tensor, k_PBTHSK: Tensor, face_weight_PBL: Tensor | None, eps: float
) -> Tensor:
    frames, heads, _, head_dim = k_PBTHSK.shape[2:]
    q_BTHNK = split_frames(F.rms_norm(q_BLD, q_BLD.shape[-1:], norm_weight_D, eps), frames, heads)
    prob_PBTHNS = torch.softmax(q_BTHNK @ (k_PBTHSK.mT * head_dim**-0.5), dim=-1, dtype=torch.float32)
    prob_BLHPS = prob_PBTHNS.permute(1, 2, 4, 3, 0, 5).flatten(1, 2)
    if face_weight_PBL is not None:
        prob_BLHPS = prob_BLHPS * face_weight_PBL.permute(1, 2, 0)[:, :, None, :, None]
    return prob_BLHPS.flatten(2).to(q_BLD.dtype)


def rms_silu(x_NTYXC: Tensor, gamma_C: Tensor, history_NPYXC: Tensor | None) -> Tensor:
    channels = x_NTYXC.shape[-1]
    # Not zero: positions of zeros stay zeros.
    y_NTYXC = F.silu(F.rms_norm(x_NTYXC, (channels,), gamma_C, 1e-24 / channels))
    return y_NTYXC if history_NPYXC is None else torch.cat((history_NPYXC, y_NTYXC), dim=1)


def causal_conv(x_NTYXC: Tensor, weight_OIJKC: Tensor, bias_O: Tensor, residual_NTYXO: Tensor | None) -> Tensor:
    """cuDNN's fastest convolution of channels-last memory, over the border, too."""
    height, width = weight_OIJKC.shape[2:4]
    padding = (0, height // 2, width // 2)
    x_NCTYX, weight_OCIJK = x_NTYXC.permute(0, 4, 1, 2, 3), weight_OIJKC.permute(0, 4, 1, 2, 3)
    with torch.backends.cudnn.flags(benchmark=True):
        y = F.conv3d(x_NCTYX, weight_OCIJK, bias_O, padding=padding).permute(0, 2, 3, 4, 1)
    if residual_NTYXO is not None:
        y += residual_NTYXO
    for edge in (0, -1):
        y[:, :, edge] = 0
        y[:, :, :, edge] = 0
    return y.contiguous()


def _with_weights_of(count: int) -> Callable[..., Inputs]:
    """The ``count`` arguments after that many others are weights of norms."""

    def given(*inputs: Any) -> Inputs:
        dtype = inputs[0].dtype
        weights = (weight.to(dtype) for weight in inputs[count : 2 * count])
        return *inputs[:count], *weights, *inputs[2 * count :]

    return given


def _with_a_mask(q: Tensor, norm_weight: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, eps: float) -> Inputs:
    return q, norm_weight.to(q.dtype), k, v, None if bias is None else bias.to(q.dtype), eps


_NARROW_WEIGHT = "the norm's weight in the dtype of its input"
_UNQUANTISED = "no library makes e4m3 rows with a scale each in one call, nor in the pass of a norm"

# For every op its calls, or why there are none.
LIBRARY_CALLS: dict[str, tuple[Call, ...] | str] = {
    "audio_face_attention": (
        Call(library="F.rms_norm, SDPA", run=audio_sdpa, given=_with_weights_of(1), differs=_NARROW_WEIGHT),
        Call(
            library=f"F.rms_norm, {FLASH_ATTENTION}",
            run=audio_flash,
            given=_with_weights_of(1),
            differs=_NARROW_WEIGHT,
            package=FLASH_ATTENTION,
        ),
    ),
    "audio_face_probabilities": (
        Call(
            library="F.rms_norm, cuBLAS, softmax",
            run=audio_face_probabilities,
            given=_with_weights_of(1),
            differs=_NARROW_WEIGHT,
        ),
    ),
    "text_attention": (
        Call(
            library="F.rms_norm, SDPA with a mask",
            run=text_attention,
            given=_with_a_mask,
            differs=f"{_NARROW_WEIGHT}; so are the logarithms of counts, more than a percent off",
        ),
    ),
    "merge_attention": "the reference is the library's: sigmoid, lerp",
    "adaln_modulate": (Call(library="F.layer_norm", run=modulated_norm),),
    "adaln_modulate_quantize": _UNQUANTISED,
    "residual_norm": "the reference is the library's: add, F.layer_norm",
    "gate_residual_norm": (Call(library="addcmul, F.layer_norm", run=gate_residual_norm),),
    "gate_residual_norm_quantize": _UNQUANTISED,
    "gather_norm": "the reference is the library's: index_select, F.layer_norm",
    "scatter_residual_norm": (Call(library="index_copy_, F.layer_norm", run=scatter_residual_norm),),
    "gelu_quantize": _UNQUANTISED,
    "quantize_rows": _UNQUANTISED,
    "quantize_tensor": "no library finds the scale and quantises in one call",
    "qk_norm_rope": (
        Call(
            library="F.rms_norm, complex product", run=qk_norm_rope, given=_with_weights_of(2), differs=_NARROW_WEIGHT
        ),
    ),
    "qk_norm_rope_quantize": _UNQUANTISED,
    "guided_update": "five tensors that lie apart: a matrix product would want them in one",
    "rms_silu": (Call(library="F.rms_norm, F.silu", run=rms_silu),),
    "causal_conv": (Call(library="cuDNN, channels last", run=causal_conv),),
}
