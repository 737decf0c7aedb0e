"""HuMo's diffusion transformer: noisy latents, a timestep and conditions in, a velocity out.

One class for both published models; the configuration says how reference images enter. It does not know about
guidance, samplers or files.

Shape legend: B batch, C latent channels, T latent frames (reference frames last), H W latent size, Q tokens, D width,
L text tokens, E text width, A audio width, K head_dim, P output values per token, S speakers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.config import DiTConfig
from humo_rt.model.attention import BiasedKeyValue, KeyValue
from humo_rt.model.block import Block, modulate
from humo_rt.model.embeddings import AudioProjection, TextEmbedding, TimeEmbedding, TimeProjection, rope_table
from humo_rt.model.face_tokens import FaceTokens, gather_face_tokens, gathering_pays
from humo_rt.model.layers import FullPrecisionLinear, LayerNorm
from humo_rt.model.mask_predictor import PREDICTING_BLOCKS, MaskPredictor


@dataclass(frozen=True)
class Context:
    """Keys and values of text and audio for every block: computed once per generation, used at every step."""

    text: tuple[KeyValue | BiasedKeyValue, ...]
    audio: tuple[KeyValue, ...] | None

    def select(self, text_rows: Tensor, audio_rows: Tensor) -> Context:
        """One entry per guidance branch from the distinct texts and audios projected.

        ``audio_rows``: (B,), or (S, B) for several speakers at once.
        """
        text = tuple(kv.select(text_rows) for kv in self.text)
        audio = None if self.audio is None else tuple(kv.select(audio_rows) for kv in self.audio)
        return Context(text, audio)


def check_frames_wanted(frames_wanted: int | None, frames: int, patch: int) -> None:
    """``ValueError`` unless latents of ``frames`` have so many, of whole patches; None are all."""
    if frames_wanted is not None and not (1 <= frames_wanted <= frames and frames_wanted % patch == 0):
        multiple = "" if patch == 1 else f", a multiple of {patch}"
        raise ValueError(f"frames_wanted is {frames_wanted}: give 1 to the {frames} frames of the latents{multiple}")


class Head(nn.Module):
    """Modulated output projection, in float32."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        patch = config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
        self.norm = LayerNorm(config.dim, eps=config.eps, elementwise_affine=False)
        self.head = FullPrecisionLinear(config.dim, patch * config.out_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x_BQD: Tensor, embedding_BD: Tensor) -> Tensor:
        shift, scale = (self.modulation.float() + embedding_BD[:, None]).chunk(2, dim=1)
        return self.head(modulate(self.norm(x_BQD), shift, scale))


