"""A TensorRT engine called like ``HumoDiT``: torch tensors by address, on the current stream, without copies.

Running one needs the card it was built for: an RTX card with ``tensorrt-rtx``, or a data-centre card with the full
``tensorrt``. ``humo-rt verify-engine`` compares it with PyTorch there. Knows nothing of samplers or ONNX graphs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from humo_rt.model.dit import HumoDiT
from humo_rt.tensorrt import bindings
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.engine_file import EngineHeader, read_header
from humo_rt.tensorrt.graph_dit import GraphDiT, require_same_model
from humo_rt.tensorrt.kernel_cache import SUFFIX, KernelCache
from humo_rt.tensorrt.loading import (
    LoadedPlan,
    current_device,
    execution_context,
    load_plan,
    require_bindings,
    require_runnable,
)
from humo_rt.tensorrt.network import Graph
from humo_rt.tensorrt.profiles import choose_profile
from humo_rt.tensorrt.refit import copy_weights, refit, require_fitting, weights_file
from humo_rt.tensorrt.scratch import ScratchMemory
from humo_rt.tensorrt.source import Source, require_same_weights
from humo_rt.tensorrt.targets import TensorRT
from humo_rt.tensorrt.weights import SEPARATE


class Engine(GraphDiT):
    """Make one with ``Engine.load``. What a call returns is overwritten by the next call of the same size.

    For a CUDA graph, call once at the size before capturing: the first call compiles and allocates. Every input must
    then keep its address, as always with CUDA graphs.
    """

    def __init__(
        self,
        dit: HumoDiT,
        header: EngineHeader,
        loaded: LoadedPlan,
        *,
        source: str,
        device: torch.device,
        kernels: KernelCache,
        scratch: ScratchMemory | None = None,
    ) -> None:
        """``scratch``: memory shared with other engines; ``source`` names the file in errors."""
        super().__init__(dit, header.spec, source)
        self.header = header
        self.profiles = header.profiles
        self._loaded = loaded
        self._device = device
        self._kernels = kernels
        self._scratch = scratch or ScratchMemory(device)
        require_bindings(loaded.engine, header, source)
        self._context = execution_context(loaded, kernels)
        self._profile: int | None = None
        self._size: Size | None = None
        self._scratch_needed = 0
        self._scratch_given: tuple[int, int] | None = None
        self._outputs: dict[str, Tensor] = {}
        self._addresses: dict[str, int] = {}
        self._own_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._weights = {
            weight.name: torch.empty(weight.shape, dtype=getattr(torch, weight.dtype), device=device)
            for weight in header.weight_bindings
        }

    @classmethod
    def load(
        cls,
        path: str | Path,
        dit: HumoDiT,
        *,
        loaded_from: Source | None = None,
        onnx: str | Path | None = None,
        weight_budget: int | None = None,
        scratch: ScratchMemory | None = None,
    ) -> Engine:
        """Load an engine file onto the current GPU.

        Args:
            dit: projects text and audio, once per generation. Its weights are those the engine was exported from.
            loaded_from: where the weights of ``dit`` came from, for errors.
            onnx: file whose weights the engine takes, which then was not built with embedded ones; default: its own, or
                if it has none, those of the file it was built from, beside the engine or where that was.
            weight_budget: bytes of weights to keep on the GPU, for an engine built for weight streaming; default:
                TensorRT decides.

        Raises:
            ValueError: no engine, truncated, built for another model, card or version, from other weights than those
                of ``dit``, or in need of weights that are not there; says how to rebuild it.
            RuntimeError: TensorRT or the GPU is missing, or TensorRT fails.
        """
        path = Path(path)
        header, tensorrt, weights = require_loadable(path, onnx=onnx, weight_budget=weight_budget)
        require_same_model(dit.config, header.spec.config, str(path))
        if weights is None:
            then = f", and build the engine again with {header.rebuild}"
            made = {"file": path, "loaded": loaded_from, "onnx": Path(header.onnx), "then": then}
            require_same_weights(header.origin, header.spec, dit, **made)
        else:
            made = {"file": weights.path, "loaded": loaded_from, "onnx": weights.path}
            require_same_weights(weights.origin, header.spec, dit, **made)
        loaded = load_plan(path, header, tensorrt)
        if header.weight_streaming:
            automatic = loaded.engine.get_weight_streaming_automatic_budget()
            loaded.engine.weight_streaming_budget_v2 = automatic if weight_budget is None else weight_budget
        device = current_device()
        kernels = KernelCache(path.with_suffix(SUFFIX))
        result = cls(dit, header, loaded, source=str(path), device=device, kernels=kernels, scratch=scratch)
        if weights is not None:
            result._take(weights)
        return result

    def refit(self, onnx: str | Path, *, loaded_from: Source | None = None) -> None:
        """Take the weights of another export of the same model; CUDA graphs captured before stay usable.

        ``header`` names these weights from then on; the file does not change.

        ``ValueError`` for a file of another model, or of other weights than the DiT that projects text and audio has
        (``loaded_from`` names them in the error), and for an engine that holds its weights for good.
        """
        onnx = Path(onnx)
        graph = require_fitting(self.header, onnx, self.source)
        made = {"file": onnx, "loaded": loaded_from, "onnx": onnx}
        require_same_weights(graph.origin, self.spec, self._dit, **made)
        self._take(graph)

    def _take(self, graph: Graph) -> None:
        """The weights of a graph that fits, and was compared with the DiT."""
        if self.header.weights == SEPARATE:
            copy_weights(self._weights, self.header, graph.path)
        else:
            refit(self._loaded.engine, self._loaded.tensorrt, self._loaded.logger, graph.path)
        self.header = dataclasses.replace(self.header, origin=graph.origin)

    def prepare(self, size: Size) -> None:
        """Choose the profile, set shapes and allocate outputs for calls of ``size``; ``run`` does it when needed.

        ``ValueError`` names the options that build an engine for ``size`` when no profile covers it.
        """
        if self._own_stream is not None and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(f"{self.source} is not prepared for {size}: call it once before capturing a CUDA graph")
        profile = choose_profile(self.profiles, size, self.source)
        self._size = None  # what fails from here on leaves shapes and outputs that are neither size's
        with self._stream() as stream:
            if profile != self._profile:
                self._must(self._context.set_optimization_profile_async(profile, stream), f"take profile {profile}")
                self._profile = profile
        for binding in self.spec.inputs:
            shape = binding.shape(size, self.config)
            self._must(self._context.set_input_shape(binding.name, shape), f"take {binding.name} of shape {shape}")
        undecided = self._context.infer_shapes()
        assert not undecided, f"shapes of {undecided} do not follow from the inputs"
        self._scratch_needed, self._scratch_given = self._context.update_device_memory_size_for_shapes(), None
        self._outputs = {}
        for binding in self.spec.outputs:
            shape = binding.shape(size, self.config)
            assert tuple(self._context.get_tensor_shape(binding.name)) == shape, binding.name
            self._outputs[binding.name] = torch.empty(shape, dtype=binding.dtype, device=self._device)
        self._addresses = {}
        self._bind(self._outputs | self._weights)
        self._size = size

    def run(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Outputs by name; see ``GraphDiT.run``. ``RuntimeError`` if TensorRT fails."""
        size = Size.of_latents(inputs[bindings.LATENTS])
        first = size != self._size
        if first:
            self.prepare(size)
        self._give_scratch()
        self._bind(inputs)
        with self._stream() as stream:
            self._must(self._context.execute_async_v3(stream), "run")
        if first:
            self._kernels.save()
        return self._outputs

    def _bind(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            address = tensor.data_ptr()
            if self._addresses.get(name) != address:
                if tensor.device != self._device:
                    raise ValueError(f"{name} is on {tensor.device}, {self.source} runs on {self._device}: move it")
                self._must(self._context.set_tensor_address(name, address), f"read {name}")
                self._addresses[name] = address

    def _give_scratch(self) -> None:
        """Another engine may have made the shared block grow, and move, since the last call."""
        self._scratch.reserve(self._scratch_needed)
        block = (self._scratch.address, self._scratch.nbytes)
        if block != self._scratch_given:
            self._context.set_device_memory(*block)
            self._scratch_given = block

    @contextmanager
    def _stream(self) -> Iterator[int]:
        """The current stream, as a handle. On the default stream TensorRT would synchronise at every call, so a stream
        of its own takes over there and both wait for each other."""
        if self._own_stream is None:
            yield 0
            return
        current = torch.cuda.current_stream(self._device)
        if current != torch.cuda.default_stream(self._device):
            yield current.cuda_stream
            return
        self._own_stream.wait_stream(current)
        yield self._own_stream.cuda_stream
        current.wait_stream(self._own_stream)

    def _must(self, accepted: bool, what: str) -> None:
        if not accepted:
            reasons = "; ".join(self._loaded.messages.errors) or "it gave no reason"
            raise RuntimeError(f"{self.header.package} refused to {what} with {self.source}: {reasons}")


def require_loadable(
    path: Path, *, onnx: str | Path | None = None, weight_budget: int | None = None
) -> tuple[EngineHeader, TensorRT, Graph | None]:
    """What an engine is, what runs it here, and the ONNX file it takes weights from, if it does; reads no weight.

    Errors are those of ``Engine.load`` that do not need the DiT.
    """
    header = read_header(path)
    tensorrt = require_runnable(header, path)
    if weight_budget is not None and not header.weight_streaming:
        raise ValueError(
            f"weight budget {weight_budget} is for an engine that streams its weights, which {path} does not: leave it "
            "out, or build the engine with --weight-streaming"
        )
    if weight_budget is not None and weight_budget < 0:
        raise ValueError(f"weight budget {weight_budget} is below 0: give bytes, 0 keeps no weights on the GPU")
    weights = weights_file(header, path, onnx)
    return header, tensorrt, None if weights is None else require_fitting(header, weights, str(path))
