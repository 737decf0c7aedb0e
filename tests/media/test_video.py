"""MP4 files: what is written comes back, and nothing half-written stays."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest

from humo_rt.media import VideoWriter, check_output_path, read_audio, read_settings, read_video

FPS, SIZE = 25, 64


def moving_gradient(count: int, width: int = SIZE, height: int = SIZE) -> np.ndarray:
    time, rows, columns = np.ogrid[:count, :height, :width]
    red = 2 * columns + 0 * rows + 2 * time
    green = 3 * rows + 0 * columns + 0 * time
    blue = 255 - 2 * columns - rows + 0 * time
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 255).astype(np.uint8)


def tone(seconds: float, rate: int = 16_000) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path, frames_FHWC, **settings):
    height, width = frames_FHWC.shape[1:3]
    with VideoWriter(path, fps=FPS, width=width, height=height, **settings) as writer:
        for begin in range(0, len(frames_FHWC), 4):
            writer.write(frames_FHWC[begin : begin + 4])
    return path


def test_frames_rate_and_settings_come_back(tmp_path):
    frames = moving_gradient(13, width=48, height=80)
    settings = {"prompt": 'a "person" speaks, 説話', "seed": 7, "scales": [1.5, None]}
    path = write(tmp_path / "out.mp4", frames, metadata=settings)
    restored, fps = read_video(path)
    assert (restored.shape, fps) == (frames.shape, FPS)
    difference = restored.astype(float) - frames
    assert np.sqrt((difference**2).mean()) < 4
    assert abs(difference.mean()) < 0.5
    assert read_settings(path) == settings
    assert names(tmp_path) == ["out.mp4"]


def test_the_file_is_h264_aac_tagged_and_starts_fast(tmp_path):
    path = write(tmp_path / "out.mp4", moving_gradient(9), audio=tone(0.36))
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.codec_context.pix_fmt, video.codec_context.colorspace) == ("yuv420p", 1)
        assert video.frames == 9
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


@pytest.mark.parametrize("seconds", [0.1, 0.52, 3.0])
def test_sound_is_padded_or_cut_to_the_video(tmp_path, seconds):
    path = write(tmp_path / "out.mp4", moving_gradient(25), audio=tone(seconds))
    with av.open(str(path)) as container:
        durations = [float(stream.duration * stream.time_base) for stream in container.streams]
    assert durations == pytest.approx([1.0, 1.0])
    samples = read_audio(path)[:16_000]
    heard = min(len(tone(seconds)), 16_000)
    assert np.corrcoef(samples[:heard], tone(seconds)[:heard])[0, 1] > 0.99
    assert np.abs(samples[heard + 1024 :]).max(initial=0) < 1e-3


@pytest.mark.parametrize(
    ("rate", "channels", "stored"), [(44_100, 2, 44_100), (10_000, 1, 48_000), (48_000, 6, 48_000)]
)
def test_sound_of_any_rate_and_channels(tmp_path, rate, channels, stored):
    sound = np.stack([tone(1.0, rate)] * channels, axis=1)
    path = write(tmp_path / "out.mp4", moving_gradient(25), audio=sound, sample_rate=rate)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels) == (stored, min(channels, 2) if channels <= 2 else 1)
    assert np.corrcoef(read_audio(path)[:16_000], tone(1.0))[0, 1] > 0.99


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind_and_the_old_file_alone(tmp_path, error):
    path = write(tmp_path / "out.mp4", moving_gradient(5))
    before = path.read_bytes()
    with pytest.raises(error):
        write_and_fail(path, error)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["out.mp4"]


def write_and_fail(path, error):
    with VideoWriter(path, fps=FPS, width=SIZE, height=SIZE, audio=tone(1.0)) as writer:
        writer.write(moving_gradient(30))
        raise error


def test_wrong_frames_are_refused_and_leave_nothing(tmp_path):
    for frames in (np.zeros((2, 64, 32, 3), np.uint8), np.zeros((2, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"give uint8 \(frames, 64, 64, 3\)"):
            write_one(tmp_path / "out.mp4", frames)
    assert names(tmp_path) == []


def write_one(path, frames):
    with VideoWriter(path, fps=FPS, width=SIZE, height=SIZE) as writer:
        writer.write(frames)


def test_a_video_without_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no frames were written"):
        write_one(tmp_path / "out.mp4", np.zeros((0, SIZE, SIZE, 3), np.uint8))
    assert names(tmp_path) == []


def test_paths_that_cannot_take_a_video(tmp_path, monkeypatch):
    assert check_output_path(tmp_path / "out.MP4") == tmp_path / "out.MP4"
    for path, message in (
        (tmp_path / "out.gif", r"suffix '\.gif': use \.mp4"),
        (tmp_path / "out", r"suffix '': use \.mp4"),
        (tmp_path / "missing" / "out.mp4", "missing' does not exist: create it"),
        (tmp_path / f"{'n' * 252}.mp4", "no file name: use one of at most 255 bytes"),
        (tmp_path / "zero\0.mp4", "no file name"),
    ):
        with pytest.raises(ValueError, match=message):
            check_output_path(path)
    for name, place in (("lost", "missing/out.mp4"), ("loop", "loop.mp4"), ("device", "/dev/null")):
        (tmp_path / f"{name}.mp4").symlink_to(tmp_path / place)
        with pytest.raises(ValueError, match=r"missing' does not exist|cannot be followed|no file that a video could"):
            check_output_path(tmp_path / f"{name}.mp4")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        check_output_path(tmp_path / "folder.mp4")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="not writable: choose another"):
        check_output_path(tmp_path / "out.mp4")


def test_a_missing_codec_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("humo_rt.media.writer.VIDEO_CODEC", "libnothing")
    with pytest.raises(RuntimeError, match="codec libnothing is not in this build of ffmpeg: reinstall"):
        write(tmp_path / "out.mp4", moving_gradient(1))
    assert names(tmp_path) == []


def test_a_failing_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RuntimeError, match=r"cannot write .*No space left on device"):
        write(tmp_path / "out.mp4", moving_gradient(1))
    assert names(tmp_path) == []


def test_broken_videos(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_video(tmp_path / "nothing.mp4")
    (tmp_path / "text.mp4").write_text("not a video" * 50)
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_video(tmp_path / "text.mp4")
    (tmp_path / "notes.txt").write_text("a person speaks in the rain\n" * 50)
    with pytest.raises(ValueError, match="no picture track"):
        read_video(tmp_path / "notes.txt")
    path = write(tmp_path / "out.mp4", np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cut short|cannot be decoded"):
        read_video(path)


def test_a_video_of_others_has_no_settings(tmp_path):
    path = write(tmp_path / "out.mp4", moving_gradient(1))
    assert read_settings(path) == {}
    with pytest.raises(ValueError, match="no sound track"):
        read_audio(path)


def test_the_longest_name_is_written(tmp_path):
    write(tmp_path / f"{'n' * 251}.mp4", moving_gradient(1))
    assert names(tmp_path) == [f"{'n' * 251}.mp4"]


def test_a_relative_name_with_a_colon_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(read_video(write("take:1.mp4", moving_gradient(2)))[0]) == 2


def test_a_link_stays_one(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "out.mp4").symlink_to(tmp_path / "kept" / "video.mp4")
    write(tmp_path / "out.mp4", moving_gradient(1))
    assert (tmp_path / "out.mp4").is_symlink()
    assert names(tmp_path / "kept") == ["video.mp4"]


def test_names_that_are_no_text_are_stored(tmp_path):
    settings = {"image": [os.fsdecode(b"caf\xe9.png")]}
    assert read_settings(write(tmp_path / "out.mp4", moving_gradient(1), metadata=settings)) == settings
