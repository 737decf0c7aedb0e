"""From an engine file to TensorRT's engine and execution context, on the card it was built for.

Knows both TensorRT packages; nothing of sizes or tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from humo_rt.tensorrt import plugin
from humo_rt.tensorrt.build_log import Messages, collecting_logger
from humo_rt.tensorrt.engine_file import EngineHeader, mapped_plan, require_usable
from humo_rt.tensorrt.kernel_cache import KernelCache
from humo_rt.tensorrt.network import torch_dtype
from humo_rt.tensorrt.targets import TensorRT, current_capability, load_tensorrt


@dataclass(frozen=True, kw_only=True)
class LoadedPlan:
    """TensorRT's engine with what must outlive it. ``messages``: what TensorRT has said since."""

    engine: Any
    runtime: Any
    logger: Any
    messages: Messages
    tensorrt: TensorRT


def load_plan(path: Path, header: EngineHeader, tensorrt: TensorRT) -> LoadedPlan:
    """Deserialise the plan of an engine file onto the current GPU; ``RuntimeError`` if TensorRT refuses it."""
    if header.spec.plugins:
        plugin.require_kernel(str(path))
        plugin.register(tensorrt)
    messages = Messages()
    logger = collecting_logger(tensorrt.module, messages)
    runtime = tensorrt.module.Runtime(logger)
    with mapped_plan(path) as plan:
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeError(f"{tensorrt.package} could not load {path}: {'; '.join(messages.errors)}")
    return LoadedPlan(engine=engine, runtime=runtime, logger=logger, messages=messages, tensorrt=tensorrt)


def require_runnable(header: EngineHeader, path: Path) -> TensorRT:
    """The TensorRT that runs the engine on this machine, known before a byte of the plan or of any weight is read.

    ``RuntimeError`` if it, or a GPU, is missing; ``ValueError`` if it is another version, or the GPU another card.
    """
    capability = current_capability()
    if capability is None:
        raise RuntimeError(
            f"{path} runs on {header.card} only, and torch finds no GPU here: copy it to a machine with that card, and "
            f"check it there with humo-rt verify-engine {path.name}"
        )
    tensorrt = load_tensorrt(header.package)
    require_usable(header, str(path), package_version=tensorrt.version, capability=capability)
    return tensorrt


def current_device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def require_bindings(engine: Any, header: EngineHeader, source: str) -> None:
    """``ValueError`` unless the plan's inputs and outputs are those of its header."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: torch_dtype(engine.get_tensor_dtype(name)) for name in names}
    expected = {binding.name: binding.dtype for binding in (*header.spec.inputs, *header.spec.outputs)}
    expected |= {weight.name: getattr(torch, weight.dtype) for weight in header.weight_bindings}
    if found != expected:
        different = sorted({name for name, _ in found.items() ^ expected.items()})
        raise ValueError(
            f"{source} does not take what its header says ({', '.join(different)}): rebuild it with {header.rebuild}"
        )


def execution_context(loaded: LoadedPlan, kernels: KernelCache) -> Any:
    """A context whose memory we provide. TensorRT for RTX compiles its kernels here and at each new size."""
    trt = loaded.tensorrt.module
    ours = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(trt, "IRuntimeCache"):
        return loaded.engine.create_execution_context(ours)
    config = loaded.engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(ours)
    # The default runs slower kernels for a while and compiles the right ones meanwhile.
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    config.dynamic_shapes_kernel_specialization_strategy = eager
    kernels.attach(config)
    return loaded.engine.create_execution_context(config)
