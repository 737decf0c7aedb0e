"""Sound from files and arrays, whole and broken."""

from __future__ import annotations

import struct

import av
import numpy as np
import pytest
import soundfile
import soxr
import torch

from humo_rt.media import Sound, mix, read_audio, read_sound
from humo_rt.media.promised_length import promised_beyond_end

RATE = 16_000


def tone(seconds: float, rate: int = RATE, hertz: float = 220.0) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def spectrum_peak(samples_S: np.ndarray) -> float:
    return np.abs(np.fft.rfft(samples_S)).argmax() * RATE / len(samples_S)


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "speech.wav"
    soundfile.write(path, tone(1.0), RATE)
    return path


def test_16_khz_mono_passes_unchanged(tmp_path):
    path = tmp_path / "float.wav"
    soundfile.write(path, tone(1.0), RATE, subtype="FLOAT")
    assert np.array_equal(read_audio(path), tone(1.0))
    assert np.array_equal(read_audio(str(path)), tone(1.0))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_formats_rates_and_channels(tmp_path, suffix, rate):
    path = tmp_path / f"speech.{suffix}"
    soundfile.write(path, np.stack([tone(1.0, rate), 0.5 * tone(1.0, rate)], axis=1), rate)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(RATE, abs=800)
    assert spectrum_peak(samples) == pytest.approx(220, abs=3)
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.03)


def test_resampling_is_that_of_the_release():
    samples = np.random.default_rng(0).standard_normal(11_025).astype(np.float32) * 0.1
    expected = soxr.resample(samples, 11_025, RATE, quality="HQ")
    assert np.array_equal(read_audio((samples, 11_025)), expected)
    assert len(read_audio((samples[:100], 44_100))) == 37


def test_ffmpeg_reads_what_libsndfile_does_not(tmp_path):
    path = tmp_path / "speech.m4a"
    write_aac(path, tone(2.0, 48_000), 48_000)
    sound = read_sound(path)
    assert (sound.sample_rate, sound.samples_SC.shape[1]) == (48_000, 1)
    assert sound.seconds == pytest.approx(2.0, abs=0.05)
    assert spectrum_peak(read_audio(path)) == pytest.approx(220, abs=3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match=r"speech\.m4a' (is cut short|cannot be decoded)"):
        read_audio(path)


