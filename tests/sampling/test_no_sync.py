"""No step of the denoise loop waits for the device: run without data, where reading or copying any cannot go unseen."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.model.dit import HumoDiT
from humo_rt.sampling.branches import Conditions
from humo_rt.sampling.denoise import denoise
from humo_rt.sampling.guidance import guidance_table
from humo_rt.sampling.reuse import GuidanceReuse
from humo_rt.sampling.schedule import make_scheduler
from tests.tiny import tiny_config

READS = ("aten::_local_scalar_dense", "aten::_linalg_check_errors", "aten::nonzero", "aten::equal")


class DeviceOnly(TorchDispatchMode):
    """Refuses every operation that reads a value back or mixes tensors of the host with those of the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name().split(".")[0] not in READS, f"{func.name()} reads a value back"
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        # Numbers travel to a device as arguments of its kernels; tensors of the host would be copied.
        assert len({x.device.type for x in tensors}) < 2, f"{func.name()} copies between host and device"
        return result


# A mode and the options of ``conditions_of``.
CASES = {
    "T": ("T", {}),
    "TIA": ("TIA", {}),
    "few face tokens": ("TIA", {"face_mask": 0.2}),
    "most of the video": ("TIA", {"face_mask": 0.9}),
    "two speakers": ("TIA", {"face_mask": 0.2, "speakers": 2}),
    "predicted faces": ("TIA", {"predict_faces": 0.5}),
    # Two are left: what a single one is given is a view, for whose number the host asks, which here is without data.
    "reused branches": ("TIA", {"reuse": GuidanceReuse(every={"0": 2})}),
}


def conditions_of(
    config,
    mode: str,
    device: str,
    *,
    face_mask: float | None = None,
    speakers: int | None = None,
    predict_faces: float | None = None,
) -> Conditions:
    """``face_mask``: the share of the video that is face; the mask is the host's."""
    frames, slots, dit = 3, 2 if "I" in mode else 1, config.dit

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device)

    by_speaker = () if speakers is None else (speakers,)
    mask = torch.zeros(*by_speaker, 1, frames + slots, 4, 6)
    mask[..., : round(6 * (face_mask or 0))] = 1
    return Conditions(
        text_embeds=[noise(5, dit.text_dim)],
        negative_embeds=noise(7, dit.text_dim),
        audio=noise(*by_speaker, 1, frames, dit.audio_window, dit.audio_bands, dit.audio_dim) if "A" in mode else None,
        reference_latents=noise(1, 16, slots, 4, 6) if "I" in mode else None,
        grey_latents=noise(16, frames + slots, 4, 6) if dit.image_injection == "channels" else None,
        face_mask=mask if face_mask else None,
        predict_faces=predict_faces,
    )


def run_watched(
    config, mode: str, device: str, sampler: str, watch, adapt=None, reuse: GuidanceReuse | None = None, **options
) -> torch.Tensor:
    """Three steps, which is as far as UniPC's order rises, each inside of ``watch(index, branches)``."""
    with torch.device(device):
        model = HumoDiT(config.dit).eval().requires_grad_(False)
    model = model if adapt is None else adapt(model)
    scheduler = make_scheduler(3, 5.0, sampler=sampler, device=device)
    if device == "meta":  # the loop reads these before its first step
        scheduler.timesteps = make_scheduler(3, 5.0, sampler=sampler).timesteps
    conditions = conditions_of(config, mode, device, **options)
    noise = torch.randn(1, 16, 3 + conditions.num_slots, 4, 6, device=device)
    table = guidance_table(config, mode)
    return denoise(model, conditions, noise, guidance=table, scheduler=scheduler, around_step=watch, reuse=reuse)


@pytest.mark.parametrize("published", [HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
@pytest.mark.parametrize(("mode", "faces"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_no_step_reads_or_copies_between_host_and_device(
    published, mode: str, faces: dict, sampler: str, monkeypatch
) -> None:
    # Torch has no autocast for tensors without data, and the model only switches it off.
    monkeypatch.setattr(torch, "autocast", lambda **_: nullcontext())
    steps = []

    def watch(index: int, branches: int) -> DeviceOnly:
        steps.append(branches)
        return DeviceOnly()

    latents = run_watched(tiny_config(published), mode, "meta", sampler, watch, **faces)
    assert latents.shape == (1, 16, 3, 4, 6)
    assert len(steps) == 3


def test_the_watch_sees_what_it_must() -> None:
    device, host = torch.zeros(2, device="meta"), torch.zeros(2)
    with pytest.raises(AssertionError, match="between host and device"), DeviceOnly():
        host.to("meta")
    with pytest.raises(AssertionError, match="reads a value back"), DeviceOnly():
        device.sum().item()
    with pytest.raises(AssertionError, match="reads a value back"), DeviceOnly():
        torch.linalg.solve(torch.eye(2, device="meta"), device)
