"""Audio face attention on the CPU: against the model, masks, refusals, compilation, export, Triton interpreted."""

from __future__ import annotations

import pytest
import torch

from humo_rt.config import NANO
from humo_rt.kernels.audio_face_attention import audio_face_attention
from humo_rt.kernels.audio_face_attention.cases import CASES, Sizes, make_inputs
from humo_rt.kernels.testing import deviation
from humo_rt.model.attention import AudioAttention
from tests.kernels import op_checks

CPU = torch.device("cpu")
SOFT = Sizes(batch=2, frames=3, tokens=6, heads=2, head_dim=8, keys=4, speakers=2, mask="soft")


@pytest.fixture
def inputs():
    return make_inputs(SOFT, torch.bfloat16, CPU)


class TestArithmetic:
    def test_agrees_with_the_model_to_the_bit(self):
        """Every frame, the reference frames at the end included, and the bias weighed with the rest."""
        torch.manual_seed(0)
        dim, frames = 32, 3
        attention = AudioAttention(dim, 2, 1e-6, NANO.dit.audio_token_dim).eval()
        torch.nn.init.normal_(attention.norm_q.weight, mean=1.0, std=0.2)
        x, tokens = torch.randn(2, frames * 5, dim), torch.randn(2, frames, 4, NANO.dit.audio_token_dim)
        with torch.no_grad():
            kv = attention.project(tokens)
            heard = audio_face_attention(attention.q(x), attention.norm_q.weight, kv.k[None], kv.v[None])
            assert torch.equal(attention.o(heard), attention(x, kv))
            face = torch.rand(1, 2, frames * 5)
            weighed = audio_face_attention(attention.q(x), attention.norm_q.weight, kv.k[None], kv.v[None], face)
            projected = weighed @ attention.o.weight.T + attention.o.bias * face.sum(0)[..., None]
            torch.testing.assert_close(projected, face[0, :, :, None] * attention(x, kv))

    def test_speakers_add(self, inputs):
        q, weight, k, v, face, eps = (x.float() if isinstance(x, torch.Tensor) else x for x in inputs)
        alone = [audio_face_attention(q, weight, k[p : p + 1], v[p : p + 1], face[p : p + 1], eps) for p in range(2)]
        torch.testing.assert_close(audio_face_attention(q, weight, k, v, face, eps), alone[0] + alone[1])

    def test_nothing_outside_of_the_faces(self, inputs):
        q, weight, k, v, face, eps = inputs
        assert not audio_face_attention(q, weight, k, v, torch.zeros_like(face), eps).any()
        ones = audio_face_attention(q, weight, k, v, torch.ones_like(face), eps)
        assert torch.equal(ones, audio_face_attention(q, weight, k, v, None, eps))

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("audio_face_attention", audio_face_attention, case, CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("position", "change", "message"),
        [
            (0, lambda q: q.double(), "float64.*use float32"),
            (0, lambda q: q[0], "2 axes"),
            (0, lambda q: q[:, :0], "empty"),
            (0, lambda q: q[:, :-1], "multiple of the frames"),
            (0, lambda q: q[:1], "the same batch"),
            (1, lambda weight: weight[1:], "one number for each channel"),
            (2, lambda k: k.repeat(1, 1, 1, 1, 20, 1), "80 keys in a frame are above 64"),
            (3, lambda v: v[:, :, :, :, 1:], "one value for each key"),
            (3, lambda v: v.to("meta"), "use one device"),
            (4, lambda face: face[:1], "one mask for each speaker"),
            (4, lambda face: face[..., 1:], "face weights .* do not fit"),
            (4, lambda face: face.bool(), "face weights .* torch.bool"),
            (4, lambda face: face.to("meta"), "use one device"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, position, change, message):
        arguments = list(inputs)
        arguments[position] = change(arguments[position])
        with pytest.raises(ValueError, match=message):
            audio_face_attention(*arguments)

    def test_heads_that_no_kernel_takes(self):
        with pytest.raises(ValueError, match="1 heads of 300 channels are above 256"):
            audio_face_attention(*make_inputs(Sizes(frames=1, tokens=2, heads=1, head_dim=300), torch.float32, CPU))


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.audio_face_attention.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(audio_face_attention, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(audio_face_attention, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("audio_face_attention")
