"""Choosing and calling attention libraries, with stand-ins for the packages and for the card."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from humo_rt import cli, machine, pipeline
from humo_rt.config import PRESETS
from humo_rt.media import read_settings
from humo_rt.model.dit import HumoDiT
from humo_rt.pipeline import Pipeline
from humo_rt.runtime import attention_backends, float8_attention
from humo_rt.runtime.attention_backends import BACKENDS, NAMED, choose, survey, unavailable, use_attention
from humo_rt.runtime.attention_kernels import PACKAGES, package_function, self_attention
from humo_rt.runtime.fusing import fuse
from tests.kernels.op_checks import assert_exports_as_plain_operators
from tests.runtime.test_fused_block import CONFIGS, forward, make_dit, make_inputs
from tests.weights.tiny_model import tiny_config

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
BF16 = torch.bfloat16
seen_calls: list[tuple[tuple[int, ...], dict]] = []


def flash_attn_func(q_BLHK: Tensor, k_BLHK: Tensor, v_BLHK: Tensor, **options: object) -> Tensor:
    """What the packages compute, written out; they scale by 1 / sqrt(K) and mask nothing unless told otherwise."""
    seen_calls.append((tuple(q_BLHK.shape), options))
    scores_BHLS = torch.einsum("blhk,bshk->bhls", q_BLHK, k_BLHK) * q_BLHK.shape[-1] ** -0.5
    return torch.einsum("bhls,bshk->blhk", scores_BHLS.softmax(-1), v_BLHK)


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch):
    """No package whatever this machine has; nothing remembered from another test."""
    caches = (package_function, float8_attention.frontend, attention_backends._missing, attention_backends._say_unused)
    for remembered in caches:
        remembered.cache_clear()
    for package in PACKAGES.values():
        monkeypatch.setitem(sys.modules, package.module, None)
    monkeypatch.setitem(sys.modules, float8_attention.MODULE, None)
    seen_calls.clear()
    yield
    for remembered in caches:
        remembered.cache_clear()


@pytest.fixture
def install(monkeypatch):
    def installed(backend: str, function=flash_attn_func) -> None:
        module = ModuleType(PACKAGES[backend].module)
        module.flash_attn_func = function
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return installed


@pytest.fixture
def card(monkeypatch):
    """A card on which every library works except those in the dictionary, which raise what it says; and what ran."""
    failures: dict[str, Exception] = {}
    tried: list[str] = []

    def attempt(backend: str, *_: object) -> None:
        tried.append(backend)
        if backend in failures:
            raise failures[backend]

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test Card")
    monkeypatch.setattr(attention_backends, "_try", attempt)
    return failures, tried


def make_qkv(heads: int = 3, tokens: int = 5, head_dim: int = 8, dtype=torch.float64) -> list[Tensor]:
    """With three different layouts in memory, as projections, rotations and packed products leave them."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, tokens, heads, head_dim)
    q, k = (torch.randn(shape, generator=generator, dtype=dtype).transpose(1, 2) for _ in range(2))
    packed = torch.randn(2, tokens, 3 * heads * head_dim, generator=generator, dtype=dtype)
    v = packed[..., -heads * head_dim :].unflatten(-1, (heads, head_dim)).transpose(1, 2)
    return [q, k.contiguous(), v]


class TestCalls:
    @pytest.mark.parametrize("backend", PACKAGES)
    def test_a_package_sees_its_own_layout_and_no_options(self, install, backend):
        install(backend)
        qkv = make_qkv()
        result = self_attention(*qkv, backend=backend)
        torch.testing.assert_close(result, F.scaled_dot_product_attention(*qkv))
        assert result.transpose(1, 2).is_contiguous()
        assert seen_calls == [((2, 5, 3, 8), {})]

    @pytest.mark.parametrize("backend", PACKAGES)
    def test_further_results_are_dropped(self, install, backend):
        install(backend, lambda *qkv: (flash_attn_func(*qkv), torch.zeros(1)))
        qkv = make_qkv()
        torch.testing.assert_close(self_attention(*qkv, backend=backend), F.scaled_dot_product_attention(*qkv))

    def test_the_flash_kernel_of_sdpa(self):
        qkv = make_qkv()
        result = self_attention(*qkv, backend="sdpa-flash")
        torch.testing.assert_close(result, F.scaled_dot_product_attention(*qkv))
        assert result.transpose(1, 2).is_contiguous()

    def test_a_kernel_that_cannot_run_is_not_replaced(self):
        with pytest.raises(RuntimeError, match="backend"):
            self_attention(*make_qkv(), backend="cudnn")

    def test_the_compiler_and_the_exporter(self, install):
        install(
            "flash-attn-2",
            lambda *qkv: F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in qkv)).transpose(1, 2),
        )
        inputs = (*make_qkv(), "flash-attn-2")
        torch.library.opcheck(torch.ops.humo_rt.self_attention.default, inputs)
        compiled = torch.compile(lambda *args: self_attention(*args) + 1, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(*inputs), self_attention(*inputs) + 1)
        assert_exports_as_plain_operators(self_attention, inputs)


