"""Nano's exported VAE decoder in ONNX Runtime, frame after frame, against PyTorch in one piece."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import tensorrt_rtx
import torch

from humo_rt.config import PRESETS
from humo_rt.runtime.channels_last_vae import use_channels_last, use_plain
from humo_rt.tensorrt.vae_export import FRAMES, LATENTS, NEXT, export_vae_decoder
from humo_rt.weights.modules import build_on_meta
from humo_rt.weights.random_init import fill_random


@pytest.fixture(scope="module")
def vae():
    vae = build_on_meta(PRESETS["nano"])["vae"]
    fill_random(vae, part="vae", seed=0, dtype=torch.float32, device="cpu")
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def exported(vae, tmp_path_factory):
    return export_vae_decoder(vae, tmp_path_factory.mktemp("vae") / "vae.onnx")


def test_a_channels_last_decoder_is_refused(vae, tmp_path):
    use_channels_last(vae)
    with pytest.raises(ValueError, match="call use_plain on it first"):
        export_vae_decoder(vae, tmp_path / "vae.onnx")
    use_plain(vae)


@pytest.mark.parametrize("size", [(2, 4), (7, 5)], ids=str)
def test_consecutive_chunks_agree_with_the_whole(vae, exported, size):
    latents = torch.randn(1, 16, 4, *size, generator=torch.Generator().manual_seed(0))
    first, rest = (onnxruntime.InferenceSession(str(path)) for path in (exported.first, exported.rest))
    names = [FRAMES, *(NEXT + shape.name for shape in exported.caches)]
    blocks, caches = [], {}
    for frame in range(latents.shape[2]):
        session = rest if frame else first
        inputs = {LATENTS: latents[:, :, frame : frame + 1].numpy()} | caches
        block, *kept = session.run(names, inputs)
        caches = {shape.name: cache for shape, cache in zip(exported.caches, kept, strict=True)}
        blocks.append(block)
    expected = vae.decode(latents).numpy()
    assert [block.shape[2] for block in blocks] == [1, 4, 4, 4]
    found = np.concatenate(blocks, axis=2)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("part", ["first", "rest"])
def test_tensorrt_reads_every_node(exported, part):
    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.INTERNAL_ERROR)
    network = tensorrt_rtx.Builder(logger).create_network(0)
    parser = tensorrt_rtx.OnnxParser(network, logger)
    assert parser.parse_from_file(str(getattr(exported, part))), parser.get_error(0).desc()
    inputs = {LATENTS} | ({shape.name for shape in exported.caches} if part == "rest" else set())
    assert {network.get_input(index).name for index in range(network.num_inputs)} == inputs
