import pytest
import torch

from humo_rt.config import PRESETS
from humo_rt.weights.memory import GIB, activation_bytes, available_memory, check_memory


def test_too_little_memory_names_need_supply_and_fix():
    with pytest.raises(RuntimeError) as error:
        check_memory(34 * GIB, 8 * GIB, "loading humo-17b")
    message = str(error.value)
    assert message.startswith("too little memory: loading humo-17b needs 34.0 GiB but only 8.0 GiB is free: ")
    assert "\n" not in message
    check_memory(8 * GIB, 8 * GIB, "loading nano")


def test_activations_grow_with_size_length_branches_and_model():
    size = {"height": 480, "width": 832, "num_frames": 97, "branches": 2}
    base = activation_bytes(PRESETS["humo-1.7b"], **size)
    assert activation_bytes(PRESETS["humo-1.7b"], **(size | {"height": 720, "width": 1280})) > 2 * base
    assert activation_bytes(PRESETS["humo-1.7b"], **(size | {"num_frames": 193})) > 1.8 * base
    assert activation_bytes(PRESETS["humo-1.7b"], **(size | {"branches": 4})) > 1.8 * base
    assert activation_bytes(PRESETS["humo-17b"], **size) > 2 * base
    assert activation_bytes(PRESETS["humo-17b"], **(size | {"branches": 3}), fused=True) < 13 * GIB
    alone = activation_bytes(PRESETS["humo-1.7b"], **(size | {"branches": 1}), fused=True)
    assert alone > 4 * GIB  # of the VAE: one branch takes less
    assert activation_bytes(PRESETS["nano"], height=128, width=128, num_frames=97, branches=4) < 2 * GIB


def test_the_machine_has_some_memory():
    assert GIB // 4 < available_memory(torch.device("cpu")) < 1 << 50
