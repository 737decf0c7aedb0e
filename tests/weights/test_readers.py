import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from humo_rt.weights.readers import read_checkpoint, read_tensor

TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}


def _same(read):
    return read.keys() == TENSORS.keys() and all(
        torch.equal(read[name].read(), TENSORS[name])
        and read[name].shape == tuple(TENSORS[name].shape)
        and read[name].dtype == TENSORS[name].dtype
        for name in TENSORS
    )


def _refused(path):
    with pytest.raises(ValueError) as error:
        read_checkpoint(path)
    message = str(error.value)
    assert path.name in message
    assert "\n" not in message
    return message


def test_safetensors_and_torch_files_give_the_same_tensors(tmp_path):
    save_file(TENSORS, tmp_path / "one.safetensors")
    torch.save(TENSORS, tmp_path / "one.pth")
    assert _same(read_checkpoint(tmp_path / "one.safetensors"))
    assert _same(read_checkpoint(tmp_path / "one.pth"))


def test_reading_gives_views_of_the_file_not_copies(tmp_path):
    save_file(TENSORS, tmp_path / "one.safetensors")
    torch.save(TENSORS, tmp_path / "one.pth")
    for file in ("one.safetensors", "one.pth"):
        tensor = read_checkpoint(tmp_path / file)["a.weight"]
        first, second = tensor.read(), tensor.read()
        assert first.data_ptr() == second.data_ptr()


def test_shards_are_joined_through_their_index(tmp_path):
    save_file({"a.weight": TENSORS["a.weight"]}, tmp_path / "x-1.safetensors")
    save_file({"b": TENSORS["b"]}, tmp_path / "x-2.safetensors")
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": "x-1.safetensors", "b": "x-2.safetensors"}}))
    assert _same(read_checkpoint(index))
    (tmp_path / "x-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 shards are missing, first x-2\.safetensors"):
        read_checkpoint(index)


def test_a_damaged_index_is_refused(tmp_path):
    index = tmp_path / "x.safetensors.index.json"
    for content in ("{", "[]", '{"weight_map": 3}'):
        index.write_text(content)
        assert "weight_map" in _refused(index)


def test_the_same_tensor_in_two_files_is_refused(tmp_path):
    for name in ("x.safetensors", "y.safetensors"):
        save_file(TENSORS, tmp_path / name)
    with pytest.raises(ValueError, match="keep only the shards of one checkpoint"):
        read_checkpoint([tmp_path / "x.safetensors", tmp_path / "y.safetensors"])


@pytest.mark.parametrize("keep", [0.3, 0.9])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_truncated_file_is_refused(tmp_path, suffix, keep):
    path = tmp_path / f"cut.{suffix}"
    if suffix == "pth":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "download it again" in _refused(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>not found</html>", "not a checkpoint"),
        (b"GGUF\x03\x00\x00\x00" + b"\x00" * 60, "GGUF"),
        (struct.pack("<Q", 40) + b"{" + b"x" * 39, "damaged"),
        (b"PK\x03\x04 and then nothing", "damaged"),
        (pickle.dumps({"weight": [1.0]}, protocol=2), "legacy pickle"),
    ],
)
def test_foreign_files_are_named_for_what_they_are(tmp_path, content, said):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert said in _refused(path)


def test_torchs_legacy_format_is_refused(tmp_path):
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "legacy pickle" in _refused(tmp_path / "old.pth")


def test_code_in_a_checkpoint_never_runs(tmp_path):
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"a": Hostile()}, tmp_path / "hostile.pth")
    assert "could run code" in _refused(tmp_path / "hostile.pth")
    assert not marker.exists()


def test_something_other_than_a_flat_dict_of_tensors_is_refused(tmp_path):
    torch.save({"step": 3, "model": TENSORS}, tmp_path / "trainer.pth")
    assert "flat dict" in _refused(tmp_path / "trainer.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "list" in _refused(tmp_path / "list.pth")


def test_a_missing_file_is_named(tmp_path):
    assert "no such file" in _refused(tmp_path / "absent.safetensors")


def test_bare_tensor_files(tmp_path):
    torch.save(torch.ones(16, 3, 2, 2), tmp_path / "zero.pt")
    assert read_tensor(tmp_path / "zero.pt").shape == (16, 3, 2, 2)
    torch.save(TENSORS, tmp_path / "dict.pt")
    with pytest.raises(ValueError, match="single tensor"):
        read_tensor(tmp_path / "dict.pt")


def test_openai_whisper_files_are_unwrapped(tmp_path):
    torch.save({"dims": {"n_mels": 80}, "model_state_dict": TENSORS}, tmp_path / "base.pt")
    assert _same(read_checkpoint(tmp_path / "base.pt"))
