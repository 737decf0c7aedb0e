"""What a benchmark of the VAE keeps when it is stopped."""

from __future__ import annotations

import json
import sys

import pytest
import torch


def test_variants_are_saved_one_by_one(benchmark_module, monkeypatch, tmp_path) -> None:
    module, file = benchmark_module("vae_decode"), tmp_path / "report.json"

    def stopped_at_the_third(name: str, *_: object) -> dict[str, str]:
        if name not in (module.DIFFUSERS, "plain"):
            raise KeyboardInterrupt
        return {"variant": name}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "report_of", lambda _, **found: found)
    monkeypatch.setattr(module, "in_own_process", stopped_at_the_third)
    monkeypatch.setattr(sys, "argv", ["vae_decode.py", "--json", str(file)])
    with pytest.raises(KeyboardInterrupt):
        module.main()
    assert [row["variant"] for row in json.loads(file.read_text())["results"]] == [module.DIFFUSERS, "plain"]
