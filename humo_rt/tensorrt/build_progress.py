"""The progress bar of a build: TensorRT's phase, its steps, the time so far.

Knows terminals; nothing of TensorRT.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from humo_rt.tensorrt.build_log import OnProgress
from humo_rt.terminal import console


@contextmanager
def build_bar() -> Iterator[OnProgress]:
    """A bar on standard error, silent when that is no terminal; hand what is given to ``build_engine``.

    TensorRT's longest phase has no steps to count: the clock that keeps running says that it is at work.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    target = console(sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=target, transient=True, disable=not target.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda phase, done, total: bar.update(task, description=phase.lower(), completed=done, total=total)
