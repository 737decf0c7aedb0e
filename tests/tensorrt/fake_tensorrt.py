"""A stand-in for TensorRT's runtime that executes on the CPU: it reads its inputs from the addresses it is given, runs
the PyTorch model on them and writes the outputs to theirs. What an engine does with shapes, addresses, profiles and
memory is seen as TensorRT would see it.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.build_log import Messages
from humo_rt.tensorrt.engine_file import EngineHeader, WeightBinding
from humo_rt.tensorrt.loading import LoadedPlan
from humo_rt.tensorrt.profiles import Profile
from humo_rt.tensorrt.spec import GraphSpec
from humo_rt.tensorrt.targets import RTX, TensorRT
from tests.tensorrt.small_graphs import NO_ORIGIN

SCRATCH_PER_TOKEN = 64


class DataType(enum.Enum):
    FLOAT = "float32"
    HALF = "float16"
    BF16 = "bfloat16"


class Context:
    """An execution context. ``calls`` names what was called, in order."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.calls: list[str] = []
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None
        self.fails = False

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.calls.append("profile")
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.calls.append("shape")
        binding = next(binding for binding in self.engine.spec.inputs if binding.name == name)
        smallest, _, largest = self.engine.profiles[self.profile].shapes(binding, self.engine.spec.config)
        self.shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True))

    def infer_shapes(self) -> list[str]:
        return [binding.name for binding in self.engine.spec.inputs if binding.name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        output = next(output for output in self.engine.spec.outputs if output.name == name)
        return output.shape(self._size(), self.engine.spec.config)

    def update_device_memory_size_for_shapes(self) -> int:
        size = self._size()
        return SCRATCH_PER_TOKEN * size.branches * size.frames * size.height * size.width

    def set_device_memory(self, address: int, nbytes: int) -> None:
        self.calls.append("memory")
        self.scratch = (address, nbytes)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.calls.append("address")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.calls.append("execute")
        assert self.scratch is not None
        assert self.scratch[1] >= self.update_device_memory_size_for_shapes()
        if self.fails:
            return False
        spec = self.engine.spec
        inputs = {
            binding.name: _at(self.addresses[binding.name], self.shapes[binding.name], binding.dtype)
            for binding in spec.inputs
        }
        with torch.no_grad():
            outputs = self.engine.model(**inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for output, value in zip(spec.outputs, outputs, strict=True):
            _at(self.addresses[output.name], tuple(value.shape), output.dtype).copy_(value)
        return True

    def _size(self) -> Size:
        branches, _, frames, height, width = self.shapes["latents"]
        return Size(branches=branches, frames=frames, height=height, width=width)


class Engine:
    """TensorRT's engine of ``model``, which takes and gives tensors as an exported graph does."""

    def __init__(self, model: nn.Module, spec: GraphSpec, profiles: Sequence[Profile], weights=()) -> None:
        self.model, self.spec, self.profiles = model, spec, profiles
        self.contexts: list[Context] = []
        self._types = {binding.name: binding.dtype for binding in (*spec.inputs, *spec.outputs)}
        self._types |= {weight.name: getattr(torch, weight.dtype) for weight in weights}

    @property
    def num_io_tensors(self) -> int:
        return len(self._types)

    def get_tensor_name(self, index: int) -> str:
        return list(self._types)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(str(self._types[name]).removeprefix("torch."))

    def create_execution_context(self, how: object) -> Context:
        assert how == "ours" or how.strategy == "ours"
        self.contexts.append(Context(self))
        return self.contexts[-1]

    def create_runtime_config(self) -> RuntimeConfig:
        self.config = RuntimeConfig()
        return self.config


class RuntimeCache:
    """Compiled kernels as TensorRT for RTX keeps them: what was put in, and one byte per serialisation."""

    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob
        return not blob.startswith(b"foreign")

    def serialize(self) -> bytes:
        self.content += b"k"
        return self.content


class RuntimeConfig:
    def __init__(self) -> None:
        self.strategy: str | None = None
        self.cache: RuntimeCache | None = None
        self.dynamic_shapes_kernel_specialization_strategy = "lazy"

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


def loaded(engine: Engine, *, compiles_late: bool = False) -> LoadedPlan:
    """``compiles_late``: as TensorRT for RTX does, with a cache of kernels."""
    module = SimpleNamespace(ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"))
    if compiles_late:
        module.IRuntimeCache = RuntimeCache
        module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    tensorrt = TensorRT(package=RTX, module=module, version="1.0")
    return LoadedPlan(engine=engine, runtime=None, logger=None, messages=Messages(), tensorrt=tensorrt)


def header(
    spec: GraphSpec, profiles: Sequence[Profile], *, weights: str = "embedded",
    weight_bindings: tuple[WeightBinding, ...] = (),
) -> EngineHeader:  # fmt: skip
    return EngineHeader(
        spec=spec,
        origin=NO_ORIGIN,
        profiles=tuple(profiles),
        target="rtx4090",
        capability=(8, 9),
        package=RTX,
        package_version="1.0",
        opset=23,
        weights=weights,
        weight_bindings=weight_bindings,
        onnx="dit.onnx",
        onnx_sha256="0" * 64,
        command=("humo-rt", "build-engine", "dit.onnx", "--target", "rtx4090", "--output", "dit.engine"),
    )


def _at(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor whose values start at ``address``."""
    count = torch.Size(shape).numel()
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(memory, dtype=dtype, count=count).reshape(shape)
