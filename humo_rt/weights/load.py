"""Put stored tensors into a module that was built on the meta device.

Each tensor is read, moved and converted alone and becomes the parameter itself, so a checkpoint never exists twice in
memory. Every name that is missing, unexpected or of the wrong shape is reported in one error. Knows nothing of where
files are or which model they belong to.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from humo_rt.weights.names import Rename, refuse_lora
from humo_rt.weights.readers import StoredTensor, stored

logger = logging.getLogger(__name__)

_SHOWN = 8
_FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
_WEIGHT_SCALE = ".scale_weight"
_INPUT_SCALE = ".scale_input"


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a load did: how many names it filled, optional names left out, stored names the module has no use for."""

    loaded: int
    missing_optional: tuple[str, ...]
    unused: tuple[str, ...]


def load_into(
    module: nn.Module,
    tensors: Mapping[str, StoredTensor | Tensor],
    *,
    dtype: torch.dtype | None,
    device: torch.device | str,
    rename: Rename | None = None,
    optional: Sequence[str] = ("mask_predictor.",),
    keep_float32: Callable[[str], bool] | None = None,
    source: str = "checkpoint",
) -> LoadReport:
    """Fill every parameter and buffer of ``module`` (built under ``torch.device("meta")``).

    Args:
        tensors: stored name -> tensor, as ``read_checkpoint`` gives them. fp8 weights with a ``.scale_weight`` are
            multiplied out.
        dtype: floating dtype of the loaded module; None keeps the stored one (fp8 becomes bf16 all the same).
        rename: stored name -> module name, or None for a tensor to leave aside.
        optional: first parts of module names; each part may be absent as a whole, and that submodule is then dropped.
        keep_float32: module names for which this is true are loaded in float32 whatever ``dtype`` says.
        source: what to call the checkpoint in messages.

    Raises ``ValueError`` with every missing, unexpected and misshapen name (the first eight of each kind, and counts).
    """
    homes, available, absent, unused = _matched(module, tensors, rename, optional, source)
    excused = set(absent)
    loaded = 0
    for names in _tied(homes):
        if excused.issuperset(names):
            continue
        name = next(name for name in names if name in available)
        wanted = torch.float32 if keep_float32 and keep_float32(name) else dtype
        value = _convert(available[name], wanted, device)
        if isinstance(homes[name], nn.Parameter):
            value = nn.Parameter(value, requires_grad=homes[name].requires_grad and value.is_floating_point())
        for alias in names:
            _assign(module, alias, value)
        loaded += len(names)
    for prefix in sorted({name.split(".")[0] for name in absent}):
        setattr(module, prefix, None)
        logger.info("%s has no weights for %s: running without it", source, prefix)
    return LoadReport(loaded=loaded, missing_optional=tuple(absent), unused=tuple(unused))


def check_fit(
    module: nn.Module,
    tensors: Mapping[str, StoredTensor | Tensor],
    *,
    rename: Rename | None = None,
    optional: Sequence[str] = ("mask_predictor.",),
    source: str = "checkpoint",
) -> None:
    """Raise the ``ValueError`` that ``load_into`` would raise, without reading any tensor."""
    _matched(module, tensors, rename, optional, source)


def fp8_scales(
    tensors: Mapping[str, StoredTensor | Tensor], *, rename: Rename | None = None, source: str = "checkpoint"
) -> dict[str, Tensor]:
    """By the module's names, the factor of every weight that is stored in e4m3: 1 where the file keeps none.

    A weight loaded from the file divided by its factor is the stored value again.
    """
    available, _ = _renamed(tensors, rename, source)
    return {
        name: torch.ones(()) if tensor.scale is None else tensor.scale.read().float()
        for name, tensor in available.items()
        if tensor.dtype == torch.float8_e4m3fn
    }


