"""The inventory of kernels and the choice between backends."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.gelu_quantize import gelu_quantize

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def folders(parent: Path) -> set[str]:
    return {path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("__")}


@pytest.fixture
def no_gpu_backends(monkeypatch):
    monkeypatch.setattr(registry, "unavailable", lambda op, backend, device=None: f"no {backend} here")
    registry._say_slow.cache_clear()
    yield
    registry._say_slow.cache_clear()


class TestInventory:
    def test_every_op_has_a_folder_and_every_folder_an_op(self):
        assert folders(ROOT / "kernels") == set(registry.OPS)

    def test_compiled_ops_are_ops(self):
        compiled = folders(ROOT / "csrc") - {"common"}
        listed = re.search(r"set\(HUMO_RT_OPS ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())[1].split()
        assert set(listed) == compiled
        assert compiled == {op for op in registry.OPS if (ROOT / "kernels" / op / "cuda_impl.py").exists()}

    @pytest.mark.parametrize("op", registry.OPS)
    def test_an_op_has_one_name_everywhere(self, op):
        folder = ROOT / "kernels" / op
        assert {"__init__.py", "reference.py", "cases.py"} <= {path.name for path in folder.iterdir()}
        module = __import__(f"humo_rt.kernels.{op}", fromlist=[op])
        assert callable(getattr(module, op))
        assert hasattr(torch.ops.humo_rt, op)
        assert (ROOT / "tests" / "kernels" / f"test_{op}.py").exists()


class TestSelect:
    def test_cpu_tensors_take_the_reference(self):
        assert registry.select("guided_update", CPU) is registry.implementation("guided_update", "reference")

    def test_a_gpu_without_backends_takes_the_reference_and_says_so_once(self, no_gpu_backends, caplog):
        cuda = torch.device("cuda")
        with caplog.at_level(logging.WARNING):
            assert registry.select("guided_update", cuda) is registry.select("guided_update", cuda)
        assert len(caplog.records) == 1
        assert "no cuda here; no triton here" in caplog.text

    @pytest.mark.parametrize(
        ("op", "order", "faster"),
        [
            ("causal_conv", None, "cuda"),
            ("guided_update", None, "triton"),
            ("audio_face_probabilities", ("triton", "cuda"), "triton"),
        ],
    )
    def test_the_faster_backend_is_taken_where_both_can_run(self, monkeypatch, op, order, faster):
        monkeypatch.setattr(registry, "unavailable", lambda op, backend, device: None)
        monkeypatch.setattr(registry, "implementation", lambda op, backend, device: backend)
        assert registry.select(op, torch.device("cuda"), order) == faster

    def test_the_slower_backend_says_once_why_it_is_taken(self, monkeypatch, caplog):
        monkeypatch.setattr(
            registry, "unavailable", lambda op, backend, device: None if backend == "triton" else "not built"
        )
        monkeypatch.setattr(registry, "implementation", lambda op, backend, device: backend)
        registry._say_second.cache_clear()
        with caplog.at_level(logging.INFO):
            for op in ("causal_conv", "causal_conv", "gelu_quantize", "guided_update"):
                assert registry.select(op, torch.device("cuda")) == "triton"
        assert [record.message for record in caplog.records] == [
            "causal_conv runs in triton, which is slower than cuda: not built"
        ]
        registry._say_second.cache_clear()

    def test_each_card_is_asked_for_itself(self, monkeypatch):
        """As in a machine of a Hopper card and an Ada card, the current one."""
        capabilities = {None: (8, 9), torch.device("cuda", 0): (8, 9), torch.device("cuda", 1): (9, 0)}
        monkeypatch.setitem(sys.modules, "humo_rt._C", SimpleNamespace(causal_conv=None, DType=MagicMock()))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capabilities[device])
        registry.unavailable.cache_clear()
        try:
            chosen = [registry.select("causal_conv", torch.device("cuda", number)).__module__ for number in (0, 1)]
        finally:
            registry.unavailable.cache_clear()
        assert [name.rpartition(".")[2] for name in chosen] == ["triton_impl", "cuda_impl"]

    def test_a_forced_backend_that_is_absent_is_an_error_with_the_reason(self, no_gpu_backends):
        with registry.use_backend("triton"), pytest.raises(RuntimeError, match="no triton here"):
            registry.select("guided_update", torch.device("cuda"))

    def test_a_forced_backend_refuses_tensors_off_the_gpu(self):
        with registry.use_backend("cuda"), pytest.raises(RuntimeError, match="on cpu, not on a GPU"):
            gelu_quantize(torch.ones(2, 3))

    def test_an_unknown_backend_is_refused(self):
        with pytest.raises(ValueError, match="'vulkan'.*cuda, triton, reference"), registry.use_backend("vulkan"):
            pass


class TestName:
    """The folder is humo_rt.kernels; a checkout on the path must not disturb transformers, which probes `kernels`."""

    @staticmethod
    def run(code: str) -> str:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_another_name_is_refused(self):
        code = (
            "import sys\n"
            "for line in ('from kernels import registry', 'import kernels.registry'):\n"
            "    try: exec(line)\n"
            "    except ImportError as error: sys.stdout.write(f'{error}\\n')\n"
        )
        refused = self.run(code).splitlines()
        assert "humo_rt.kernels" in refused[0]
        assert len(refused) == 2

    def test_transformers_is_not_misled(self):
        code = (
            "import sys\n"
            "from transformers.utils.import_utils import is_kernels_available\n"
            "sys.stdout.write(str(is_kernels_available()))"
        )
        assert self.run(code) == "False"


def test_compiled_graphs_keep_the_op():
    """torch 2.11's compiler believes that every graph it makes is being exported."""
    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        return graph

    torch.compile(gelu_quantize, backend=record, fullgraph=True)(torch.ones(2, 3))
    assert [node for node in graphs[0].graph.nodes if node.target is torch.ops.humo_rt.gelu_quantize.default]
