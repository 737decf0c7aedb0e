"""Choosing the library of matrix products, with a stand-in for the card."""

from __future__ import annotations

import logging

import pytest
import torch
from typer.testing import CliRunner

from humo_rt import cli
from humo_rt.config import HUMO_1_7B
from humo_rt.pipeline import Pipeline
from humo_rt.runtime import matmul_backends
from humo_rt.runtime.execution import Execution
from humo_rt.runtime.matmul_backends import INSTALL, choose, survey, use_matmul
from humo_rt.runtime.matmul_kernels import QUACK, TORCH
from tests.runtime.test_fused_block import CONFIGS, make_dit
from tests.tiny import tiny_components, tiny_config

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
BF16 = torch.bfloat16
WIDTH = 1536


@pytest.fixture(autouse=True)
def nothing_remembered():
    caches = (matmul_backends._missing, matmul_backends._say_unused)
    for remembered in caches:
        remembered.cache_clear()
    yield
    for remembered in caches:
        remembered.cache_clear()


@pytest.fixture
def card(monkeypatch):
    """A Hopper card; what is in the list is raised by quack there."""
    failures: list[Exception] = []

    def attempt(*_: object) -> None:
        if failures:
            raise failures[0]

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test Card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(matmul_backends, "_try", attempt)
    return failures


class TestChoice:
    def test_quack_where_it_works(self, card):
        assert choose("auto", CARD, BF16, WIDTH) == choose(QUACK, CARD, BF16, WIDTH) == QUACK

    def test_torch_by_name(self, card):
        assert choose(TORCH, CARD, BF16, WIDTH) == TORCH

    @pytest.mark.parametrize(
        ("device", "dtype", "width", "message"),
        [
            (CPU, torch.float32, WIDTH, "needs an NVIDIA GPU, not cpu"),
            (CARD, torch.float32, WIDTH, "takes bfloat16 and float16, not float32"),
            (CARD, BF16, 256, "does not pay for a model of width 256, only from 1024 to 2048"),
            (CARD, BF16, 5120, "does not pay for a model of width 5120, only from 1024 to 2048"),
        ],
    )
    def test_what_it_does_not_take(self, card, device, dtype, width, message):
        assert choose("auto", device, dtype, width) == TORCH
        with pytest.raises(ValueError, match=f"matmul_backend 'quack' {message}: use 'auto'"):
            choose(QUACK, device, dtype, width)

    def test_another_card(self, card, monkeypatch):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
        assert choose("auto", CARD, BF16, WIDTH) == TORCH
        with pytest.raises(ValueError, match=r"set up for Hopper \(compute capability 9.x\), this is 8.9"):
            choose(QUACK, CARD, BF16, WIDTH)

    def test_an_unknown_one(self):
        with pytest.raises(ValueError, match="unknown matmul_backend 'mkl': choose one of auto, quack, torch"):
            choose("mkl", CPU, BF16, WIDTH)

    def test_a_missing_package(self, card, caplog):
        card.append(ModuleNotFoundError("No module named 'quack'", name="quack"))
        with caplog.at_level(logging.WARNING):
            assert choose("auto", CARD, BF16, WIDTH) == TORCH
        assert not caplog.records
        with pytest.raises(RuntimeError, match="matmul_backend 'quack' is not installed") as caught:
            choose(QUACK, CARD, BF16, WIDTH)
        assert str(caught.value).endswith(INSTALL)

    @pytest.mark.parametrize(
        "error",
        [
            TypeError("no fail-closed\n  semantic key"),
            ModuleNotFoundError("No module named 'quack.epilogue'", name="quack.epilogue"),
        ],
        ids=["broken", "old"],
    )
    def test_one_that_fails_is_said_once_and_not_used(self, card, caplog, error):
        card.append(error)
        with caplog.at_level(logging.WARNING):
            assert [choose("auto", CARD, BF16, WIDTH) for _ in range(2)] == [TORCH] * 2
        (record,) = caplog.records
        said = record.getMessage()
        assert said.startswith(f"quack is installed but not used: it does not work on Test Card: {str(error)[:9]}")
        assert said.endswith(INSTALL)
        with pytest.raises(RuntimeError, match="does not work on Test Card"):
            choose(QUACK, CARD, BF16, WIDTH)

    def test_too_little_memory_is_not_remembered(self, card):
        card.append(torch.OutOfMemoryError("full"))
        with pytest.raises(torch.OutOfMemoryError):
            choose("auto", CARD, BF16, WIDTH)
        assert survey(CARD, BF16, WIDTH).unavailable[QUACK].startswith("could not be tried")
        card.clear()
        assert choose("auto", CARD, BF16, WIDTH) == QUACK


class TestSurvey:
    def test_of_a_card(self, card):
        found = survey(CARD, BF16, WIDTH)
        assert (found.chosen, found.unavailable) == (QUACK, {QUACK: None, TORCH: None})

    def test_of_this_machine(self):
        found = survey(CPU, torch.float32, WIDTH)
        assert (found.chosen, found.unavailable[TORCH]) == (TORCH, None)

    def test_the_doctor_shows_it(self, monkeypatch):
        monkeypatch.setattr(matmul_backends, "survey", lambda *_: survey(CPU, torch.float32, WIDTH))
        shown = CliRunner().invoke(cli.app, ["doctor", "--device", "cpu"]).output
        table = " ".join(shown[shown.index("Matrix products") : shown.index("nano")].split())
        assert "quack needs an NVIDIA GPU, not cpu" in table
        assert "torch available, the default here" in table


class TestUse:
    def test_every_block_has_it(self):
        dit = make_dit(CONFIGS["nano"])
        use_matmul(dit, QUACK)
        assert [block.matmul_backend for block in dit.blocks] == [QUACK] * len(dit.blocks)

    def test_a_pipeline_says_what_it_uses(self):
        assert Pipeline(tiny_components(tiny_config(HUMO_1_7B))).matmul_backend == TORCH

    def test_a_pipeline_refuses_what_cannot_be(self):
        with pytest.raises(ValueError, match="matmul_backend 'quack' needs an NVIDIA GPU"):
            Pipeline(tiny_components(tiny_config(HUMO_1_7B)), Execution(matmul_backend=QUACK))

    def test_the_command_line(self):
        result = CliRunner().invoke(cli.app, ["generate", "--prompt", "x", "--matmul-backend", "mkl"])
        assert result.exit_code != 0
        assert "unknown matmul_backend 'mkl'" in result.output
