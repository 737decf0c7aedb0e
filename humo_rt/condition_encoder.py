"""What a request shows, says and sounds like, as the denoise loop takes it: each input through its encoder, once.

Knows the encoders and what tells one input from another. Encodings of earlier inputs are reused.
Shape legend: N=1 videos, P speakers, C 16 latent channels, T latent frames of the video, R reference slots behind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from humo_rt.conditions.audio import AudioConditioner, window_audio
from humo_rt.conditions.face import with_reference_frames
from humo_rt.conditions.image import encode_references, fit_on_white, grey_latents
from humo_rt.conditions.text import TextConditioner
from humo_rt.media import Sound, read_audio, read_image
from humo_rt.model.vae import VideoVAE
from humo_rt.request import GenerationRequest
from humo_rt.runtime.clock import StageClock
from humo_rt.runtime.encoding_cache import EncodingCache, digest
from humo_rt.runtime.offload import visiting
from humo_rt.sampling.branches import Conditions
from humo_rt.weights.components import Components


class ConditionEncoder:
    """The encoders of one model. Results are on ``device``, where encoders that are kept elsewhere visit."""

    def __init__(self, components: Components, vae: VideoVAE, device: torch.device) -> None:
        """``vae``: of ``components``, as it is to run."""
        config = components.config.dit
        self.text = TextConditioner(components.tokenizer, components.text_encoder, config.text_len)
        self.audio = AudioConditioner(components.audio_encoder)
        self.vae = vae
        self.cache = EncodingCache()
        self._needs_grey = config.image_injection == "channels"
        self._shipped_grey = components.zero_vae
        self._device = device

    def encode(self, request: GenerationRequest, sounds: Sequence[Sound], clock: StageClock) -> Conditions:
        """The conditions of a complete ``request``. ``sounds``: its audio, decoded, one for each speaker."""
        latent_frames, rows, columns = request.latent_size
        slots, faces = max(1, len(request.images)), request.face_weights
        references = audio = grey = None
        with clock.stage("text"):
            positive, negative = self._encode_texts([request.prompt, request.negative_prompt])
        if sounds:
            with clock.stage("audio"):
                audio = self._encode_sounds(sounds, latent_frames)
        with clock.stage("image"):
            if request.images:
                fitted = [fit_on_white(read_image(image), request.width, request.height) for image in request.images]
                references = self._encode_images(fitted)
            if self._needs_grey:
                size = (latent_frames + slots, rows, columns)
                grey = self.cache.get(("grey", *size), lambda: grey_latents(self.vae, *size, self._shipped_grey))
        return Conditions(
            text_embeds=[positive],
            negative_embeds=negative,
            audio=audio,
            reference_latents=references,
            grey_latents=grey,
            face_mask=None if faces is None else with_reference_frames(faces, slots).unsqueeze(-4),
            predict_faces=request.face_mask_threshold,
        )

    def _encode_texts(self, prompts: Sequence[str]) -> list[Tensor]:
        """Features (L, E) of each prompt. Each goes alone: in company it may come out different in the last bit."""

        def encode(new: list[str]) -> list[Tensor]:
            with visiting(self.text.encoder, self._device):
                return [self.text.encode([prompt])[0] for prompt in new]

        return self.cache.get_each([(("text", prompt), prompt) for prompt in prompts], encode)

    def _encode_sounds(self, sounds: Sequence[Sound], latent_frames: int) -> Tensor:
        """Windowed features (N, T, window, bands, A) of one speaker, of several (P, N, T, window, bands, A)."""

        def encode(new: list[Sound]) -> list[Tensor]:
            with visiting(self.audio.encoder, self._device):
                return [self.audio.embed(read_audio(sound)) for sound in new]

        keyed = [(("audio", digest(sound.samples_SC), sound.sample_rate), sound) for sound in sounds]
        windows = [window_audio(features, latent_frames)[None] for features in self.cache.get_each(keyed, encode)]
        return windows[0] if len(windows) == 1 else torch.stack(windows)

    def _encode_images(self, fitted: Sequence[Tensor]) -> Tensor:
        """Latents (N, C, R, H / 8, W / 8) of reference images (3, H, W) of the video's size."""

        def encode(new: list[Tensor]) -> list[Tensor]:
            return [encode_references(self.vae, [image]) for image in new]

        keyed = [(("image", digest(image.numpy())), image) for image in fitted]
        return torch.cat(self.cache.get_each(keyed, encode), dim=1)[None]