class TestInTheModel:
    @pytest.fixture(params=CONFIGS)
    def dit_and_inputs(self, request) -> tuple[HumoDiT, dict[str, Tensor]]:
        config = CONFIGS[request.param]
        return make_dit(config), make_inputs(config)

    @pytest.mark.parametrize("fused", [False, True])
    def test_a_package_computes_self_attention_alone(self, install, dit_and_inputs, fused):
        dit, inputs = dit_and_inputs
        dit = fuse(dit) if fused else dit
        expected = forward(dit, inputs)
        install("flash-attn-3")
        use_attention(dit, "flash-attn-3")
        torch.testing.assert_close(forward(dit, inputs), expected, rtol=1e-4, atol=1e-5)
        tokens, config = 2 * 3 * 5, dit.config
        assert seen_calls == [((3, tokens, config.num_heads, config.head_dim), {})] * config.num_layers
        use_attention(dit, "sdpa")
        assert torch.equal(forward(dit, inputs), expected)
        assert len(seen_calls) == config.num_layers

    def test_no_parameter_and_no_name_is_added(self, install, dit_and_inputs):
        dit, _ = dit_and_inputs
        names = list(dit.state_dict())
        use_attention(dit, "flash-attn-2")
        assert list(dit.state_dict()) == names

    def test_a_block_compiles_into_one_graph(self, install, dit_and_inputs):
        dit, inputs = dit_and_inputs
        install("flash-attn-4")
        use_attention(dit, "flash-attn-4")
        expected = forward(dit, inputs)
        seen_calls.clear()
        for block in dit.blocks:
            block.compile(backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(forward(dit, inputs), expected)
        assert len(seen_calls) == dit.config.num_layers


class TestProbing:
    def test_the_cpu_has_one(self):
        found = survey(CPU, torch.float32, 128)
        assert found.chosen == "sdpa"
        assert [name for name, reason in found.unavailable.items() if reason is None] == ["sdpa"]
        assert found.unavailable["cudnn"] == "needs an NVIDIA GPU, not cpu"

    def test_no_package_is_looked_for_without_a_card(self, monkeypatch):
        monkeypatch.setattr(attention_backends, "package_function", pytest.fail)
        assert choose("auto", CPU, torch.float32, 128) == survey(CPU, BF16, 64).chosen == "sdpa"

    def test_a_card_without_packages(self, card):
        found = survey(CARD, BF16, 128)
        assert found.chosen == choose("auto", CARD, BF16, 128) == "cudnn"
        for name, package in PACKAGES.items():
            assert found.unavailable[name] == f"is not installed: {package.install}"

    @pytest.mark.parametrize("dtype", [BF16, torch.float16])
    def test_the_fastest_that_is_there(self, card, install, dtype):
        for backend in PACKAGES:
            install(backend)
        assert list(survey(CARD, dtype, 128).unavailable) == list(NAMED)
        for failing, taken in pairwise(BACKENDS):
            card[0][failing] = RuntimeError("no kernel image is available")
            attention_backends._missing.cache_clear()
            assert choose("auto", CARD, dtype, 128) == taken

    def test_an_empty_flash_attn_beside_flash_attn_4_is_not_flash_attn_2(self, card, install, monkeypatch):
        install("flash-attn-4")
        monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
        found = survey(CARD, BF16, 128)
        assert found.chosen == "flash-attn-4"
        assert found.unavailable["flash-attn-2"].startswith("is not installed: pip install")

    def test_an_installed_package_that_fails_is_named_once(self, card, install, caplog):
        install("flash-attn-4")
        card[0]["flash-attn-4"] = AssertionError("head_dim 128 is not supported\n on SM75")
        with caplog.at_level(logging.WARNING):
            assert [choose("auto", CARD, BF16, 128) for _ in range(2)] == ["cudnn", "cudnn"]
        (record,) = caplog.records
        assert record.getMessage() == (
            "flash-attn-4 is installed but not used: "
            "it does not work on Test Card: head_dim 128 is not supported on SM75"
        )

    def test_a_package_without_what_it_needs_says_so(self, monkeypatch, tmp_path):
        (tmp_path / "flash_attn_interface.py").write_text("import a_library_that_is_absent\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "flash_attn_interface")
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test Card")
        monkeypatch.setattr(attention_backends, "_try", lambda backend, *_: package_function(backend))
        reason = unavailable("flash-attn-3", CARD, BF16, 128)
        assert reason == "does not work on Test Card: No module named 'a_library_that_is_absent'"

    def test_each_is_tried_once(self, card, install):
        install("flash-attn-4")
        for _ in range(2):
            survey(CARD, BF16, 128)
            choose("auto", CARD, BF16, 128)
        assert sorted(card[1]) == sorted(["flash-attn-4", "cudnn", "sdpa-flash", "sdpa"])

    def test_auto_stops_at_the_first(self, card, install):
        install("flash-attn-4")
        choose("auto", CARD, BF16, 128)
        assert card[1] == ["flash-attn-4"]

    def test_float32_is_plain_sdpa(self, card, install):
        for backend in PACKAGES:
            install(backend)
        assert choose("auto", CARD, torch.float32, 128) == "sdpa"


class TestErrors:
    @pytest.mark.parametrize(
        ("requested", "device", "dtype", "head_dim", "said"),
        [
            ("flash", CPU, BF16, 128, "unknown attention_backend 'flash': choose one of auto, flash-attn-4, cudnn"),
            ("cudnn", CPU, BF16, 128, "'cudnn' needs an NVIDIA GPU, not cpu: use 'auto'"),
            ("flash-attn-4", CARD, torch.float32, 128, "takes bfloat16, float16, not float32: use 'auto'"),
            ("flash-attn-2", CARD, BF16, 100, "takes a head_dim that is a multiple of 8 up to 256, not 100"),
            ("sdpa-flash", CARD, BF16, 264, "takes a head_dim that is a multiple of 8 up to 256, not 264"),
            ("auto", CPU, torch.int8, 128, "no attention backend takes head_dim 128 in int8 on cpu, change one"),
        ],
    )
    def test_what_no_machine_can_do(self, card, requested, device, dtype, head_dim, said):
        with pytest.raises(ValueError) as caught:
            choose(requested, device, dtype, head_dim)
        assert said in str(caught.value)
        assert card[1] == []

    @pytest.mark.parametrize("backend", PACKAGES)
    def test_a_package_that_is_not_installed(self, card, backend):
        with pytest.raises(RuntimeError) as caught:
            choose(backend, CARD, BF16, 128)
        assert str(caught.value) == f"attention_backend {backend!r} is not installed: {PACKAGES[backend].install}"

    def test_a_forced_one_that_does_not_work_is_not_replaced(self, card):
        card[0]["cudnn"] = RuntimeError("No available kernel. Aborting execution.")
        with pytest.raises(RuntimeError, match="'cudnn' does not work on Test Card: No available kernel."):
            choose("cudnn", CARD, BF16, 128)

    def test_a_head_dim_that_none_takes(self, card):
        card[0]["sdpa"] = RuntimeError("No available kernel. Aborting execution.")
        with pytest.raises(ValueError, match="no attention backend takes head_dim 300 in bfloat16 on cuda:0") as caught:
            choose("auto", CARD, BF16, 300)
        assert all(f"{backend} " in str(caught.value) for backend in BACKENDS)

    def test_too_little_memory_to_try_is_not_a_verdict(self, card):
        card[0]["cudnn"] = torch.OutOfMemoryError("CUDA out of memory.")
        with pytest.raises(torch.OutOfMemoryError):
            choose("auto", CARD, BF16, 128)
        assert "too little GPU memory" in survey(CARD, BF16, 128).unavailable["cudnn"]
        card[0].clear()
        assert choose("auto", CARD, BF16, 128) == "cudnn"


class TestPlumbing:
    @pytest.fixture(autouse=True)
    def tiny_presets(self, monkeypatch):
        for name in PRESETS:
            monkeypatch.setitem(PRESETS, name, tiny_config(name))

    @staticmethod
    def run(*arguments: object):
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    def test_a_bad_choice_is_refused_before_loading(self, monkeypatch):
        monkeypatch.setattr(pipeline, "load_components", lambda *_, **__: pytest.fail("loaded"))
        with pytest.raises(ValueError, match="attention_backend 'cudnn' needs an NVIDIA GPU"):
            Pipeline.from_pretrained("nano", weights="random", device="cpu", attention_backend="cudnn")
        with pytest.raises(ValueError, match="attention_backend 'sdpa' does not reach into 'dit.engine': leave it out"):
            Pipeline.from_pretrained(
                "nano", weights="random", device="cpu", attention_backend="sdpa", dit_engine="dit.engine"
            )

    def test_the_choice_is_recorded(self, tmp_path):
        options = ("--prompt", "x", "--weights", "random", "--steps", 1, "--num-frames", 5, "--seed", 3)
        for name, more in (("auto.mp4", ()), ("forced.mp4", ("--attention-backend", "sdpa"))):
            result = self.run("generate", *options, "--device", "cpu", "-o", tmp_path / name, *more)
            assert result.exit_code == 0, result.output
            assert read_settings(tmp_path / name)["attention_backend"] == "sdpa"

    @pytest.mark.parametrize(
        ("backend", "said"),
        [("flash", "unknown attention_backend 'flash'"), ("flash-attn-4", "needs an NVIDIA GPU, not cpu")],
    )
    def test_the_command_refuses_in_one_line(self, backend, said, tmp_path):
        result = self.run(
            "generate", "--prompt", "x", "--weights", "random", "--device", "cpu", "--attention-backend", backend,
            "-o", tmp_path / "video.mp4",
        )  # fmt: skip
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert said in line
        assert not list(tmp_path.iterdir())

    def test_the_option_reaches_the_pipeline(self, monkeypatch, tmp_path):
        calls = {}

        def load(*source, **options):
            calls.update(options)
            raise RuntimeError("seen enough")

        monkeypatch.setattr(Pipeline, "from_pretrained", load)
        for given, expected in ((("--attention-backend", "cudnn"), {"attention_backend": "cudnn"}), ((), {})):
            calls.clear()
            result = self.run("generate", "--prompt", "x", "--weights", "random", "-o", tmp_path / "v.mp4", *given)
            assert result.exit_code == 2
            assert {name: value for name, value in calls.items() if name == "attention_backend"} == expected

    def test_the_benchmark_hands_it_on(self, monkeypatch):
        monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        latency = importlib.import_module("latency")
        monkeypatch.setattr(sys, "argv", ["latency.py", "--attention-backend", "cudnn"])
        assert latency.parse_arguments().attention_backend == "cudnn"
        monkeypatch.setattr(sys, "argv", ["latency.py"])
        assert latency.parse_arguments().attention_backend == "auto"

    def test_the_doctor_says_why(self, card, monkeypatch):
        monkeypatch.setattr(machine.attention_backends, "survey", lambda *_: survey(CARD, BF16, 128))
        shown = self.run("doctor", "--device", "cpu").stdout
        table = " ".join(shown[shown.index("Self-attention") : shown.index("nano")].split())
        assert "backend on cuda:0 in bfloat16, head_dim 128" in table
        assert "cudnn available, the default here" in table
        assert "sdpa available" in table
        for name, package in PACKAGES.items():
            assert f"{name} is not installed: " in table
            assert package.install.split()[2] in table

    def test_the_doctor_in_json(self):
        found = json.loads(self.run("doctor", "--device", "cpu", "--json").stdout)["machine"]["attention"]
        assert list(found["unavailable"]) == list(NAMED)
        assert found["unavailable"]["sdpa"] is None
        assert found["head_dim"] == 128
