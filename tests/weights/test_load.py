import gc
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from humo_rt.config import PRESETS
from humo_rt.model.dit import HumoDiT
from humo_rt.weights.load import load_into
from humo_rt.weights.names import dit_name
from humo_rt.weights.readers import read_checkpoint
from humo_rt.weights.save import save_published


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.second = nn.Linear(3, 2)
        self.mask_predictor = nn.Linear(3, 1)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def on_meta(build=Small):
    with torch.device("meta"):
        return build()


def small_weights():
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in Small().state_dict().items()}


def load(module, tensors, **options):
    return load_into(module, tensors, **{"dtype": torch.float32, "device": "cpu", **options})


def test_values_arrive_bit_identical_and_are_not_copied():
    module, weights = on_meta(), small_weights()
    report = load(module, weights)
    assert report.loaded == len(weights)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, weights[name])
        assert tensor.data_ptr() == weights[name].data_ptr()


def test_one_error_lists_missing_unexpected_and_misshapen_names():
    weights = small_weights()
    del weights["second.weight"]
    weights["stranger"] = torch.zeros(1)
    weights["first.bias"] = torch.zeros(7)
    with pytest.raises(ValueError) as error:
        load(on_meta(), weights, source="model.safetensors")
    message = str(error.value)
    assert "\n" not in message
    for part in ("model.safetensors", "second.weight", "stranger", "first.bias [7] instead of [3]"):
        assert part in message


def test_only_the_first_eight_names_are_listed_with_the_count():
    weights = small_weights() | {f"extra.{number}": torch.zeros(1) for number in range(20)}
    with pytest.raises(ValueError, match=r"20 tensors unexpected \(extra\.0, .*extra\.7, and 12 more\)"):
        load(on_meta(), weights)


def test_a_file_without_mask_predictor_loads_and_the_head_is_dropped(caplog):
    weights = {name: tensor for name, tensor in small_weights().items() if not name.startswith("mask_predictor")}
    module = on_meta()
    with caplog.at_level(logging.INFO):
        report = load(module, weights, source="ema.pth")
    assert report.missing_optional == ("mask_predictor.weight", "mask_predictor.bias")
    assert module.mask_predictor is None
    assert "mask_predictor" in caplog.text


def test_half_a_mask_predictor_is_an_error():
    weights = small_weights()
    del weights["mask_predictor.bias"]
    with pytest.raises(ValueError, match=r"1 tensors missing \(mask_predictor.bias\)"):
        load(on_meta(), weights)


def test_dtype_converts_floats_only_and_spares_what_must_stay_float32():
    module = on_meta()
    load(module, small_weights(), dtype=torch.bfloat16, keep_float32=lambda name: name.startswith("second"))
    assert module.first.weight.dtype == torch.bfloat16
    assert module.second.weight.dtype == torch.float32
    assert module.count.dtype == torch.int64


def test_dtype_none_keeps_the_stored_one():
    module = on_meta()
    weights = small_weights()
    weights["first.weight"] = weights["first.weight"].half()
    load(module, weights, dtype=None)
    assert module.first.weight.dtype == torch.float16


def test_plain_fp8_is_cast_up():
    weights = small_weights()
    weights["first.weight"] = weights["first.weight"].to(torch.float8_e4m3fn)
    module = on_meta()
    load(module, weights)
    assert torch.equal(module.first.weight, weights["first.weight"].float())


def test_scaled_fp8_is_multiplied_out_and_its_markers_are_no_strangers():
    weights = small_weights()
    exact = weights["first.weight"]
    scale = exact.abs().max() / 448
    weights["first.weight"] = (exact / scale).to(torch.float8_e4m3fn)
    weights["first.scale_weight"] = scale
    weights["first.scale_input"] = torch.ones(())
    weights["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in weights.items()}
    module = on_meta()
    report = load(module, prefixed, rename=dit_name)
    assert torch.equal(module.first.weight, weights["first.weight"].float() * scale)
    assert torch.allclose(module.first.weight, exact, rtol=0.07, atol=1e-3)
    assert report.unused == ("model.diffusion_model.scaled_fp8",)


def test_a_lora_is_refused_by_name():
    weights = {"diffusion_model.blocks.0.ffn.0.lora_down.weight": torch.zeros(4, 8)}
    with pytest.raises(ValueError, match=r"is a LoRA .* not supported yet"):
        load(on_meta(), weights)


def test_tied_tensors_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Embedding(5, 3)
            self.outer = nn.Embedding(5, 3)
            self.outer.weight = self.inner.weight

    module = on_meta(Tied)
    load(module, {"outer.weight": torch.ones(5, 3)})
    assert module.inner.weight is module.outer.weight
    assert torch.equal(module.inner.weight, torch.ones(5, 3))


def test_names_that_collide_after_renaming_are_an_error():
    weights = small_weights()
    weights["model.diffusion_model.first.bias"] = weights["first.bias"]
    with pytest.raises(ValueError, match=r"two stored tensors are both 'first\.bias'"):
        load(on_meta(), weights, rename=dit_name)


@pytest.mark.parametrize("layout", ["HuMo-17B", "HuMo-1.7B", "file"])
def test_a_dit_written_with_published_names_loads_back_bit_identical(tmp_path, layout):
    config = PRESETS["nano"].dit
    torch.manual_seed(3)
    weights = HumoDiT(config).state_dict()
    path = tmp_path / "dit.safetensors" if layout == "file" else tmp_path
    file = save_published(weights, path, layout, shard_bytes=8_000_000)
    assert layout != "HuMo-17B" or len(list(file.parent.glob("*.safetensors"))) > 1
    assert not list(tmp_path.rglob("*.part"))

    module = on_meta(lambda: HumoDiT(config))
    load_into(module, read_checkpoint(file), dtype=torch.float32, device="cpu", rename=dit_name)
    loaded = module.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def anonymous_memory():
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's memory accounting")
@pytest.mark.parametrize("layout", ["HuMo-1.7B", "file"])
@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.0), (torch.bfloat16, 0.5)])
def test_loading_makes_no_second_copy(tmp_path, layout, dtype, share):
    size = 32 * 1024**2
    weights = {"weight": torch.zeros(2048, size // 4 // 2048)}
    file = save_published(weights, tmp_path / "w.safetensors" if layout == "file" else tmp_path, layout)
    del weights
    module = on_meta(lambda: nn.Linear(size // 4 // 2048, 2048, bias=False))
    gc.collect()
    before = anonymous_memory()
    load(module, read_checkpoint(file), dtype=dtype)
    assert module.weight.sum() == 0
    assert anonymous_memory() - before < (share + 0.25) * size
