"""The cache of encoded clips: each clip once, resumed where it stopped, damage named."""

from __future__ import annotations

import pytest
import torch

from training.clips import Clips
from training.data.feature_cache import FeatureCache, fill


class Numbers:
    """Clips that are nothing but their number."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.decoded: list[int] = []

    def __len__(self) -> int:
        return self.count

    def keys(self, indices):
        return [f"clip{index}" for index in indices]

    def clips(self, indices):
        self.decoded += indices
        video = torch.tensor(indices, dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 5, 3, 16, 16)
        return Clips(
            video_BFCHW=video,
            references_BRCHW=video[:, :1],
            audio_BS=torch.zeros(len(indices), 3200),
            has_audio_B=torch.ones(len(indices), dtype=torch.bool),
            face_BFHW=None,
            mouth_BFHW=None,
            captions=[[f"number {index}"] for index in indices],
            captions_anonymous=[[] for _ in indices],
        )


def encode(clips):
    numbers = clips.video_BFCHW[:, 0, 0, 0, 0]
    return {"half": numbers.half() / 2, "heard": clips.has_audio_B, "pair": torch.stack([numbers, numbers + 1], dim=1)}


def test_reads_what_was_written(tmp_path):
    cache = FeatureCache(tmp_path, "encoder")
    assert fill(cache, Numbers(5), range(5), encode, clips_per_batch=2) == 5
    tensors, captions, anonymous = cache.read(["clip3", "clip1"])
    assert tensors["half"].tolist() == [1.5, 0.5]
    assert tensors["half"].dtype == torch.float16
    assert tensors["heard"].tolist() == [True, True]
    assert tensors["pair"].tolist() == [[3, 4], [1, 2]]
    assert captions == [["number 3"], ["number 1"]]
    assert anonymous == [[], []]


def test_a_second_run_encodes_only_what_is_missing(tmp_path):
    source = Numbers(6)
    fill(FeatureCache(tmp_path, "encoder"), source, range(4), encode)
    source.decoded.clear()
    assert fill(FeatureCache(tmp_path, "encoder"), source, range(6), encode) == 2
    assert source.decoded == [4, 5]


def test_an_interrupted_run_keeps_its_finished_clips(tmp_path):
    cache, source = FeatureCache(tmp_path, "encoder"), Numbers(4)

    def interrupted(clips):
        if 2 in source.decoded:
            raise KeyboardInterrupt
        return encode(clips)

    with pytest.raises(KeyboardInterrupt):
        fill(cache, source, range(4), interrupted, clips_per_batch=2)
    assert fill(cache, source, range(4), encode) == 2


def test_other_encoders_share_nothing(tmp_path):
    fill(FeatureCache(tmp_path, "one"), Numbers(2), range(2), encode)
    assert fill(FeatureCache(tmp_path, "two"), Numbers(2), range(2), encode) == 2


def test_an_absent_clip_and_a_damaged_file_are_named(tmp_path):
    cache = FeatureCache(tmp_path, "encoder")
    with pytest.raises(KeyError, match="clip7.*fill the cache"):
        cache.read(["clip7"])
    fill(cache, Numbers(1), range(1), encode)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(RuntimeError, match=r"clip0.safetensors is damaged.*delete it"):
        cache.read(["clip0"])
