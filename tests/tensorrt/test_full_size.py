"""HuMo-1.7B with random weights: exported with its weights in a file of their own, and parsed, in bounded memory."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

GIB = 1024**3
# A process of its own, so that its peak is that of the export alone.
EXPORT_AND_PARSE = """
import sys, torch, tensorrt_rtx
from pathlib import Path
from humo_rt.tensorrt.build_log import Messages, collecting_logger
from humo_rt.tensorrt.export import export_onnx
from humo_rt.tensorrt.network import parse, read_graph
from humo_rt.tensorrt.source import Source, load_dit
from humo_rt.tensorrt.targets import load_tensorrt
from humo_rt.tensorrt.weights import EMBEDDED

source = Source(model="humo-1.7b", weights="random")
dit = load_dit(source, dtype=torch.bfloat16, device=torch.device("cpu"))
exported = export_onnx(dit, Path(sys.argv[1]) / "dit.onnx", face_mask=True, source=source)
assert exported.data is not None
assert exported.data.stat().st_size > 2e9 > 50e6 > exported.path.stat().st_size
assert exported.nodes["Attention"] == 3 * dit.config.num_layers
del dit
messages = Messages()
logger = collecting_logger(tensorrt_rtx, messages)
builder = tensorrt_rtx.Builder(logger)
network = parse(read_graph(exported.path), builder, load_tensorrt("tensorrt-rtx"), logger, weights=EMBEDDED)
assert network.definition.num_layers > 0
assert not messages.errors and not messages.fallbacks, messages
"""


@pytest.mark.slow
def test_the_export_parses_in_bounded_memory(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", EXPORT_AND_PARSE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak <= 12 * GIB
