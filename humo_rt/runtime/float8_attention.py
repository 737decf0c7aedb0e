"""Self-attention in float8 (e4m3) by cuDNN, which PyTorch does not offer: its graph API, from a package of its own.

q, k, v and the result are e4m3 with one scale each: on Hopper cuDNN returns nothing wider. The result's scale is set
before it is computed, from that of v: a mean of values is never larger than the largest of them. Lossy. For inference:
the operators have no backward pass.

What the values of all tokens have in common comes back from attention as it went in. But e4m3 rounds it twice, to one
side in every token, which no average mends, and on Hopper much more of it is lost than that (benchmarks/LOG.md). So it
is taken off before and added afterwards: the mean of all tokens, as that of a part misses it by more than attention
over noise leaves of its values. The weights of a token add up to one, so any vector may be taken off.

On Hopper cuDNN takes a tenth longer where the rows of keys are no multiple of 256, so keys and values get rows added,
and it is told how many count. Those of queries make no difference.

Shape legend: B batch, L tokens, S rows of keys and values, H heads, K head_dim, D = H * K.
"""

from __future__ import annotations

import importlib
import math
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from humo_rt.kernels.float8 import FLOAT8
from humo_rt.kernels.quantize_tensor import quantize_tensor

MODULE = "cudnn"
INSTALL = "pip install 'nvidia-cudnn-frontend>=1.14'"

KEY_ROWS = 256  # a multiple of which cuDNN likes on Hopper; elsewhere not timed

# The probabilities, at most 1, on their way into the second product. Not 448: a kernel may measure them against an
# older maximum than the final one.
PROBABILITY_SCALE = 256.0
# Room for what rounding may add: e4m3 probabilities and values may add up to 1/16 more than the largest value.
HEADROOM = 17 / 16

_UIDS = {name: i for i, name in enumerate(
    ("q", "k", "v", "descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o", "seq_len_q", "seq_len_kv",
     "out", "amax_s", "amax_o")
)}  # fmt: skip


class _Graph(NamedTuple):
    run: Any  # cudnn.pygraph
    workspace: int  # bytes


@cache
def frontend() -> ModuleType:
    """The package; ``ImportError`` when it is absent or cannot be loaded."""
    return importlib.import_module(MODULE)


def float8_attention(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(K)) v through e4m3: (B, H, L, K) as q, in its dtype; k and v may have more tokens.

    The result is dense as (B, L, H, K), so that joining the heads copies nothing.
    """
    *parts, centre_B1D = quantized_parts(q_BHLK, k_BHLK, v_BHLK)
    y_BLHK, scale_1 = attend_quantized(*parts, keys=k_BHLK.shape[2])
    return with_common_value(y_BLHK, scale_1, centre_B1D).to(q_BHLK.dtype).transpose(1, 2)


def quantized_parts(
    q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """What ``attend_quantized`` takes of q, k and v, and what the values have in common, (B, 1, D) float32."""
    q_BLD, k_BLD, v_BLD = (x.transpose(1, 2).flatten(2) for x in (q_BHLK, k_BHLK, v_BHLK))
    padding, heads = key_padding(k_BLD.shape[1]), q_BHLK.shape[1]
    q, scale_q, _ = quantize_tensor(q_BLD)
    k, scale_k, _ = quantize_tensor(k_BLD, padding=padding)
    v, scale_v, centre_B1D = quantize_tensor(v_BLD, centred=True, padding=padding)
    q, k, v = (x.unflatten(2, (heads, -1)) for x in (q, k, v))
    return (q, scale_q), (k, scale_k), (v, scale_v), centre_B1D


def key_padding(tokens: int) -> int:
    """How many rows keys and values of so many tokens should have added, for ``attend_quantized`` to be fast."""
    return -tokens % KEY_ROWS


def with_common_value(y_BLHK: Tensor, scale_1: Tensor, centre_B1D: Tensor) -> Tensor:
    """What ``attend_quantized`` returned with what its values had in common, in float32."""
    return torch.addcmul(centre_B1D.unflatten(2, y_BLHK.shape[2:]), y_BLHK.float(), scale_1)


def attend_quantized(
    q: tuple[Tensor, Tensor], k: tuple[Tensor, Tensor], v: tuple[Tensor, Tensor], *, keys: int | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of e4m3 values and their scales (1,) float32; q and the result (B, L, H, K), k and v (B, S, H, K).

    What k and v have after ``keys`` rows, L when left out, has to be finite and counts for nothing. ``ValueError`` for
    fewer rows.
    """
    keys = q[0].shape[1] if keys is None else keys
    if k[0].shape != v[0].shape or k[0].shape[1] < keys:
        rows = ", ".join(f"{name} {tuple(x.shape)}" for name, (x, _) in (("k", k), ("v", v)))
        raise ValueError(f"{rows}: keys and values are of one shape, with {keys} rows at least")
    out_BLHK = _float8_attention(q[0], k[0], v[0], q[1], k[1], v[1], keys)
    return out_BLHK, v[1] * HEADROOM