def write_aac(path, samples_S, rate, *, begin_at=0.0, gap=0.0, title=""):
    """``begin_at`` and ``gap`` in seconds; the gap comes after the first half."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        container.metadata["title"] = title
        stream = container.add_stream("aac", rate=rate)
        stream.layout = "mono"
        for begin in range(0, len(samples_S), 1024):
            frame = av.AudioFrame.from_ndarray(samples_S[None, begin : begin + 1024], format="fltp", layout="mono")
            late = begin_at + gap * (begin >= len(samples_S) / 2)
            frame.sample_rate, frame.pts = rate, begin + round(late * rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_arrays_in_either_orientation_and_every_scale():
    stereo = np.stack([tone(0.1), tone(0.1)])
    for array in (stereo, stereo.T, tone(0.1), tone(0.1).astype(np.float64)):
        np.testing.assert_allclose(read_audio((array, RATE)), tone(0.1), atol=1e-7)
    for dtype, scale, offset in ((np.int16, 2**15, 0), (np.int32, 2**31, 0), (np.uint8, 2**7, 128)):
        array = (tone(0.1).astype(np.float64) * scale + offset).astype(dtype)
        np.testing.assert_allclose(read_audio((array, RATE)), tone(0.1), atol=1.1 / scale)
    sound = Sound(samples_SC=stereo.T, sample_rate=RATE)
    assert read_sound(sound) is sound


def test_tensors_are_arrays():
    np.testing.assert_array_equal(read_audio((torch.from_numpy(tone(0.1)), RATE)), tone(0.1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (([[0.0, 0.1], [0.2]], RATE), "audio samples cannot be read"),
        ((torch.zeros(800, requires_grad=True), RATE), "audio samples cannot be read"),
        ((np.zeros(0, np.float32), RATE), "holds no samples"),
        ((np.array([0.0, np.nan]), RATE), "NaN or infinite"),
        ((np.array([0.0, 20_000.0]), RATE), "reaches 20000: scale"),
        ((np.zeros(10, np.int64), RATE), "type int64 have no scale"),
        ((np.zeros(10), 0), "sample rate 0"),
        ((np.zeros(10), 22_050.5), r"sample rate 22050\.5"),
        ((RATE, np.zeros(10)), r"not \(samples, rate\)"),
        ((np.zeros((2, 3, 4)), RATE), "is not sound"),
        ((np.zeros((50, 60)), RATE), "50 channels"),
    ],
)
def test_arrays_that_are_not_sound(source, message):
    with pytest.raises(ValueError, match=message):
        read_audio(source)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.wav' does not exist"):
        read_audio(tmp_path / "nothing.wav")
    with pytest.raises(ValueError, match="is not a file"):
        read_audio(tmp_path)


@pytest.mark.parametrize("suffix", ["wav", "flac", "aiff", "mp3", "w64", "rf64"])
def test_a_file_shorter_than_its_header_says_is_refused(tmp_path, suffix):
    path = tmp_path / f"speech.{suffix}"
    soundfile.write(path, np.random.default_rng(0).standard_normal(4 * RATE) * 0.1, RATE)
    assert promised_beyond_end(path) == 0
    assert len(read_audio(path)) == 4 * RATE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(ValueError, match=r"is cut short|cannot be decoded"):
        read_audio(path)


def test_the_index_of_an_mp3_is_found_behind_its_tag(tmp_path):
    path = tmp_path / "speech.mp3"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(2.0, 48_000)[None], format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for part in (frame, None):
            container.mux(stream.encode(part))
    data = path.read_bytes()
    assert data.startswith(b"ID3")
    assert promised_beyond_end(path) == 0
    path.write_bytes(data[: len(data) // 2])
    assert promised_beyond_end(path) == len(data) - len(data) // 2
    path.write_bytes(data[:-50])  # an editor that took a tag away is forgiven
    assert promised_beyond_end(path) == 0


def test_a_header_alone_is_refused(wav):
    data = wav.read_bytes()
    for length in (30, 44):
        wav.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cannot be decoded|cut short"):
            read_audio(wav)


def test_a_wav_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(ValueError, match=r"empty\.wav' holds no samples"):
        read_audio(tmp_path / "empty.wav")


def test_a_wav_written_to_a_pipe_has_no_length_and_is_read(wav):
    data = bytearray(wav.read_bytes())
    begin = data.index(b"data")
    data[4:8] = data[begin + 4 : begin + 8] = struct.pack("<I", 0xFFFFFFFF)
    wav.write_bytes(data)
    assert promised_beyond_end(wav) == 0
    assert len(read_audio(wav)) == RATE


@pytest.mark.parametrize("name", ["notes.txt", "notes.wav", "notes.mp3"])
def test_text_is_not_sound(tmp_path, name, capfd):
    (tmp_path / name).write_text("a person speaks in the rain\n" * 20)
    with pytest.raises(ValueError, match=rf"{name}' (cannot be decoded|has no sound)"):
        read_audio(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_an_empty_file_is_not_sound(tmp_path):
    (tmp_path / "speech.wav").touch()
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_audio(tmp_path / "speech.wav")


def test_an_image_has_no_sound(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "portrait.png")
    with pytest.raises(ValueError, match="no sound track"):
        read_audio(tmp_path / "portrait.png")


class TestMix:
    def sound(self, samples_SC: np.ndarray, rate: int = RATE) -> Sound:
        return Sound(samples_SC=samples_SC.astype(np.float32), sample_rate=rate)

    def test_sounds_add_up_to_the_length_of_the_longest(self):
        long, short = self.sound(np.full((6, 1), 0.25)), self.sound(np.full((2, 1), 0.5))
        assert mix([long, short]).samples_SC[:, 0].tolist() == [0.75, 0.75, 0.25, 0.25, 0.25, 0.25]

    def test_a_single_one_stays_as_it_is(self):
        sound = self.sound(np.full((6, 3), 2.0), 8_000)
        assert mix([sound]) is sound

    def test_a_sum_beyond_full_scale_is_turned_down(self):
        loud = self.sound(np.array([[0.8], [-0.2]]))
        assert mix([loud, loud]).samples_SC[:, 0].tolist() == pytest.approx([1.0, -0.25])

    def test_rates_and_channels_meet_at_the_higher(self):
        stereo = self.sound(np.tile([[0.2, 0.4]], (800, 1)), 8_000)
        mixed = mix([stereo, self.sound(np.full((3200, 1), 0.1), 32_000)])
        assert mixed.sample_rate == 32_000
        assert mixed.samples_SC.shape == (3200, 2)
        assert mixed.samples_SC[1600] == pytest.approx([0.3, 0.5], abs=0.01)
        three = self.sound(np.tile([[0.1, 0.1, 0.4]], (4, 1)))
        assert mix([three, self.sound(np.zeros((4, 2)))]).samples_SC[0] == pytest.approx([0.1, 0.1, 0.4])


@pytest.mark.parametrize("times", [{"begin_at": 3.0}, {"gap": 1.0}], ids=str)
@pytest.mark.parametrize("suffix", ["m4a", "mka"])
def test_sound_that_begins_late_or_has_a_gap_is_whole(tmp_path, suffix, times):
    path = tmp_path / f"speech.{suffix}"
    write_aac(path, tone(2.0, 48_000), 48_000, **times)
    assert read_sound(path).seconds == pytest.approx(2.0, abs=0.1)


def test_tags_that_are_no_utf_8_do_no_harm(tmp_path):
    path = tmp_path / "speech.m4a"
    write_aac(path, tone(1.0, 48_000), 48_000, title="CafZZ")
    path.write_bytes(path.read_bytes().replace(b"CafZZ", b"Caf\xe9Z"))
    assert read_sound(path).seconds == pytest.approx(1.0, abs=0.05)


def test_a_relative_name_with_a_colon_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_aac(tmp_path / "take:1.m4a", tone(1.0, 48_000), 48_000)
    assert read_sound("take:1.m4a").seconds == pytest.approx(1.0, abs=0.05)


def test_arrays_in_the_other_byte_order():
    samples = (1000 * tone(0.1)).astype(np.int16)
    assert np.array_equal(read_audio((samples.astype(">i2"), RATE)), read_audio((samples, RATE)))


def test_a_tag_alone_is_no_sound(tmp_path):
    (tmp_path / "tag.mp3").write_bytes(b"ID3\x04")
    with pytest.raises(ValueError, match=r"tag\.mp3' cannot be decoded"):
        read_sound(tmp_path / "tag.mp3")
