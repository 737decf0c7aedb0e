"""The doctor's findings as tables for a person to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from humo_rt.weights.memory import GIB

if TYPE_CHECKING:
    from rich.console import Console

    from humo_rt.doctor import Findings, Model
    from humo_rt.machine import Machine
    from humo_rt.runtime.attention_backends import AttentionSurvey
    from humo_rt.runtime.matmul_backends import MatmulSurvey


def show(findings: Findings, console: Console) -> None:
    """Print machine, models and, last, what is wrong."""
    console.print(_machine(findings.machine))
    attention, matmul = findings.machine.attention, findings.machine.matmul
    heading = f"on {attention.device} in {attention.dtype}"
    console.print(_backends("Self-attention", attention, f"{heading}, head_dim {attention.head_dim}"))
    console.print(_backends("Matrix products", matmul, heading))
    for model in findings.models:
        if model.parts:
            console.print(_parts(model))
        console.print(_memory(model))
    for problem in findings.problems:
        console.print(f"- {problem}", style="red", soft_wrap=True, markup=False)
    if findings.ok:
        console.print("Nothing is missing." if findings.path else "This machine is ready.", style="green")


def _machine(machine: Machine) -> Table:
    table = _table("Machine", "", "")
    table.add_row("humo-rt", machine.version or "not installed as a package")
    table.add_row("system", f"{machine.system}, Python {machine.python}")
    table.add_row("processor", f"{machine.cores} cores, {_size(machine.free_memory)} memory free")
    for gpu in machine.gpus:
        memory = f"{_size(gpu.free)} of {_size(gpu.total)} free"
        table.add_row("GPU", f"{gpu.name}, compute capability {gpu.capability}, {memory}")
    if not machine.gpus:
        table.add_row("GPU", "none that torch can use")
    table.add_row("CUDA", f"torch built for {machine.cuda or 'the CPU only'}, driver {machine.driver or 'not found'}")
    present = [f"{name} {version}" for name, version in machine.packages.items() if version]
    absent = [name for name, version in machine.packages.items() if not version]
    table.add_row("packages", ", ".join(present))
    if absent:
        table.add_row("not installed", ", ".join(absent))
    table.add_row("codecs", ", ".join(f"{name} {'yes' if there else 'NO'}" for name, there in machine.codecs.items()))
    table.add_row("CUDA kernels", "compiled" if machine.compiled_kernels else "not compiled (PyTorch runs instead)")
    table.add_row("TensorRT engines", machine.engines)
    return table


def _backends(title: str, found: AttentionSurvey | MatmulSurvey, heading: str) -> Table:
    """Fastest first."""
    table = _table(title, "backend", heading)
    for backend, reason in found.unavailable.items():
        chosen = backend == found.chosen
        # A pip line may hold brackets, which rich would take for markup.
        table.add_row(backend, escape(reason or ("available, the default here" if chosen else "available")))
    return table


def _parts(model: Model) -> Table:
    table = _table(f"{model.name}: files", "part", "file", "stored as", "size")
    for part in model.parts:
        name = part.name.replace("_", " ")
        if part.problem:
            table.add_row(name, part.file or "missing", "see below", "", style="red")
        else:
            table.add_row(name, part.file or "", ", ".join(part.dtypes), _size(part.bytes) if part.bytes else "")
    for file in model.zero_vae:
        table.add_row("grey latents", file, "", "")
    return table


def _memory(model: Model) -> Table:
    memory = model.memory
    table = _table(f"{model.name}: memory on {memory.device} in {memory.dtype}, {memory.size}", "", "")
    for part, count in memory.networks.items():
        table.add_row(part.replace("_", " "), _size(count))
    table.add_row("while generating (estimate)", _size(memory.activations))
    verdict = "fits" if memory.fits else "does not fit"
    table.add_row("together", f"{_size(memory.total)}, {_size(memory.available)} free: {verdict}")
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=any(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count / 1024**2:.1f} MiB"
