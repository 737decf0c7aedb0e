"""How FlashAttention-4 is called, and what inputs with tokens alike are spared, with a stand-in for the package."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.runtime import flash_attention_4, fused_block
from humo_rt.runtime.attention_backends import use_attention
from humo_rt.runtime.attention_kernels import FLASH_ATTENTION_4, self_attention, self_attention_of_alike
from humo_rt.runtime.fusing import fuse
from tests.runtime.test_fused_block import CONFIGS, FRAMES, make_dit, make_inputs

CARD = torch.device("cuda", 0)


def attend(q_BLHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, *, return_lse: bool = False, **options: object):
    scores_BHLS = torch.einsum("blhk,bshk->bhls", q_BLHK, k_BSHK) * q_BLHK.shape[-1] ** -0.5
    out_BLHK = torch.einsum("bhls,bshk->blhk", scores_BHLS.softmax(-1), v_BSHK)
    seen.append({"queries": q_BLHK.shape[0] * q_BLHK.shape[1], "keys": k_BSHK.shape[1], **options})
    return (out_BLHK, scores_BHLS.logsumexp(-1).float()) if return_lse else out_BLHK


def tiled(q, k, v, *, tile_mn=None, mma_pv_is_rs=None, intra_wg_overlap=None, return_lse=False):
    found = attend(q, k, v, return_lse=return_lse, tile_mn=tile_mn, rs=mma_pv_is_rs)
    return found if return_lse else (found, None)


seen: list[dict] = []


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """One without an inner function; ``offer`` adds that."""
    module = ModuleType(flash_attention_4.MODULE)
    module.flash_attn_func = attend
    interface = f"{module.__name__}.interface"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, interface, None)
    flash_attention_4._tiled_function.cache_clear()
    seen.clear()

    def offer(function) -> None:
        inner = ModuleType(interface)
        inner._flash_attn_fwd = function
        monkeypatch.setitem(sys.modules, interface, inner)
        flash_attention_4._tiled_function.cache_clear()

    yield offer
    flash_attention_4._tiled_function.cache_clear()


def make_qkv(inputs: int = 2, tokens: int = 11, head_dim: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (inputs, tokens, 3, head_dim)
    return [torch.randn(shape, generator=generator).transpose(1, 2) for _ in range(3)]


class TestTiles:
    @pytest.fixture
    def chosen(self, monkeypatch):
        """What is called for queries of a card with this compute capability."""

        def of(capability: int, head_dim: int = 128):
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
            queries = type("Queries", (), {"is_cuda": True, "shape": (1, 1, 1, head_dim), "device": CARD})
            return flash_attention_4._function(queries)

        return of

    def test_hopper_has_tiles_of_its_own(self, chosen, package):
        package(tiled)
        assert chosen(9).func is tiled
        assert chosen(9).keywords["tile_mn"] == (192, 128)

    def test_others_have_the_package_s(self, chosen, package):
        package(tiled)
        assert [chosen(10), chosen(8), chosen(9, head_dim=64)] == [attend] * 3

    def test_a_package_without_them(self, chosen, package):
        assert chosen(9) is attend
        package(lambda q, k, v, return_lse=False: None)
        assert chosen(9) is attend

    def test_the_inner_function_s_result(self, package, monkeypatch):
        package(tiled)
        monkeypatch.setattr(flash_attention_4, "_function", lambda q: flash_attention_4._tiled_function())
        qkv = make_qkv()
        result = self_attention(*qkv, backend=FLASH_ATTENTION_4)
        torch.testing.assert_close(result, F.scaled_dot_product_attention(*qkv))


class TestAlike:
    @pytest.mark.parametrize("inputs", [1, 2, 3])
    @pytest.mark.parametrize("alike", [1, 7, 10])
    def test_it_is_attention(self, inputs, alike):
        qkv = make_qkv(inputs)
        for x in qkv:
            x[:, :, :alike] = x[:1, :, :alike].clone()
        result = self_attention_of_alike(*qkv, alike)
        torch.testing.assert_close(result, F.scaled_dot_product_attention(*qkv))
        assert result.transpose(1, 2).is_contiguous()

    def test_what_is_alike_is_attended_to_once(self):
        self_attention_of_alike(*make_qkv(2), 9)
        pairs = [call["queries"] * call["keys"] for call in seen]
        assert pairs == [9 * 9, 2 * 9 * 2, 2 * 2 * 11]

    def test_opcheck(self):
        inputs = [x.transpose(1, 2) for x in make_qkv()]
        torch.library.opcheck(torch.ops.humo_rt.attention_with_lse.default, inputs)

    @pytest.mark.parametrize("compiled", [False, True])
    def test_the_first_block_makes_use_of_it(self, compiled, monkeypatch):
        monkeypatch.setattr(fused_block, "FEWEST_ALIKE", 1)
        config = CONFIGS["nano"]
        dit, inputs = fuse(make_dit(config)), make_inputs(config)
        latents = inputs["x_BCTHW"][:1].repeat(2, 1, 1, 1, 1)
        latents[1, :, -1] = 0
        arguments = {"timestep_B": torch.full((2,), 500), "text_embeds": inputs["text_embeds"][:2]}
        with torch.no_grad():
            expected = dit(latents, **arguments)
            use_attention(dit, FLASH_ATTENTION_4)
            if compiled:
                torch.compiler.reset()  # all tests share the blocks' code, and with it the limit on recompilations
                for block in dit.blocks:
                    block.compile(fullgraph=True, backend="aot_eager")
            seen.clear()
            result = dit(latents, **arguments, frames_alike=FRAMES - 1)
            torch.testing.assert_close(result, expected)
            assert len(seen) == 3 + config.num_layers - 1
            seen.clear()
            dit(latents[:1], torch.full((1,), 500), text_embeds=inputs["text_embeds"][:1], frames_alike=FRAMES - 1)
            assert len(seen) == config.num_layers

    def test_few_tokens_are_not_worth_it(self):
        config = CONFIGS["nano"]
        dit, inputs = fuse(make_dit(config)), make_inputs(config)
        use_attention(dit, FLASH_ATTENTION_4)
        with torch.no_grad():
            dit(timestep_B=torch.full((3,), 500), frames_alike=1, **inputs)
        assert len(seen) == config.num_layers

    def test_a_package_that_gives_no_logarithms_spares_nothing(self, monkeypatch):
        monkeypatch.setattr(sys.modules[flash_attention_4.MODULE], "flash_attn_func", lambda q, k, v: attend(q, k, v))
        dit = make_dit(CONFIGS["nano"])
        use_attention(dit, FLASH_ATTENTION_4)
        assert dit.blocks[0].self_attn.alike_function is None

    def test_other_backends_spare_nothing(self):
        dit = make_dit(CONFIGS["nano"])
        use_attention(dit, FLASH_ATTENTION_4)
        assert dit.blocks[0].self_attn.alike_function is not None
        use_attention(dit, "cudnn")
        assert dit.blocks[0].self_attn.alike_function is None