@torch.library.custom_op("humo_rt::float8_attention", mutates_args=())
def _float8_attention(
    q_BLHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, scale_q_1: Tensor, scale_k_1: Tensor, scale_v_1: Tensor, keys: int
) -> Tensor:
    device, number = q_BLHK.device, torch.float32
    with torch.cuda.device(device):
        strides = tuple(x.stride() for x in (q_BLHK, k_BSHK, v_BSHK))
        graph = _graph(device, q_BLHK.shape, k_BSHK.shape[1], strides)
        queries, counting = (
            torch.full((len(q_BLHK), 1, 1, 1), rows, dtype=torch.int32, device=device)
            for rows in (q_BLHK.shape[1], keys)
        )
        out_BLHK = torch.empty(q_BLHK.shape, dtype=FLOAT8, device=device)
        tensors = {
            "q": q_BLHK,
            "k": k_BSHK,
            "v": v_BSHK,
            "descale_q": scale_q_1,
            "descale_k": scale_k_1,
            "descale_v": scale_v_1,
            "descale_s": torch.full((1,), 1 / PROBABILITY_SCALE, dtype=number, device=device),
            "scale_s": torch.full((1,), PROBABILITY_SCALE, dtype=number, device=device),
            "scale_o": (scale_v_1 * HEADROOM).reciprocal(),
            "seq_len_q": queries,
            "seq_len_kv": counting,
            "out": out_BLHK,
            "amax_s": torch.zeros(1, dtype=number, device=device),
            "amax_o": torch.zeros(1, dtype=number, device=device),
        }
        workspace = torch.empty(max(graph.workspace, 1), dtype=torch.uint8, device=device)
        handle = _handle(device)
        frontend().set_stream(handle=handle, stream=torch.cuda.current_stream(device).cuda_stream)
        graph.run.execute({_UIDS[name]: x for name, x in tensors.items()}, workspace, handle=handle)
    return out_BLHK


@_float8_attention.register_fake
def _(
    q_BLHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, scale_q_1: Tensor, scale_k_1: Tensor, scale_v_1: Tensor, keys: int
) -> Tensor:
    return torch.empty_like(q_BLHK, memory_format=torch.contiguous_format)


@cache
def _handle(device: torch.device) -> Any:
    return frontend().create_handle()


@cache
def _graph(device: torch.device, shape: torch.Size, rows: int, strides: tuple[tuple[int, ...], ...]) -> _Graph:
    """cuDNN's plan for q of ``shape``, k and v of ``rows``, with these strides; the result is contiguous."""
    cudnn = frontend()
    float8, wide = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
    graph = cudnn.pygraph(
        io_data_type=float8, intermediate_data_type=wide, compute_data_type=wide, handle=_handle(device)
    )

    def heads_first(axes: tuple[int, ...]) -> list[int]:
        return [axes[0], axes[2], axes[1], axes[3]]

    given: dict[str, Any] = {}
    batch, length, heads, head_dim = shape
    for name, stride in zip(("q", "k", "v"), strides, strict=True):
        sizes = shape if name == "q" else (batch, rows, heads, head_dim)
        layout = {"dim": heads_first(sizes), "stride": heads_first(stride)}
        given[name] = graph.tensor(**layout, data_type=float8, name=name, uid=_UIDS[name])
    for name in ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o"):
        one = {"dim": [1, 1, 1, 1], "stride": [1, 1, 1, 1]}
        given[name] = graph.tensor(**one, data_type=wide, name=name, uid=_UIDS[name])
    for name in ("seq_len_q", "seq_len_kv"):
        each = {"dim": [batch, 1, 1, 1], "stride": [1, 1, 1, 1]}
        given[name] = graph.tensor(**each, data_type=cudnn.data_type.INT32, name=name, uid=_UIDS[name])
    options = {"attn_scale": 1 / math.sqrt(head_dim), "generate_stats": False, "use_padding_mask": True}
    out, _, amax_s, amax_o = graph.sdpa_fp8(**given, **options)
    dense = heads_first((length * heads * head_dim, heads * head_dim, head_dim, 1))
    out.set_output(True).set_uid(_UIDS["out"]).set_data_type(float8).set_dim(heads_first(shape)).set_stride(dense)
    for name, amax in (("amax_s", amax_s), ("amax_o", amax_o)):
        amax.set_output(True).set_uid(_UIDS[name]).set_data_type(wide).set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1])
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    return _Graph(graph, graph.get_workspace_size())
