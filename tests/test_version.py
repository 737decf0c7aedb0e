"""The version: of the installed package, looked up when it is asked for."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import humo_rt

ROOT = Path(__file__).parents[1]


@pytest.fixture
def not_looked_up(monkeypatch):
    """Without the version that an earlier look left in the module."""
    monkeypatch.delitem(vars(humo_rt), "__version__", raising=False)


def test_it_is_that_of_the_project(not_looked_up):
    assert humo_rt.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert "__version__" in dir(humo_rt)


def test_a_checkout_that_is_not_installed_has_none_and_says_so(not_looked_up, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert not hasattr(humo_rt, "__version__")
    with pytest.raises(AttributeError, match="not installed: pip install"):
        humo_rt.__version__  # noqa: B018


def test_importing_does_not_look_it_up():
    code = "import sys, humo_rt; sys.exit('importlib.metadata' in sys.modules or '__version__' in vars(humo_rt))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
