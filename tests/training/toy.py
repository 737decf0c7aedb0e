"""The smallest task there is: a two-block network that learns a fixed linear map, for tests of the loop."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.config import OptimiserConfig, TrainerConfig
from training.task import Moment


class ToyNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, width)
        self.frozen = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x)) + self.frozen(x)


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    width: int = 8
    batch_size: int = 4
    nan_at: int | None = None
    die_at: int | None = None


class ToyTask:
    def __init__(self, config: ToyConfig = ToyConfig(), seed: int = 0) -> None:
        self.config, self.seed = config, seed
        self.seen: list[int] = []

    def build(self, device: torch.device) -> nn.Module:
        torch.manual_seed(self.seed)
        return ToyNet(self.config.width).to(device)

    def trainable(self, name: str) -> bool:
        return not name.startswith("frozen.")

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        self.device = device
        self.target = torch.eye(self.config.width, device=device).flip(0)

    def batch(self, moment: Moment) -> Tensor:
        self.seen.append(moment.index)
        if moment.step == self.config.die_at:
            os._exit(9)
        batch = torch.randn(self.config.batch_size, self.config.width, generator=moment.generator("cpu", "data"))
        return batch.to(self.device)

    def loss(self, model: nn.Module, batch: Tensor, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        noise = torch.randn(batch.shape, generator=moment.generator("cpu", "noise")).to(batch.device)
        loss = (model(batch + 0.01 * noise) - batch @ self.target).square().mean()
        if moment.step == self.config.nan_at:
            loss = loss * float("nan")
        return loss, {"error": loss.detach().sqrt()}

    def export(self, state_dict: dict[str, Tensor], path: Path) -> None:
        from safetensors.torch import save_file

        save_file({name: value.half() for name, value in state_dict.items()}, path)

    def samples(self, model: nn.Module, step: int) -> dict[str, Tensor]:
        return {"grey": torch.full((3, 3, 8, 8), step, dtype=torch.uint8)}


def toy_settings(**changes) -> TrainerConfig:
    settings = {"steps": 8, "precision": "float32", "log_every": 2, "checkpoint_every": 4}
    return TrainerConfig(**{"optimiser": OptimiserConfig(lr=1e-2, warmup_steps=2), **settings, **changes})
