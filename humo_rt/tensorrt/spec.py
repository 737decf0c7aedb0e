"""What one exported graph is: the model's configuration, its precision and its optional parts.

Written into ONNX files and engines as one line of JSON and read back from them, so that a graph of another model is
refused by name. Knows nothing of ONNX, TensorRT or files.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import torch

from humo_rt.config import DiTConfig
from humo_rt.tensorrt.bindings import Binding, dit_inputs, dit_outputs

METADATA_KEY = "humo_rt.graph"
# The newest that PyTorch writes. Attention, RMSNormalization and RotaryEmbedding came with it.
OPSET = 23
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FP8 = "fp8"

# Raised whenever a graph written before could no longer be called.
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """``dtype`` is that of the matrix products; ``face_mask`` is an input, ``mask_predictor`` an output.

    ``fp8``: the block linears multiply e4m3 values. ``plugins``: audio attention is ``plugin.NAME``, for TensorRT only.
    """

    config: DiTConfig
    dtype: torch.dtype
    face_mask: bool = False
    mask_predictor: bool = False
    fp8: bool = False
    plugins: bool = False

    @property
    def inputs(self) -> tuple[Binding, ...]:
        return dit_inputs(self.config, self.dtype, face_mask=self.face_mask)

    @property
    def outputs(self) -> tuple[Binding, ...]:
        return dit_outputs(self.config, mask_predictor=self.mask_predictor)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def precision(self) -> str:
        """What ``humo-rt export --precision`` calls it."""
        return FP8 if self.fp8 else self.dtype_name

    def to_json(self) -> str:
        fields = dataclasses.asdict(self) | {"dtype": self.dtype_name, "format": _FORMAT}
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> GraphSpec:
        """The spec that ``to_json`` wrote; ``source`` names the file in errors.

        ``ValueError`` when another version of this package wrote it.
        """
        fields = json.loads(text)
        if fields.pop("format") != _FORMAT:
            raise ValueError(f"{source} was exported by another version of humo-rt: export it again")
        config = fields.pop("config")
        config["patch_size"] = tuple(config["patch_size"])
        return cls(config=DiTConfig(**config), dtype=DTYPES[fields.pop("dtype")], **fields)
