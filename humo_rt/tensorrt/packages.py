"""The optional packages of this folder, and what to do when one is absent."""

from __future__ import annotations

import importlib

EXTRA = "tensorrt"


def require(*packages: str) -> None:
    """``RuntimeError`` with the line that installs them unless every one of ``packages`` can be imported."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise RuntimeError(f"{package} is not installed ({error}): pip install 'humo-rt[{EXTRA}]'") from error
