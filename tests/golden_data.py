"""Read the reference numbers in ``tests/golden``.

Knows the file layout and the input recipe of ``golden/README.md`` sections 1 and following. Knows nothing of models.
"""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.golden.golden_weights import golden_input, golden_tensor

GOLDEN = Path(__file__).parent / "golden"


@cache
def load_group(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Settings and tensors of one group (``"audio"``, ``"dit_t2v"``, ...). Do not write into the tensors."""
    from safetensors.torch import load_file

    return load_json(name), load_file(GOLDEN / f"{name}.safetensors")


def load_json(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def recipe_input(entry: dict[str, Any]) -> torch.Tensor:
    """The float32 tensor that an input entry ``{recipe, seed, shape, std, mean, crc32}`` (or zeros) describes."""
    if entry.get("zeros"):
        return torch.zeros(entry["shape"])
    values = golden_input(entry["recipe"], entry["shape"], entry["seed"], entry["std"], entry["mean"])
    return _checked(values, entry["crc32"], entry["recipe"])


def recipe_weights(weights: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict, official names, that the ``weights`` entry of a group describes."""
    return {
        name: _checked(golden_tensor(name, entry["shape"], weights["seed"]), entry["crc32"], name)
        for name, entry in weights["tensors"].items()
    }


def case_ids(group: str, key: str = "cases") -> list[str]:
    """The ids of a group's cases, to parametrise a test with."""
    return [case["id"] for case in load_json(group)[key]]


def case(group: str, case_id: str, key: str = "cases") -> dict[str, Any]:
    return next(entry for entry in load_json(group)[key] if entry["id"] == case_id)


def _checked(values: np.ndarray, crc32: int, name: str) -> torch.Tensor:
    array = np.ascontiguousarray(values, dtype="<f4")
    assert zlib.crc32(array.tobytes()) == crc32, f"recipe {name!r} does not reproduce its checksum"
    return torch.from_numpy(array)
