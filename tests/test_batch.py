import json

import pytest

from humo_rt.batch import read_cases, run_cases


class Recorder:
    """Stands for a pipeline: notes its calls, fails on request."""

    def __init__(self):
        self.calls = []

    def generate(self, prompt, **options):
        self.calls.append((prompt, options))
        if prompt == "explode":
            raise RuntimeError("the result\nis not finite")
        if prompt == "stop":
            raise KeyboardInterrupt


def written(tmp_path, content):
    path = tmp_path / "cases.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def outcomes(tmp_path, content, pipeline=None, **options):
    return list(run_cases(pipeline or Recorder(), read_cases(written(tmp_path, content)), tmp_path / "out", options))


def test_the_releases_shape_with_paths_beside_the_file(tmp_path):
    pipeline = Recorder()
    case = {"img_paths": ["a.png", "faces/b.png"], "audio_path": "speech.wav", "prompt": "A man speaks."}
    (outcome,) = outcomes(tmp_path, {"case_1": case}, pipeline, seed=4)
    assert outcome.error is None
    assert outcome.output == tmp_path / "out" / "case_1.mp4"
    prompt, options = pipeline.calls[0]
    assert prompt == "A man speaks."
    assert options["image"] == [tmp_path / "a.png", tmp_path / "faces/b.png"]
    assert options["audio"] == tmp_path / "speech.wav"
    assert options["seed"] == 4
    assert options["output"] == outcome.output


def test_conditions_may_be_absent_or_empty(tmp_path):
    pipeline = Recorder()
    outcomes(tmp_path, {"a": {"prompt": "x"}, "b": {"prompt": "x", "img_paths": [], "audio_path": ""}}, pipeline)
    assert all(options["image"] is None and options["audio"] is None for _, options in pipeline.calls)


def test_a_failing_case_does_not_stop_the_others(tmp_path):
    pipeline = Recorder()
    bad, good = outcomes(tmp_path, {"bad": {"prompt": "explode"}, "good": {"prompt": "x"}}, pipeline)
    assert bad.error == "the result is not finite"
    assert bad.output is None
    assert good.error is None


@pytest.mark.parametrize(
    ("name", "entry", "said"),
    [
        ("a", "a prompt", "expected an object"),
        ("a", {}, "prompt is missing"),
        ("a", {"prompt": 3}, "prompt is missing"),
        ("a", {"prompt": "x", "image": "y.png"}, "unknown key 'image'"),
        ("a", {"prompt": "x", "img_paths": "y.png"}, "give a list"),
        ("a", {"prompt": "x", "audio_path": ["y.wav"]}, "give one file"),
        ("../a", {"prompt": "x"}, "cannot be a file name"),
        ("..", {"prompt": "x"}, "cannot be a file name"),
    ],
)
def test_a_malformed_case_is_that_cases_failure(tmp_path, name, entry, said):
    pipeline = Recorder()
    bad, good = outcomes(tmp_path, {name: entry, "good": {"prompt": "x"}}, pipeline)
    assert said in bad.error
    assert good.error is None
    assert len(pipeline.calls) == 1


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"x"', '{"a": {"prompt": "x"}, "a": {"prompt": "y"}}'])
def test_a_malformed_file_is_refused_as_a_whole(tmp_path, content):
    with pytest.raises(ValueError, match=r"cases\.json"):
        read_cases(written(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.json' does not exist"):
        read_cases(tmp_path / "absent.json")


def test_ctrl_c_ends_the_batch(tmp_path):
    pipeline = Recorder()
    with pytest.raises(KeyboardInterrupt):
        outcomes(tmp_path, {"a": {"prompt": "stop"}, "b": {"prompt": "x"}}, pipeline)
    assert len(pipeline.calls) == 1


def test_a_file_of_windows_is_read(tmp_path):
    path = tmp_path / "cases.json"
    path.write_text('{"case_1": {"prompt": "x"}}', encoding="utf-8-sig")
    assert [case.name for case in read_cases(path)] == ["case_1"]
