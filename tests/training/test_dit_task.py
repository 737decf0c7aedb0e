"""The DiT task: pools, choices, what enters the network in every stage, starting from other weights, whole runs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from humo_rt.conditions.audio import window_audio
from tests.training.tiny import CHANNELS, FRAMES, NoiseSource, tiny_model, tiny_task, write_frozen
from tests.training.toy import toy_settings
from training.clips import contents
from training.data.humoset import HuMoSetSource
from training.parallel import join
from training.task import Moment
from training.tasks.choice import ConditionDrop, choose, clips_of
from training.tasks.dit import DiTTask
from training.tasks.encode_pool import EncodeConfig, touched_cells
from training.trainer import Trainer

CPU = torch.device("cpu")
NO_DROP = ConditionDrop(caption=0, image=0, audio=0, image_and_audio=0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_frozen(folder, tiny_model())
    return folder


def prepared(weights: Path, **changes) -> DiTTask:
    task = DiTTask(tiny_task(weights, **{"pool_cache": str(weights / "pool.safetensors"), **changes}))
    task.prepare(CPU, 0, 1)
    return task


def moment(index: int = 0, progress: float = 1.0) -> Moment:
    return Moment(seed=1, step=index, index=index, progress=progress)


class Recorder(torch.nn.Module):
    """Stands for the network: keeps its inputs, answers with zeros."""

    def forward(self, x, timestep, **inputs):
        self.x, self.timestep, self.inputs = x, timestep, inputs
        velocity = torch.zeros_like(x, requires_grad=True)
        return (velocity, torch.zeros_like(x[:, 0])) if inputs["return_face_mask"] else velocity


def seen(task: DiTTask, at: Moment):
    """What the network is given for one batch, and the batch."""
    recorder, batch = Recorder(), task.batch(at)
    task.loss(recorder, batch, at)
    return recorder, batch


def test_choices_are_pure_and_follow_their_probabilities():
    drop = ConditionDrop(caption=0.1, image=0.1, audio=0.2, image_and_audio=0.05, everything=0.1)
    chosen = choose(moment(), 20_000, 50, drop=drop, anonymous=0.3)
    again = choose(moment(), 20_000, 50, drop=drop, anonymous=0.3)
    assert all(torch.equal(getattr(chosen, name), getattr(again, name)) for name in vars(chosen))
    shares = {name: getattr(chosen, name).float().mean().item() for name in ("text_B", "image_B", "audio_B")}
    assert shares == pytest.approx({"text_B": 0.8, "image_B": 0.9 * 0.85, "audio_B": 0.9 * 0.75}, abs=0.015)
    neither = (~chosen.image_B & ~chosen.audio_B & chosen.text_B).float().mean().item()
    assert neither == pytest.approx(0.05 * 0.8, abs=0.015)
    assert chosen.anonymous_B.float().mean().item() == pytest.approx(0.3, abs=0.015)


def test_every_clip_is_seen_once_before_any_is_seen_twice():
    passes = torch.cat([clips_of(moment(index), 4, 10) for index in range(5)])
    assert sorted(passes[:10].tolist()) == sorted(passes[10:].tolist()) == list(range(10))
    assert passes[:10].tolist() != passes[10:].tolist()


def test_only_sync_samples_carry_audio(weights):
    task = prepared(weights, batch_size=6, drop=NO_DROP)
    batch = task.batch(moment())
    sync = task.config.curriculum.is_sync(moment(), 6)
    carries = batch.audio_BTWNA.abs().amax(dim=(1, 2, 3, 4)) > 0
    assert torch.equal(carries, sync)
    assert 0 < carries.sum() < 6


def test_sync_samples_come_from_clips_with_sound():
    heard, sync = torch.tensor([2, 5]), torch.rand(400) < 0.5
    plain = choose(moment(), 400, 8, drop=NO_DROP, anonymous=0, sync_B=sync)
    chosen = choose(moment(), 400, 8, drop=NO_DROP, anonymous=0, sync_B=sync, heard=heard)
    assert set(chosen.clip_B[sync].tolist()) == {2, 5}
    assert torch.equal(chosen.clip_B[~sync], plain.clip_B[~sync])


def test_audio_windows_are_those_of_inference(weights):
    task = prepared(weights, drop=NO_DROP)
    everything = choose(moment(), 6, 6, drop=NO_DROP, anonymous=0)
    batch = task.pool.gather(everything, frames=3, slots=1, with_audio=True)
    for row, clip in enumerate(everything.clip_B.tolist()):
        expected = window_audio(task.pool.audio_NFBA[clip], 3) * (clip > 0)
        assert torch.equal(batch.audio_BTWNA[row, :3], expected)
    assert batch.audio_BTWNA[:, 3].abs().max() == 0


def test_references_enter_at_the_end_and_zeros_where_dropped(weights):
    task = prepared(weights, stage="subject", batch_size=6, drop=replace(NO_DROP, image=0.5))
    recorder, batch = seen(task, moment())
    assert recorder.x.shape == (6, 16, 4, 4, 4)
    assert recorder.inputs["audio"] is None
    assert torch.equal(recorder.x[:, :, 3:], batch.references_BCSHW)
    filled = batch.references_BCSHW.abs().amax(dim=(1, 2, 3, 4)) > 0
    assert torch.equal(filled, batch.image_B)
    assert 0 < filled.sum() < 6
    assert recorder.timestep.min() > 0
    assert recorder.timestep.max() < 1000


def test_the_base_stage_sees_an_empty_slot(weights):
    recorder, _ = seen(prepared(weights, stage="base"), moment())
    assert recorder.x.shape[2] == 4
    assert recorder.x[:, :, 3].abs().max() == 0


def test_shorter_clips_are_cut_from_the_start(weights):
    task = prepared(weights, stage="base", train_frames=5)
    batch = task.batch(moment())
    clip = clips_of(moment(), 2, 6)
    assert torch.equal(batch.latents_BCTHW, task.pool.latents_NCTHW[clip, :, :2].float())


def test_channel_models_see_references_in_the_condition(weights):
    task = prepared(weights, dit=CHANNELS, stage="subject", batch_size=6, drop=replace(NO_DROP, image=0.5))
    recorder, batch = seen(task, moment())
    condition = recorder.inputs["condition"]
    assert condition.shape == (6, 20, 4, 4, 4)
    assert condition[:, :4, :3].abs().max() == 0
    assert (condition[:, :4, 3] == 1).all()
    expected = torch.where(batch.image_B.view(-1, 1, 1, 1), batch.references_BCSHW[:, :, 0], task._grey[:, 3])
    torch.testing.assert_close(condition[:, 4:, 3], expected)


def test_dropped_text_is_the_empty_prompt(weights):
    task = prepared(weights, stage="base", drop=replace(NO_DROP, caption=1.0))
    batch = task.batch(moment())
    assert torch.equal(batch.text_BLE, task.pool.text_ULE[:1].float().expand_as(batch.text_BLE))
    named = prepared(weights, stage="base", drop=NO_DROP, anonymous=0.0).batch(moment())
    assert not torch.equal(named.text_BLE[0], named.text_BLE[1])


def test_masks_reach_the_loss_on_the_latent_grid(weights):
    batch = prepared(weights, batch_size=6).batch(moment())
    clips = clips_of(moment(), 6, 6)
    expected = torch.zeros(6, 3, 4, 4)
    expected[clips > 0, :, :2, :2] = 1
    assert torch.equal(batch.face_BTHW, expected)
    mouth = torch.zeros(1, 5, 32, 32, dtype=torch.bool)
    mouth[0, 3, 9, 17] = True
    assert touched_cells(mouth).nonzero().tolist() == [[0, 1, 1, 2]]


def test_the_pool_is_read_back_only_for_the_same_data(weights, tmp_path, caplog):
    cache = str(tmp_path / "pool.safetensors")
    first = prepared(weights, pool_cache=cache)
    again = prepared(weights, pool_cache=cache)
    for name in vars(first.pool):
        assert torch.equal(getattr(first.pool, name), getattr(again.pool, name))
    with caplog.at_level("INFO"):
        other = prepared(weights, pool_cache=cache, source=replace(first.config.source, clips=3))
    assert len(other.pool) == 3
    assert "encoding anew" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        prepared(weights, pool_cache=cache, source=replace(first.config.source, clips=3), encoder_precision="bfloat16")
    assert "encoding anew" in caplog.text
    Path(cache).write_bytes(b"no tensors")
    assert len(prepared(weights, pool_cache=cache).pool) == 6


def test_a_cache_of_the_other_kind_is_refused_before_the_work(weights, tmp_path):
    with pytest.raises(ValueError, match="is a folder, pool='device' needs the other"):
        prepared(weights, pool_cache=str(tmp_path))
    (tmp_path / "pool.safetensors").touch()
    with pytest.raises(ValueError, match="is a file, pool='host' needs the other"):
        prepared(weights, pool="host", pool_cache=str(tmp_path / "pool.safetensors"))


def test_what_does_not_change_clips_does_not_change_what_they_are_compared_by():
    plain, threaded = HuMoSetSource(folder="x"), HuMoSetSource(folder="x", workers=7, index="known.json")
    assert contents(plain) == contents(threaded) != contents(HuMoSetSource(folder="x", references=2))


def test_silent_clips_are_nothing_to_learn_sync_from(weights):
    with pytest.raises(ValueError, match="none of the clips has sound"):
        prepared(weights, pool_cache=None, source=NoiseSource(clips=1))


def test_workers_encode_the_same_pool(weights):
    alone = prepared(weights, pool_cache=None).pool
    # Three workers for six clips; the batches they encode are smaller, so convolutions may round otherwise.
    together = prepared(weights, pool_cache=None, encode=EncodeConfig(workers=3)).pool
    for name in vars(alone):
        torch.testing.assert_close(getattr(together, name), getattr(alone, name), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("stage", ["base", "subject", "sync"])
def test_all_blocks_share_one_compiled_graph(weights, stage):
    task = prepared(weights, stage=stage, batch_size=2)
    model = task.build(torch.device("cpu"))
    counter = CompileCounter()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(task.trainable(name))
    for block in model.blocks:
        block.compile(backend=counter)
    task.loss(model, task.batch(moment()), moment())
    assert counter.frame_count == 1


def test_a_pool_in_files_gives_the_same_batches(weights, tmp_path):
    on_device = prepared(weights, batch_size=5, source=replace(tiny_task(weights).source, clips=6))
    in_files = prepared(weights, batch_size=5, pool="host", pool_cache=str(tmp_path), clips_per_file=6)
    split = prepared(weights, batch_size=5, pool="host", pool_cache=str(tmp_path / "split"), clips_per_file=4)
    assert len(split.pool) == 6
    assert len(list((tmp_path / "split").glob("*.safetensors"))) == 2
    a, b, c = (task.batch(moment(2)) for task in (on_device, in_files, split))
    for name in vars(a):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert torch.equal(a.image_B, c.image_B)
    assert a.latents_BCTHW.shape == c.latents_BCTHW.shape


def test_processes_wait_for_each_others_files(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("training.tasks.host_pool.POLL", 0.01)
    settings = tiny_task(weights, pool="host", pool_cache=str(tmp_path), clips_per_file=2)
    first, second = DiTTask(settings), DiTTask(settings)
    (tmp_path / "clips-00000002.safetensors").write_bytes(b"from data that changed since")
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(first.prepare, CPU, 0, 2)
        while not (tmp_path / "clips-00000004.safetensors").exists() and not waiting.done():
            time.sleep(0.01)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        second.prepare(CPU, 1, 2)
        waiting.result(timeout=60)
    assert len(first.pool) == len(second.pool) == 6


def test_new_audio_modules_change_nothing_at_first(weights):
    model = DiTTask(tiny_task(weights)).build(CPU)
    torch.nn.init.normal_(model.head.head.weight)
    x, t, text = torch.randn(1, 16, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 12, 8)
    audio = torch.randn(1, 3, 8, 5, 16)
    torch.testing.assert_close(model(x, t, text_embeds=text, audio=audio), model(x, t, text_embeds=text))


def test_stages_start_from_earlier_and_published_weights(weights):
    task = DiTTask(tiny_task(weights, dit=CHANNELS))
    expected = {name: p.shape for name, p in task.build(CPU).state_dict().items()}
    backbone = DiTTask(tiny_task(weights, dit=FRAMES)).build(CPU).state_dict()
    plain = {
        f"model.diffusion_model.{name}": torch.full_like(value, 0.5).half()
        for name, value in backbone.items()
        if not name.startswith(("audio_proj", "mask_predictor")) and "audio_cross" not in name
    }
    adopted = task.adopt(plain, expected)
    assert {name: value.shape for name, value in adopted.items()} == expected
    widened = adopted["patch_embedding.weight"]
    assert (widened[:, :16] == 0.5).all()
    assert widened[:, 16:].abs().max() == 0
    assert adopted["blocks.0.audio_cross_attn_wrapper.audio_cross_attn.o.weight"].abs().max() == 0
    del plain["model.diffusion_model.head.head.weight"]
    with pytest.raises(ValueError, match=r"1 tensors missing.*1 unknown \(head.head.weight, other"):
        task.adopt({**plain, "other": torch.zeros(1)}, expected)


def test_a_stage_changes_only_what_it_trains(weights, tmp_path):
    from safetensors.torch import load_file

    task = DiTTask(tiny_task(weights, stage="sync", mouth_emphasis=2.0))
    settings = toy_settings(steps=3, accumulate=2, precision="bfloat16")
    trainer = Trainer(task, settings, tmp_path, join("cpu"), artifact="dit.safetensors")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    after = trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(task.trainable(name) for name in changed)
    assert any("mask_predictor" in name for name in changed)
    exported = load_file(tmp_path / "dit.safetensors")
    assert exported.keys() == before.keys()
    assert all(value.dtype == torch.float16 for value in exported.values())


def test_weights_of_something_else_are_refused_before_clips_are_encoded(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(DiTTask, "prepare", lambda *_: pytest.fail("prepared in vain"))
    task = DiTTask(tiny_task(weights))
    with pytest.raises(ValueError, match=r"these weights do not start nano: \d+ tensors missing"):
        Trainer(task, toy_settings(), tmp_path, join("cpu"), init=weights / "vae.safetensors")


def test_a_run_resumes_to_the_bit(weights, tmp_path):
    def run(folder, steps, resume=False):
        trainer = Trainer(made(), toy_settings(steps=steps, checkpoint_every=9), folder, join("cpu"), resume=resume)
        trainer.run()
        return trainer.run_state.tensors()

    def made():
        return DiTTask(tiny_task(weights, pool_cache=str(weights / "pool.safetensors")))

    # The curriculum follows the share of steps done, so both runs must aim at the same end.
    whole = run(tmp_path / "whole", 4)
    first = Trainer(made(), toy_settings(steps=4), tmp_path / "parts", join("cpu"))
    for _ in range(2):
        first.train_step()
    first.save()
    parts = run(tmp_path / "parts", 4, resume=True)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_samples_show_held_out_clips(weights):
    task = prepared(weights, previews=2, preview_steps=2)
    videos = task.samples(task.build(CPU), 0)
    assert sorted(videos) == ["TIA-0", "TIA-1"]
    assert videos["TIA-0"].shape == (9, 3, 32, 64)
    assert videos["TIA-0"].dtype == torch.uint8


@pytest.mark.parametrize("dit", [FRAMES, CHANNELS], ids=["frames", "channels"])
@pytest.mark.parametrize("stage", ["base", "subject", "sync"])
def test_samples_of_any_number_of_slots(weights, stage, dit):
    task = prepared(weights, dit=dit, stage=stage, slots=3, previews=1, preview_steps=1)
    (video,) = task.samples(task.build(CPU), 0).values()
    assert video.shape == (9, 3, 32, 64)
