"""The exported nano DiT in ONNX Runtime against PyTorch, both in float32 on the CPU."""

from __future__ import annotations

import onnxruntime
import pytest
import torch

from humo_rt.config import PRESETS
from humo_rt.tensorrt import open_dit
from humo_rt.tensorrt.session import OnnxDiT

TOLERANCE = 1e-4
# Latent frames, height and width; in the last two a frame is one token, and one column of them.
SIZES = [(2, 4, 6), (3, 8, 12), (5, 16, 10), (1, 2, 2), (4, 6, 2)]


@pytest.fixture(scope="module")
def session(nano_float32):
    return OnnxDiT.load(nano_float32.exported.path, nano_float32.dit)


def inputs(branches, size, *, masked, seed=0):
    config = PRESETS["nano"].dit
    generator = torch.Generator().manual_seed(seed)
    noise = {"generator": generator}
    arguments = {
        "x_BCTHW": torch.randn(branches, 16, *size, **noise),
        "timestep_B": torch.linspace(950, 20, branches),
        "face_mask": (torch.randn(branches, *size, **noise) > 0).float() if masked else None,
    }
    text = torch.randn(branches, config.text_len, config.text_dim, **noise)
    audio = torch.randn(branches, size[0], config.audio_window, config.audio_bands, config.audio_dim, **noise)
    return arguments, (text, audio)


def relative_error(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("branches", [1, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_it_agrees_with_pytorch(session, nano_float32, size, branches, masked):
    dit = nano_float32.dit
    arguments, context = inputs(branches, size, masked=masked)
    found = session(**arguments, context=session.project_context(*context), return_face_mask=True)
    expected = dit(**arguments, context=dit.project_context(*context), return_face_mask=True)
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) <= TOLERANCE
    velocity = session(**arguments, context=session.project_context(*context))
    assert torch.equal(velocity, found[0])


@torch.no_grad()
def test_a_mask_changes_the_result(session):
    arguments, context = inputs(1, SIZES[1], masked=True)
    projected = session.project_context(*context)
    masked = session(**arguments, context=projected)
    everywhere = session(**(arguments | {"face_mask": None}), context=projected)
    assert relative_error(masked, everywhere) > 100 * TOLERANCE


def test_files_that_cannot_be_opened_are_refused(session, nano_float32, tmp_path):
    dit = nano_float32.dit
    with pytest.raises(ValueError, match="neither .onnx nor .engine"):
        open_dit(tmp_path / "dit.plan", dit)
    with pytest.raises(ValueError, match=r"does not exist: write one with humo-rt export"):
        open_dit(tmp_path / "dit.onnx", dit)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(nano_float32.exported.path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is no ONNX file"):
        open_dit(cut, dit)


def test_a_precision_without_kernels_names_one_that_has_them(nano_bfloat16):
    with pytest.raises(RuntimeError, match=r"it does not run bfloat16 on cpu: humo-rt export --precision float16$"):
        OnnxDiT.load(nano_bfloat16.exported.path, nano_bfloat16.dit)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it has the device")
def test_an_onnxruntime_without_the_device_says_what_to_install(nano_float32):
    with pytest.raises(RuntimeError, match="cannot run on cuda:0: pip uninstall -y onnxruntime, then pip install"):
        OnnxDiT.load(nano_float32.exported.path, nano_float32.dit, device="cuda:0")
