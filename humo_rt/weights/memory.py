"""How much memory a generation takes and how much the machine has.

Parameters are counted exactly; what the forward passes need on top is an estimate from shapes, meant to tell "fits"
from "cannot fit" before an hour is spent. Reads no checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch

from humo_rt.config import MASK_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, ModelConfig
from humo_rt.model.mask_predictor import PREDICTING_BLOCKS

GIB = 1024**3

# Copies alive per token and per unit of width at the peak of a plain block: the float32 residual stream with its
# normalised and modulated copies, and the float32 rotation of queries and keys; then in the dtype of the matrix
# products queries, keys, values, attention output and their inputs.
_FLOAT32_COPIES = 6
_NARROW_COPIES = 6
# Of a fused block, in self-attention: the stream; then queries, keys and values, the first two again after rotation,
# and the output; where frames are alike (``"frames"`` injection) this is merged from two of its size. In the
# feed-forward: the stream, and what the widened rows are made from or into; in float8 these are there twice.
_FUSED_ATTENTION = (1, 6)
_FUSED_FEED_FORWARD = (1, 1)
# Full-resolution feature maps alive at once in the VAE's last level, and the frames of a piece of a small video: of the
# plain decoder and of the channels-last one (benchmarks/results/h100-vae-decode.json). And the two-frame caches of its
# convolutions.
_VAE_PLAIN = (11, 4)
_VAE_CHANNELS_LAST = (7, 8)
_VAE_CACHED_FRAMES = 14
_VAE_PIECE_PIXELS = 480 * 832


def activation_bytes(
    config: ModelConfig,
    *,
    height: int,
    width: int,
    num_frames: int,
    references: int = 1,
    branches: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    contexts: int | None = None,
    fused: bool = False,
    float8: bool = False,
    predicts_faces: bool = False,
    channels_last_vae: bool = False,
) -> int:
    """Estimated peak beyond the parameters: the larger of denoising and VAE decoding, in bytes.

    ``height``, ``width`` in pixels; ``branches``: guidance branches computed in one batch; ``contexts``: those of the
    whole guidance table, each of which keeps its keys and values; ``fused``: blocks run on fused kernels, as on a GPU,
    with ``float8`` in precision fp8; ``predicts_faces``: the mask predictor runs, which reads the streams of the last
    blocks; ``channels_last_vae``: the VAE decodes in channels-last memory.
    """
    dit = config.dit
    latent_frames = (num_frames - 1) // TEMPORAL_STRIDE + 1 + references
    cells = (height // SPATIAL_STRIDE) * (width // SPATIAL_STRIDE)
    tokens = latent_frames * cells // (dit.patch_size[1] * dit.patch_size[2])
    narrow = dtype.itemsize
    per_token = dit.dim * (_FLOAT32_COPIES * 4 + _NARROW_COPIES * narrow) + 2 * dit.ffn_dim * narrow
    if fused:
        attention, feed_forward = (
            dit.dim * (streams * 4 + copies * narrow) for streams, copies in (_FUSED_ATTENTION, _FUSED_FEED_FORWARD)
        )
        attention += 2 * dit.dim * narrow if dit.image_injection == "frames" else 0
        per_token = max(attention, feed_forward + dit.ffn_dim * (narrow + float8))
    if predicts_faces:
        per_token += PREDICTING_BLOCKS * dit.dim * 4
    # Keys and values, at first of both prompts and both audios.
    rows = max(2, contexts or branches) * (dit.text_len + latent_frames * dit.audio_tokens)
    cached = 2 * dit.num_layers * rows * dit.dim * narrow
    latents = latent_frames * cells * (dit.in_channels + MASK_CHANNELS) * 4 * (branches + 4)
    denoise = branches * tokens * per_token + cached + latents

    patch = config.vae.patch_size or 1
    frame = config.vae.base_dim * height * width // patch**2
    maps, frames = _VAE_CHANNELS_LAST if channels_last_vae else _VAE_PLAIN
    piece_frames = max(TEMPORAL_STRIDE, frames * _VAE_PIECE_PIXELS * patch**2 // (height * width))
    piece = frame * min(piece_frames, num_frames) * narrow * maps
    decode = piece + frame * _VAE_CACHED_FRAMES * narrow + 3 * num_frames * height * width
    return max(denoise, decode)


def available_memory(device: torch.device) -> int:
    """Free bytes on ``device``: of the GPU, what torch keeps for reuse included, or of the host.

    Of the host, this process's share: containers have limits.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    limits = [free for free in (_host_free(), _cgroup_free()) if free is not None]
    return min(limits) if limits else 1 << 62


def check_memory(required: int, available: int, purpose: str) -> None:
    """``RuntimeError`` naming need, supply and what to do when ``required`` bytes exceed ``available``."""
    if required > available:
        raise RuntimeError(
            f"too little memory: {purpose} needs {required / GIB:.1f} GiB but only {available / GIB:.1f} GiB is free: "
            "close other programs, choose a smaller preset or size, or use a larger machine"
        )


def _host_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _cgroup_free() -> int | None:
    """What a container's limit leaves; pages of mapped files count as free, since they can be dropped."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((root / "memory.current").read_text())
        statistics = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return int(limit) - used + int(statistics.get("file", 0))
