"""From a request to a video: conditions, guidance table, denoise loop, decode, MP4.

Calls the parts in order and hands tensors on; the arithmetic lives in the parts.
Shape legend: N=1 videos, C 16 latent channels, T latent frames, R reference slots at the end, F video frames.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from torch import Tensor

from humo_rt.condition_encoder import ConditionEncoder
from humo_rt.config import FPS, LATENT_CHANNELS, SAMPLE_RATE
from humo_rt.media import BackgroundWriter, Sound, VideoWriter, mix, read_sound
from humo_rt.model.dit import HumoDiT
from humo_rt.options import GenerateOptions, GuidanceOptions
from humo_rt.request import GenerationRequest
from humo_rt.result import GenerationResult
from humo_rt.runtime import attention_backends, matmul_backends
from humo_rt.runtime.channels_last_vae import ChannelsLastVAE, channels_last_pays, use_channels_last
from humo_rt.runtime.clock import StageClock
from humo_rt.runtime.encoding_cache import EncodingCache
from humo_rt.runtime.execution import Execution
from humo_rt.runtime.placement import chosen_device
from humo_rt.runtime.precision import EXACT, FP8
from humo_rt.runtime.replay import ReplayedDiT
from humo_rt.runtime.settled import Running, settle
from humo_rt.runtime.trace import Tracer, block_ranges
from humo_rt.runtime.warmup import noise_inputs, one_step_each, run_sampler
from humo_rt.sampling.branches import Conditions
from humo_rt.sampling.denoise import denoise
from humo_rt.sampling.guidance import GuidanceTable, guidance_table
from humo_rt.sampling.reuse import computed_branches
from humo_rt.sampling.schedule import make_scheduler, model_timesteps
from humo_rt.step_observer import step_observer
from humo_rt.weights.components import Components, load_components
from humo_rt.weights.memory import activation_bytes, available_memory, check_memory
from humo_rt.weights.resolve import configuration

if TYPE_CHECKING:
    from humo_rt.tensorrt import DitEngine
    from humo_rt.tensorrt.graph_dit import GraphDiT


class Pipeline:
    """A loaded model. Build it once with ``from_pretrained``, call ``generate`` as often as you like."""

    def __init__(self, components: Components, execution: Execution | None = None) -> None:
        """``execution``: as ``from_pretrained`` makes of its arguments; None for their defaults.

        Pipelines that are made of the same ``components`` share the DiT: all of them give the same ``precision`` and
        backends, or all of them a ``dit_engine``. ``ValueError`` otherwise, and nothing is changed. Other errors as of
        ``Execution.settled_for``.
        """
        self.config = components.config
        weight = components.dit.blocks[0].cross_attn.k.weight  # no precision tier changes it
        self.device, self.dtype = weight.device, weight.dtype
        execution = (execution or Execution()).settled_for(self.device, self.dtype, self.config.dit)
        self.dit_engine, self.precision = execution.dit_engine, execution.precision
        self.attention_backend, self.matmul_backend = execution.attention_backend, execution.matmul_backend
        self.dit = _opened(components, self.dit_engine, execution.running(self.device))
        replays = execution.may_replay(self.device)
        self.denoiser = ReplayedDiT(self.dit, always=bool(execution.cuda_graphs)) if replays else self.dit
        self.vae = components.vae
        if channels_last_pays(self.vae, self.device):
            use_channels_last(self.vae)
        self.encoder = ConditionEncoder(components, self.vae, self.device)
        self.weights = components.weights

    @classmethod
    def from_pretrained(
        cls,
        path_or_preset: str | Path = "nano",
        *,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        dit_engine: str | Path | DitEngine | None = None,
        attention_backend: str = attention_backends.AUTO,
        matmul_backend: str = matmul_backends.AUTO,
        precision: str = EXACT,
        cuda_graphs: bool | None = None,
        offload_encoders: bool = False,
    ) -> Pipeline:
        """Load a preset's weights.

        Args:
            path_or_preset: a preset name, or a folder with published weights (the preset follows from what it holds).
            weights: where the preset's weights are: a folder, a Hugging Face repository, ``"random"`` for seeded
                random weights, or None for the preset's own.
            device: default: the first GPU, otherwise the CPU.
            dtype: of the matrix products; default bfloat16 on a GPU, float32 on the CPU.
            dit_engine: ``.onnx`` or ``.engine`` file of the same model and weights that runs instead of PyTorch's DiT,
                or a ``humo_rt.tensorrt.DitEngine``, which also says where an engine's weights are. PyTorch still
                projects text and audio, once per generation; the other weights of its DiT are dropped.
            attention_backend: what computes self-attention, one of ``attention_backends.BACKENDS``; ``"auto"`` takes
                the fastest that works here. `humo-rt doctor` lists them. ``"cudnn-fp8"`` is lossy whatever the
                precision, and taken when it is named.
            matmul_backend: what computes the matrix products of the DiT that are not in float8, one of
                ``matmul_backends.BACKENDS``; ``"auto"`` as above. ``"quack"`` leaves small ones to PyTorch.
            precision: ``"exact"``, or ``"fp8"`` for the DiT's matrix products in float8 (e4m3), with which ``"auto"``
                may also take attention in float8. Lossy; needs an Ada, Hopper or Blackwell GPU.
            cuda_graphs: whether a GPU replays forwards of the DiT from a recording, which takes memory for its
                activations; None: those of small videos, whose launches take longer than their work.
            offload_encoders: keep the text and the audio encoder in host memory; they visit the GPU when a new text or
                sound comes. Results are the same. For the published models it saves 12 GiB while denoising.

        Raises:
            ValueError: unknown preset or device, or a folder or ``dit_engine`` that lacks a part or holds a wrong one;
                a backend or ``precision`` that is unknown or takes no such device, dtype or width.
            RuntimeError: too little memory, no such GPU, or what ``dit_engine``, a backend or ``precision`` needs is
                missing.
        """
        device = chosen_device(device)
        if not isinstance(dtype, torch.dtype | None):
            raise ValueError(f"dtype {dtype!r} is not a torch.dtype: give one like torch.bfloat16")
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        execution = Execution(
            dit_engine=dit_engine,
            attention_backend=attention_backend,
            matmul_backend=matmul_backend,
            precision=precision,
            cuda_graphs=cuda_graphs,
        )
        # Refused here rather than after the minutes that loading may take.
        config = configuration(path_or_preset, weights).dit
        execution.settled_for(device, dtype, config)
        if dit_engine is not None:
            from humo_rt.tensorrt import require_openable

            require_openable(dit_engine, config)
        if offload_encoders and device.type == "cpu":
            raise ValueError(
                "offload_encoders=True keeps encoders off the GPU, but the model runs on the CPU: leave it out"
            )
        components = load_components(
            path_or_preset,
            weights=weights,
            device=device,
            dtype=dtype,
            encoder_device="cpu" if offload_encoders else None,
            exported_dit=dit_engine is not None,
        )
        pipeline = cls(components, execution)
        if dit_engine is not None:
            from humo_rt.tensorrt.graph_dit import keep_context_projections

            keep_context_projections(components.dit)
        return pipeline

    def generate(self, prompt: str, **options: Unpack[GenerateOptions]) -> GenerationResult:
        """Generate a video; see ``GenerateOptions`` for every argument, its unit and its default.

        Raises:
            ValueError: an argument that cannot work, named with its rule and the fix. Nothing is written then.
            RuntimeError: the machine fell short (codec, memory), or the result is not finite.
        """
        request = self._accept(GenerationRequest(prompt=prompt, **options))
        settings = self.settings(request)
        clock = StageClock(self.device, synchronised=request.trace)
        tracer = Tracer(self.device) if request.trace else None
        sounds = _read_sounds(request, clock)
        frames = np.empty((request.num_frames, request.height, request.width, 3), dtype=np.uint8)
        position = 0
        # Closed here and not when the garbage is collected: an interrupted generation leaves no file.
        with closing(self._written_blocks(request, sounds, clock, tracer)) as blocks:
            for block in blocks:
                frames[position : position + len(block)] = block
                position += len(block)
        timings, sound = clock.timings(), mix(sounds) if sounds else None
        return GenerationResult(
            frames=frames,
            audio=None if sound is None else sound.lasting(request.num_frames / FPS).samples_SC,
            sample_rate=SAMPLE_RATE if sound is None else sound.sample_rate,
            fps=FPS,
            seed=request.seed,
            timings=timings,
            settings=settings,
            output=request.output,
            trace=None if tracer is None else tracer.finish(timings),
        )

    def generate_stream(self, prompt: str, **options: Unpack[GenerateOptions]) -> Iterator[np.ndarray]:
        """Yield blocks (f, H, W, 3) uint8 as they are decoded; an ``output`` is written along the way.

        The arguments are checked by the call, as ``generate`` checks them; work starts with the first block. Close the
        iterator to stop early: no file stays behind.
        """
        request = self._accept(GenerationRequest(prompt=prompt, **options))
        if request.trace:
            raise ValueError("trace=True has no result to go into: use generate(), or leave it out")
        clock = StageClock(self.device)
        return self._written_blocks(request, _read_sounds(request, clock), clock)

    def warmup(
        self,
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        mode: str = "TIA",
        **guidance: Unpack[GuidanceOptions],
    ) -> None:
        """Load, compile and allocate now what the first ``generate`` of this size would otherwise wait for.

        Denoises noise, with one step for every set of branches that the steps of ``generate`` compute together: each
        row of the guidance table, and what ``guidance_reuse`` leaves of it. No later result changes. ``mode``: T,
        TI, TA or TIA, the conditions that will be given. Several images or speakers, face masks, prompts of more than
        127 tokens and negative prompts of one's own may have shapes of their own, for which the first ``generate``
        still waits. What is left out comes from the preset. Errors as ``generate``.
        """
        inputs = noise_inputs(mode, self.config.num_frames if num_frames is None else num_frames)
        size = {"height": height, "width": width, "seed": 0}
        request = self._accept(GenerationRequest(prompt="A person is talking.", **size, **inputs, **guidance))
        clock = StageClock(self.device)
        # Noise must not push out what is worth keeping.
        kept, self.encoder.cache = self.encoder.cache, EncodingCache()
        try:
            conditions = self.encoder.encode(request, _read_sounds(request, clock), clock)
        finally:
            self.encoder.cache = kept
        latents = self._denoise(one_step_each(request, self._branch_sets(request)), conditions, None)
        for _ in self._decode(latents, clock):
            pass
        run_sampler(request, self.device)

    def clear_caches(self) -> None:
        """Forget the encodings of earlier texts, sounds and images, 256 MiB at most, which stay on the device.

        Call it after changing weights in place. Results are the same with and without them.
        """
        self.encoder.cache.clear()

    def settings(self, request: GenerationRequest) -> dict[str, Any]:
        """Everything that decides the video, JSON-ready: the arguments under their names, then model and machine."""
        return {
            **request.settings(),
            "model": self.config.name,
            "weights": self.weights,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "noise_device": (request.generator or self).device.type,
            "torch": torch.__version__,
            "attention_backend": self.attention_backend,
            "matmul_backend": self.matmul_backend,
            "precision": self.precision,
            **({} if self.dit_engine is None else {"dit_engine": str(self.dit_engine)}),
        }

    def _written_blocks(
        self, request: GenerationRequest, sounds: Sequence[Sound], clock: StageClock, tracer: Tracer | None = None
    ) -> Generator[np.ndarray, None, None]:
        """Blocks of frames; each is also encoded into the output, if there is one, while the next is decoded."""
        with ExitStack() as stack:
            writer = stack.enter_context(self._open_writer(request, sounds)) if request.output else None
            with self._as_loaded():
                conditions = self.encoder.encode(request, sounds, clock)
            with clock.stage("denoise"), self._as_loaded():
                latents = self._denoise(request, conditions, tracer)
            for block_FHWC in self._decode(latents, clock):
                if writer is not None:
                    with clock.stage("encode"):
                        writer.write(block_FHWC)
                yield block_FHWC
            with clock.stage("encode"):
                stack.close()

    def _denoise(self, request: GenerationRequest, conditions: Conditions, tracer: Tracer | None) -> Tensor:
        """Denoised video latents (1, 16, T - R, H/8, W/8); RuntimeError if they are not finite."""
        scheduler = make_scheduler(
            request.num_inference_steps, request.flow_shift, sampler=request.sampler, device=self.device
        )
        watched = {} if tracer is None else {"around_step": tracer.step}
        ranges = nullcontext() if tracer is None else block_ranges(self.dit)
        with step_observer(request, self) as on_step, ranges:
            latents = denoise(
                self.denoiser,
                conditions,
                self._noise(request, conditions.num_slots),
                guidance=self._guidance_table(request),
                scheduler=scheduler,
                branch_batch_size=request.branch_batch_size,
                reuse=request.guidance_reuse,
                on_step=on_step,
                **watched,
            )
        _require_finite(latents, "denoised latents")
        return latents

    def _as_loaded(self) -> torch.autocast:
        """In the precision that was asked for, wherever the caller's own autocast reaches."""
        return torch.autocast(self.device.type, enabled=False)

    def _noise(self, request: GenerationRequest, slots: int) -> Tensor:
        """Float32 noise over all latent frames, the reference slots included, from the request's generator or seed.

        Drawn on the pipeline's device as the release does, so one seed gives other videos on other kinds of device.
        """
        frames, rows, columns = request.latent_size
        shape = (1, LATENT_CHANNELS, frames + slots, rows, columns)
        generator = request.generator or torch.Generator(self.device).manual_seed(request.seed)
        return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32).to(self.device)

    def _decode(self, latents: Tensor, clock: StageClock) -> Iterator[np.ndarray]:
        """Blocks (f, H, W, 3) uint8, rounded to the nearest level; RuntimeError if a block is not finite."""
        blocks = self.vae.decode_chunks(latents)
        while True:
            with clock.stage("decode"), self._as_loaded():
                block = next(blocks, None)
                if block is None:
                    return
                _require_finite(block, "decoded frames")
                levels_CFHW = block[0].add(1.0).mul(127.5).round().to(torch.uint8)
                frames_FHWC = levels_CFHW.permute(1, 2, 3, 0).contiguous().cpu().numpy()
            yield frames_FHWC

    def _accept(self, request: GenerationRequest) -> GenerationRequest:
        """The request completed; RuntimeError when the estimate for its size exceeds the free memory."""
        request = request.validated(self.config)
        sets = self._branch_sets(request)
        if self.dit_engine is not None:
            from humo_rt.tensorrt.acceptance import require_served

            require_served(self.dit, request, sets)
        branches = max(map(len, sets))
        needed = activation_bytes(
            self.config,
            height=request.height,
            width=request.width,
            num_frames=request.num_frames,
            references=max(1, len(request.images)),
            branches=min(branches, request.branch_batch_size or branches),
            contexts=sum(map(len, sets)),
            dtype=self.dtype,
            fused=self.device.type == "cuda" and self.dit_engine is None,
            float8=self.precision == FP8,
            predicts_faces=request.face_mask_threshold is not None,
            channels_last_vae=isinstance(self.vae, ChannelsLastVAE),
        )
        purpose = f"{request.width}x{request.height} with {request.num_frames} frames and {branches} guidance branches"
        check_memory(needed, available_memory(self.device), purpose)
        return request

    def _guidance_table(self, request: GenerationRequest) -> GuidanceTable:
        return guidance_table(self.config, request.mode, request.guidance, **request.guidance_options())

    def _branch_sets(self, request: GenerationRequest) -> list[tuple[str, ...]]:
        """The branches that a step computes together, of all steps, each set once."""
        scheduler = make_scheduler(request.num_inference_steps, request.flow_shift, sampler=request.sampler)
        steps = computed_branches(self._guidance_table(request), model_timesteps(scheduler), request.guidance_reuse)
        return list(dict.fromkeys(steps))

    def _open_writer(self, request: GenerationRequest, sounds: Sequence[Sound]) -> BackgroundWriter:
        sound = mix(sounds) if sounds else None
        track = {} if sound is None else {"audio": sound.samples_SC, "sample_rate": sound.sample_rate}
        writer = VideoWriter(
            request.output,
            fps=FPS,
            width=request.width,
            height=request.height,
            metadata=self.settings(request),
            **track,
        )
        return BackgroundWriter(writer)


