"""A DiT whose forward pass is a compiled graph, called like ``HumoDiT``: the denoise loop cannot tell which it has.

PyTorch still projects text and audio, once per generation; everything else happens in ``run``, which ONNX Runtime
sessions and TensorRT engines implement. Knows nothing of files.

Shape legend: B branches, C latent channels, T latent frames, H W latent size; N distinct texts or audios.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from humo_rt.config import DiTConfig
from humo_rt.model.dit import HumoDiT, check_frames_wanted
from humo_rt.model.embeddings import rope_table, timestep_sinusoid
from humo_rt.tensorrt import bindings
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.profiles import Profile, choose_profile
from humo_rt.tensorrt.spec import GraphSpec


@dataclasses.dataclass(frozen=True)
class StackedContext:
    """``humo_rt.model.dit.Context`` with the blocks along a first axis, as graphs take it.

    ``tensors``: by input name, (layers, N, ...) each.
    """

    tensors: Mapping[str, Tensor]

    def select(self, text_rows: Tensor, audio_rows: Tensor) -> StackedContext:
        """One entry per guidance branch from the distinct texts and audios projected; ``ValueError`` for speakers."""
        require_one_speaker(len(audio_rows) if audio_rows.ndim > 1 else 1)
        rows = {
            bindings.TEXT_KEYS: text_rows,
            bindings.TEXT_VALUES: text_rows,
            bindings.AUDIO_KEYS: audio_rows,
            bindings.AUDIO_VALUES: audio_rows,
        }
        return StackedContext({name: self.tensors[name].index_select(1, rows[name]) for name in rows})


def require_one_speaker(speakers: int) -> None:
    """``ValueError`` for several: their number would be an axis of the graph."""
    if speakers > 1:
        raise ValueError(f"an exported DiT takes one speaker, not {speakers}: give one audio, or leave out dit_engine")


class GraphDiT(ABC):
    """Base of the sessions and engines, with all that the sampler needs beside a call.

    ``profiles``: the sizes it takes; of every size when there are none.
    """

    profiles: Sequence[Profile] = ()

    def __init__(self, dit: HumoDiT, spec: GraphSpec, source: str) -> None:
        """``dit`` projects the context; of its weights no others are used. ``source`` names the file in errors.

        ``ValueError`` if the graph was exported from another model than ``dit``.
        """
        require_same_model(dit.config, spec.config, source)
        self.config = spec.config
        self.spec = spec
        self.source = source
        self._dit = dit

    @abstractmethod
    def run(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Outputs by name. ``inputs``: contiguous, of the graph's dtypes and shapes, all on one device."""

    def require_sizes(self, sizes: Iterable[Size]) -> None:
        """``ValueError`` with the options that build an engine for the first size that no profile covers."""
        for size in sizes if self.profiles else ():
            choose_profile(self.profiles, size, self.source)

    def require_parts(self, *, face_mask: bool, return_face_mask: bool) -> None:
        """``ValueError`` if the graph was exported without what is asked for."""
        if face_mask and not self.spec.face_mask:
            raise ValueError(f"{self.source} takes no face mask: export it with --face-mask")
        if return_face_mask and not self.spec.mask_predictor:
            raise ValueError(f"{self.source} predicts no face mask: export it with --mask-predictor")

    def place_faces(self, face_mask: Tensor) -> Tensor:
        """A graph takes the mask itself: its shapes do not depend on what is in the mask."""
        return face_mask

    @torch.no_grad()
    def project_context(self, text_embeds: Tensor | Sequence[Tensor], audio_BTWNA: Tensor) -> StackedContext:
        """As ``HumoDiT.project_context``; a graph always has audio, so its absence is the null audio of zeros."""
        context = self._dit.project_context(text_embeds, audio_BTWNA)
        assert context.audio is not None
        named = {
            bindings.TEXT_KEYS: [kv.k for kv in context.text],
            bindings.TEXT_VALUES: [kv.v for kv in context.text],
            bindings.AUDIO_KEYS: [kv.k for kv in context.audio],
            bindings.AUDIO_VALUES: [kv.v for kv in context.audio],
        }
        return StackedContext({name: torch.stack(layers).to(self.spec.dtype) for name, layers in named.items()})

    def __call__(
        self,
        x_BCTHW: Tensor,
        timestep_B: Tensor,
        *,
        context: StackedContext,
        condition: Tensor | None = None,
        face_mask: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
        rows: Tensor | None = None,
        frames_alike: int = 0,
        frames_wanted: int | None = None,
        return_face_mask: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """As ``HumoDiT.forward`` with a context. ``ValueError`` for what the graph was not exported with."""
        self.require_parts(face_mask=face_mask is not None, return_face_mask=return_face_mask)
        check_frames_wanted(frames_wanted, x_BCTHW.shape[2], self.config.patch_size[0])
        if rows is not None:  # a graph has an input for every branch
            x_BCTHW, timestep_B = x_BCTHW.index_select(0, rows), timestep_B.index_select(0, rows)
            condition = None if condition is None else condition.index_select(0, rows)
        size = Size.of_latents(x_BCTHW)
        inputs = {
            bindings.LATENTS: x_BCTHW,
            bindings.TIMESTEP_SINUSOID: timestep_sinusoid(timestep_B, self.config.freq_dim),
            **self._rope_inputs(size, x_BCTHW.device, rope),
            **context.tensors,
        }
        if condition is not None:
            inputs[bindings.CONDITION] = condition
        if self.spec.face_mask:
            # A mask of ones changes nothing, so one graph serves both cases.
            everywhere = torch.ones(size.branches, *x_BCTHW.shape[2:], device=x_BCTHW.device)
            inputs[bindings.FACE_MASK] = everywhere if face_mask is None else face_mask
        outputs = self.run(self._conforming(inputs, size))
        velocity = outputs[bindings.VELOCITY][:, :, :frames_wanted]
        return (velocity, outputs[bindings.FACE_MASK_LOGITS]) if return_face_mask else velocity

    def _rope_inputs(self, size: Size, device: torch.device, rope: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
        grid = tuple(size.axis(axis, self.config) for axis in ("frames", "rows", "columns"))
        cos, sin = rope or rope_table(*grid, self.config.head_dim, device)
        return {bindings.ROPE_COS: cos.unflatten(0, grid), bindings.ROPE_SIN: sin.unflatten(0, grid)}

    def _conforming(self, inputs: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
        """The tensors of the graph in its dtypes, contiguous; ``ValueError`` for one missing or of another shape."""
        result = {}
        for binding in self.spec.inputs:
            if binding.name not in inputs:
                raise ValueError(f"{self.source} needs the input {binding.name!r}: pass it, as the model requires it")
            tensor, shape = inputs[binding.name], binding.shape(size, self.config)
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"input {binding.name!r} of {self.source} is {list(tensor.shape)}, but latents of {size} "
                    f"need {list(shape)}: pass inputs made for one size"
                )
            result[binding.name] = tensor.to(binding.dtype).contiguous()
        unused = set(inputs) - set(result)
        if unused:
            raise ValueError(f"{self.source} takes no input {', '.join(sorted(unused))}: omit it")
        return result


def keep_context_projections(dit: HumoDiT) -> HumoDiT:
    """Drop every weight of ``dit`` that ``project_context`` does not use; it can no longer run a forward pass."""
    for name in ("patch_embedding", "time_embedding", "time_projection", "head", "mask_predictor"):
        setattr(dit, name, None)
    for block in dit.blocks:
        block.self_attn = block.ffn = None
        for attention in (block.cross_attn, block.audio_cross_attn_wrapper.audio_cross_attn):
            attention.q = attention.o = attention.norm_q = None
    return dit


def require_same_model(loaded: DiTConfig, exported: DiTConfig, source: str) -> None:
    """``ValueError`` with every difference between the configurations, a mask predictor aside."""
    differing = [
        f"{field.name} {getattr(exported, field.name)} instead of {getattr(loaded, field.name)}"
        for field in dataclasses.fields(DiTConfig)
        if field.name != "mask_predictor" and getattr(exported, field.name) != getattr(loaded, field.name)
    ]
    if differing:
        raise ValueError(
            f"{source} was exported from another model ({', '.join(differing)}): "
            "choose the preset it belongs to, or export it again"
        )
