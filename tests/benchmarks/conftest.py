from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def benchmark_module(monkeypatch):
    """Imports a module of the folder as its scripts do."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module
