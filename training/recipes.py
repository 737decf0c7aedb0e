"""What can be trained: one function per recipe, returning a frozen tree of settings.

Sizes are data: the recipes of nano, HuMo-1.7B and HuMo-17B differ in numbers, not in code. What the paper gives is
followed (stages, what each trains, 40,000 steps, the curriculum); what it does not disclose is this project's choice
and marked so in ``training/README.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from humo_rt.config import HUMO_1_7B, HUMO_17B, NANO, ModelConfig
from humo_rt.weights.resolve import NANO_ASSETS
from training.config import EMAConfig, OptimiserConfig, ParallelConfig, Recipe, TrainerConfig
from training.curriculum import Curriculum
from training.tasks.choice import ConditionDrop
from training.tasks.dit_config import DiTTaskConfig
from training.tasks.encode_pool import EncodeConfig
from training.tasks.sources import ProceduralSource

RECIPES: dict[str, Callable[[], Recipe]] = {}

DIT_TASK = "training.tasks.dit:DiTTask"
PUBLISHED_PARTS = "weights"
STAGE_STEPS = 40_000
NATURAL_SHARE = 0.2
# The mouth is one latent cell in fifty: unweighted, a small model spends its capacity on shirts.
MOUTH_EMPHASIS = 2.0
NANO_SOURCE = ProceduralSource(clips=10_000, utterances=5_000, natural_share=NATURAL_SHARE, speech_cache="runs/speech")
# Without a reference the caption alone must say who it is; beside one it hardly matters.
NANO_BASE_ANONYMOUS = 0.1


def recipe(name: str) -> Recipe:
    """The recipe called ``name``; ``ValueError`` lists the known ones."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def _register(name: str) -> Callable[[Callable[[], Recipe]], Callable[[], Recipe]]:
    def add(function: Callable[[], Recipe]) -> Callable[[], Recipe]:
        RECIPES[name] = function
        return function

    return add


def _nano(name: str, about: str, *, steps: int, starts_from: str | None = None, **task: Any) -> Recipe:
    common = {
        "model": NANO,
        "weights": str(NANO_ASSETS),
        "source": NANO_SOURCE,
        "drop": ConditionDrop(everything=0.03),
        "pool_cache": "runs/nano-pool.safetensors",
        "encode": EncodeConfig(workers=4),
        "timestep_shift": 2.0,
    }
    trainer = TrainerConfig(
        optimiser=OptimiserConfig(
            name="muon", lr=2e-3, betas=(0.95, 0.98), warmup_steps=200, schedule="cosine", final_lr=0.05
        ),
        steps=steps,
        compile="blocks",
        ema=EMAConfig(decay=0.999),
        sample_every=1000,
        checkpoint_every=2000,
    )
    return Recipe(
        name=name,
        about=about,
        task_class=DIT_TASK,
        task=DiTTaskConfig(**(common | task)),
        trainer=trainer,
        artifact="dit.safetensors",
        starts_from=starts_from,
    )


@_register("nano-base-short")
def nano_base_short() -> Recipe:
    """A third of a second shows all that a caption says, and a step holds four times as many short clips."""
    return _nano(
        "nano-base-short",
        "text to video on clips of 9 frames, from scratch",
        steps=5_000,
        stage="base",
        batch_size=256,
        num_frames=9,
        anonymous=NANO_BASE_ANONYMOUS,
        source=replace(NANO_SOURCE, clips=40_000, utterances=512),
        pool_cache="runs/nano-pool-short.safetensors",
        encode=EncodeConfig(clips_per_batch=256, workers=4),
    )


@_register("nano-base")
def nano_base() -> Recipe:
    about = "text to video at full length"
    return _nano(
        "nano-base", about, steps=1_500, starts_from="nano-base-short", stage="base", anonymous=NANO_BASE_ANONYMOUS
    )


@_register("nano-stage1")
def nano_stage1() -> Recipe:
    about = "subject preservation: references at the end, self-attention only"
    return _nano("nano-stage1", about, steps=3_000, starts_from="nano-base", stage="subject")


@_register("nano-stage2")
def nano_stage2() -> Recipe:
    about = "audio-visual sync: self-attention, audio modules, mask predictor; curriculum 20 % to 50 %"
    return _nano(
        "nano-stage2",
        about,
        steps=3_000,
        starts_from="nano-stage1",
        stage="sync",
        mouth_emphasis=MOUTH_EMPHASIS,
    )


@_register("nano-stage2-no-focus")
def nano_stage2_no_focus() -> Recipe:
    """Ablation: without focus-by-predicting."""
    full = nano_stage2()
    about = "ablation of nano-stage2: no mask predictor, no mask loss"
    return replace(full, name="nano-stage2-no-focus", about=about, task=replace(full.task, focus=False))


@_register("nano-single-stage")
def nano_single_stage() -> Recipe:
    """Ablation: as many steps as both stages together, all modules and an even mix of samples from the first step."""
    about = "ablation: both stages at once from the base model, half of the samples with audio throughout"
    steps = nano_stage1().trainer.steps + nano_stage2().trainer.steps
    even = Curriculum(start=0.5, end=0.5)
    return _nano(
        "nano-single-stage",
        about,
        steps=steps,
        starts_from="nano-base",
        stage="sync",
        curriculum=even,
        mouth_emphasis=MOUTH_EMPHASIS,
    )


