"""Encodings are reused for equal inputs only, and never take more memory than stated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.pipeline import Pipeline
from humo_rt.runtime.encoding_cache import EncodingCache, digest
from tests.tiny import tiny_components, tiny_config

PROMPT = "A woman is talking to the camera."


def numbers(count: int):
    """An encoder that gives ``count`` float32 numbers."""
    return lambda: torch.zeros(count)


def never():
    raise AssertionError("encoded again")


class TestCache:
    def test_a_key_is_encoded_once(self):
        cache = EncodingCache(100)
        first = cache.get("a", numbers(3))
        assert cache.get("a", never) is first

    def test_the_least_recently_used_goes_first(self):
        cache = EncodingCache(100)
        for key in "ab":
            cache.get(key, numbers(10))
        cache.get("a", never)
        cache.get("c", numbers(10))
        assert (len(cache), cache.nbytes) == (2, 80)
        cache.get("a", never)
        with pytest.raises(AssertionError, match="again"):
            cache.get("b", never)

    def test_what_is_larger_than_all_is_not_kept_and_pushes_nothing_out(self):
        cache = EncodingCache(100)
        cache.get("small", numbers(1))
        assert cache.get("large", numbers(26)).numel() == 26
        assert len(cache) == 1
        cache.get("small", never)

    def test_a_view_counts_with_all_the_memory_it_keeps(self):
        cache, whole = EncodingCache(100), torch.zeros(20)
        cache.get("view", lambda: whole[5:6])
        assert cache.nbytes == 80

    def test_only_those_that_are_new_are_encoded_and_once(self):
        cache, seen = EncodingCache(100), []

        def encode(new: list[int]) -> list[torch.Tensor]:
            seen.append(new)
            return [torch.full((2,), each) for each in new]

        first = cache.get_each([("a", 1), ("b", 2), ("a", 1)], encode)
        again = cache.get_each([("b", 2), ("c", 3)], encode)
        cache.get_each([("a", 1)], encode)
        assert seen == [[1, 2], [3]]
        assert [int(x[0]) for x in (*first, *again)] == [1, 2, 1, 2, 3]
        assert again[0] is first[1]

    def test_what_does_not_fit_is_given_all_the_same(self):
        found = EncodingCache(10).get_each([("a", 1), ("b", 30)], lambda new: [torch.zeros(each) for each in new])
        assert [x.numel() for x in found] == [1, 30]

    def test_clear(self):
        cache = EncodingCache(100)
        cache.get("a", numbers(1))
        cache.clear()
        assert (len(cache), cache.nbytes) == (0, 0)

    def test_a_digest_tells_shape_type_and_content_apart(self):
        array = np.arange(6, dtype=np.int32)
        others = [array.reshape(2, 3), array.astype(np.int64), array.view(np.float32), array + 1, array[::-1]]
        assert digest(array) == digest(array.copy())
        assert len({digest(array), *map(digest, others)}) == 6


class Counted:
    """Counts the calls of the encoders of a pipeline."""

    def __init__(self, pipeline: Pipeline, monkeypatch) -> None:
        self.calls: list[str] = []
        for name, owner, method in (
            ("text", pipeline.encoder.text, "encode"),
            ("audio", pipeline.encoder.audio, "embed"),
            ("image", pipeline.vae, "encode"),
        ):
            monkeypatch.setattr(owner, method, self._counting(name, getattr(owner, method)))

    def _counting(self, name: str, method):
        def counting(*args, **kwargs):
            self.calls.append(name)
            return method(*args, **kwargs)

        return counting

    def since(self) -> list[str]:
        calls, self.calls = self.calls, []
        return sorted(calls)


@pytest.fixture(params=[HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
def pipeline(request) -> Pipeline:
    return Pipeline(tiny_components(tiny_config(request.param)))


def inputs() -> dict:
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(2)]
    return {"image": images, "audio": (noise.normal(0, 0.1, 6_000).astype(np.float32), 16_000), "num_frames": 9}


def test_the_second_call_encodes_nothing_and_gives_the_same_bits(pipeline, monkeypatch) -> None:
    counted, given = Counted(pipeline, monkeypatch), inputs()
    grey = ["image"] * (pipeline.config.dit.image_injection == "channels")
    everything = ["audio", *grey, "image", "image", "text", "text"]
    first = pipeline.generate(PROMPT, seed=3, **given)
    assert counted.since() == everything
    # Equal content in new objects.
    second = pipeline.generate(PROMPT, seed=3, **inputs())
    assert counted.since() == []
    pipeline.clear_caches()
    third = pipeline.generate(PROMPT, seed=3, **given)
    assert counted.since() == everything
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.frames, third.frames)
    assert set(first.timings) == set(second.timings)


@pytest.mark.parametrize(
    ("changed", "encoded"),
    [
        ({"prompt": "A man is talking."}, ["text"]),
        ({"negative_prompt": "fog"}, ["text"]),
        ({"audio": (np.ones(6_000, np.float32) / 9, 16_000)}, ["audio"]),
        ({"num_frames": 5}, []),
        ({"image": inputs()["image"][::-1]}, []),
        ({"image": inputs()["image"][:1]}, []),
        ({"image": [*inputs()["image"], np.zeros((9, 9, 3), np.uint8)]}, ["image"]),
        ({"height": 48, "width": 32}, ["image", "image"]),
        ({"seed": 4, "guidance_scale": 2.0}, []),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_only_what_changed_is_encoded(pipeline, monkeypatch, changed: dict, encoded: list[str]) -> None:
    given = {"prompt": PROMPT, "seed": 3, **inputs()}
    pipeline.generate(**given)
    counted = Counted(pipeline, monkeypatch)
    result = pipeline.generate(**given | changed)
    calls = counted.since()
    grey_size = len(result.frames), result.frames.shape[1], len(result.settings["image"])
    if pipeline.config.dit.image_injection == "channels" and grey_size != (9, 32, 2):
        calls.remove("image")
    assert calls == encoded
    fresh = Pipeline(tiny_components(pipeline.config)).generate(**given | changed)
    assert np.array_equal(result.frames, fresh.frames)