class HumoDiT(nn.Module):
    """The network of HuMo-1.7B, HuMo-17B and nano; parameter names are those of the published checkpoints."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv3d(
            config.in_channels, config.dim, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.text_embedding = TextEmbedding(config)
        self.time_embedding = TimeEmbedding(config)
        self.time_projection = TimeProjection(config)
        self.audio_proj = AudioProjection(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)
        self.mask_predictor = MaskPredictor(config) if config.mask_predictor else None

    def project_context(self, text_embeds: Tensor | Sequence[Tensor], audio_BTWNA: Tensor | None) -> Context:
        """Project text (B, L, E) and windowed audio features (B, T, window, bands, A) for every block."""
        text_BLD = self.text_embedding(self._pad_text(text_embeds))
        lengths = [len(text_LE) for text_LE in text_embeds]
        text = tuple(block.project_text(text_BLD, lengths) for block in self.blocks)
        if audio_BTWNA is None:
            return Context(text, None)
        tokens_BTSC = self.audio_proj(audio_BTWNA)
        audio = tuple(block.audio_cross_attn_wrapper.audio_cross_attn.project(tokens_BTSC) for block in self.blocks)
        return Context(text, audio)

    def place_faces(self, face_mask: Tensor) -> Tensor | FaceTokens:
        """What ``forward`` takes for ``face_mask`` at the least cost, for a caller that gives it more than once.

        The tokens of faces where they are few, otherwise the mask. Waits for the device that the mask is on.
        """
        weight_BQ = self._token_weights(face_mask).squeeze(-1)
        faces = gather_face_tokens(weight_BQ, frames=face_mask.shape[-3] // self.config.patch_size[0])
        return faces if gathering_pays(faces, weight_BQ.shape[-1]) else face_mask

    def forward(
        self,
        x_BCTHW: Tensor,
        timestep_B: Tensor,
        *,
        text_embeds: Tensor | Sequence[Tensor] | None = None,
        audio: Tensor | None = None,
        context: Context | None = None,
        condition: Tensor | None = None,
        face_mask: Tensor | FaceTokens | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
        rows: Tensor | None = None,
        frames_alike: int = 0,
        frames_wanted: int | None = None,
        return_face_mask: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predict the velocity.

        Args:
            x_BCTHW: latents entering the step, (B, 16, T, H, W); H and W even. Models with ``"frames"`` injection
                expect the clean reference latents in the trailing frames.
            timestep_B: 0 (clean) to 1000 (noise), one per sample; or their ``timestep_sinusoid`` (B, freq_dim).
            text_embeds: (B, L, E) or a list of (L_i, E) with L <= ``text_len``; zero-padded here.
            audio: (B, T, window, bands, A) or None, which leaves the audio attention out.
            context: what ``project_context`` returned, instead of ``text_embeds`` and ``audio``; the only way to give
                several speakers.
            condition: (B, 20, T, H, W) for models with ``"channels"`` injection.
            face_mask: (B, T, H, W) in 0..1, where audio acts, or (S, B, T, H, W), where each speaker's does; its mean
                over a patch weighs the token's audio attention. Or what ``place_faces`` made of it, with a ``context``.
                None acts everywhere, as the published models do.
            rope: the ``rope_table`` of this size, if the caller keeps it.
            rows: (B,) int64, for samples that differ in text, audio or face mask alone: latents, timesteps and
                condition hold each distinct input once, and this says which one a sample has. What comes before the
                first difference is computed once. None: every sample has its own.
            frames_alike: so many first latent frames are the same in all inputs, and so are their timesteps and
                conditions: what their tokens find among themselves in the first block may be computed once.
            frames_wanted: the velocity of so many first latent frames alone, of the video without its references, say;
                what the last block would compute for the others may be spared. None: of all.
            return_face_mask: also return the mask predictor's logits (B, T, H, W).

        Returns:
            Velocity (B, 16, T or ``frames_wanted``, H, W) in float32, noise minus clean; with ``return_face_mask`` a
            pair.
        """
        inputs = x_BCTHW if condition is None else torch.cat([x_BCTHW, condition], dim=1)
        self._check_inputs(inputs, audio, frames_wanted, return_face_mask)
        grid = self._token_grid(x_BCTHW)
        x = self.patch_embedding(inputs.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        # As the blocks return it: a compiled block would otherwise be compiled twice, for its first and its other uses.
        x = x.float().contiguous()
        embedding = self.time_embedding(timestep_B)
        time = self.time_projection(embedding)
        rope = rope or rope_table(*grid, self.config.head_dim, x.device)
        faces = self._token_weights(face_mask) if isinstance(face_mask, Tensor) else face_mask
        texts, audios = self._block_contexts(text_embeds, audio, context)

        x = self.blocks[0].entered(x, time)
        kept = deque(maxlen=PREDICTING_BLOCKS if return_face_mask else 0)
        alike = frames_alike // self.config.patch_size[0] * grid[1] * grid[2]
        wanted_grid = grid if frames_wanted is None else (frames_wanted // self.config.patch_size[0], *grid[1:])
        wanted = math.prod(wanted_grid)
        # The predictor sees all tokens; tokens of faces are numbered among all.
        spares = not (frames_wanted is None or context is None or return_face_mask or isinstance(faces, tuple))
        for block, text_i, audio_i in zip(self.blocks, texts, audios, strict=True):
            enough = wanted if spares and block is self.blocks[-1] else None
            x, after_audio = block(x, time, rope, text_i, audio_i, faces, rows, alike, enough)
            alike = 0  # each has seen its own frames
            kept.append(after_audio)
            del after_audio  # a residual stream: not kept, it would live through the next block
            if rows is not None:  # the first block has made a stream for every sample
                embedding, time, rows = embedding.index_select(0, rows), time.index_select(0, rows), None

        velocity = self._unpatchify(self.head(x[:, :wanted], embedding), wanted_grid)
        if not return_face_mask:
            return velocity
        logits = self._unpatchify(self.mask_predictor(list(kept)), grid)
        return velocity, logits[:, 0]

    def _block_contexts(self, text_embeds, audio, context):
        """What each block attends to: cached keys and values, or tokens that it projects itself."""
        count = len(self.blocks)
        if context is not None:
            return context.text, context.audio if context.audio is not None else (None,) * count
        text_BLD = self.text_embedding(self._pad_text(text_embeds))
        tokens_BTSC = None if audio is None else self.audio_proj(audio)
        return (text_BLD,) * count, (tokens_BTSC,) * count

    def _pad_text(self, text_embeds: Tensor | Sequence[Tensor]) -> Tensor:
        limit = self.config.text_len
        longest = text_embeds.shape[1] if isinstance(text_embeds, Tensor) else max(len(row) for row in text_embeds)
        if longest > limit:
            raise ValueError(f"text of {longest} tokens exceeds the model's {limit}: shorten or truncate the prompt")
        if isinstance(text_embeds, Tensor):
            return F.pad(text_embeds, (0, 0, 0, limit - longest))
        return torch.stack([F.pad(row, (0, 0, 0, limit - row.shape[0])) for row in text_embeds])

    def _token_grid(self, x_BCTHW: Tensor) -> tuple[int, int, int]:
        sizes = x_BCTHW.shape[2:]
        if any(size % patch for size, patch in zip(sizes, self.config.patch_size, strict=True)):
            raise ValueError(f"latent size {tuple(sizes)} is not a multiple of the patch {self.config.patch_size}")
        return tuple(size // patch for size, patch in zip(sizes, self.config.patch_size, strict=True))

    def _token_weights(self, face_mask_BTHW: Tensor) -> Tensor:
        return F.avg_pool3d(face_mask_BTHW.float(), self.config.patch_size).flatten(-3).unsqueeze(-1)

    def _check_inputs(
        self, inputs: Tensor, audio: Tensor | None, frames_wanted: int | None, return_face_mask: bool
    ) -> None:
        if inputs.shape[1] != self.config.in_channels:
            raise ValueError(
                f"the model takes {self.config.in_channels} input channels, got {inputs.shape[1]}: image_injection is "
                f"{self.config.image_injection!r}, so {'pass' if self.config.in_channels > 16 else 'omit'} `condition`"
            )
        if audio is not None and audio.shape[1] != inputs.shape[2]:
            raise ValueError(
                f"audio has {audio.shape[1]} latent frames, the latents have {inputs.shape[2]}: match them"
            )
        check_frames_wanted(frames_wanted, inputs.shape[2], self.config.patch_size[0])
        if return_face_mask and self.mask_predictor is None:
            raise ValueError(
                "this model has no mask predictor: load weights that carry one, or pass no return_face_mask"
            )

    def _unpatchify(self, values_BQP: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Tokens of (patch frames, rows, columns, channels) values back to (B, channels, T, H, W)."""
        frames, rows, columns = grid
        p, q, r = self.config.patch_size
        x = values_BQP.reshape(values_BQP.shape[0], frames, rows, columns, p, q, r, -1)
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(x.shape[0], -1, frames * p, rows * q, columns * r)
