from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from humo_rt.config import AudioEncoderConfig
from humo_rt.model.encoders import build_audio_encoder
from training.task import Moment, Task
from training.tasks import audio_encoder
from training.tasks.audio_encoder import AudioEncoderTask, AudioEncoderTaskConfig

CPU = torch.device("cpu")
TEACHER = AudioEncoderConfig(d_model=32, num_layers=6, num_heads=2, ffn_dim=32, num_mel_bins=80)
STUDENT = AudioEncoderConfig(d_model=24, num_layers=4, num_heads=2, ffn_dim=32, num_mel_bins=80)
CONFIG = AudioEncoderTaskConfig(
    encoder=STUDENT, batch_size=2, utterances=6, held_out_utterances=6, validate_every=6, mouth_weight=1.0
)


@pytest.fixture(scope="module")
def task():
    """A task with a random teacher a thousand times smaller than Whisper."""
    patch = pytest.MonkeyPatch()
    torch.manual_seed(0)
    teacher = build_audio_encoder(TEACHER).requires_grad_(False)
    patch.setattr(audio_encoder, "WHISPER_BASE", TEACHER)
    patch.setattr(audio_encoder, "load_teacher", lambda path: teacher)
    patch.setattr(audio_encoder, "_CALIBRATION_SEGMENTS", 8)
    task = AudioEncoderTask(CONFIG)
    task.prepare(CPU, 0, 1)
    yield task
    patch.undo()


def _moment(step: int) -> Moment:
    return Moment(seed=0, step=step, index=step)


def test_a_few_steps_bring_the_student_nearer_to_its_teacher(task):
    assert isinstance(task, Task)
    torch.manual_seed(0)
    model = task.build(CPU).train()
    parameters = [p.requires_grad_(task.trainable(n)) for n, p in model.named_parameters() if task.trainable(n)]
    optimiser = torch.optim.AdamW(parameters, lr=3e-3)
    batch = task.batch(_moment(0))
    losses = []
    for _ in range(8):
        loss, scalars = task.loss(model, batch, _moment(1))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]
    assert not any(value.requires_grad for value in scalars.values())


def test_examinations_appear_in_the_log_when_due(task):
    model = task.build(CPU)
    _, scalars = task.loss(model, task.batch(_moment(6)), _moment(6))
    assert {"held_out/cosine_6", "recorded/cosine_6", "held_out/mouth_correlation"} <= scalars.keys()
    assert "recorded/mouth_correlation" not in scalars


def test_a_student_that_is_the_teacher_passes_the_examination(task):
    """The exams measure likeness: a model that answers with the teacher's own states scores one."""

    class Copy(torch.nn.Module):
        def forward(self, mel_BMF):
            return task._targets(mel_BMF), torch.zeros(len(mel_BMF), 1500, 2)

    scores = task.examine(Copy())
    assert all(score > 0.999 for name, score in scores.items() if "cosine" in name)


def test_the_batch_is_a_function_of_the_moment(task):
    (one, mel), (same, same_mel) = task.batch(_moment(3)), task.batch(_moment(3))
    assert torch.equal(one.sound_BS, same.sound_BS)
    assert torch.equal(mel, same_mel)
    assert not torch.equal(one.sound_BS, task.batch(_moment(4))[0].sound_BS)


def test_the_shipped_file_is_a_plain_encoder_in_half_precision(task, tmp_path):
    model = task.build(CPU)
    task.export(model.state_dict(), tmp_path / "audio_encoder.safetensors")
    stored = load_file(tmp_path / "audio_encoder.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    build_audio_encoder(STUDENT).load_state_dict({name: value.float() for name, value in stored.items()})


def test_recordings_must_leave_something_to_measure(tmp_path):
    (tmp_path / "one.wav").touch()
    config = dataclasses.replace(CONFIG, recordings=str(tmp_path))
    with pytest.raises(ValueError, match=r"named \*0930\*"):
        audio_encoder._recordings(config)
