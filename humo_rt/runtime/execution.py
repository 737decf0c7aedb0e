"""By what a pipeline's DiT is run: what a caller asks for, checked and completed for a device, a dtype and a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from humo_rt.config import DiTConfig
from humo_rt.runtime import attention_backends, matmul_backends
from humo_rt.runtime.precision import EXACT, FP8, check_precision
from humo_rt.runtime.settled import Running

if TYPE_CHECKING:
    from humo_rt.tensorrt import DitEngine


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Arguments of ``Pipeline.from_pretrained`` under their names; it explains them.

    A backend is None where an engine brings its own, in what ``settled_for`` returns.
    """

    dit_engine: str | Path | DitEngine | None = None
    attention_backend: str | None = attention_backends.AUTO
    matmul_backend: str | None = matmul_backends.AUTO
    precision: str = EXACT
    cuda_graphs: bool | None = None

    def settled_for(self, device: torch.device, dtype: torch.dtype, config: DiTConfig) -> Execution:
        """The same with the backends that will run.

        ``ValueError`` for what is unknown, or does not go with the device, the dtype, the model or an engine;
        ``RuntimeError`` for what is missing on this machine.
        """
        check_precision(self.precision, device, dtype, config)
        if self.cuda_graphs and device.type != "cuda":
            raise ValueError(
                f"cuda_graphs=True replays recordings of a GPU, but the model runs on {device}: leave it out"
            )
        if self.dit_engine is not None:
            self._require_nothing_inside("precision", self.precision, EXACT)
            self._require_nothing_inside("attention_backend", self.attention_backend, attention_backends.AUTO)
            self._require_nothing_inside("matmul_backend", self.matmul_backend, matmul_backends.AUTO)
            return replace(self, attention_backend=None, matmul_backend=None)
        lossy = self.precision == FP8
        attention = attention_backends.choose(self.attention_backend, device, dtype, config.head_dim, lossy=lossy)
        matmul = matmul_backends.choose(self.matmul_backend, device, dtype, config.dim)
        return replace(self, attention_backend=attention, matmul_backend=matmul)

    def running(self, device: torch.device) -> Running:
        """How the DiT is to run once this is settled: on fused kernels on a GPU, unless an engine runs instead."""
        if self.dit_engine is not None:
            return Running(attention_backend=None, precision=self.precision)
        return Running(
            attention_backend=self.attention_backend,
            matmul_backend=self.matmul_backend,
            precision=self.precision,
            fused=device.type == "cuda",
        )

    def may_replay(self, device: torch.device) -> bool:
        """Whether forwards of the DiT may be replayed from a recording."""
        return self.dit_engine is None and device.type == "cuda" and self.cuda_graphs is not False

    def _require_nothing_inside(self, name: str, value: str | None, default: str) -> None:
        if value not in (default, None):
            raise ValueError(f"{name} {value!r} does not reach into {str(self.dit_engine)!r}: leave it out")