def _matched(
    module: nn.Module,
    tensors: Mapping[str, StoredTensor | Tensor],
    rename: Rename | None,
    optional: Sequence[str],
    source: str,
) -> tuple[dict[str, Tensor], dict[str, StoredTensor], list[str], list[str]]:
    """The module's tensors, the stored ones by the module's names, optional names absent, stored names left aside."""
    available, unused = _renamed(tensors, rename, source)
    homes = _homes(module)
    absent = _absent_optional(homes, available, optional)
    _require_fit(homes, available, absent, source)
    return homes, available, absent, unused


def _renamed(
    tensors: Mapping[str, StoredTensor | Tensor], rename: Rename | None, source: str
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Tensors by module name, scales attached to their weights, and the stored names left aside."""
    refuse_lora(tensors, source)
    available: dict[str, StoredTensor] = {}
    unused = []
    for name, tensor in _attach_scales(tensors).items():
        target = rename(name) if rename else name
        if target is None:
            unused.append(name)
            continue
        if target in available:
            raise ValueError(f"{source}: two stored tensors are both {target!r}: the file mixes naming schemes")
        available[target] = tensor
    return available, unused


def _attach_scales(tensors: Mapping[str, StoredTensor | Tensor]) -> dict[str, StoredTensor]:
    wrapped = {name: stored(value) if isinstance(value, Tensor) else value for name, value in tensors.items()}
    result = {}
    for name, tensor in wrapped.items():
        layer, _, leaf = name.rpartition(".")
        weight = wrapped.get(f"{layer}.weight")
        if name.endswith((_WEIGHT_SCALE, _INPUT_SCALE)) and weight is not None:
            continue  # _INPUT_SCALE only serves matrix products that run in fp8
        scale = wrapped.get(layer + _WEIGHT_SCALE) if leaf == "weight" else None
        result[name] = tensor if scale is None else replace(tensor, scale=scale)
    return result


def _homes(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the state dict by name; tied ones appear under each name, as the same object."""
    homes: dict[str, Tensor] = module.state_dict(keep_vars=True)
    strays = [name for name, buffer in module.named_buffers() if name not in homes and buffer.is_meta]
    assert not strays, f"buffers outside the state dict cannot be loaded: {strays[:_SHOWN]}"
    return homes


def _tied(homes: Mapping[str, Tensor]) -> list[list[str]]:
    """Names grouped by the tensor they share; most groups have one name."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, tensor in homes.items():
        groups[id(tensor)].append(name)
    return list(groups.values())


def _absent_optional(
    homes: Mapping[str, Tensor], available: Mapping[str, StoredTensor], optional: Sequence[str]
) -> list[str]:
    absent = []
    for prefix in optional:
        if not any(name.startswith(prefix) for name in available):
            absent += [name for name in homes if name.startswith(prefix)]
    return absent


def _require_fit(
    homes: Mapping[str, Tensor], available: Mapping[str, StoredTensor], absent: Sequence[str], source: str
) -> None:
    groups = [names for names in _tied(homes) if not set(absent).issuperset(names)]
    missing = [names[0] for names in groups if not any(name in available for name in names)]
    unexpected = [name for name in available if name not in homes]
    misshapen = [
        f"{name} {list(available[name].shape)} instead of {list(home.shape)}"
        for name, home in homes.items()
        if name in available and available[name].shape != tuple(home.shape)
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", misshapen))
    problems = [f"{len(names)} tensors {kind} ({_listed(names)})" for kind, names in kinds if names]
    if problems:
        raise ValueError(
            f"{source} does not fit the model: {'; '.join(problems)}; "
            "is it the checkpoint of another model, or incompletely downloaded?"
        )


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _convert(tensor: StoredTensor, dtype: torch.dtype | None, device: torch.device | str) -> Tensor:
    # Moving before converting lets the faster device convert, and never makes a converted copy on the host.
    moved = tensor.read().to(device)
    if not moved.is_floating_point():
        return moved
    if dtype is None:
        dtype = torch.bfloat16 if moved.dtype in _FP8_DTYPES else moved.dtype
    if tensor.scale is None:
        return moved.to(dtype)
    return (moved.float() * tensor.scale.read().to(device).float()).to(dtype)


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    table = owner._parameters if isinstance(value, nn.Parameter) else owner._buffers
    table[leaf] = value
