"""The precision tiers: which layers they reach, what they refuse, and their way through pipeline and command line."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from typer.testing import CliRunner

from humo_rt import cli, commands
from humo_rt.config import HUMO_1_7B, HUMO_17B, NANO
from humo_rt.pipeline import Pipeline
from humo_rt.runtime.precision import FLOAT8_LAYERS, check_patterns, check_precision, float8_layers

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
BF16 = torch.bfloat16


@pytest.fixture
def card(monkeypatch):
    """Of a given compute capability."""

    def install(*capability: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test Card")

    return install


class TestRefusals:
    def test_an_unknown_tier(self):
        with pytest.raises(ValueError, match="unknown precision 'int8': choose one of exact, fp8"):
            check_precision("int8", CARD, BF16, NANO.dit)

    def test_the_cpu(self):
        with pytest.raises(ValueError, match="precision 'fp8' needs an NVIDIA GPU, not cpu: use 'exact'"):
            check_precision("fp8", CPU, BF16, NANO.dit)

    def test_another_dtype(self):
        with pytest.raises(ValueError, match="made from bfloat16, not float32: leave dtype out"):
            check_precision("fp8", CARD, torch.float32, NANO.dit)

    def test_an_odd_width(self, card):
        card(9, 0)
        with pytest.raises(ValueError, match="ffn_dim 776 is not a multiple of 16"):
            check_precision("fp8", CARD, BF16, dataclasses.replace(NANO.dit, ffn_dim=776))

    @pytest.mark.parametrize("capability", [(8, 0), (8, 6)])
    def test_a_card_without_e4m3(self, card, capability):
        card(*capability)
        with pytest.raises(RuntimeError, match=r"needs compute capability 8\.9 .* Test Card has 8\.\d: use 'exact'"):
            check_precision("fp8", CARD, BF16, NANO.dit)

    @pytest.mark.parametrize("capability", [(8, 9), (9, 0), (10, 0), (12, 0)])
    @pytest.mark.parametrize("config", [NANO, HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
    def test_every_preset_on_every_card_that_has_it(self, card, capability, config):
        card(*capability)
        check_precision("fp8", CARD, BF16, config.dit)

    def test_exact_runs_anywhere(self):
        check_precision("exact", CPU, torch.float32, NANO.dit)


class TestLayers:
    def test_all_of_them_without_a_pattern(self):
        assert float8_layers(3, 8, ()) == set(FLOAT8_LAYERS)

    @pytest.mark.parametrize(
        ("pattern", "block", "left_out"),
        [
            ("0.ffn.*", 0, {"ffn.0", "ffn.2"}),
            ("0.ffn.*", 1, set()),
            ("-1.ffn.2", 7, {"ffn.2"}),
            ("-1.ffn.2", 6, set()),
            ("*.self_attn.o", 4, {"self_attn.o"}),
            ("2.*", 2, set(FLOAT8_LAYERS)),
        ],
    )
    def test_a_pattern_takes_layers_out(self, pattern, block, left_out):
        assert set(FLOAT8_LAYERS) - float8_layers(block, 8, (pattern,)) == left_out

    @pytest.mark.parametrize("pattern", ["8.ffn.0", "-9.ffn.0", "ffn.0", "0.mlp"])
    def test_a_pattern_that_names_nothing(self, pattern):
        with pytest.raises(ValueError, match="names no layer of 8 blocks"):
            check_patterns(("0.ffn.*", pattern), 8)


class TestPlumbing:
    def test_a_pipeline_refuses_before_it_loads(self):
        with pytest.raises(ValueError, match="precision 'fp8' needs an NVIDIA GPU"):
            Pipeline.from_pretrained("nano", weights="no such folder is looked for", device="cpu", precision="fp8")

    def test_settings_name_it(self):
        pipeline = Pipeline.from_pretrained("nano", weights="random", device="cpu")
        result = pipeline.generate("A man speaks.", height=32, width=32, num_frames=5, num_inference_steps=1)
        assert result.settings["precision"] == "exact"

    @pytest.mark.parametrize(("given", "passed"), [(("--precision", "fp8"), {"precision": "fp8"}), ((), {})])
    def test_the_command_line_passes_it_on(self, monkeypatch, given, passed):
        seen = {}
        monkeypatch.setattr(commands, "generate_one", lambda conditions, options, model, *_: seen.update(model))
        done = CliRunner().invoke(cli.app, ["generate", "--prompt", "A man speaks.", *given])
        assert done.exit_code == 0, done.output
        assert {name: value for name, value in seen.items() if name == "precision"} == passed

    def test_the_command_line_says_what_is_wrong(self):
        done = CliRunner().invoke(cli.app, ["generate", "--prompt", "x", "--device", "cpu", "--precision", "fp8"])
        assert done.exit_code == 2
        assert "precision 'fp8' needs an NVIDIA GPU, not cpu" in " ".join(done.output.split())
