"""Settings of the DiT task: which model, which stage, which data, which losses.

Knows names, defaults and what may not be combined.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from humo_rt.config import TEMPORAL_STRIDE, ModelConfig
from humo_rt.weights.save import PublishedLayout
from training.config import require_at_least
from training.curriculum import Curriculum
from training.tasks.choice import ConditionDrop
from training.tasks.encode_pool import EncodeConfig
from training.tasks.sources import ClipSize, ProceduralSource, SourceConfig

Stage = Literal["base", "subject", "sync"]


@dataclass(frozen=True, kw_only=True)
class DiTTaskConfig:
    """One stage of training.

    Args:
        model: the preset that is trained.
        stage: ``base`` trains everything but the audio modules, without references; ``subject`` trains self-attention
            with references and no audio; ``sync`` trains self-attention, audio modules and mask predictor.
        weights: folder with the frozen networks (published layout, or vae / text_encoder / audio_encoder.safetensors
            and tokenizer.json).
        source: the clips. ``num_frames`` of them are encoded, the first ``train_frames`` (4n + 1) are trained on.
        slots: reference slots at the end of the latents; they stay, empty, without a reference.
        focus: train the mask predictor (focus by predicting), its loss weighted by ``mask_weight``.
        anonymous: share of captions that say nothing of the person, so that the reference must.
        timestep_shift: moves noise levels towards noise, as the sampler's flow shift does; 1 leaves them.
        mouth_emphasis: extra weight of latent cells that touch the mouth (ours, not the paper's; 0 is off).
        pool: ``device`` keeps all encoded clips on the device; ``host`` maps them from files, ``clips_per_file`` each.
        pool_cache: file (``host``: folder) that keeps the encoded clips for the next run. ``device`` needs none.
        previews: held-out clips sampled for the log.
    """

    model: ModelConfig
    stage: Stage
    weights: str
    source: SourceConfig = field(default_factory=ProceduralSource)
    batch_size: int = 64
    num_frames: int = 97
    train_frames: int | None = None
    slots: int = 1
    curriculum: Curriculum = field(default_factory=Curriculum)
    drop: ConditionDrop = field(default_factory=ConditionDrop)
    anonymous: float = 0.35
    focus: bool = True
    mask_weight: float = 0.1
    timestep_shift: float = 1.0
    mouth_emphasis: float = 0.0
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    encoder_precision: Literal["float32", "bfloat16"] = "float32"
    pool: Literal["device", "host"] = "device"
    pool_cache: str | None = None
    clips_per_file: int = 256
    previews: int = 4
    preview_steps: int = 10
    export_layout: PublishedLayout = "file"
    export_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    init_seed: int = 0

    def __post_init__(self) -> None:
        names = ("num_frames", "train_frames", "slots", "batch_size", "clips_per_file", "preview_steps")
        require_at_least(1, **{name: getattr(self, name) for name in names})
        require_at_least(0, previews=self.previews, mask_weight=self.mask_weight, mouth_emphasis=self.mouth_emphasis)
        if not self.timestep_shift > 0:
            raise ValueError(f"timestep_shift is {self.timestep_shift}: use a positive number")
        if not 0 <= self.anonymous <= 1:
            raise ValueError(f"anonymous is {self.anonymous}: a share lies between 0 and 1")
        for name in ("num_frames", "train_frames"):
            frames = getattr(self, name)
            if frames is not None and frames % TEMPORAL_STRIDE != 1:
                raise ValueError(f"{name} is {frames}: use 4n + 1")
        if self.train_frames is not None and self.train_frames > self.num_frames:
            raise ValueError(f"train_frames {self.train_frames} exceeds num_frames {self.num_frames}: encode more")
        if self.pool == "host" and not self.pool_cache:
            raise ValueError("pool='host' keeps encoded clips in files: name their folder in pool_cache")

    @property
    def latent_frames(self) -> int:
        """Latent frames trained on."""
        return ((self.train_frames or self.num_frames) - 1) // TEMPORAL_STRIDE + 1

    @property
    def size(self) -> ClipSize:
        return ClipSize(height=self.model.height, width=self.model.width, num_frames=self.num_frames)
