"""Recipes, their command line, and what every stage trains at every size."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from training.config import override
from training.recipes import RECIPES, recipe
from training.task import Task
from training.tasks.dit import DiTTask
from training.train import _parser as parser
from training.train import configured, main, make_task

SIZES = {"nano": None, "humo-1.7b": 1_741_569_088, "humo-17b": 17_055_925_312}
STAGES = {size: [f"{size}-base", f"{size}-stage1", f"{size}-stage2"] for size in SIZES}
NANO_ALONE = ["nano-base-short", "nano-stage2-no-focus", "nano-single-stage"]
DIT_RECIPES = [name for names in STAGES.values() for name in names] + NANO_ALONE

# One parameter of every part of the network.
PARTS = {
    "self-attention": "blocks.3.self_attn.q.weight",
    "audio attention": "blocks.3.audio_cross_attn_wrapper.audio_cross_attn.k.weight",
    "audio projection": "audio_proj.audio_proj_glob_1.layer.weight",
    "mask predictor": "mask_predictor.layers.0.weight",
    "text attention": "blocks.3.cross_attn.q.weight",
    "text norm": "blocks.3.norm3.weight",
    "feed-forward": "blocks.3.ffn.0.weight",
    "modulation": "blocks.3.modulation",
    "patches": "patch_embedding.weight",
    "head": "head.head.weight",
}
TRAINED = {
    "base": set(PARTS) - {"audio attention", "audio projection", "mask predictor"},
    "stage1": {"self-attention"},
    "stage2": {"self-attention", "audio attention", "audio projection", "mask predictor"},
    "nano-base-short": set(PARTS) - {"audio attention", "audio projection", "mask predictor"},
    "nano-stage2-no-focus": {"self-attention", "audio attention", "audio projection"},
    "nano-single-stage": {"self-attention", "audio attention", "audio projection", "mask predictor"},
}


def test_every_recipe_names_a_task():
    for name in RECIPES:
        chosen = recipe(name)
        assert isinstance(make_task(chosen), Task)
        assert chosen.artifact.endswith(".safetensors")


@pytest.mark.parametrize("name", DIT_RECIPES)
def test_every_stage_builds_and_trains_what_it_should(name):
    chosen = recipe(name)
    task = make_task(chosen)
    assert isinstance(task, DiTTask)
    assert chosen.name == name
    model = task.build(torch.device("meta"))
    names = {parameter for parameter, _ in model.named_parameters()}
    trained = {part for part, parameter in PARTS.items() if parameter in names and task.trainable(parameter)}
    assert trained == TRAINED.get(name) or trained == TRAINED[name.rpartition("-")[2]]
    published = SIZES[chosen.task.model.name]
    if published:
        count = sum(p.numel() for parameter, p in model.named_parameters() if "mask_predictor" not in parameter)
        assert count == published


@pytest.mark.parametrize("name", STAGES["humo-1.7b"] + STAGES["humo-17b"])
def test_full_size_is_sharded_recomputed_and_careful(name):
    trainer = recipe(name).trainer
    assert trainer.parallel.strategy == "fsdp"
    assert trainer.checkpoint_activations
    assert trainer.optimiser.lr == 1e-5
    assert trainer.steps == 40_000
    assert trainer.ema.decay >= 0.999


def test_the_curriculum_belongs_to_stage_2():
    curriculum = recipe("nano-stage2").task.curriculum
    assert (curriculum.start, curriculum.end) == (0.2, 0.5)
    single = recipe("nano-single-stage")
    assert single.task.curriculum.share(0.0) == 0.5
    together = recipe("nano-stage1").trainer.steps + recipe("nano-stage2").trainer.steps
    assert single.trainer.steps == together


def test_settings_change_by_dotted_name():
    options = ["nano-base", "--steps", "7", "--max-seconds", "9", "--set", "task.source.clips=11"]
    chosen = configured(parser().parse_args([*options, "--set", "trainer.optimiser.betas=(0.9, 0.99)"]))
    assert chosen.trainer.steps == 7
    assert chosen.trainer.max_seconds == 9.0
    assert chosen.task.source.clips == 11
    assert chosen.trainer.optimiser.betas == (0.9, 0.99)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer.stpes", "1", "choose one of .*steps"),
        ("trainer.steps", "many", "give a value of the type int"),
        ("trainer", "1", "is a group"),
        ("trainer.steps.x", "1", "setting trainer.steps has no parts"),
        ("trainer.compile", "yes", "choose one of no, model, blocks"),
        ("task.num_frames", "96", "use 4n \\+ 1"),
        ("trainer.steps", "0", "at least 1"),
        ("trainer.steps", "none", "give a value of the type int"),
        ("trainer.sample_every", "0", "sample_every is 0: use at least 1"),
        ("trainer.max_seconds", "10m", "give a value of the type float or none"),
        ("trainer.max_seconds", "1e999", "max_seconds is inf: use a positive number"),
        ("trainer.optimiser.clip_norm", "0", "optimiser.clip_norm is 0.0: use a positive number, or none"),
        ("trainer.optimiser.warmup_steps", "-1", "optimiser.warmup_steps is -1: use at least 0"),
        ("trainer.optimiser.lr", "-1", "lr is -1.0: use a positive number"),
        (
            "trainer.optimiser.betas",
            "(0.9,)",
            r"trainer.optimiser.betas='\(0.9,\)' does not fit: give a value of the type tuple\[float, float\]",
        ),
        ("trainer.ema.warmup", "0", "ema.warmup is 0: use at least 1"),
        ("trainer.ema.decay", "2", "ema.decay is 2.0: use a number between 0 and 1"),
        ("task.train_frames", "abc", "give a value of the type int or none"),
        ("task.num_frames", "-3", "num_frames is -3: use at least 1"),
        ("task.slots", "0", "slots is 0: use at least 1"),
        ("task.batch_size", "0", "batch_size is 0: use at least 1"),
        ("task.encode.clips_per_batch", "0", "clips_per_batch is 0: use at least 1"),
        ("task.timestep_shift", "0", "timestep_shift is 0.0: use a positive number"),
        ("task.anonymous", "7", "anonymous is 7.0: a share lies between 0 and 1"),
    ],
)
def test_wrong_settings_name_the_rule(key, value, message):
    with pytest.raises(ValueError, match=message):
        override(recipe("nano-base"), {key: value})


def settings_of(config, group: str = ""):
    """Dotted names and values of everything that can be set."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{group}{field.name}.")
        else:
            yield f"{group}{field.name}", value


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_takes_the_value_it_has(name):
    chosen = recipe(name)
    texts = {key: str(value) for key, value in settings_of(chosen)}
    assert override(chosen, texts) == chosen


def test_settings_are_judged_together():
    options = ["nano-base", "--set", "trainer.parallel.strategy=fsdp", "--set", "trainer.optimiser.name=adamw"]
    chosen = configured(parser().parse_args([*options, "--set", "task.pool_cache=none"]))
    assert (chosen.trainer.parallel.strategy, chosen.trainer.optimiser.name) == ("fsdp", "adamw")
    assert chosen.task.pool_cache is None
    with pytest.raises(ValueError, match="muon works on whole matrices"):
        configured(parser().parse_args(options[:3]))


def test_command_line_reports_in_one_line(capsys, tmp_path):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    assert main(["nano-bass", "--device", "cpu"]) == 2
    assert "unknown recipe 'nano-bass'" in capsys.readouterr().err
    missing = f"task.weights={tmp_path}"
    assert main(["nano-base", "--device", "cpu", "--out", str(tmp_path / "run"), "--set", missing]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "vae" in error
