"""The protocol with a generator and judges that can be seen through."""

from __future__ import annotations

import pytest
import torch

from tests.training.evaluation.clips import invented_clips
from training.evaluation import protocol
from training.evaluation.generation import Order, Scales
from training.evaluation.real_speech import evaluate_recordings
from training.judges.panel import MouthTracks

CLIPS = invented_clips()


class BrightnessPanel:
    """Reads the opening from the brightness, the person from the colour, and always the same attributes."""

    def mouths(self, video: torch.Tensor) -> MouthTracks:
        opening = video.float().mean((2, 3, 4)) / 255
        return MouthTracks(opening_BF=opening, centre_BF2=torch.zeros(*opening.shape, 2))

    def sync(self, video: torch.Tensor, centre: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(video), 31)

    def identity(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((1, 3, 4)) - 127

    def attributes(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(len(video), dtype=torch.long) for name in CLIPS.attributes}


def talk(order: Order) -> torch.Tensor:
    """A model that obeys: it moves when it hears something and shows the reference otherwise."""
    frames = torch.zeros(len(order), order.num_frames, 3, order.height, order.width, dtype=torch.uint8)
    if order.references_NCHW is not None:
        frames += order.references_NCHW[:, None]
    elif order.audio_NS is not None and order.audio_NS.any():
        frames += CLIPS.video_BFCHW
    return frames


@pytest.fixture(scope="module")
def rows() -> dict:
    return protocol.evaluate(talk, BrightnessPanel(), CLIPS, reconstruct=lambda video: video)


def test_every_mode_and_both_controls_are_rows(rows: dict) -> None:
    assert list(rows) == ["true frames", "reconstructions", *(run.name for run in protocol.RUNS)]
    assert {"T", "TI", "TA", "TIA", "none"} <= set(rows)


def test_true_frames_and_obedient_videos_score_full_marks(rows: dict) -> None:
    assert rows["true frames"]["mouth"]["correlation"] > 0.99
    assert rows["TA"]["mouth"]["correlation"] > 0.99
    assert rows["TA"]["mouth"]["lag"] == 0
    assert abs(rows["TA"]["mouth"]["control"]) < 0.2
    assert rows["TI"]["identity"] == 1.0
    assert rows["reconstructions"]["psnr"] > 60


def test_videos_without_conditions_score_nothing(rows: dict) -> None:
    assert rows["none"]["mouth"]["correlation"] == 0.0
    assert rows["none"]["identity"] < 0.5
    assert rows["none"]["closed"] == 1.0


def test_orders_hold_only_what_the_run_names() -> None:
    scales = Scales(text=2.0)
    orders = {run.name: protocol.order_for(run, CLIPS, scales) for run in protocol.RUNS}
    assert orders["T"].references_NCHW is None
    assert orders["T"].audio_NS is None
    assert orders["TI"].prompts == CLIPS.captions_anonymous
    assert orders["TA"].prompts == CLIPS.captions
    assert torch.equal(orders["TIA"].audio_NS, CLIPS.audio_BS)
    assert not orders["TIA silence"].audio_NS.any()
    assert set(orders["none"].prompts) == {""}
    assert orders["TIA"].scales is scales


def test_attributes_count_only_where_the_caption_states_them() -> None:
    right = {name: values.clone() for name, values in CLIPS.attributes.items()}
    for values in right.values():
        values[6:] += 1  # wrong, but nobody stated them
    assert protocol.attribute_accuracy(right, CLIPS)["mean"] == 1.0
    zeros = {name: torch.zeros_like(values) for name, values in right.items()}
    assert protocol.attribute_accuracy(zeros, CLIPS)["gender"] == 0.5


def test_recordings_are_spoken_by_several_people(tmp_path) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "speech.wav"
    soundfile.write(path, torch.randn(16_000).mul(0.1).numpy(), 16_000)
    scores, video, audio = evaluate_recordings(talk, BrightnessPanel(), [path], CLIPS, lag=0, people=3)
    assert scores["windows"] == 1
    assert len(video) == len(audio) == 3
    assert scores["generated"]["envelope"]["correlation"] == 0.0
    assert scores["true renders"]["envelope"]["correlation"] > 0.5
    soundfile.write(path, torch.zeros(800).numpy(), 16_000)
    with pytest.raises(ValueError, match="too short"):
        evaluate_recordings(talk, BrightnessPanel(), [path], CLIPS)
