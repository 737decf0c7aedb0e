"""The guidance table against the published formulas."""

from __future__ import annotations

import dataclasses
import json

import pytest

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.sampling.guidance import GuidanceRow, GuidanceTable, branch_name, guidance_table

F = {"TIA": 2.0, "TI": 3.0, "TA": 5.0, "T": 7.0, "I": 11.0, "0": 13.0}


def value(table: GuidanceTable, timestep: float) -> float:
    return sum(weight * F[name] for name, weight in table.at(timestep).items())


@pytest.mark.parametrize(
    ("config", "mode", "timestep", "expected"),
    [
        (HUMO_17B, "TIA", 981, 5.5 * (F["TIA"] - F["TI"]) + 5 * (F["TI"] - F["I"]) + F["I"]),
        (HUMO_17B, "TIA", 980, 5.5 * (F["TIA"] - F["TI"]) + 3 * (F["TI"] - F["0"]) + F["0"]),
        (HUMO_17B, "TI", 981, 5 * (F["TI"] - F["I"]) + F["I"]),
        (HUMO_17B, "TI", 10, 3 * (F["TI"] - F["0"]) + F["0"]),
        (HUMO_17B, "TA", 999, 5.5 * (F["TA"] - F["T"]) + 5 * (F["T"] - F["0"]) + F["0"]),
        (HUMO_17B, "T", 999, 5 * (F["T"] - F["0"]) + F["0"]),
        (HUMO_1_7B, "TIA", 999, 4 * (F["TIA"] - F["TA"]) + 7.5 * (F["TA"] - F["T"]) + 7.5 * (F["T"] - F["0"]) + F["0"]),
        (HUMO_1_7B, "TA", 5, 7.5 * (F["TA"] - F["T"]) + 7.5 * (F["T"] - F["0"]) + F["0"]),
        (HUMO_1_7B, "TI", 5, 4 * (F["TI"] - F["T"]) + 7.5 * (F["T"] - F["0"]) + F["0"]),
        (HUMO_1_7B, "T", 5, 7.5 * (F["T"] - F["0"]) + F["0"]),
    ],
)
def test_published_formulas(config, mode: str, timestep: float, expected: float) -> None:
    assert value(guidance_table(config, mode), timestep) == pytest.approx(expected)


def test_paper_equation_4() -> None:
    table = guidance_table(
        HUMO_17B, "TIA", "paper", guidance_scale=2, audio_guidance_scale=3, image_guidance_scale=4
    )  # fmt: skip
    expected = 3 * (F["TIA"] - F["TI"]) + 4 * (F["TI"] - F["T"]) + 2 * (F["T"] - F["0"]) + F["0"]
    assert value(table, 500) == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["T", "TI", "TA", "TIA"])
def test_no_guidance_is_one_branch(mode: str) -> None:
    assert dict(guidance_table(HUMO_17B, mode, "none").at(300)) == {mode: 1.0}


def test_number_of_branches_is_the_releases() -> None:
    assert set(guidance_table(HUMO_17B, "TIA").at(999)) == {"TIA", "TI", "I"}
    assert set(guidance_table(HUMO_17B, "TIA").at(5)) == {"TIA", "TI", "0"}
    assert set(guidance_table(HUMO_1_7B, "TIA", guidance_scale=7.0).at(5)) == {"TIA", "TA", "T", "0"}
    assert set(guidance_table(HUMO_1_7B, "TA", guidance_scale=7.0).at(5)) == {"TA", "T", "0"}


def test_a_branch_of_weight_zero_does_not_run() -> None:
    """HuMo-1.7B's default scales of audio and text are equal, so the branch between them cancels."""
    assert set(guidance_table(HUMO_1_7B, "TIA").at(5)) == {"TIA", "TA", "0"}


def test_own_table_switches_anywhere_and_drops_missing_conditions() -> None:
    rows = (
        GuidanceRow({"TIA": 1.0}, above=500.5),
        GuidanceRow({"TIA": 2.0, "T": -1.0}, above=0),
        GuidanceRow({"0": 1}),
    )
    table = GuidanceTable(rows)
    assert dict(table.at(501)) == {"TIA": 1.0}
    assert dict(table.at(500.5)) == {"TIA": 2.0, "T": -1.0}
    assert dict(table.at(0)) == {"0": 1}
    assert dict(table.restricted_to("T").at(100)) == {"T": 1.0}
    assert guidance_table(HUMO_1_7B, "TIA", table) == table.restricted_to("TIA")


def test_a_table_comes_back_from_json() -> None:
    table = GuidanceTable((GuidanceRow({"TIA": 2.0, "T": -1.0}, above=500.5), GuidanceRow({"0": 1})))
    assert GuidanceTable.from_rows(json.loads(json.dumps(table.to_rows()))) == table


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: guidance_table(HUMO_17B, "TIA", "best"), "unknown guidance 'best'"),
        (
            lambda: guidance_table(HUMO_17B, "TIA", image_guidance_scale=2.0),
            "does not use image_guidance_scale: drop it, or choose humo-1.7b or paper",
        ),
        (
            lambda: guidance_table(HUMO_1_7B, "TIA", guidance_switch_timestep=900),
            "does not use guidance_switch_timestep",
        ),
        (lambda: guidance_table(HUMO_17B, "TIA", "none", guidance_scale=3.0), "'none' does not use guidance_scale"),
        (
            lambda: guidance_table(HUMO_17B, "TIA", GuidanceTable((GuidanceRow({"T": 1.0}),)), guidance_scale=3.0),
            "rows",
        ),
        (lambda: GuidanceTable.from_rows([{"T": 1.0}]), "not of the form"),
        (lambda: GuidanceTable.from_rows(3), "not of the form"),
        (lambda: guidance_table(HUMO_17B, "TIA", guidance_switch_timestep=1001), "outside 0..1000"),
        (lambda: GuidanceTable(()), "ends with a row"),
        (lambda: GuidanceTable((GuidanceRow({"T": 1.0}, above=3.0),)), "ends with a row"),
        (lambda: GuidanceTable((GuidanceRow({"T": 0.5}),)), "sum to 0.5"),
        (lambda: GuidanceTable((GuidanceRow({"AT": 1.0}),)), "write 'TA'"),
        (lambda: GuidanceTable((GuidanceRow({"T": float("nan")}),)), "finite"),
        (lambda: branch_name("XA"), "not made of T, I and A"),
    ],
)
def test_errors_name_the_rule(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_switch_is_taken_from_the_call() -> None:
    config = dataclasses.replace(HUMO_17B, guidance_switch_timestep=None)
    assert set(guidance_table(config, "TIA", guidance_switch_timestep=400).at(401)) == {"TIA", "TI", "I"}
    assert set(guidance_table(config, "TIA", guidance_switch_timestep=400).at(400)) == {"TIA", "TI", "0"}


def test_weights_are_a_mapping():
    with pytest.raises(ValueError, match="are no mapping: write"):
        GuidanceRow([("T", 1)])
