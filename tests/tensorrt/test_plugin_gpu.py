"""What the plugin launches, on a GPU, by address and on a stream of its own; TensorRT is not needed."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.audio_face_attention import audio_face_attention
from humo_rt.tensorrt import plugin

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(registry.unavailable(plugin.NAME, "cuda") is not None, reason="built without CUDA kernels"),
]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
EPS = 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_launching_by_address_is_the_operator_and_can_be_captured(dtype):
    device, kind = torch.device("cuda"), DTYPES[dtype]
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((2, 3 * 21, 256), (256,), (1, 2, 3, 4, 16, 64), (1, 2, 3, 4, 16, 64))
    q, weight, k, v = (torch.randn(shape, generator=generator, device=device) for shape in shapes)
    q, k, v = q.to(kind), k.to(kind), v.to(kind)
    with registry.use_backend("cuda"):
        expected = audio_face_attention(q, weight, k, v, None, EPS)
    out = torch.full_like(q, torch.nan)
    inputs = [tensor.data_ptr() for tensor in (q, weight, k, v)]
    workspace = torch.empty(plugin.workspace_bytes(shapes[2]), dtype=torch.uint8, device=device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stream = torch.cuda.current_stream().cuda_stream
        addresses = (inputs, out.data_ptr(), workspace.data_ptr())
        plugin.launch(*addresses, shapes=shapes[:3], dtype=dtype, eps=EPS, stream=stream)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, expected)
