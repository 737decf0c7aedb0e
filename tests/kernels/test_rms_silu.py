"""RMSNorm and SiLU on the CPU: arithmetic, registration, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm

from humo_rt.kernels.rms_silu import rms_silu
from humo_rt.kernels.rms_silu.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((2, 3, 4, 5, 48), torch.bfloat16, CPU)


class TestArithmetic:
    def test_as_the_autoencoder_computes(self):
        x, gamma, history = make_inputs((2, 3, 4, 5, 24), torch.float32, CPU)
        norm = WanRMS_norm(24, images=False)
        with torch.no_grad():
            norm.gamma.copy_(gamma.view(-1, 1, 1, 1))
            expected = F.silu(norm(x.permute(0, 4, 1, 2, 3))).permute(0, 2, 3, 4, 1)
        torch.testing.assert_close(rms_silu(x, gamma, history), torch.cat((history, expected), dim=1))
        torch.testing.assert_close(rms_silu(x, gamma, None), expected)

    def test_zeros_stay_zeros(self, inputs):
        x, gamma, history = inputs
        assert not rms_silu(torch.zeros_like(x), gamma, history)[:, 2:].any()

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("rms_silu", rms_silu, case, CPU).accepted

    def test_a_wrong_result_is_caught(self):
        assert not deviation("rms_silu", lambda *args: rms_silu(*args) * 1.001, CASES[1], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x": torch.ones(4, 5, 48)}, r"x \(4, 5, 48\) is not \(N, T, Y, X, C\)"),
            ({"x": torch.ones(2, 3, 4, 5, 48, dtype=torch.float64)}, "x is torch.float64"),
            ({"gamma": torch.ones(47)}, r"gamma.*give \(48,\)"),
            ({"gamma": torch.ones(48)}, "gamma is torch.float32, x is torch.bfloat16"),
            ({"gamma": torch.ones(48, device="meta", dtype=torch.bfloat16)}, "gamma on meta.*use one device"),
            ({"history": torch.ones(2, 2, 4, 6, 48)}, "history.*does not fit x"),
            ({"history": torch.ones(2, 2, 4, 5, 48)}, "history is torch.float32, x is torch.bfloat16"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        with pytest.raises(ValueError, match=message):
            rms_silu(*(dict(zip(("x", "gamma", "history"), inputs, strict=True)) | changes).values())


class TestGraphs:
    @pytest.mark.parametrize("history", [0, 2])
    def test_opcheck(self, history):
        inputs = make_inputs((2, 3, 4, 5, 48), torch.bfloat16, CPU, history=history)
        torch.library.opcheck(torch.ops.humo_rt.rms_silu.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(rms_silu, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(rms_silu, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("rms_silu")