def _small(
    name: str,
    about: str,
    task_class: str,
    task: Any,
    artifact: str,
    *,
    steps: int,
    lr: float,
    optimiser: dict | None = None,
) -> Recipe:
    trainer = TrainerConfig(
        optimiser=OptimiserConfig(lr=lr, warmup_steps=200, schedule="cosine", final_lr=0.02, **(optimiser or {})),
        steps=steps,
        checkpoint_every=2000,
    )
    return Recipe(name=name, about=about, task_class=task_class, task=task, trainer=trainer, artifact=artifact)


@_register("nano-vae")
def nano_vae() -> Recipe:
    from training.tasks.vae import VAETaskConfig

    about = "the video autoencoder, weighing the mouth"
    task_class = "training.tasks.vae:VAETask"
    # Measured: with AdamW and without Wan2.2's shortcuts, 2.4 dB less after 150 small steps.
    return _small(
        "nano-vae",
        about,
        task_class,
        VAETaskConfig(),
        "vae.safetensors",
        steps=10_000,
        lr=2e-3,
        optimiser={"name": "muon", "betas": (0.95, 0.98)},
    )


@_register("nano-text-encoder")
def nano_text_encoder() -> Recipe:
    from training.tasks.text_encoder import TextEncoderTaskConfig

    about = "the text encoder and its tokenizer, on captions"
    task_class = "training.tasks.text_encoder:TextEncoderTask"
    task = TextEncoderTaskConfig()
    return _small("nano-text-encoder", about, task_class, task, "text_encoder.safetensors", steps=4_000, lr=1e-3)


@_register("nano-audio-encoder")
def nano_audio_encoder() -> Recipe:
    from training.tasks.audio_encoder import AudioEncoderTaskConfig

    about = "the audio encoder, distilled from Whisper base"
    task_class = "training.tasks.audio_encoder:AudioEncoderTask"
    task = AudioEncoderTaskConfig(natural_share=NATURAL_SHARE)
    return _small("nano-audio-encoder", about, task_class, task, "audio_encoder.safetensors", steps=4_000, lr=1e-3)


@_register("nano-judges")
def nano_judges() -> Recipe:
    from training.judges.config import JudgesConfig, PoolConfig

    about = "the networks that measure mouth, identity, attributes and sync, trained on true renders"
    task_class = "training.judges.tasks:JudgesTask"
    task = JudgesConfig(pool=PoolConfig(natural_share=NATURAL_SHARE))
    return _small("nano-judges", about, task_class, task, "judges.safetensors", steps=4_000, lr=1e-3)


def _full(model: ModelConfig, stage: str, about: str, *, lr: float, starts_from: str | None, **task: Any) -> Recipe:
    from training.data.humoset import HuMoSetSource

    large = model.name == HUMO_17B.name
    config = DiTTaskConfig(
        model=replace(model, height=480, width=832),
        stage={"base": "base", "stage1": "subject", "stage2": "sync"}[stage],
        weights=PUBLISHED_PARTS,
        source=HuMoSetSource(folder="data/HuMoSet", index="runs/humoset-index.json"),
        batch_size=1,
        pool="host",
        pool_cache=f"runs/{model.name}-clips",
        encode=EncodeConfig(clips_per_batch=1, precision="bfloat16"),
        encoder_precision="bfloat16",
        previews=0,
        export_layout="HuMo-17B" if large else "HuMo-1.7B",
        export_dtype="bfloat16" if large else "float32",
        **task,
    )
    trainer = TrainerConfig(
        optimiser=OptimiserConfig(lr=lr, betas=(0.9, 0.999), weight_decay=0.01, warmup_steps=500),
        steps=STAGE_STEPS,
        compile="blocks",
        checkpoint_activations=True,
        parallel=ParallelConfig(strategy="fsdp", gather_dtype="bfloat16" if large else "float32"),
        ema=EMAConfig(decay=0.9995),
    )
    return Recipe(
        name=f"{model.name}-{stage}",
        about=about,
        task_class=DIT_TASK,
        task=config,
        trainer=trainer,
        artifact="dit.safetensors",
        starts_from=starts_from,
    )


def _full_stages(model: ModelConfig, backbone: str) -> None:
    """Register the three stages of a published size."""
    name = model.name
    stages = {
        "base": ("text to video with an empty reference slot", backbone),
        "stage1": ("subject preservation: references at the end, self-attention only", f"{name}-base or {backbone}"),
        "stage2": ("audio-visual sync with focus-by-predicting and the curriculum", f"{name}-stage1"),
    }
    with_predictor = replace(model, dit=replace(model.dit, mask_predictor=True))
    for stage, (about, origin) in stages.items():
        chosen = with_predictor if stage == "stage2" else model

        def build(stage=stage, about=about, origin=origin, chosen=chosen) -> Recipe:
            return _full(chosen, stage, about, lr=1e-5, starts_from=origin)

        RECIPES[f"{name}-{stage}"] = build


_full_stages(HUMO_1_7B, "Wan2.1-T2V-1.3B")
_full_stages(HUMO_17B, "Wan2.1-T2V-14B")
