"""What reaches the DiT in a complete generation, against recordings of the release's 17B entry point.

The networks are stand-ins that give the recorded hidden states and latents; everything between them is the pipeline's.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from humo_rt.config import HUMO_17B
from humo_rt.pipeline import Pipeline
from humo_rt.sampling.guidance import guidance_table
from tests.golden_data import case, case_ids, load_group, recipe_input
from tests.tiny import tiny_components, tiny_config

PROMPT = "a person"
SAMPLES_PER_STATE = 320


class RecordedWhisper(torch.nn.Module):
    def __init__(self, hidden_1SLC: torch.Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_mel_bins=80)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.hidden_1SLC = hidden_1SLC

    def forward(self, mel, output_hidden_states):
        return SimpleNamespace(hidden_states=self.hidden_1SLC.unbind(2))


class RecordedVAE(torch.nn.Module):
    """Gives one recorded reference after the other; decodes to grey."""

    def __init__(self, references_CRhw: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.references = [] if references_CRhw is None else list(references_CRhw[None].split(1, dim=2))

    def encode(self, image_BCFHW):
        assert image_BCFHW.shape[2] == 1
        return self.references.pop(0)

    def decode_chunks(self, latents_BCThw):
        _, _, frames, height, width = latents_BCThw.shape
        yield torch.zeros(1, 3, 4 * (frames - 1) + 1, 8 * height, 8 * width)


class RecordingDiT:
    """Notes what each branch is given and predicts a velocity of zero."""

    def __init__(self, config) -> None:
        self.config = config
        self.branches: list[SimpleNamespace] = []

    def project_context(self, texts, audios_NTWBA):
        def select(text_rows, audio_rows):
            chosen = zip(text_rows.tolist(), audio_rows.tolist(), strict=True)
            return [(texts[text], audios_NTWBA[audio]) for text, audio in chosen]

        return SimpleNamespace(select=select)

    def __call__(self, x, timestep, *, context, condition, rope):
        for row, (text, audio) in enumerate(context):
            self.branches.append(
                SimpleNamespace(x=x[row], t=int(timestep[row]), text=text, audio=audio, condition=condition[row])
            )
        return torch.zeros_like(x)


def pipeline_of(entry: dict) -> tuple[Pipeline, RecordingDiT]:
    config = tiny_config(HUMO_17B, audio_dim=1280)
    config = dataclasses.replace(config, width=entry["size_WH"][0], height=entry["size_WH"][1], num_frames=97)
    references = recipe_input(entry["latents_ref"]) if "latents_ref" in entry else None
    hidden = recipe_input(entry["audio_hidden"]) if "audio_hidden" in entry else torch.zeros(1, 2, 33, 1280)
    components = dataclasses.replace(
        tiny_components(config),
        vae=RecordedVAE(references),
        audio_encoder=RecordedWhisper(hidden),
        zero_vae=(recipe_input(entry["zero_vae"]),),
    )
    pipeline = Pipeline(components)
    pipeline.encoder.text = SimpleNamespace(
        encoder=torch.nn.Module(),
        encode=lambda texts: [recipe_input(entry["context" if text == PROMPT else "context_null"]) for text in texts],
    )
    pipeline.dit = pipeline.denoiser = RecordingDiT(config.dit)
    return pipeline, pipeline.dit


def branches_of(entry: dict, switch: float) -> dict[str, SimpleNamespace]:
    """The branches of the only step, by name: in the early regime if ``switch`` is below 999."""
    pipeline, dit = pipeline_of(entry)
    given = {"guidance_switch_timestep": switch}
    if "latents_ref" in entry:
        given["image"] = [np.full((8, 8, 3), shade, np.uint8) for shade in range(entry["nref"])]
    if "audio_hidden" in entry:
        states = entry["audio_hidden"]["shape"][1]
        given["audio"] = (np.zeros(states * SAMPLES_PER_STATE, np.float32), 16_000)
    if entry["frame_num"] != -1:
        given["num_frames"] = entry["frame_num"]
    result = pipeline.generate(PROMPT, num_inference_steps=1, **given)
    assert len(result.frames) == entry["frame_num_used"]
    mode = "T" + "I" * ("image" in given) + "A" * ("audio" in given)
    names = guidance_table(HUMO_17B, mode, guidance_switch_timestep=switch).at(999)
    return dict(zip(names, dit.branches, strict=True))


@pytest.mark.parametrize("switch", [980, 1000])
@pytest.mark.parametrize("case_id", case_ids("prep"))
def test_every_branch_gets_what_the_release_gives_it(case_id: str, switch: float) -> None:
    entry, tensors = case("prep", case_id), load_group("prep")[1]
    branches = branches_of(entry, switch)
    assert set(branches) == ({"TIA", "TI", "I" if switch < 999 else "0"} if entry["mode"] == "TIA" else {"T", "0"})
    for name, branch in branches.items():
        assert list(branch.x.shape) == entry["noise_shape"]
        assert [branch.t] == entry["timesteps"]
        assert torch.equal(branch.text, recipe_input(entry["context" if "T" in name else "context_null"]))
        assert torch.equal(branch.condition, tensors[f"{case_id}.{'y_c' if 'I' in name else 'y_null'}"])
        assert list(branch.audio.shape) == entry["audio_shape"]
        if "A" in name:
            expected = tensors[f"{case_id}.audio_every8th_channel"]
            torch.testing.assert_close(branch.audio[..., ::8], expected, atol=2e-6, rtol=0)
        else:
            assert not branch.audio.any()