def generate(
    prompt: str,
    *,
    preset: str | Path = "nano",
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: Unpack[GenerateOptions],
) -> GenerationResult:
    """Generate one video; ``Pipeline.from_pretrained`` explains the arguments before ``options``.

    The pipeline stays loaded for the next call with the same four arguments.
    """
    key = (preset, weights, device, dtype)
    if key not in _loaded:
        # Refused here rather than after the minutes that loading may take.
        request = GenerationRequest(prompt=prompt, **options).validated(configuration(preset, weights))
        options |= {"num_frames": request.num_frames}  # whose warning is not to come twice
        # The old model goes before the new one comes: there may not be room for both.
        _loaded.clear()
        _loaded[key] = Pipeline.from_pretrained(preset, weights=weights, device=device, dtype=dtype)
    return _loaded[key].generate(prompt, **options)


_loaded: dict[tuple[Any, ...], Pipeline] = {}


def _opened(components: Components, engine: str | Path | DitEngine | None, running: Running) -> HumoDiT | GraphDiT:
    """What runs forwards: the DiT, or the engine to which it gives its context."""
    if engine is None:
        return settle(components.dit, running)
    from humo_rt.tensorrt import open_dit
    from humo_rt.tensorrt.source import Source

    opened = open_dit(engine, components.dit, loaded_from=Source.of(components))
    settle(components.dit, running)
    return opened


def _read_sounds(request: GenerationRequest, clock: StageClock) -> list[Sound]:
    """Each speaker's sound at its own rate and channels: the video carries their mix, the model hears 16 kHz mono."""
    if not request.audios:
        return []
    with clock.stage("audio"):
        return [read_sound(audio) for audio in request.audios]


def _require_finite(values: Tensor, what: str) -> None:
    if not torch.isfinite(values).all():
        raise RuntimeError(f"the {what} are not finite: check the weights, or generate with dtype=float32")
