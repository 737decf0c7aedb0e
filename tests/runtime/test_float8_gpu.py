"""Precision fp8 on a GPU: products, attention, blocks, compilers, captured graphs, the pipeline.

Attention in float8 needs cuDNN's package; its tests are skipped without it, with the reason that the doctor gives.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.config import NANO
from humo_rt.kernels.float8 import FLOAT8
from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.model.dit import HumoDiT
from humo_rt.pipeline import Pipeline
from humo_rt.runtime import float8_attention
from humo_rt.runtime.attention_backends import CUDNN_FP8, unavailable, use_attention
from humo_rt.runtime.float8_block import fuse_float8
from humo_rt.runtime.float8_linear import Float8Linear
from humo_rt.runtime.replay import ReplayedDiT
from humo_rt.weights.random_init import fill_random
from tests.kernels import op_checks
from tests.runtime.test_attention_backends_gpu import make_qkv, reference
from tests.runtime.test_float8_block import relative_error, rounded_model
from tests.runtime.test_fused_block import CONFIGS, forward, make_dit, make_inputs

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
BF16 = torch.bfloat16


@pytest.fixture
def cudnn():
    reason = unavailable(CUDNN_FP8, torch.device("cuda", torch.cuda.current_device()), BF16, 128)
    if reason is not None:
        pytest.skip(f"{CUDNN_FP8} {reason}")


def on_gpu(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.to(CUDA) for name, x in inputs.items()}


def run(dit: HumoDiT, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return dit(timestep_B=torch.tensor([999, 500, 1], device=CUDA), **inputs)


class TestProducts:
    @pytest.mark.parametrize(
        ("rows", "width", "result"),
        [(1, 256, 768), (63, 768, 256), (1000, 1536, 4608), (40_560, 1536, 8960), (97, 5120, 5120)],
    )
    def test_it_computes_with_the_quantised_values(self, rows, width, result):
        torch.manual_seed(0)
        layer = nn.Linear(width, result, device=CUDA, dtype=BF16)
        x = torch.randn(rows, width, device=CUDA, dtype=BF16)
        float8 = Float8Linear([layer])
        truth = F.linear(quantize_rows(x).dequantized(torch.float32), float8.dequantized(), layer.bias.float())
        # bf16 rounds the result, and the matrix units keep some 14 bits of their sums.
        assert relative_error(float8(x), truth) < 1e-2
        assert relative_error(float8(x), layer(x)) < 6e-2

    def test_several_layers_that_read_the_same_input(self):
        torch.manual_seed(0)
        layers = [nn.Linear(256, 256, device=CUDA, dtype=BF16) for _ in range(3)]
        rows = quantize_rows(torch.randn(2, 100, 256, device=CUDA, dtype=BF16))
        joined, alone = Float8Linear(layers)(rows), [Float8Linear([layer])(rows) for layer in layers]
        torch.testing.assert_close(joined, torch.cat(alone, dim=-1), rtol=2.0**-7, atol=1e-2)


@pytest.mark.usefixtures("cudnn")
class TestAttention:
    @pytest.mark.parametrize(
        "shape", [(1, 12, 1000, 128), (2, 3, 63, 64), (4, 2, 1560, 128), (3, 4, 1664, 64)], ids=str
    )
    @pytest.mark.parametrize("size", [0.02, 1.0, 30.0])
    def test_it_is_attention_up_to_e4m3(self, shape, size):
        q, k, v = make_qkv(shape, BF16, CUDA)
        v = v * size
        result = float8_attention.float8_attention(q, k, v)
        truth = reference(q.double(), k.double(), v.double())
        assert result.dtype == BF16
        assert result.transpose(1, 2).is_contiguous()
        # 2.6 % is what e4m3 errs on average of normal numbers: of q and k, of probabilities and v, and of the result.
        assert relative_error(result.double(), truth) < 7e-2

    def test_equal_values_are_not_rounded(self):
        q, k, v = make_qkv((1, 2, 1000, 128), BF16, CUDA)
        v = torch.full_like(v, 3.3)
        torch.testing.assert_close(float8_attention.float8_attention(q, k, v), v, rtol=0, atol=0)

    @pytest.mark.parametrize("shape", [(2, 1000, 3, 128), (1, 1536, 2, 64)], ids=str)
    def test_rows_after_the_tokens_count_for_nothing(self, shape):
        q, k, v = ((torch.randn(shape, device=CUDA) * size).clamp(-448, 448).to(FLOAT8) for size in (1, 1, 100))
        truth = reference(*(x.double().transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
        k, v = (F.pad(x.float(), (0, 0, 0, 0, 0, 280), value=448).to(FLOAT8) for x in (k, v))
        one = torch.ones(1, device=CUDA)
        result, scale = float8_attention.attend_quantized((q, one), (k, one), (v, one))
        assert relative_error(result.double() * scale, truth) < 7e-2

    def test_fewer_queries_than_keys_attend_to_all_keys(self):
        q, k, v = make_qkv((2, 3, 1000, 128), BF16, CUDA)
        truth = reference(q[:, :, :300].double(), k.double(), v.double())
        assert relative_error(float8_attention.float8_attention(q[:, :, :300], k, v).double(), truth) < 7e-2

    def test_full_size(self):
        q, k, v = make_qkv((1, 2, 40_560, 128), BF16, CUDA)
        result = float8_attention.float8_attention(q, k, v)
        rows = torch.arange(0, 40_560, 997, device=CUDA)
        truth = reference(q[:, :, rows].double(), k.double(), v.double())
        assert relative_error(result[:, :, rows].double(), truth) < 7e-2

    def test_compiles_into_one_graph(self):
        # Without it compiled code leaves out the rounding to bfloat16 between conversion and scale.
        rounding = {"emulate_precision_casts": True}
        inputs = make_qkv((2, 3, 64, 128), BF16, CUDA)
        op_checks.assert_compiles(float8_attention.float8_attention, inputs, options=rounding)

    def test_a_captured_graph_reads_its_inputs_anew(self):
        inputs = make_qkv((2, 3, 64, 128), BF16, CUDA)
        op_checks.assert_a_captured_graph_reads_its_inputs_anew(float8_attention.float8_attention, inputs)

    def test_runs_on_the_current_stream(self):
        inputs = make_qkv((2, 3, 64, 128), BF16, CUDA)
        op_checks.assert_runs_on_the_current_stream(float8_attention.float8_attention, inputs)


class TestBlocks:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_they_compute_with_rounded_weights_and_rows(self, name):
        config = CONFIGS[name]
        dit, inputs = make_dit(config).bfloat16(), make_inputs(config)
        exact = forward(copy.deepcopy(dit).float(), inputs)
        expected = forward(rounded_model(dit), inputs)
        actual = run(fuse_float8(dit.to(CUDA), ()), on_gpu(inputs)).cpu()
        assert relative_error(actual, expected) < relative_error(expected, exact)

    @pytest.mark.parametrize("float8_attended", [False, True])
    def test_compiled_blocks_agree_with_eager_ones(self, request, float8_attended):
        dit, inputs = self.nano(request, float8_attended)
        expected = run(dit, inputs)
        for block in dit.blocks:
            block.compile(fullgraph=True)
        assert relative_error(run(dit, inputs), expected) < 2e-2

    @pytest.mark.parametrize("float8_attended", [False, True])
    def test_a_replayed_graph_repeats_the_forward(self, request, float8_attended):
        dit, inputs = self.nano(request, float8_attended)
        inputs["context"] = dit.project_context(inputs.pop("text_embeds"), inputs.pop("audio"))
        expected = run(dit, inputs)
        replayed = ReplayedDiT(dit, always=True)
        x, timesteps = inputs.pop("x_BCTHW"), torch.tensor([999, 500, 1], device=CUDA)
        with torch.no_grad():
            results = [replayed(x, timesteps, **inputs).clone() for _ in range(2)]
        assert all(torch.equal(result, expected) for result in results)

    @staticmethod
    def nano(request, float8_attended):
        with torch.device("meta"):
            dit = HumoDiT(NANO.dit)
        fill_random(dit, part="dit", seed=0, dtype=BF16, device=CUDA)
        dit.eval().requires_grad_(False)
        if float8_attended:
            request.getfixturevalue("cudnn")
            use_attention(dit, CUDNN_FP8)
        return fuse_float8(dit), on_gpu(make_inputs(NANO.dit))


class TestPipeline:
    @pytest.mark.parametrize("backend", ["cudnn", CUDNN_FP8])
    def test_it_makes_the_same_video_twice_and_one_like_the_exact_one(self, request, backend):
        if backend == CUDNN_FP8:
            request.getfixturevalue("cudnn")
        options = {"num_frames": 9, "num_inference_steps": 4, "seed": 3}
        plain = Pipeline.from_pretrained("nano", device=CUDA)
        exact, another = (plain.generate("A man speaks.", **options | {"seed": seed}) for seed in (3, 4))
        pipeline = Pipeline.from_pretrained("nano", device=CUDA, precision="fp8", attention_backend=backend)
        first, second = (pipeline.generate("A man speaks.", **options) for _ in range(2))
        assert np.array_equal(first.frames, second.frames)
        assert (first.settings["precision"], first.settings["attention_backend"]) == ("fp8", backend)
        near, far = (np.abs(exact.frames.astype(float) - made.frames).mean() for made in (first, another))
        assert 0 < near < far

    @pytest.mark.parametrize(
        "options",
        [{}, {"guidance_reuse": 2}, {"face_masks": "predictor"}, {"face_masks": "predictor", "guidance_reuse": 2}],
        ids=str,
    )
    def test_encoders_in_host_memory_and_kept_branches(self, options):
        sound = (np.random.default_rng(0).normal(0, 0.1, 6_000).astype(np.float32), 16_000)
        options = {"num_frames": 9, "num_inference_steps": 4, "seed": 3, "audio": sound, **options}
        resident, offloaded = (
            Pipeline.from_pretrained("nano", device=CUDA, precision="fp8", offload_encoders=offload).generate(
                "A man speaks.", **options
            )
            for offload in (False, True)
        )
        assert np.array_equal(resident.frames, offloaded.frames)
        assert resident.frames.std() > 0

    def test_the_dit_takes_less_memory(self):
        sizes = {}
        for precision in ("exact", "fp8"):
            pipeline = Pipeline.from_pretrained("nano", device=CUDA, precision=precision)
            sizes[precision] = sum(parameter.nbytes for parameter in pipeline.dit.blocks.parameters())
        assert sizes["fp8"] < 0.75 * sizes["exact"]
