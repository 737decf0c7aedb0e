"""Every recorded step inside the DiT: when the whole disagrees, this says where it begins to."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest
import torch

from humo_rt.model.attention import apply_rope
from humo_rt.model.dit import HumoDiT
from humo_rt.model.embeddings import rope_table, timestep_sinusoid
from tests.golden_data import case, load_group
from tests.model.golden_dit import golden_dit
from tests.model.test_dit import GROUPS, run

CASE = "a"


def outputs_of(model: HumoDiT, entry: dict) -> dict[str, torch.Tensor]:
    """The outputs of the modules that the release's intermediates are, by their names."""
    block = model.blocks[0]
    modules = {
        "patch": model.patch_embedding,
        "time_e": model.time_embedding,
        "time_e0": model.time_projection,
        "text_tokens": model.text_embedding,
        "audio_tokens": model.audio_proj,
        "block0.norm1": block.norm1,
        "block0.self_attn": block.self_attn,
        "block0.cross_attn": block.cross_attn,
        "block0.audio_attn": block.audio_cross_attn_wrapper,
        "block0.ffn": block.ffn,
        "block0.q_before_rope": block.self_attn.norm_q,
        "block0.out": block,
        "block1.out": model.blocks[1],
        "head": model.head,
    }
    seen: dict[str, torch.Tensor] = {}

    def note(name: str, module, arguments, output) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else output

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        run(model, entry)
    return seen


@pytest.mark.parametrize("group", GROUPS)
def test_every_step_agrees_with_the_release(group: str) -> None:
    entry, model = case(group, CASE), golden_dit(group)
    prefix = f"{CASE}.dbg."
    expected = {name.removeprefix(prefix): value for name, value in load_group(group)[1].items() if prefix in name}
    seen = outputs_of(model, entry)
    grid = (entry["T"], entry["h"] // 2, entry["w"] // 2)
    cos, sin = rope_table(*grid, model.config.head_dim, torch.device("cpu"))
    text, queries = seen.pop("text_tokens"), seen["block0.q_before_rope"].unflatten(-1, (model.config.num_heads, -1))
    seen |= {
        "patch": seen["patch"].flatten(2).transpose(1, 2),
        "time_sinusoid": timestep_sinusoid(torch.tensor(entry["t"]), model.config.freq_dim),
        "text_tokens_first16": text[:, :16],
        "text_token_last": text[:, -1:],
        "block0.q_before_rope": queries,
        "block0.q_after_rope": apply_rope(queries.transpose(1, 2), (cos, sin)).transpose(1, 2),
    }
    recorded = set(expected) - {"rope_table_real_first12", "rope_table_imag_first12"}
    assert set(seen) == recorded
    for name in sorted(recorded):
        torch.testing.assert_close(
            seen[name], expected[name], atol=2e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_the_rotary_table_is_the_releases() -> None:
    """Its first 12 positions: of every axis alone, so read them from a long one."""
    _, tensors = load_group(GROUPS[0])
    real, imaginary = (tensors[f"{CASE}.dbg.rope_table_{part}_first12"] for part in ("real", "imag"))
    for axis, pairs in enumerate((slice(0, 22), slice(22, 43), slice(43, 64))):
        sizes = [1, 1, 1]
        sizes[axis] = 12
        cos, sin = rope_table(*sizes, 128, torch.device("cpu"))
        torch.testing.assert_close(cos[:, pairs], real[:, pairs], atol=1e-6, rtol=0)
        torch.testing.assert_close(sin[:, pairs], imaginary[:, pairs], atol=1e-6, rtol=0)
