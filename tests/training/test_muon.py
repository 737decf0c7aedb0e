"""Muon: what it does to a matrix, which parameters it gets, and that a run with it resumes to the bit."""

from __future__ import annotations

import pytest
import torch

from tests.training.toy import ToyTask, toy_settings
from training import optimise
from training.config import OptimiserConfig, ParallelConfig
from training.muon import Muon, is_matrix, orthogonal
from training.parallel import join
from training.trainer import Trainer


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 40), (1, 64, 16)])
def test_singular_values_come_near_one(shape) -> None:
    made = orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(made)
    # The quintic leaves them in this band by design: it trades exactness for few steps.
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert torch.equal(orthogonal(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def test_a_step_has_the_size_of_adamws() -> None:
    parameter = torch.nn.Parameter(torch.zeros(48, 20))
    optimiser = Muon([{"params": [parameter], "orthogonal": True}], lr=0.1, betas=(0.9, 0.99), weight_decay=0.0)
    parameter.grad = torch.randn(48, 20, generator=torch.Generator().manual_seed(0)) * 1e-4
    optimiser.step()
    assert parameter.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.25)


def test_norms_biases_and_named_layers_stay_with_adamw() -> None:
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(4, 4), "conv": torch.nn.Conv3d(2, 3, 3)})
    model.register_parameter("gamma", torch.nn.Parameter(torch.ones(8, 1, 1)))
    named = dict(model.named_parameters())
    config = OptimiserConfig(lr=1.0, name="muon", no_muon=("head.",))
    groups = optimise.make_optimiser(named.items(), config, torch.device("cpu")).param_groups
    orthogonal_ones = {id(p) for group in groups if group["orthogonal"] for p in group["params"]}
    assert orthogonal_ones == {id(named["conv.weight"])}
    assert not is_matrix(named["gamma"])
    assert not is_matrix(named["conv.bias"])


def test_a_run_resumes_to_the_bit(tmp_path) -> None:
    def trainer(folder, steps: int, resume: bool = False) -> Trainer:
        settings = toy_settings(
            steps=steps, optimiser=OptimiserConfig(lr=1e-2, warmup_steps=2, name="muon", no_muon=())
        )
        return Trainer(ToyTask(), settings, folder, join("cpu"), resume=resume)

    whole = trainer(tmp_path / "whole", 6)
    whole.run()
    trainer(tmp_path / "parts", 3).run()
    rest = trainer(tmp_path / "parts", 6, resume=True)
    rest.run()
    expected, found = whole.run_state.tensors(), rest.run_state.tensors()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(name.endswith(".exp_avg") and f"{name}_sq" not in found for name in found)


def test_sharded_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="muon"):
        toy_settings(optimiser=OptimiserConfig(lr=1e-2, name="muon"), parallel=ParallelConfig(strategy="fsdp"))
