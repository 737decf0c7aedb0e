"""Progress bars on a terminal: the one of ``generate(progress=True)``, and the one the command line builds on.

Knows terminals; nothing of pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def bar_on(console: Console) -> Progress:
    """A bar for counted steps with the time left; silent where ``console`` shows nothing that can be redrawn."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (console.is_terminal or console.is_jupyter),
    )


@contextmanager
def step_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error: call what is given as (steps done, steps in all). It goes however the block ends."""
    from rich.console import Console

    with bar_on(Console(stderr=True)) as bar:
        task = bar.add_task("denoising", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
