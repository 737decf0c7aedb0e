"""Every Triton kernel becomes machine code for every family of GPUs, on a machine without one."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.float8 import FLOAT8
from humo_rt.kernels.testing import Case, cases

OPS = [op for op in registry.OPS if importlib.util.find_spec(f"humo_rt.kernels.{op}.triton_impl")]
FAMILIES = ("Ampere", "GeForce Ampere", "Ada", "Hopper", "Blackwell", "GeForce Blackwell")


def pairs(families: tuple[str, ...]) -> list[tuple[str, str]]:
    """Families and the ops that their cards have: e4m3 numbers exist from Ada on."""
    return [(family, op) for family in families for op in OPS if "quantize" not in op or "Ampere" not in family]


def kernels(op: str, family: str, chosen: list[Case]) -> int:
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be compiled where it is")
    from tests.kernels.ahead_of_time import CAPABILITIES, compile_cases

    return compile_cases(op, CAPABILITIES[family], chosen)


@pytest.mark.parametrize(("family", "op"), pairs(("Ampere", "Hopper", "GeForce Blackwell")))
def test_a_case_of_every_op_compiles(family: str, op: str) -> None:
    assert kernels(op, family, cases(op)[-1:]) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("family", "op"), pairs(FAMILIES))
def test_all_cases_of_every_op_compile(family: str, op: str) -> None:
    chosen = [case for case in cases(op) if not ("Ampere" in family and has_float8(case))]
    assert kernels(op, family, chosen) > 0


def has_float8(case: Case) -> bool:
    return any(getattr(each, "dtype", None) == FLOAT8 for each in case.make(torch.device("cpu")))
