"""Teach the small text encoder to read captions: masked words, and who has what.

Predicting masked tokens makes it a language model of captions. Naming every attribute from the mean of its states makes
each state say what its word belongs to, so that red hair is not a red wall. Both heads are dropped at export.

Shape suffixes: B captions, L tokens, D width.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.config import TextEncoderConfig, preset
from humo_rt.model.encoders import build_text_encoder
from training.task import Moment, derive_seed
from training.tasks.captions_pool import CaptionPool, class_counts
from training.tokenizer import MASK_ID, SPECIAL_TOKENS, tokenizer_corpus, train_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TextEncoderTaskConfig:
    """``tokenizer``: a ``tokenizer.json``, or None to train one; it is written beside the encoder either way."""

    encoder: TextEncoderConfig = field(default_factory=lambda: preset("nano").text_encoder)
    text_len: int = preset("nano").dit.text_len
    tokenizer: str | None = None
    captions: int = 40_000
    held_out_captions: int = 2_000
    corpus_seed: int = 5
    batch_size: int = 256
    mask_share: float = 0.2
    attribute_weight: float = 1.0
    validate_every: int = 250


class Reader(nn.Module):
    """The encoder that ships, and the two heads that only training needs."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.encoder = build_text_encoder(config)
        self.to_token = nn.Linear(config.d_model, config.vocab_size)
        self.to_attribute = nn.ModuleDict({n: nn.Linear(config.d_model, size) for n, size in class_counts().items()})

    def forward(self, ids_BL: Tensor) -> Tensor:
        """States (B, L, D); padding is neither attended to nor meaningful."""
        return self.encoder(input_ids=ids_BL, attention_mask=(ids_BL != 0).long()).last_hidden_state

    def attributes(self, ids_BL: Tensor, states_BLD: Tensor) -> list[Tensor]:
        """Logits of every attribute, (B, classes) each, from the mean state."""
        real = (ids_BL != 0).unsqueeze(-1)
        mean_BD = (states_BLD * real).sum(dim=1) / real.sum(dim=1)
        return [head(mean_BD).float() for head in self.to_attribute.values()]


class TextEncoderTask:
    """Trains UMT5's encoder in the preset's size; see ``training.task.Task``."""

    def __init__(self, config: TextEncoderTaskConfig) -> None:
        self.config = config

    def build(self, device: torch.device) -> nn.Module:
        with torch.device(device):
            return Reader(self.config.encoder)

    def trainable(self, name: str) -> bool:
        return True

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        from tokenizers import Tokenizer

        config = self.config
        self.device = device
        if config.tokenizer is not None:
            self.tokenizer = Tokenizer.from_file(config.tokenizer)
        else:
            self.tokenizer = train_tokenizer(tokenizer_corpus(config.corpus_seed), config.encoder.vocab_size)
        if self.tokenizer.get_vocab_size() > config.encoder.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.get_vocab_size()} tokens but the encoder "
                f"{config.encoder.vocab_size}: give the tokenizer the encoder was made for"
            )
        # Saved before padding and truncation are switched on for training.
        self.tokenizer_json = self.tokenizer.to_str(pretty=True)
        self.pool, self.held_out = (
            CaptionPool.fill(self.tokenizer, count, config.corpus_seed, split, config.text_len, device)
            for split, count in (("train", config.captions), ("heldout", config.held_out_captions))
        )
        logger.info("%d captions, longest %d of %d tokens", len(self.pool), self.pool.ids_NL.shape[1], config.text_len)

    def batch(self, moment: Moment) -> CaptionPool:
        return self.pool.draw(self.config.batch_size, moment.generator(self.device, "captions"))

    def loss(self, model: nn.Module, batch: CaptionPool, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        masked_BL, hidden_BL = self._mask(batch.ids_NL, moment.generator(self.device, "mask"))
        # Both readings in one pass: masked captions first, whole ones behind.
        states = model(torch.cat([masked_BL, batch.ids_NL]))
        masked_BLD, whole_BLD = states.chunk(2)
        tokens, right = _token_loss(model.to_token(masked_BLD), batch.ids_NL, hidden_BL)
        attributes, named = _attribute_loss(model.attributes(batch.ids_NL, whole_BLD), batch.labels_NA)
        scalars = {"tokens": tokens, "tokens_right": right, "attributes": attributes, "attributes_right": named}
        if moment.step % self.config.validate_every == 0:
            scalars |= self.examine(model)
        loss = tokens + self.config.attribute_weight * attributes
        return loss, {name: value.detach() for name, value in scalars.items()}

    @torch.no_grad()
    def examine(self, model: nn.Module) -> dict[str, Tensor]:
        """Share of masked tokens and of named attributes that are right, on captions of held-out people."""
        was_training = model.training
        model.eval()
        ids, labels = self.held_out.ids_NL, self.held_out.labels_NA
        generator = torch.Generator(self.device).manual_seed(derive_seed("text examination"))
        masked, hidden = self._mask(ids, generator)
        _, right = _token_loss(model.to_token(model(masked)), ids, hidden)
        _, named = _attribute_loss(model.attributes(ids, model(ids)), labels)
        model.train(was_training)
        return {"held_out/tokens_right": right, "held_out/attributes_right": named}

    def export(self, state_dict: dict[str, Tensor], path: Path) -> None:
        """Write the encoder in float16, transformers' names, and ``tokenizer.json`` beside it."""
        from humo_rt.weights.save import save_published

        reader = self.build(self.device)
        reader.load_state_dict(state_dict)
        scores = {name: round(float(value), 4) for name, value in self.examine(reader).items()}
        logger.info("text encoder: %s", scores)
        # One of the two names of the token table is enough: safetensors stores no tensor twice.
        names = [name for name, _ in reader.encoder.named_parameters()]
        weights = reader.encoder.state_dict()
        save_published({name: weights[name].half() for name in names}, path, "file")
        path.with_name("tokenizer.json").write_text(self.tokenizer_json, encoding="utf-8")

    def _mask(self, ids_BL: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Captions with some tokens replaced by the mask, and where; never the end token or the padding."""
        chance = torch.rand(ids_BL.shape, generator=generator, device=ids_BL.device)
        hidden = (chance < self.config.mask_share) & (ids_BL >= len(SPECIAL_TOKENS))
        return torch.where(hidden, MASK_ID, ids_BL), hidden


def _token_loss(logits_BLV: Tensor, ids_BL: Tensor, hidden_BL: Tensor) -> tuple[Tensor, Tensor]:
    target = torch.where(hidden_BL, ids_BL, -100)
    loss = F.cross_entropy(logits_BLV.flatten(0, 1).float(), target.flatten())
    right = (logits_BLV.argmax(-1) == ids_BL) & hidden_BL
    return loss, right.sum() / hidden_BL.sum().clamp(min=1)


def _attribute_loss(logits: list[Tensor], labels_BA: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy over everything known; the share of right answers among attributes that captions name."""
    losses, right, said = [], [], []
    for logits_BV, labels_B in zip(logits, labels_BA.unbind(dim=1), strict=True):
        losses.append(F.cross_entropy(logits_BV, labels_B, ignore_index=-1))
        named = (labels_B >= 0) & (labels_B < logits_BV.shape[1] - 1)
        right.append(((logits_BV.argmax(-1) == labels_B) & named).sum())
        said.append(named.sum())
    return torch.stack(losses).mean(), torch.stack(right).sum() / torch.stack(said).sum().clamp(min=1)
