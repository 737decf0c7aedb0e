"""How a loaded DiT runs: with which attention, in which precision, on fused blocks or not.

Settling that changes the DiT in place, so its first pipeline decides: further pipelines on the same components may
share it, and must run it the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from humo_rt.model.dit import HumoDiT
from humo_rt.runtime.attention_backends import use_attention
from humo_rt.runtime.float8_block import fuse_float8, is_float8
from humo_rt.runtime.fusing import fuse, is_fused
from humo_rt.runtime.matmul_backends import use_matmul
from humo_rt.runtime.matmul_kernels import TORCH
from humo_rt.runtime.precision import EXACT, FP8


@dataclass(frozen=True, kw_only=True)
class Running:
    """What the pipelines of one DiT share.

    attention_backend: what ``attention_backends.choose`` returned; None where an engine runs instead, and the DiT only
        projects text and audio, as plain blocks do. matmul_backend: what ``matmul_backends.choose`` returned.
    precision: a tier of ``precision.CHOICES``.
    fused: whether the blocks run on fused kernels; those of ``"fp8"`` do.
    """

    attention_backend: str | None
    matmul_backend: str = TORCH
    precision: str = EXACT
    fused: bool = False

    def __str__(self) -> str:
        if self.attention_backend is None:
            return "a dit_engine"
        attention, matmul = self.attention_backend, self.matmul_backend
        return f"precision {self.precision!r}, attention_backend {attention!r} and matmul_backend {matmul!r}"


_settled: WeakKeyDictionary[HumoDiT, Running] = WeakKeyDictionary()


def settle(dit: HumoDiT, wanted: Running) -> HumoDiT:
    """Make ``dit`` run as ``wanted``, in place; returns it.

    ``ValueError``, and nothing is changed, if another pipeline runs it in another way, or if it is in float8 already.
    """
    found = _settled.get(dit, wanted)
    if found != wanted:
        raise ValueError(
            f"the DiT of these components was set up for a pipeline with {found}, which {wanted} would change: "
            "use the same settings, or load the weights again"
        )
    if is_float8(dit) and dit not in _settled:
        raise ValueError(f"the DiT of these components has lost its weights to {FP8!r}: load the weights again")
    if wanted.precision == FP8:
        if dit not in _settled:
            fuse_float8(dit)
    elif wanted.fused and not is_fused(dit):
        fuse(dit)
    if wanted.attention_backend is not None:
        use_attention(dit, wanted.attention_backend)
        use_matmul(dit, wanted.matmul_backend)
    _settled[dit] = wanted
    return dit
